"""The same eight training runs by five contenders in turn: seconds of the whole command, and accuracies.

    python benchmarks/peers/run.py --rounds 3 --picture docs/peers.png  # all
    python benchmarks/peers/run.py --rounds 5 --only tuner usual bare

- usual: Lightning, Optuna and MLFlowLogger, combined as in their examples;
- ray_tune: Ray Tune with a Lightning trainable, one concurrent trial per core;
- hydra_optuna: Hydra with its Optuna sweeper, as in lightning-hydra-template; it is installed into a separate
  environment, because the sweeper needs Optuna 2;
- bare: plain PyTorch, one process per core, the floor;
- tuner: `python -m tuner.study work.yaml --no-review` (the others draw no plots either).

Each trains the reference CNN on MNIST-5k in batches of 50 with Adam, validates after each epoch, and writes the lr of
every step to MLflow's SQLite file, which is checked afterwards. In addition, tuner and hydra_optuna save checkpoints.
"""

import argparse
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from tuner.engines.fork_server import MALLOC_TUNABLES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TRIALS, EPOCHS, STEPS = 8, 2, 80
HYDRA = ["hydra-core==1.3.2", "hydra-optuna-sweeper==1.3.0", "optuna<3", "sqlalchemy<2"]


def environment_of_hydra() -> str:
    """Create an environment on top of this one with Hydra and its sweeper; return its Python."""
    folder = Path(tempfile.mkdtemp(prefix="peers-hydra-"))
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    own = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    (Path(own.strip()) / "below.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-input", *HYDRA], check=True)
    return str(python)


def seconds_of(name: str, command: list[str], folder: Path) -> float:
    """Run a contender in an empty folder and return the seconds."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", "PYTHONWARNINGS": "ignore"}
    if name == "bare":  # the tuner sets this for its training processes itself
        environment["GLIBC_TUNABLES"] = MALLOC_TUNABLES
    began = time.perf_counter()
    with (folder / "output.log").open("w") as output:
        code = subprocess.run(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    seconds = time.perf_counter() - began
    if code:
        raise SystemExit(f"{name} ended with status {code}:\n{(folder / 'output.log').read_text()[-3000:]}")
    return seconds


def accuracies_in(folder: Path) -> list[float]:
    """Check that MLflow has the lr of every step of every trial; return the final validation accuracies."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        lrs = database.execute(
            "select count(distinct step) from metrics where key like 'lr%' group by run_uuid, key"
        ).fetchall()
        if [count for (count,) in lrs] != [EPOCHS * STEPS] * TRIALS:
            raise SystemExit(f"{folder}: not every lr is in MLflow: {lrs}")
        final = "select value, max(step) from metrics where key = 'val/acc' group by run_uuid"
        accuracies = [value for value, _ in database.execute(final)]
    if len(accuracies) != TRIALS:
        raise SystemExit(f"{folder}: {len(accuracies)} final accuracies")
    return accuracies


def draw(seconds: dict[str, list[float]], path: Path) -> None:
    """Draw the medians as bars, and the lowest and highest as lines."""
    names = sorted(seconds, key=lambda name: statistics.median(seconds[name]), reverse=True)
    medians = [statistics.median(seconds[name]) for name in names]
    below = [median - min(seconds[name]) for name, median in zip(names, medians, strict=True)]
    above = [max(seconds[name]) - median for name, median in zip(names, medians, strict=True)]
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.45 * len(names)), layout="constrained")
    colors = ["#0072b2" if name == "tuner" else "#8a919c" for name in names]
    bars = axes.barh(names, medians, xerr=[below, above], color=colors, error_kw={"ecolor": "#22272e"})
    axes.bar_label(bars, [f"{median:.0f} s" for median in medians], padding=8)
    axes.set(xlabel="seconds for the same eight training runs: median, lowest and highest")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=["tuner", "usual", "ray_tune", "hydra_optuna", "bare"])
    parser.add_argument("--picture", type=Path, help="file to draw the bars to")
    options = parser.parse_args()
    commands = {name: [sys.executable, str(HERE / f"{name}.py")] for name in options.only}
    if "tuner" in commands:
        commands["tuner"] = [sys.executable, "-m", "tuner.study", str(HERE / "work.yaml"), "--no-review"]
    if "hydra_optuna" in commands:
        commands["hydra_optuna"][0] = environment_of_hydra()
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    accuracies: dict[str, list[float]] = {name: [] for name in commands}
    rng = random.Random(0)
    for round_ in range(options.rounds):
        for name in rng.sample(list(commands), len(commands)):
            with tempfile.TemporaryDirectory(prefix=f"peers-{name}-") as folder:
                seconds[name].append(seconds_of(name, commands[name], Path(folder)))
                accuracies[name] += accuracies_in(Path(folder))
            print(f"round {round_ + 1}: {name} {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    print(f"{options.rounds} rounds, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__}\n")
    print("| | seconds, median | lowest | highest | trials per hour | ratio to usual | ratio to bare | val/acc, mean |")
    print("|---|---|---|---|---|---|---|---|")
    for name, values in sorted(seconds.items(), key=lambda item: statistics.median(item[1])):
        ratios = [
            f"{statistics.median(other / own for other, own in zip(seconds[base], values, strict=True)):.2f}"
            if base in seconds
            else ""
            for base in ("usual", "bare")
        ]
        median = statistics.median(values)
        print(
            f"| {name} | {median:.1f} | {min(values):.1f} | {max(values):.1f} | {3600 * TRIALS / median:.0f} "
            f"| {' | '.join(ratios)} | {statistics.mean(accuracies[name]):.4f} |"
        )
    if options.picture:
        draw(seconds, options.picture)


if __name__ == "__main__":
    main()
