"""How many of the best schedules different pruners stop, in a table of published runs.

    python benchmarks/tables/lost.py llama_schedules.json.gz --draws 20

The runs are language models (Schaipp et al., 2025), which differ in schedule and lr. A study trains all runs of
25,000 steps, in random order, and validates them every 1,000 steps. The table has, for each pruner, how many of the
best five runs it stopped, and which share of all steps it trained.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from read import read_llama  # noqa: E402
from simulation import simulate  # noqa: E402

from tuner.config.loader import load_study  # noqa: E402
from tuner.search.power_law import LossCurve  # noqa: E402
from tuner.storage.pruners.predicting import PredictingPruner, Training  # noqa: E402

STEPS, INTERVAL, BEST = 25_000, 1_000, 5
PRUNERS = {
    "no pruner": "none",
    "median from a third": "median",
    "rungs": "rungs",
    "rungs of the starts": "rungs, applies_to: starts",
    "predicted": "predicted",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the runs")
    parser.add_argument("--draws", type=int, default=20, help="random orders (default 20)")
    options = parser.parse_args()
    table, curves = read_llama(options.file, STEPS, INTERVAL)
    count, epochs = table.losses.shape
    best = set(np.flatnonzero(table.ranks <= BEST))

    def read(trial: FrozenTrial) -> Training | None:
        reports = trial.intermediate_values
        if not reports:
            return None
        values = [table.losses[trial.params["seed"], epoch - 1] for epoch in sorted(reports)]
        shares = np.array(sorted(reports)) / epochs
        return Training(LossCurve(curves[trial.params["seed"]], STEPS, shares, np.array(values)), epochs)

    print(f"{count} runs, {options.draws} orders\n\n| | stopped of the best {BEST} | best one stopped | steps, % |")
    print("|---|---|---|---|")
    for name, pruner in PRUNERS.items():
        lost, lost_best, trained = [], [], []
        for seed in range(options.draws):
            given = [f"budget={{trials: {count}}}", f"pruner={{name: {pruner}}}"]
            config = load_study(str(HERE / "llama.yaml"), [*given, f"search_space.seed.high={count - 1}"])
            search = simulate(
                config, table, 2 * count * epochs, seed, PredictingPruner(read) if name == "predicted" else None
            )
            stopped = best - {row for _, row in search.trace}
            lost.append(len(stopped))
            lost_best.append(bool(table.ranks[list(stopped)].min() == 1) if stopped else False)
            trained.append(search.spent / (count * epochs))
        cells = f"{np.mean(lost):.2f} | {np.mean(lost_best):.2f} | {100 * np.mean(trained):.0f}"
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
