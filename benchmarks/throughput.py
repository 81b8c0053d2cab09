"""Trials per hour of whole studies, depending on how many trials share a device as processes, or as one model.

Each way is a study in an empty folder with the same random trials and no pruning; the time is that of the command from
start to end. The ways take turns, in a new order each round.

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
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
STUDY = Path(__file__).with_name("throughput.yaml")


def run(way: str, options: argparse.Namespace, folder: Path) -> tuple[float, list[float]]:
    """Run a study in a folder; return its seconds and the values of its trials."""
    per_device, fuse = way.split("x")
    command = [sys.executable, "-m", "tuner.study", str(STUDY), "--no-review", "--devices", options.devices]
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
    if len(values) != options.trials:
        raise SystemExit(f"{way}: {len(values)} of {options.trials} trials have a value:\n{printed[-3000:]}")
    return seconds, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--ways", nargs="+", default=["1x1", "1x32"], metavar="PxK")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {way: [] for way in options.ways}
    values: dict[str, list[float]] = {way: [] for way in options.ways}
    rng = random.Random(0)
    for round_ in range(options.rounds):
        for way in rng.sample(options.ways, len(options.ways)):
            with tempfile.TemporaryDirectory(prefix="throughput-") as folder:
                took, reached = run(way, options, Path(folder))
            seconds[way].append(took)
            values[way] += reached
            print(f"round {round_ + 1}: {way} {took:.1f} s", file=sys.stderr, flush=True)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() and options.devices != "cpu" else "CPU"
    print(f"{where}, {options.trials} trials, {options.rounds} rounds, torch {torch.__version__}\n")
    print(
        "| processes x trials in each | seconds, median | lowest | highest | trials an hour | ratio | val/acc, mean |"
    )
    print("|---|---|---|---|---|---|---|")
    for way, times in seconds.items():
        ratio = statistics.median(base / own for base, own in zip(seconds[options.ways[0]], times, strict=True))
        median = statistics.median(times)
        print(
            f"| {way} | {median:.1f} | {min(times):.1f} | {max(times):.1f} "
            f"| {3600 * options.trials / median:.0f} | {ratio:.2f} | {statistics.mean(values[way]):.4f} |"
        )


if __name__ == "__main__":
    main()
