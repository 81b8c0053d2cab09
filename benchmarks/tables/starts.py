"""How good the best configurations of other tasks are, if nothing else is tried.

    python benchmarks/tables/starts.py taskset_adam8p.json.gz

For each task of TaskSet, configurations are chosen by the other tasks, in two ways: the best one of each task in turn,
as ``start`` takes them from earlier studies (here from studies that found the best); and a greedy list, in which
each configuration is the one that lowers the mean of the best ranks on the other tasks most.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from read import read_taskset

Ranks = NDArray[np.int64]


def greedy(ranks: Ranks, count: int) -> list[int]:
    """Return a list of configurations.

    Args:
        ranks: The rank of each configuration on each task [tasks, configurations].
        count: Length of the list.
    """
    chosen: list[int] = []
    best = np.full(len(ranks), ranks.shape[1] + 1)
    for _ in range(count):
        means = np.minimum(best[:, None], ranks).mean(0)
        means[chosen] = np.inf
        chosen.append(int(means.argmin()))
        best = np.minimum(best, ranks[:, chosen[-1]])
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    ranks = np.array([table.ranks for _, table in read_taskset(options.file)])
    found: dict[str, list[Ranks]] = {"the best of each": [], "greedy list": []}
    for task, own in enumerate(ranks):
        others = np.delete(ranks, task, axis=0)
        found["the best of each"].append(np.minimum.accumulate(own[others.argmin(1)]))
        found["greedy list"].append(np.minimum.accumulate(own[greedy(others, len(others))]))
    print("| trained to the end | " + " | ".join(map(str, range(1, len(ranks)))) + " |")
    print("|" + "---|" * len(ranks))
    for name, each in found.items():
        means, errors = np.mean(each, 0), np.std(each, 0, ddof=1) / len(each) ** 0.5
        cells = [f"{mean:.1f} ± {error:.1f}" for mean, error in zip(means, errors, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
