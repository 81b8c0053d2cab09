"""The pruners: Optuna's, as a study file configures them, and our own.

Their options are declared in ``tuner/config/sampler_options.py``; the mathematics of our own are in ``tuner/search/``.
"""

import warnings
from typing import Any

import optuna

from tuner.config.study import StudyConfig
from tuner.search.prediction import FEWEST_WHOLE
from tuner.storage.pruners.median import MedianPruner
from tuner.storage.pruners.predicting import PredictingPruner, TrainingReader

__all__ = ["make_pruner"]


def make_pruner(config: StudyConfig) -> optuna.pruners.BasePruner:
    """Return the pruner of a study.

    By default, no trial is pruned in the first third of its epochs.

    Raises:
        ValueError: If Optuna rejects an option.
    """
    options: dict[str, Any] = dict(config.pruner.arguments)
    epochs = config.longest
    third = max(1, -(-epochs // 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match config.pruner.name:
            case "none" | "rungs":  # the coordinator compares the trials at rungs
                return optuna.pruners.NopPruner()
            case "median":
                return MedianPruner(**{"n_warmup_steps": third, **options})
            case "hyperband":
                return optuna.pruners.HyperbandPruner(**{"min_resource": third, "max_resource": epochs, **options})
            case "successive_halving":
                return optuna.pruners.SuccessiveHalvingPruner(**{"min_resource": third, **options})
            case "predicted":
                return PredictingPruner(TrainingReader(config), options.get("n_startup_trials", FEWEST_WHOLE))
            case "wilcoxon":
                return optuna.pruners.WilcoxonPruner(**{"n_startup_steps": third, **options})
            case name:
                raise ValueError(f"unknown pruner {name}")
