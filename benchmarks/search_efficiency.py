"""How soon a study finds a good trial: samplers and pruners beside each other, each with the same ten seeds.

The study is `search.yaml`. "default" is what a study gets whose file names neither sampler nor pruner. The clock is the
seconds that trainings took, all of them together: what the search itself needs is in `scale.py`. Each seed of a
contender is a study of its own; bands are 95 % confidence intervals of the mean (10,000 bootstraps of the seeds).

    python benchmarks/search_efficiency.py --seeds 10 --picture search-efficiency.png
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import optuna

from tuner.reading import open_study

STUDY = Path(__file__).with_name("search.yaml").resolve()
CONTENDERS = {
    "default": ("tpe", ""),
    "Optuna's defaults": ("tpe", "median, n_warmup_steps: 0"),
    "without pruning": ("tpe", "none"),
    "random, without pruning": ("random", "none"),
    "joint TPE": ("tpe, multivariate: true, group: true, constant_liar: true", ""),
    "hyperband": ("tpe", "hyperband"),
}
"""Sampler and pruner, by name and options; without a pruner, that of a study file that names none."""

BOOTSTRAPS = 10_000


def run(contender: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Run a study; return the seconds at which its trials were over, and the best value after each of them."""
    sampler, pruner = CONTENDERS[contender]
    overrides = ["--set", f"sampler={{name: {sampler}, seed: {seed}}}"]
    if pruner:
        overrides += ["--set", f"pruner={{name: {pruner}}}"]
    with tempfile.TemporaryDirectory(prefix="search-") as folder, contextlib.chdir(folder):
        command = [sys.executable, "-m", "tuner.study", str(STUDY), "--no-review", *overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONWARNINGS": "ignore"})
        with open_study(f"sqlite:///{folder}/optuna.db", "search") as study:
            trials = sorted(study.get_trials(deepcopy=False), key=lambda trial: str(trial.datetime_complete))
    complete = optuna.trial.TrialState.COMPLETE
    values = [(trial.value or 0.0) if trial.state == complete else 0.0 for trial in trials]
    return np.cumsum([trial.user_attrs["seconds"] for trial in trials]), np.maximum.accumulate(values)


def at(seconds: np.ndarray, studies: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the best value of each study at each time [study, time]; 0 before its first trial is over."""
    return np.stack([np.concatenate([[0.0], best])[np.searchsorted(ends, seconds, "right")] for ends, best in studies])


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % confidence interval of the mean over studies, at each time."""
    chosen = np.random.default_rng(0).integers(0, len(values), (BOOTSTRAPS, len(values)))
    low, high = np.percentile(values[chosen].mean(axis=1), [2.5, 97.5], axis=0)
    return low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--picture", type=Path, help="where the curves are drawn")
    options = parser.parse_args()
    studies: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in options.only}
    for seed in range(options.seeds):
        for name, done in studies.items():
            done.append(run(name, seed))
            seconds, best = done[-1]
            print(f"seed {seed}: {name}: {best[-1]:.4f} in {seconds[-1]:.0f} s", file=sys.stderr, flush=True)
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
