"""Stopping runs that are expected to end with a high loss.

Early losses mislead where schedules differ: an lr that decays early looks better than it is. The multi-power law knows
the rest of the lr curve. But it does not describe every run, so it has to prove itself in each study: the full runs are
split in half, and the end of each half is predicted from its first third with the law fitted to the other half. Only if
these predictions rank the runs better than their losses after a third do are runs stopped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy

from tuner.search.power_law import LossCurve, PowerLaw

__all__ = ["FEWEST_WHOLE", "PARTS", "Licence", "is_hopeless", "licence"]

FEWEST_WHOLE = 6
"""Number of full runs below which nothing is predicted, unless the study says otherwise."""

PARTS = (1 / 3, 2 / 3)
"""Parts of a run after which its end is predicted."""

MARGIN = 2
"""By how many prediction errors a run must be expected to end above the median to be stopped."""

MOST_TRAININGS = 40
"""Largest number of runs that the law is fitted to."""


@dataclass(frozen=True)
class Licence:
    """Whether predictions rank the full runs of a study better than their losses after a third do.

    Args:
        trainings: Number of full runs.
        predicted: Rank correlation (Spearman's rho) of the predicted with the true losses at the end.
        measured: The same for the losses after a third.
        error: By how much the predicted losses differ from the true ones: the root mean square of the logarithms.
    """

    trainings: int
    predicted: float
    measured: float
    error: float = 0.0

    @property
    def is_granted(self) -> bool:
        """Return whether runs may be stopped by predictions."""
        return self.predicted > self.measured

    def __str__(self) -> str:
        figures = f"{self.predicted:.2f} against {self.measured:.2f} over {self.trainings} full runs"
        if self.is_granted:
            return f"prediction was used, because it ranks trials better than their losses after a third ({figures})"
        return f"prediction was not used, because losses after a third rank trials as well ({figures})"


def licence(whole: Sequence[LossCurve]) -> Licence:
    """Return how well the ends of full runs are predicted from their first thirds.

    Args:
        whole: Full runs, in the order in which they ended; at least four.
    """
    ends = np.array([curve.losses[-1] for curve in whole])
    early = [up_to(curve, PARTS[0]) for curve in whole]
    predicted = np.zeros(len(whole))
    for fold in (0, 1):
        known = [curve if index % 2 != fold else early[index] for index, curve in enumerate(whole)]
        law = PowerLaw(known)
        for index in range(fold, len(whole), 2):
            predicted[index] = law.final(early[index])
    measured = _correlation([each.losses[-1] for each in early], ends)
    error = float(np.sqrt(np.mean(np.log(predicted / ends) ** 2)))
    return Licence(len(whole), _correlation(predicted, ends), measured, error)


def is_hopeless(curve: LossCurve, whole: Sequence[LossCurve], stopped: Sequence[LossCurve], error: float = 0.0) -> bool:
    """Return whether a run is expected to end worse than half of the others, by more than the prediction error.

    Args:
        curve: The run, up to now.
        whole: The full runs, in the order in which they ended.
        stopped: The stopped runs, in the same order.
        error: The error of the predictions, as in `Licence`.
    """
    whole, stopped = whole[-MOST_TRAININGS // 2 :], stopped[-MOST_TRAININGS // 2 :]
    law = PowerLaw([*whole, *stopped, curve])
    others = [each.losses[-1] for each in whole] + [law.final(each) for each in stopped]
    return law.final(curve) > float(np.median(others)) * math.exp(MARGIN * error)


def up_to(curve: LossCurve, part: float) -> LossCurve:
    """Return a run up to a part of its length; at least its first loss."""
    count = max(1, int((curve.shares <= part + 1e-9).sum()))
    return replace(curve, shares=curve.shares[:count], losses=curve.losses[:count])


def _correlation(left: Sequence[float] | np.ndarray, right: np.ndarray) -> float:
    """Return Spearman's rho; 0 if all are equal."""
    found = float(scipy.stats.spearmanr(left, right).statistic)
    return found if np.isfinite(found) else 0.0
