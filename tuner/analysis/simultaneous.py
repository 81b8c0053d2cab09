"""Differences to the best of several configurations, with intervals that hold for all of them at once.

The intervals are those of Games and Howell ("Pairwise Multiple Comparison Procedures with Unequal N's and/or
Variances", Journal of Educational Statistics, 1976): Tukey's honest significant differences for samples of unequal
variances and sizes. They hold for all pairs at once, so the best may be picked by the same values. They assume roughly
normal values and make no use of seeds that two configurations share.

A difference is then compared with a region of practical equivalence, as in Kruschke, "Rejecting or Accepting Parameter
Values in Bayesian Estimation", Advances in Methods and Practices in Psychological Science, 2018.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Literal

from scipy import stats

from tuner.direction import Direction

__all__ = ["Gap", "Verdict", "gaps_to_best", "median_interval"]

Verdict = Literal["worse", "as good", "open"]
ROUNDING = 1e-6  # of single precision, relative: smaller differences are none


@dataclass(frozen=True)
class Gap:
    """How much worse a configuration is than the best one.

    Args:
        mean: Difference of the means, in the unit of the metric; above zero if it is worse.
        low: Lower bound of the simultaneous interval; NaN if too few values give none.
        high: Upper bound.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan

    def verdict(self, tolerance: float) -> Verdict:
        """Return whether it is worse than the best, as good for practical purposes, or neither is certain.

        Args:
            tolerance: The largest difference without practical importance, in the unit of the metric.

        >>> Gap(0.02, 0.01, 0.03).verdict(0.01), Gap(0.001, -0.004, 0.006).verdict(0.01)
        ('worse', 'as good')
        >>> Gap(0.004, 0.001, 0.007).verdict(0.01), Gap(0.01, -0.02, 0.04).verdict(0.01)
        ('as good', 'open')
        """
        if -tolerance <= self.low and self.high <= tolerance:
            return "as good"
        return "worse" if self.low > 0 else "open"


def gaps_to_best(
    samples: Mapping[str, Sequence[float]],
    best: str,
    direction: Direction,
    resolution: float = 0.0,
    confidence: float = 0.95,
) -> dict[str, Gap]:
    """Return how much worse each configuration is than the best one.

    Args:
        samples: The values of each configuration, at least one.
        best: The best one, which may be chosen by the same values.
        direction: Whether large or small values are better.
        resolution: The smallest difference between two values of the metric; an interval extends at least that far to
            both sides. 0 if it is unknown: then equal values give no interval.
        confidence: Probability that all intervals hold.

    >>> gaps = gaps_to_best({"a": [1.0, 2.0, 3.0], "b": [5.0, 6.0, 8.0]}, "a", Direction.MINIMIZE)
    >>> gap = gaps["b"]
    >>> round(gap.mean, 3), round(gap.low, 2), round(gap.high, 2)
    (4.333, 1.21, 7.45)
    """
    return {
        name: _gap(samples[best], values, len(samples), direction, resolution, confidence)
        for name, values in samples.items()
        if name != best
    }


def _gap(
    best: Sequence[float],
    other: Sequence[float],
    count: int,
    direction: Direction,
    resolution: float,
    confidence: float,
) -> Gap:
    mean = direction.advantage(fmean(best), fmean(other))
    if min(len(best), len(other)) < 2:
        return Gap(mean)
    squares = [variance(values) / len(values) for values in (best, other)]
    scale = max(abs(value) for value in (*best, *other))
    if sum(squares) <= (ROUNDING * scale) ** 2:
        return Gap(mean, mean - resolution, mean + resolution) if resolution else Gap(mean)
    freedom = sum(squares) ** 2 / (squares[0] ** 2 / (len(best) - 1) + squares[1] ** 2 / (len(other) - 1))
    quantile = float(stats.studentized_range.ppf(confidence, count, freedom))
    room = max(quantile * math.sqrt(sum(squares) / 2), resolution)
    return Gap(mean, mean - room, mean + room)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the confidence interval of a median that order statistics give; None if there are too few values.

    It assumes nothing about the distribution, and at 95% needs six values.

    >>> median_interval([3, 1, 2, 6, 5, 4]), median_interval([1, 2, 3, 4, 5])
    ((1.0, 6.0), None)
    """
    if len(values) < 2:
        return None
    found = stats.quantile_test(values, q=0, p=0.5).confidence_interval(confidence)
    return None if math.isnan(found.low) or math.isnan(found.high) else (float(found.low), float(found.high))
