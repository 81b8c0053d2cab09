"""Differences to the best of several configurations, with intervals that hold for all of them at once.

The intervals follow Games and Howell ("Pairwise Multiple Comparison Procedures with Unequal N's and/or
Variances", Journal of Educational Statistics, 1976): Tukey's honest significant differences for samples of unequal
variances and sizes. They hold for all pairs at once, so the best may be picked by the same values. They assume roughly
normal values.

Configurations are usually trained with the same seeds (a randomized block design). Then the mean of each seed over all
k configurations is subtracted first, which leaves the differences as they are and takes the seeds out of the variances.
It also makes variances and degrees of freedom smaller by the factor (k - 1) / k; the variances are corrected for it.
For two configurations, this is the interval of the paired t test.

A difference is then compared with a region of practical equivalence, as in Kruschke, "Rejecting or Accepting Parameter
Values in Bayesian Estimation", Advances in Methods and Practices in Psychological Science, 2018.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Literal

import scipy

from tuner.analysis.record import ROUNDING
from tuner.direction import Direction

__all__ = ["Gap", "Verdict", "gaps_to_best", "median_interval"]

Verdict = Literal["worse", "as good", "open"]


@dataclass(frozen=True)
class Gap:
    """The distance of a configuration from the best one.

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
            tolerance: The largest negligible difference, in the unit of the metric.

        >>> Gap(0.02, 0.01, 0.03).verdict(0.01), Gap(0.001, -0.004, 0.006).verdict(0.01)
        ('worse', 'as good')
        >>> Gap(0.004, 0.001, 0.007).verdict(0.01), Gap(0.01, -0.02, 0.04).verdict(0.01)
        ('as good', 'open')
        """
        if -tolerance <= self.low and self.high <= tolerance:
            return "as good"
        return "worse" if self.low > 0 else "open"


def gaps_to_best(
    samples: Mapping[str, Mapping[int, float]],
    best: str,
    direction: Direction,
    resolution: float = 0.0,
    confidence: float = 0.95,
) -> dict[str, Gap]:
    """Return how much worse each configuration is than the best one.

    Args:
        samples: The values of each configuration by seed, at least one.
        best: The best one, which may be chosen by the same values.
        direction: Whether large or small values are better.
        resolution: The smallest difference between two values of the metric; an interval extends at least that far to
            both sides. 0 if it is unknown: then equal values give no interval.
        confidence: Probability that all intervals hold.

    >>> samples = {"a": {0: 1.0, 1: 2.0, 2: 4.0}, "b": {0: 2.0, 1: 4.0, 2: 5.0}}
    >>> gap = gaps_to_best(samples, "a", Direction.MINIMIZE)["b"]
    >>> round(gap.mean, 3), round(gap.low, 2), round(gap.high, 2)
    (1.333, -0.1, 2.77)
    """
    scale = max(abs(value) for values in samples.values() for value in values.values())
    unit = 2.0 ** (math.frexp(scale)[1] - 1)  # so that no square overflows; a power of two rounds nothing
    samples = {name: {seed: value / unit for seed, value in values.items()} for name, values in samples.items()}
    scale, resolution = scale / unit, resolution / unit
    aligned, shrinkage = _without_seeds(samples)
    gaps = {}
    for name, values in aligned.items():
        if name == best:
            continue
        mean = direction.advantage(fmean(aligned[best]), fmean(values))
        error, freedom = _error(aligned[best], values, shrinkage)
        if error <= ROUNDING * scale:
            bounds = (mean - resolution, mean + resolution) if resolution and freedom else (math.nan, math.nan)
        else:
            quantile = float(scipy.stats.studentized_range.ppf(confidence, len(samples), freedom)) / math.sqrt(2)
            room = max(quantile * error, resolution)
            bounds = (mean - room, mean + room)
        gaps[name] = Gap(mean * unit, *(bound * unit for bound in bounds))
    return gaps


def _without_seeds(samples: Mapping[str, Mapping[int, float]]) -> tuple[dict[str, list[float]], float]:
    """Return the values without the means of their seeds, and the factor by which that shrinks variances.

    The mean of a seed is over the configurations that have all seeds. If fewer than two have, nothing is subtracted.
    """
    seeds = {seed for values in samples.values() for seed in values}
    complete = [values for values in samples.values() if values.keys() == seeds]
    if len(complete) < 2:
        return {name: list(values.values()) for name, values in samples.items()}, 1.0
    means = {seed: fmean(values[seed] for values in complete) for seed in seeds}
    aligned = {name: [value - means[seed] for seed, value in values.items()] for name, values in samples.items()}
    return aligned, 1 - 1 / len(complete)


def _error(one: Sequence[float], other: Sequence[float], shrinkage: float) -> tuple[float, float]:
    """Return the standard error of a difference of means, and its degrees of freedom (Welch); 0 if there are none."""
    if min(len(one), len(other)) < 2:
        return 0.0, 0.0
    squares = [variance(values) / len(values) for values in (one, other)]
    total = sum(squares)
    if total == 0:
        return 0.0, 1.0
    freedom = total**2 / (squares[0] ** 2 / (len(one) - 1) + squares[1] ** 2 / (len(other) - 1))
    return math.sqrt(total / shrinkage), freedom * shrinkage


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the confidence interval of a median from order statistics; None if there are too few values.

    It assumes nothing about the distribution, and at 95% needs six values.

    >>> median_interval([3, 1, 2, 6, 5, 4]), median_interval([1, 2, 3, 4, 5])
    ((1.0, 6.0), None)
    """
    if len(values) < 2:
        return None
    found = scipy.stats.quantile_test(values, q=0, p=0.5).confidence_interval(confidence)
    return None if math.isnan(found.low) or math.isnan(found.high) else (float(found.low), float(found.high))
