"""The base lr factored out of a comparison: a shape counts with the best of its base lrs, by the median over seeds.

Source: Naganuma et al., "What do near-optimal learning rate schedules look like?", 2026, arXiv 2603.10301, and the code
of its authors (google/init2winit, ``projects/optlrschedule``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from tuner.direction import Direction

__all__ = ["Sweep", "choose", "mean_of"]

ROUNDING = 1e-6  # rounding of accuracies, which are single-precision numbers


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of numbers, also of some whose sum is too large for a float.

    >>> mean_of([1.0, 2.0]), mean_of([1.5e308, 1.5e308])
    (1.5, 1.5e+308)
    """
    try:
        return fmean(values)
    except OverflowError:
        return math.fsum(value / len(values) for value in values)


@dataclass(frozen=True)
class Sweep:
    """The runs of one shape, at each of its base lrs with several seeds.

    Args:
        direction: Whether large or small values are better.
        values: The objective of each completed run, by base lr.
        failed: Number of runs that diverged or failed, by base lr; they count as worse than any value.
    """

    direction: Direction
    values: Mapping[float, Sequence[float]]
    failed: Mapping[float, int]

    def median(self, lr: float) -> float:
        """Return the median at a base lr, in which a failed run is infinitely bad; NaN if there is no run."""
        worst = self.direction.worsened(0.0, math.inf)
        values = [*self.values.get(lr, ()), *[worst] * self.failed.get(lr, 0)]
        return median(values) if values else math.nan

    @property
    def best(self) -> float | None:
        """Return the base lr with the best median, of equal ones the one with the best mean; None if all failed."""
        finite = [lr for lr in self.values if math.isfinite(self.median(lr))]
        return min(finite, key=self.rank, default=None)

    def rank(self, lr: float) -> tuple[float, float]:
        """Return a key by which better base lrs come first."""
        return self.direction.sort_key(self.median(lr)), self.direction.sort_key(mean_of(self.values[lr]))

    @property
    def is_at_edge(self) -> bool:
        """Return whether the best base lr is the lowest or highest of several, so that others may be better."""
        return len(self.values) > 1 and self.best in (min(self.values), max(self.values))

    def good_range(self, tolerance: float) -> tuple[float, float, bool] | None:
        """Return the range of base lrs that are nearly as good as the best, and whether the sweep limits it.

        Args:
            tolerance: How much worse the median may be, in the unit of the metric.

        Returns:
            The lowest and the highest of the base lrs around the best; None if all failed.
        """
        if (best := self.best) is None:
            return None
        lrs = sorted(self.values)
        good = [self.direction.advantage(self.median(best), self.median(lr)) <= tolerance + ROUNDING for lr in lrs]
        low = high = lrs.index(best)
        while low > 0 and good[low - 1]:
            low -= 1
        while high < len(lrs) - 1 and good[high + 1]:
            high += 1
        return lrs[low], lrs[high], low == 0 or high == len(lrs) - 1


def choose(sweeps: Sequence[Sweep]) -> tuple[int, float] | None:
    """Return the index of the best of several shapes, each with its best base lr, and that lr; None if all failed.

    >>> one = Sweep(Direction.MINIMIZE, {0.1: [3.0, 9.0, 4.0], 0.2: [2.0, 5.0]}, {0.2: 1})
    >>> choose([one, Sweep(Direction.MINIMIZE, {0.1: [3.5, 3.5, 3.5]}, {})])
    (1, 0.1)
    """
    found = [(sweep.rank(best), index, best) for index, sweep in enumerate(sweeps) if (best := sweep.best) is not None]
    return min(found)[1:] if found else None
