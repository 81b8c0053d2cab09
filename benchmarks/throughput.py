"""Trials per hour of whole studies, depending on how many trials share a device as processes, or as one model.

Each way is a study in an empty folder with the same random trials and no pruning; the time is the duration of the whole
command. "Within the study" is from the beginning of the first trial to the end of the last one; the phases of the
command say where the rest goes. The ways take turns, in a new order each round.

    python benchmarks/throughput.py --devices 0 --ways 1x1 2x1 4x1 8x1 1x8 1x32 1x64 2x32 1xauto --trials 128
    python benchmarks/throughput.py --devices cpu --ways 2x1 2x8 1x32 --set 'trial.model={name: mlp, layers: 1}'

A way such as 2x32 is `--per-device 2 --fuse 32`: two processes on each device, each with 32 trials as one model. On a
GPU, 1xauto measures which number is fastest.
"""

import argparse
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
STUDY = Path(__file__).with_name("throughput.yaml")
WITHIN = "select 86400 * (max(julianday(datetime_complete)) - min(julianday(datetime_start))) from trials"


def run(way: str, options: argparse.Namespace, folder: Path) -> "Run":
    """Run a study in a folder."""
    per_device, fuse = way.split("x")
    command = [
        sys.executable,
        "-m",
        "tuner.study",
        str(STUDY),
        "--no-review",
        "--timings",
        "--devices",
        options.devices,
    ]
    command += ["--per-device", per_device, "--fuse", fuse, "--trials", str(options.trials)]
    command += [part for each in options.set for part in ("--set", each)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    began = time.perf_counter()
    with (folder / "output.log").open("w") as output:
        code = subprocess.run(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    seconds = time.perf_counter() - began
    printed = (folder / "output.log").read_text()
    if code or "at a time from now on" in printed:
        raise SystemExit(f"{way}, status {code}:\n{printed[-3000:]}")
    with sqlite3.connect(folder / "optuna.db") as database:
        values = [value for (value,) in database.execute("select value from trial_values")]
        (within,) = database.execute(WITHIN).fetchone()
    if len(values) != options.trials:
        raise SystemExit(f"{way}: {len(values)} of {options.trials} trials have a value:\n{printed[-3000:]}")
    phases = printed[printed.rindex("phase  ") :] if "phase  " in printed else ""
    return Run(seconds, within, values, phases)


@dataclass(frozen=True)
class Run:
    """A study that was run.

    Args:
        seconds: Time of the command.
        within: Seconds from the beginning of the first trial to the end of the last.
        values: The values of its trials.
        phases: The phases of the command, as it printed them.
    """

    seconds: float
    within: float
    values: list[float]
    phases: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--ways", nargs="+", default=["1x1", "1x32"], metavar="PxK")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    options = parser.parse_args()
    runs: dict[str, list[Run]] = {way: [] for way in options.ways}
    rng = random.Random(0)
    for round_ in range(options.rounds):
        for way in rng.sample(options.ways, len(options.ways)):
            with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
                runs[way].append(run(way, options, Path(folder)))
            print(f"round {round_ + 1}: {way} {runs[way][-1].seconds:.1f} s", file=sys.stderr, flush=True)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() and options.devices != "cpu" else "CPU"
    print(f"{where}, {options.trials} trials, {options.rounds} rounds, torch {torch.__version__}\n")
    columns = ["processes x trials in each", "seconds, median", "lowest", "highest"]
    columns += ["trials per hour", "within the study", "ratio", "val/acc, mean"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for way, own in runs.items():
        bases = runs[options.ways[0]]
        ratio = statistics.median(base.seconds / each.seconds for base, each in zip(bases, own, strict=True))
        times = [each.seconds for each in own]
        rates = [3600 * options.trials / statistics.median(each) for each in (times, [each.within for each in own])]
        value = statistics.mean(value for each in own for value in each.values)
        print(
            f"| {way} | {statistics.median(times):.1f} | {min(times):.1f} | {max(times):.1f} "
            f"| {rates[0]:.0f} | {rates[1]:.0f} | {ratio:.2f} | {value:.4f} |"
        )
    for way, own in runs.items():
        print(f"\n{way}, the last command:\n\n```\n{own[-1].phases.strip()}\n```")


if __name__ == "__main__":
    main()
