"""The samplers and pruners that a study can name, and their options."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.config.budget import Positive
from tuner.config.trial import Seed

__all__ = ["PRUNERS", "SAMPLERS"]

Count = Annotated[int, Field(ge=0)]
_Factor = Annotated[int, Field(ge=2)]

# The options of samplers and pruners; all others keep Optuna's defaults.
SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"seed": Seed, "n_startup_trials": Count, "multivariate": bool, "group": bool, "constant_liar": bool},
    "curve": {"seed": Seed, "n_startup_trials": Count},
    "random": {"seed": Seed},
    "gp": {"seed": Seed, "n_startup_trials": Count},
    "cmaes": {"seed": Seed, "n_startup_trials": Count},
    "nsga2": {"seed": Seed, "population_size": Annotated[int, Field(ge=2)]},
    "qmc": {"seed": Seed, "qmc_type": Literal["sobol", "halton"]},
    "grid": {"seed": Seed},
}
PRUNERS: dict[str, dict[str, Any]] = {
    "none": {},
    "median": {
        "n_startup_trials": Count,
        "n_warmup_steps": Count,
        "interval_steps": Positive,
        "n_min_trials": Positive,
    },
    "predicted": {"n_startup_trials": Annotated[int, Field(ge=4)]},
    "hyperband": {"min_resource": Positive, "max_resource": Positive, "reduction_factor": _Factor},
    "successive_halving": {"min_resource": Positive, "reduction_factor": _Factor, "min_early_stopping_rate": Count},
    "rungs": {
        "starts": Positive,
        "epochs": Sequence[Positive],
        "reduction_factor": _Factor,
        "applies_to": Literal["all", "starts"],
    },
    "wilcoxon": {"p_threshold": Annotated[float, Field(ge=0, le=1)], "n_startup_steps": Count},
}
