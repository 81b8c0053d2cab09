"""Draws what each search finds against the budget that it takes, from the results of `run.py` and `live.py`.

    python benchmarks/tables/run.py --taskset taskset_adam8p.json.gz --out results.jsonl
    python benchmarks/tables/live.py --out results.jsonl
    python benchmarks/tables/draw.py results.jsonl docs/search.png

Bands are 95% confidence intervals of the mean over tasks and draws (10,000 bootstraps).
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

BOOTSTRAPS = 10_000
RANK = "ranks", "mean rank of the best configuration found"
AXES = {
    "taskset": ("very wide ranges (TaskSet)", *RANK),
    "competing": ("schedules compete (table)", *RANK),
    "live": ("schedules compete (MLP on digits)", "excess", "mean distance of the best loss to the lowest one"),
}
"""Title, the result that is drawn, and its name, for each kind of study."""


def band(results: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the 95% confidence interval of the mean in each budget, from results [draws, budgets]."""
    chosen = np.random.default_rng(0).integers(0, len(results), (BOOTSTRAPS, len(results)))
    low, high = np.percentile(results[chosen].mean(axis=1), [2.5, 97.5], axis=0)
    return low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--only", nargs="+", help="contenders to draw; by default all")
    options = parser.parse_args()
    found: dict[str, dict[str, list[list[float]]]] = {}
    marks: dict[str, list[float]] = {}
    for line in options.results.read_text().splitlines():
        result = json.loads(line)
        if not options.only or result["contender"] in options.only:
            kind = result["kind"]
            marks[kind] = result["marks"]
            found.setdefault(kind, {}).setdefault(result["contender"], []).append(result[AXES[kind][1]])
    names = dict.fromkeys(name for contenders in found.values() for name in contenders)
    colors = {name: f"C{index}" for index, name in enumerate(names)}
    figure, axes = plt.subplots(1, len(found), figsize=(5.5 * len(found), 4.5), layout="constrained", squeeze=False)
    for axis, (kind, contenders) in zip(axes[0], found.items(), strict=True):
        for contender, draws in contenders.items():
            results = np.array(draws, float)
            color = colors[contender]
            axis.plot(marks[kind], results.mean(0), color=color, marker="o", markersize=3, label=contender)
            axis.fill_between(marks[kind], *band(results), color=color, alpha=0.15, linewidth=0)
        axis.set(xscale="log", yscale="log", title=AXES[kind][0], xlabel="budget in full runs", ylabel=AXES[kind][2])
        axis.set_xticks(marks[kind], [f"{mark:g}" for mark in marks[kind]])
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    axes[0, -1].legend(fontsize="small")
    figure.savefig(options.picture, dpi=120)


if __name__ == "__main__":
    main()
