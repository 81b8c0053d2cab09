"""How many of the best schedules different pruners stop, among published runs.

A study trains all runs of one kind once, in random order.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial
from read import REPORTS, RecordedRuns
from simulation import TableRows, simulate

from tuner.config.loader import load_study
from tuner.search.power_law import LossCurve
from tuner.storage.pruners.predicting import PredictingPruner, Training

__all__ = ["BEST", "PRUNERS", "Stopped", "stopped"]

STUDY = Path(__file__).with_name("llama.yaml")
BEST = 5
PRUNERS = {
    "no pruner": "none",
    "median from a third": "median",
    "rungs": "rungs",
    "rungs of the starts": "rungs, applies_to: starts",
    "predicted": "predicted",
}


@dataclass(frozen=True)
class Stopped:
    """The runs that a pruner stopped, in one order of all runs.

    Args:
        best: How many of the best `BEST` it stopped.
        winner: Whether it stopped the best one.
        trained: The share of all steps that were trained.
    """

    best: int
    winner: bool
    trained: float


def stopped(name: str, runs: RecordedRuns, seed: int) -> Stopped:
    """Run a study of all runs with a pruner.

    Args:
        name: The pruner.
        runs: The runs.
        seed: Seed of their order.
    """

    def read(trial: FrozenTrial) -> Training | None:
        reports = trial.intermediate_values
        if not reports:
            return None
        row = trial.params["seed"]
        values = [runs.table.losses[row, report - 1] for report in sorted(reports)]
        shares = np.array(sorted(reports)) / REPORTS
        return Training(LossCurve(runs.curves[row], runs.steps, shares, np.array(values)), REPORTS)

    count = len(runs.curves)
    options = [
        f"budget={{trials: {count}}}",
        f"pruner={{name: {PRUNERS[name]}}}",
        f"search_space.seed.high={count - 1}",
    ]
    options += [f"trial.trainer={{max_steps: {runs.steps}, val_check_interval: {runs.steps // REPORTS}}}"]
    config = load_study(str(STUDY), options)
    pruner = PredictingPruner(read) if name == "predicted" else None
    search = simulate(config, TableRows(runs.table, config), 2 * count * REPORTS, seed, pruner)
    ranks = set(runs.table.ranks[list({*range(count)} - {row for _, row in search.trace})])
    return Stopped(len(ranks & {*range(1, BEST + 1)}), 1 in ranks, search.spent / (count * REPORTS))
