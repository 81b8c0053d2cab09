"""CPU milliseconds of a group's process around its steps: before the first one, and after the last report.

Three groups of a dense network are trained one after another in a process that is forked like those of the engine. The
difference between the first and the others is what a process can do before it knows its trials.

    python benchmarks/around_a_group.py 1 32
"""

import importlib
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import optuna
import torch

from lightning_modules import Classifier, FusedClassifier
from tuner.config.loader import load_study
from tuner.engines.fork_server import call_in_fork
from tuner.protocol import Assignment, Decision, EpochReport, StepReport, TrainingGroup
from tuner.training.run import run

STUDY = str(Path(__file__).parent / "four_schedules.yaml")
NETWORK = "trial.model={name: mlp, layers: 2, neurons: 64}"


class Answers:
    """The coordinator's answers; notes when reports come."""

    def __init__(self) -> None:
        self.reported = 0.0

    def report(self, reports: Mapping[int, EpochReport]) -> Mapping[int, Decision]:
        self.reported = time.process_time()
        return {number: "forget" if report.is_last else "continue" for number, report in reports.items()}

    def progress(self, number: int, report: StepReport) -> None:
        pass

    def fuse_at_most(self, count: int, reason: str) -> None:
        raise ValueError(reason)

    def note(self, text: str) -> None:
        pass


def measured(size: int, folder: str) -> list[str]:
    """Train three groups, and return a row of the table for each."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config, study = load_study(STUDY, [NETWORK]), optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    steps: list[float] = []
    for kind in (Classifier, FusedClassifier):
        original: Any = kind.training_step

        def step(self: Any, *args: Any, original: Any = original) -> Any:
            steps.append(time.process_time())
            return original(self, *args)

        setattr(kind, "training_step", step)  # noqa: B010 -- of two types
    rows = []
    for place in range(3):
        numbers = range(place * size, (place + 1) * size)
        trials = [
            Assignment(number, config.suggest(study.ask()), config.objective, Path(folder) / f"{number}")
            for number in numbers
        ]
        answers, began = Answers(), time.process_time()
        steps.clear()
        run(TrainingGroup(tuple(trials), 30.0), answers)
        parts = (
            steps[0] - began,
            steps[1] - steps[0],
            answers.reported - steps[1],
            time.process_time() - answers.reported,
        )
        rows.append(f"| {size} | {place + 1} | " + " | ".join(f"{1000 * part:.0f}" for part in parts) + " |")
    return rows


def main() -> None:
    print("| trials | group | before the first step | first step | other steps | after the last report |")
    print("|" + "---|" * 6)
    function = importlib.import_module(Path(__file__).stem).measured  # which the process can import
    for size in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            print("\n".join(call_in_fork(function, size, folder)), flush=True)


if __name__ == "__main__":
    main()
