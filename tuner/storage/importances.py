"""The importance of parameters. Importing this module imports scikit-learn, which takes a second."""

import math
import warnings
from collections import Counter
from collections.abc import Sequence

import optuna
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial

from tuner.direction import Direction

__all__ = ["importances"]

MIN_OF_PARAMETER = 4


def importances(study: optuna.Study, complete: Sequence[FrozenTrial], direction: Direction) -> dict[str, float]:
    """Return Optuna's parameter importances (PED-ANOVA); empty if all trials have one value.

    Args:
        study: The study.
        complete: Its complete trials.
        direction: The direction of its first objective.

    Raises:
        ValueError, RuntimeError: If Optuna finds no answer.
    """
    counts = Counter(name for trial in complete for name in trial.params)
    judged = [name for name, count in counts.items() if count >= MIN_OF_PARAMETER]
    if not judged:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the plot itself says that there are few trials
        # Optuna expects that smaller values of a target are better.
        target = None if len(study.directions) == 1 else lambda trial: direction.sort_key(trial.values[0])
        shares = get_param_importances(study, params=judged, target=target)
    return {} if any(math.isnan(share) for share in shares.values()) else dict(shares)
