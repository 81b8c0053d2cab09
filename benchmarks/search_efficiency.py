"""How soon a study finds a good trial, with different samplers and pruners and the same ten seeds.

The study is `search.yaml`. "default" has neither sampler nor pruner in its file; "in groups of four" is the same with
`--fuse 4`, where four trials are sampled before any of them has a result. Otherwise trials are trained one at a time.
The time is the number of trained epochs of all trials times the median duration of an epoch, so other load on the
machine does not matter, and each core can run a study. (`scale.py` measures the cost of the search itself, and
`fused_step.py` the speed-up of a group.) Bands are 95% confidence intervals of the mean (10,000 bootstraps of the
seeds).

    python benchmarks/search_efficiency.py --seeds 10 --picture search-efficiency.png
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from tuner import Study

STUDY = Path(__file__).with_name("search.yaml").resolve()
CONTENDERS = {
    "default": ("tpe", "", "off"),
    "default, in groups of four": ("tpe", "", "4"),
    "Optuna's defaults": ("tpe", "median, n_warmup_steps: 0", "off"),
    "without pruning": ("tpe", "none", "off"),
    "random, without pruning": ("random", "none", "off"),
    "joint TPE": ("tpe, multivariate: true, group: true, constant_liar: true", "", "off"),
    "hyperband": ("tpe", "hyperband", "off"),
}
"""Sampler, pruner and `--fuse`; None for the default of a study file."""

BOOTSTRAPS = 10_000


def pin(cores: "multiprocessing.Queue[int]") -> None:
    """Pin this process and the training processes that it starts to one core."""
    os.sched_setaffinity(0, {cores.get()})


def run(seed: int, contender: str) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Run a study.

    Returns:
        The number of epochs of all trials when each trial was over; the best value by then; and the seconds per epoch
        of each trial.
    """
    sampler, pruner, fuse = CONTENDERS[contender]
    overrides = [f"sampler={{name: {sampler}, seed: {seed}}}", *([f"pruner={{name: {pruner}}}"] if pruner else [])]
    with tempfile.TemporaryDirectory(prefix="search-") as folder:
        storage, uri = (f"sqlite:///{folder}/{name}.db" for name in ("optuna", "mlflow"))
        search = Study.from_yaml(STUDY, *overrides)
        result = search.run(
            devices="cpu", per_device=1, fuse=fuse, storage=storage, tracking_uri=uri, review=False, quiet=True
        )
        trials = result.record.trials
    ordered = sorted(trials, key=lambda trial: trial.ended)
    values = [trial.value if trial.is_complete else 0.0 for trial in ordered]
    pace = [trial.seconds / trial.epochs for trial in ordered if trial.epochs]
    return np.cumsum([trial.epochs for trial in ordered]), np.maximum.accumulate(values), pace


def at(seconds: np.ndarray, studies: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the best value of each study at each time [study, time]; 0 before its first trial is over."""
    return np.stack([np.concatenate([[0.0], best])[np.searchsorted(ends, seconds, "right")] for ends, best in studies])


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95% confidence interval of the mean over studies at each time."""
    chosen = np.random.default_rng(0).integers(0, len(values), (BOOTSTRAPS, len(values)))
    low, high = np.percentile(values[chosen].mean(axis=1), [2.5, 97.5], axis=0)
    return low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="contenders in addition to the default"
    )
    parser.add_argument("--picture", type=Path, help="file to draw the curves to")
    options = parser.parse_args()
    studies: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in ("default", *options.only)}
    pace: list[float] = []
    cores: multiprocessing.Queue[int] = multiprocessing.Queue()
    available = os.sched_getaffinity(0)
    for core in available:
        cores.put(core)
    work = list(product(range(options.seeds), studies))
    with ProcessPoolExecutor(len(available), initializer=pin, initargs=(cores,)) as pool:
        for (seed, name), (epochs, best, own_pace) in zip(work, pool.map(run, *zip(*work, strict=True)), strict=True):
            studies[name].append((epochs, best))
            pace += own_pace if CONTENDERS[name][2] == "off" else []  # the trials of a group share their seconds
            print(f"seed {seed}: {name}: {best[-1]:.4f} in {epochs[-1]} epochs", file=sys.stderr, flush=True)
    second = float(np.median(pace))
    studies = {name: [(epochs * second, best) for epochs, best in done] for name, done in studies.items()}
    whole = max(float(np.median([ends[-1] for ends, _ in done])) for done in studies.values())
    marks = whole * np.array([0.25, 0.5, 1.0])
    print(f"{options.seeds} seeds, best val/acc so far, mean and 95% interval\n")
    print("| | seconds for all trials, median | " + " | ".join(f"after {mark:.0f} s" for mark in marks) + " |")
    print("|" + "---|" * (2 + len(marks)))
    for name, done in studies.items():
        values = at(marks, done)
        cells = [
            f"{mean:.4f} ({low:.4f} to {high:.4f})"
            for mean, low, high in zip(values.mean(axis=0), *band(values), strict=True)
        ]
        print(f"| {name} | {np.median([ends[-1] for ends, _ in done]):.0f} | {' | '.join(cells)} |")
    if options.picture:
        draw(studies, whole, options.picture)


def draw(studies: dict[str, list[tuple[np.ndarray, np.ndarray]]], whole: float, path: Path) -> None:
    """Draw the means with their bands."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    times = np.linspace(0, whole, 400)
    for name, done in studies.items():
        begun = times >= max(ends[0] for ends, _ in done)
        values = at(times[begun], done)
        (line,) = axes.plot(times[begun], values.mean(axis=0), label=name)
        axes.fill_between(times[begun], *band(values), color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(xlabel="seconds of training, all trials together", ylabel="best val/acc so far, mean")
    final = [best[-1] for done in studies.values() for _, best in done]
    axes.set_ylim(min(final) - 0.02, max(final) + 0.002)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
