"""How much a league could save by training equal lr prefixes once.

    python benchmarks/shared_prefixes.py studies/league/answers.yaml

Runs with the same seed are identical up to the first step at which their lr, their average or their optimizer differs.
If each such prefix, up to the last validation in it, were trained once and continued from its checkpoint, this share of
all steps would be saved. It does not depend on the base lrs and the seeds.
"""

import argparse
from collections import defaultdict

from lightning_modules import Plateau
from tuner.config.contenders import read_contenders
from tuner.config.loader import load_study
from tuner.config.study import StudyConfig
from tuner.config.trial import TrialConfig

State = tuple[object, ...]


def states(config: TrialConfig, study: StudyConfig) -> list[State]:
    """Return what determines each step of a run, apart from the previous steps."""
    length = study.probe.length(config.values())
    schedule = config.schedule.build("schedule")
    if isinstance(schedule, Plateau):  # its lr depends on the metrics of the run
        return [(id(config), step) for step in range(length.steps)]
    average = config.averaging
    begins = length.steps if average is None else int(average.arguments.get("start", 0))
    arguments = {key: value for key, value in config.optimizer.values().items() if key != "initial_lr"}
    others = {key: each for key, each in config.schedules.items() if key != "schedule"}
    settings = repr((sorted(arguments.items()), others))
    averaged = repr(average)
    return [(settings, f"{schedule(step):.9g}", averaged if step >= begins else "") for step in range(length.steps)]


def saved(file: str, shapes: int) -> float:
    """Return the share of the steps of a league that equal prefixes would save."""
    league = load_study(file)
    steps = shared = 0
    known: defaultdict[int, set[State]] = defaultdict(set)  # prefixes by their number of validations
    for contender in read_contenders(league, file, 1):
        for config in contender.shapes(shapes, league.sampler.arguments.get("seed", 0)):
            sequence = states(config, contender.study)
            epoch = contender.study.probe.length(config.values()).steps_per_epoch
            prefixes = [tuple(sequence[:end]) for end in range(epoch, len(sequence) + 1, epoch)]
            shared += epoch * sum(prefix in known[number] for number, prefix in enumerate(prefixes))
            steps += len(sequence)
            for number, prefix in enumerate(prefixes):
                known[number].add(prefix)
    return shared / steps


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="study files of leagues")
    for name in parser.parse_args().files:
        print(name, *(f"{count} shapes {saved(name, count):.1%}" for count in (1, 2, 4, 8)), sep="  ")
