"""Draws the rank that each search finds against the epochs that it takes, from the results of `run.py`.

    python benchmarks/tables/run.py --taskset taskset_adam8p.json.gz --out results.jsonl
    python benchmarks/tables/run.py --trained competing.json.gz --marks 6 12 24 --out results.jsonl
    python benchmarks/tables/draw.py results.jsonl docs/search.png

Bands are 95% confidence intervals of the mean over tasks and draws (10,000 bootstraps).
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

BOOTSTRAPS = 10_000
TITLES = {"taskset": "very wide ranges (TaskSet)", "competing": "schedules compete (MLP on digits)"}


def band(ranks: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the 95% confidence interval of the mean rank in each budget, from ranks [draws, budgets]."""
    chosen = np.random.default_rng(0).integers(0, len(ranks), (BOOTSTRAPS, len(ranks)))
    low, high = np.percentile(ranks[chosen].mean(axis=1), [2.5, 97.5], axis=0)
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
            marks[result["kind"]] = result["marks"]
            found.setdefault(result["kind"], {}).setdefault(result["contender"], []).append(result["ranks"])
    names = dict.fromkeys(name for contenders in found.values() for name in contenders)
    colors = {name: f"C{index}" for index, name in enumerate(names)}
    figure, axes = plt.subplots(1, len(found), figsize=(5.5 * len(found), 4.5), layout="constrained", squeeze=False)
    for axis, (kind, contenders) in zip(axes[0], found.items(), strict=True):
        for contender, draws in contenders.items():
            ranks = np.array(draws, float)
            color = colors[contender]
            axis.plot(marks[kind], ranks.mean(0), color=color, marker="o", markersize=3, label=contender)
            axis.fill_between(marks[kind], *band(ranks), color=color, alpha=0.15, linewidth=0)
        axis.set(xscale="log", yscale="log", title=TITLES[kind], xlabel="budget in full runs")
        axis.set_xticks(marks[kind], [f"{mark:g}" for mark in marks[kind]])
        axis.minorticks_off()
    axes[0, 0].set_ylabel("mean rank of the best configuration found")
    axes[0, -1].legend(fontsize="small")
    figure.savefig(options.picture, dpi=120)


if __name__ == "__main__":
    main()
