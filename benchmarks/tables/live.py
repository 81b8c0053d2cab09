"""How low a loss different searches find where schedules compete, with real runs: each suggestion is trained.

In a table, a trial takes the values of the nearest row; here, it has its own. The network is small (`dense.py`), and a
run takes a tenth of a second. Each study has another seed of its sampler, and each network other weights, batches and
images. The file's own `trial` is the first trial, as in every study.

    python benchmarks/tables/live.py --networks 6 --draws 20 --only "curve, whole" "tpe, median from a third"

Budgets are in full runs. The excess is the loss of the best full run, minus the lowest loss that any of the studies has
found for the same network. With `--out`, every result is added to a file, from which `draw.py` makes a picture.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
from dense import EPOCHS, STEPS, DenseNetwork
from run import CONTENDERS
from simulation import TrainedRuns, simulate

from tuner.config.loader import load_study
from tuner.search.curve_space import CurveSpace

STUDY = Path(__file__).with_name("competing.yaml")
Job = tuple[str, int, int, Sequence[float]]
"""Contender, seed of the network, seed of the study, and budgets in full runs."""

network = cache(DenseNetwork)


def lowest_losses(job: Job) -> list[float]:
    """Return the loss of the best full run within each budget [budgets]."""
    contender, weights, seed, marks = job
    sampler, pruner = CONTENDERS[contender]
    losses, trace, done = [], [], {}
    for mark in marks:
        if not trace or pruner.startswith("rungs"):  # rungs depend on the budget
            budget = round((mark if pruner.startswith("rungs") else max(marks)) * EPOCHS)
            options = [f"sampler={{name: {sampler}}}", f"pruner={{name: {pruner}}}", f"budget={{epochs: {budget}}}"]
            config = load_study(str(STUDY), [*options, "final={trials: 0}"])
            runs = TrainedRuns(partial(train, weights, CurveSpace(config, 0)), EPOCHS)
            trace, done = simulate(config, runs, budget, seed, has_baseline=True).trace, runs.done
        losses.append(min(done[run][-1] for spent, run in trace if spent <= mark * EPOCHS))
    return losses


def train(weights: int, space: CurveSpace, params: dict) -> list[float]:
    """Return the losses of a configuration after each epoch [epochs]."""
    return network(weights).train(space.curve(space.of(params), STEPS).lr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=6, help="networks (default 6)")
    parser.add_argument("--draws", type=int, default=20, help="studies of each network (default 20)")
    parser.add_argument("--marks", type=float, nargs="+", default=[6, 9, 12, 15, 18, 24], help="budgets in full runs")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="file to which each result is appended as a line")
    options = parser.parse_args()
    jobs = [
        (contender, weights, seed, options.marks)
        for seed in range(options.draws)
        for weights in range(options.networks)
        for contender in options.only
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        found = list(pool.map(lowest_losses, jobs))
    table = np.array(found).reshape(options.draws, options.networks, len(options.only), len(options.marks))
    excess = table - table.min(axis=(0, 2, 3), keepdims=True)
    if options.out:
        with options.out.open("a") as file:
            for (contender, *_), own in zip(jobs, excess.reshape(len(jobs), -1).tolist(), strict=True):
                result = {"kind": "live", "contender": contender, "marks": options.marks, "excess": own}
                file.write(json.dumps(result) + "\n")
    print("| | " + " | ".join(f"{mark:g} runs" for mark in options.marks) + " |")
    print("|" + "---|" * (1 + len(options.marks)))
    for place, contender in enumerate(options.only):
        own = excess[:, :, place].reshape(-1, len(options.marks))
        means, errors = own.mean(0), own.std(0, ddof=1) / len(own) ** 0.5
        cells = [f"{mean:.4f} ± {error:.4f}" for mean, error in zip(means, errors, strict=True)]
        print(f"| {contender} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
