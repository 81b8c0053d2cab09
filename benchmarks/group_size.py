"""Time whole groups of trials as one model, each in a new process, and compare what `--fuse auto` expects of them.

`python benchmarks/group_size.py --epochs 1` prints, for each number of trials (1, 2, 4 and so on): the measured step,
the time that is expected of the group from its beginning and this step, and the time that a group really takes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.protocol import Assignment, Decision, EpochReport, StepReport, TrainingGroup
from tuner.training import throughput
from tuner.training.build import build_classifiers
from tuner.training.run import run
from tuner.training.throughput import fastest


class _Channel:
    def report(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        return dict.fromkeys(reports, "forget")

    def progress(self, number: int, report: StepReport) -> None:
        pass

    def fuse_at_most(self, count: int, reason: str) -> None:
        pass

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)


def _trial(options: argparse.Namespace, number: int, folder: Path) -> Assignment:
    values = {
        "data": {"name": "mnist_5k", "batch_size": 50},
        "model": {"name": "mlp", "layers": 1, "neurons": options.neurons},
        "optimizer": {"name": "adam", "initial_lr": 0.001},
        "schedule": {"name": "constant"},
        "trainer": {"max_epochs": options.epochs},
        "loss": "cross_entropy",
        "seed": number,
    }
    return Assignment(number, TrialConfig.from_values(values), Objective(), folder / str(number))


def _expected(options: argparse.Namespace, folder: Path) -> None:
    """Print the seconds of a step, and those of a whole group, for each number of trials."""
    trial, device = _trial(options, 0, folder), options.device
    first, alone = (throughput._timed(trial, lambda: build_classifiers([trial.training])[0], device) for _ in range(2))
    start = first.delay - alone.delay
    steps, groups = {1: alone.seconds}, {1: start + alone.whole}
    for count in options.counts:
        if count > 1:
            watch = throughput._timed(trial, partial(throughput._fused, trial.training, count, device), device)
            steps[count], groups[count] = watch.seconds, start + watch.whole
    print(json.dumps([steps, groups, *(fastest(max(steps), each.__getitem__)[0] for each in (groups, steps))]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--neurons", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", type=int, help="train this number of trials; 0 to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.only == 0:
            _expected(options, Path(name))
            return
        if options.only:
            began, worked = time.perf_counter(), time.process_time()
            trials = tuple(_trial(options, number, Path(name)) for number in range(options.only))
            run(TrainingGroup(trials), _Channel(), options.device)
            print(json.dumps([time.perf_counter() - began, time.process_time() - worked]))
            return
    same = ["--epochs", str(options.epochs), "--neurons", str(options.neurons), "--device", options.device]
    same += ["--counts", *map(str, options.counts)]

    def call(count: int) -> Any:
        command = [sys.executable, __file__, *same, "--only", str(count)]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

    steps, groups, chosen, by_steps = call(0)
    print("trials  step, ms  expected s a trial  real s a trial  its CPU time")
    for count in options.counts:
        seconds, worked = (each / count for each in call(count))
        expected = groups[str(count)] / count
        print(f"{count:6}  {1000 * steps[str(count)]:8.2f}  {expected:18.3f}  {seconds:14.3f}  {worked:12.3f}")
    print(f"chosen by whole groups: {chosen}; by the time of a step: {by_steps}")


if __name__ == "__main__":
    main()
