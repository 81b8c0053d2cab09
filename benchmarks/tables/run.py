"""How good a configuration different searches find in published tables of trainings, for how many epochs.

No training is done: a trial reports the values of a row of the table (`simulation.py`). Samplers, pruners and rungs are
the tuner's. A table of TaskSet (Metz et al., 2020) is a JSON file, possibly compressed with gzip, with the keys
``hyperparameters`` (names), ``configurations`` (a list of values each) and ``valid_loss`` (for each task, the losses of
each configuration: before the training and after each epoch).

    python benchmarks/tables/run.py --taskset taskset_adam8p.json.gz --draws 10

E are the epochs of 40 whole trainings. The rank found is that of the best configuration that was trained to the end,
among all of the table; "lost" counts the draws in which the best configuration that was tried was stopped.
"""

import argparse
import gzip
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from simulation import Table, simulate  # noqa: E402

from tuner.config.loader import load_study  # noqa: E402

TRIALS = 40
MARKS = (0.16, 0.28, 0.64)
CONTENDERS = {
    "TPE, median from a third": ("tpe", "median"),
    "TPE, Optuna's median": ("tpe", "median, n_warmup_steps: 0"),
    "TPE, hyperband": ("tpe", "hyperband, min_resource: 1"),
    "random, whole": ("random", "none"),
    "random, rungs": ("random", "rungs"),
    "TPE, rungs": ("tpe", "rungs"),
    "curve, whole": ("curve", "none"),
    "curve, rungs": ("curve", "rungs"),
}
"""Sampler and pruner."""


def taskset(path: Path) -> Iterator[tuple[str, Table]]:
    """Yield the name and the table of each task."""
    stored = path.read_bytes()
    content = json.loads(gzip.decompress(stored) if path.suffix == ".gz" else stored)
    columns = dict(zip(content["hyperparameters"], np.array(content["configurations"], float).T, strict=True))
    params = {
        "optimizer.initial_lr": columns["learning_rate"],
        "optimizer.eps": columns["epsilon"],
        "model.gap1": 1 - columns["beta1"],
        "model.gap2": 1 - columns["beta2"],
        "model.l1": columns["l1"],
        "model.l2": columns["l2"],
        "schedule.linear": columns["linear_decay"],
        "schedule.exponential": columns["exponential_decay"],
    }
    rows = [dict(zip(params, map(float, values), strict=True)) for values in zip(*params.values(), strict=True)]
    for name, losses in content["valid_loss"].items():
        yield name, Table(rows, np.array(losses, float)[:, 1:])


def draw(contender: str, table: Table, seed: int) -> tuple[list[float], list[bool], float]:
    """Return the rank found and whether the best tried was lost, for each mark, and the seconds of the last study."""
    sampler, pruner = CONTENDERS[contender]
    finals = np.where(np.isfinite(table.losses).all(1), table.losses[:, -1], np.inf)
    ranks = finals.argsort(kind="stable").argsort(kind="stable") + 1
    found, lost, seconds = [], [], 0.0
    for mark in MARKS:
        budget = round(mark * TRIALS * table.losses.shape[1])
        options = [f"budget={{epochs: {budget}}}", f"sampler={{name: {sampler}}}", f"pruner={{name: {pruner}}}"]
        config = load_study(str(HERE / "taskset.yaml"), options)
        started = time.perf_counter()
        trace, tried = simulate(config, table, budget, seed)
        seconds = time.perf_counter() - started
        best = min((int(ranks[row]) for _, row in trace), default=len(ranks))
        found.append(best)
        lost.append(min(int(ranks[row]) for row in tried) < best)
    return found, lost, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taskset", type=Path, required=True, help="a table of TaskSet")
    parser.add_argument("--draws", type=int, default=10, help="seeds of each search (default 10)")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    tables = dict(taskset(options.taskset))
    print(f"{len(tables)} tasks, {options.draws} draws; mean rank found (median over draws, then mean over tasks)\n")
    print("| | " + " | ".join(f"{mark:.2f} E" for mark in MARKS) + " | best lost, % | seconds a study |")
    print("|" + "---|" * (3 + len(MARKS)))
    with ProcessPoolExecutor(options.processes) as pool:
        for contender in options.only:
            work: list[Any] = [
                pool.submit(draw, contender, table, seed) for table in tables.values() for seed in range(options.draws)
            ]
            done = [each.result() for each in work]
            found = np.array([ranks for ranks, _, _ in done], float).reshape(len(tables), options.draws, len(MARKS))
            medians = np.median(found, axis=1).mean(axis=0)
            cells = [f"{mean:.1f} ({median:.1f})" for mean, median in zip(found.mean((0, 1)), medians, strict=True)]
            lost = 100 * np.mean([each for _, each, _ in done])
            seconds = np.mean([each for _, _, each in done])
            print(f"| {contender} | {' | '.join(cells)} | {lost:.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
