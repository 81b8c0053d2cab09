"""Schedules that pass through given points, smoothly and without overshooting them."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from lightning_modules._validation import require, require_to
from lightning_modules.schedules.base import ROUNDING, Schedule, Steps, share_of

__all__ = ["FivePointSpline", "Spline", "TwoPointSpline"]

Point = tuple[float, float]
"""A position and the factor there."""


@dataclass(frozen=True, kw_only=True)
class Spline(Schedule):
    """Any curve: a monotone cubic spline (PCHIP) through given points.

    Between two points the factor only falls, only rises or stays the same, so the curve has no peaks except at its
    points. Before the first point the factor is the first, after the last point the last.

    Args:
        steps: Steps of the points, increasing, at least two.
        factors: Factor at each point, at least 0.
        monotone: Whether the factors must never rise, as in a decay.

    Source: Fritsch and Butland, "A Method for Constructing Local Monotone Piecewise Cubic Interpolants", SIAM Journal
    on Scientific and Statistical Computing 5, 1984.
    Synonyms: SciPy ``PchipInterpolator``; with straight lines, optax ``piecewise_interpolate_schedule``.

    >>> schedule = Spline(steps=(0, 40, 100), factors=(1.0, 0.5, 0.0))
    >>> [round(schedule(step), 6) for step in (0, 20, 40, 70, 100)]
    [1.0, 0.729842, 0.5, 0.217736, 0.0]
    """

    steps: tuple[Steps, ...]
    factors: tuple[float, ...]
    monotone: bool = True

    def _check(self) -> None:
        require_to(self, "steps", len(self.steps) >= 2, "have at least two items")
        require(self, "steps", all(0 <= each < math.inf for each in self.steps), "steps >= 0")
        rising = all(left < right * (1 - ROUNDING) for left, right in pairwise(self.steps))
        require_to(self, "steps", rising, "be increasing")
        require_to(self, "factors", len(self.factors) == len(self.steps), "have one item for each of the steps")
        require(self, "factors", all(0 <= each < math.inf for each in self.factors), "factors >= 0")
        falling = all(left >= right for left, right in pairwise(self.factors))
        require_to(self, "factors", falling or not self.monotone, "never rise unless monotone=False")

    def _factor(self, step: float) -> float:
        shares = (each / self.steps[-1] for each in self.steps)
        return _pchip(tuple(zip(shares, self.factors, strict=True)), share_of(step, self.steps[-1]))


@dataclass(frozen=True, kw_only=True)
class TwoPointSpline(Schedule):
    """Decay to `min_factor` along a monotone cubic spline (PCHIP) through two free points.

    The curve passes through ``(0, 1)``, ``(x1, y1)``, ``(x2, y2)`` and ``(1, min_factor)``, where positions are shares
    of `decay_steps`. The second point is given relative to the first, ``x2 = x1 + delta_x2 * (1 - x1)`` and ``y2 =
    min_factor + delta_y2 * (y1 - min_factor)``, so that all combinations of arguments fall: each can be searched
    independently of the others. 1 at step 0, `min_factor` at step `decay_steps` and beyond.

    Args:
        decay_steps: Steps of the decay.
        delta_x1: Position of the first point: its share of the decay, between 0 and 1.
        y1: Factor at the first point, from `min_factor` to 1.
        delta_x2: Position of the second point: its share of what is left of the decay, between 0 and 1.
        delta_y2: Height of the second point above `min_factor`, as a share of the first point's, from 0 to 1.
        min_factor: Factor at the end, between 0 and 1.

    Source: Naganuma et al., "What do near-optimal learning rate schedules look like?", 2026, whose warmup is a `Warmup`
    here. Points in steps: `Spline`.
    Synonyms: none.

    >>> schedule = TwoPointSpline(decay_steps=100, delta_x1=0.25, y1=0.8, delta_x2=0.6, delta_y2=0.5)
    >>> [round(schedule(step), 6) for step in (0, 25, 70, 100)]
    [1.0, 0.8, 0.4, 0.0]
    """

    decay_steps: Steps
    delta_x1: float
    y1: float
    delta_x2: float
    delta_y2: float
    min_factor: float = 0.0

    def _check(self) -> None:
        require(self, "decay_steps", 0 < self.decay_steps < math.inf, "decay_steps > 0")
        require(self, "min_factor", 0 <= self.min_factor <= 1, "0 <= min_factor <= 1")
        require(self, "delta_x1", 0 < self.delta_x1 < 1, "0 < delta_x1 < 1")
        require(self, "y1", self.min_factor <= self.y1 <= 1, "min_factor <= y1 <= 1 for a monotone spline")
        require(self, "delta_x2", 0 < self.delta_x2 < 1, "0 < delta_x2 < 1")
        require(self, "delta_y2", 0 <= self.delta_y2 <= 1, "0 <= delta_y2 <= 1 for a monotone spline")

    def _factor(self, step: float) -> float:
        first = (self.delta_x1, self.y1)
        x2 = self.delta_x1 + self.delta_x2 * (1 - self.delta_x1)
        y2 = self.min_factor + self.delta_y2 * (self.y1 - self.min_factor)
        points = ((0.0, 1.0), first, (x2, y2), (1.0, self.min_factor))
        return _pchip(points, share_of(step, self.decay_steps))


@dataclass(frozen=True, kw_only=True)
class FivePointSpline(Schedule):
    """A cubic spline (PCHIP) with a free peak and two free points: a warmup and a decay of any shape.

    The curve passes through ``(0, y_start)``, ``(x1, y1)``, ``(x2, y2)``, ``(x_peak, 1)`` and ``(1, y_end)``, where
    positions are shares of `total_steps`, and ``x1 = delta_x1`` and ``x2 = x1 + delta_x2 * (1 - x1)``. The free points
    may lie before or after the peak; one at the peak is left out. Between neighbouring points the curve is monotone,
    and 1 is its maximum. `y_start` at step 0, `y_end` at step `total_steps` and beyond.

    Args:
        total_steps: Steps of the curve.
        x_peak: Position of the peak: its share of the curve, between 0 and 1.
        y_start: Factor at the beginning, from 0 to 1.
        delta_x1: Position of the first free point: its share of the curve, between 0 and 1.
        y1: Factor at the first free point, from 0 to 1.
        delta_x2: Position of the second free point: its share of the curve after the first, between 0 and 1.
        y2: Factor at the second free point, from 0 to 1.
        y_end: Factor at the end, from 0 to 1.

    Source: Naganuma et al., "What do near-optimal learning rate schedules look like?", 2026, "smooth non-monotonic".
    Synonyms: none.

    >>> schedule = FivePointSpline(total_steps=100, x_peak=0.2, delta_x1=0.4, y1=0.8, delta_x2=0.5, y2=0.3)
    >>> [round(schedule(step), 6) for step in (0, 20, 40, 70, 100)]
    [0.0, 1.0, 0.8, 0.3, 0.0]
    """

    total_steps: Steps
    x_peak: float
    y_start: float = 0.0
    delta_x1: float
    y1: float
    delta_x2: float
    y2: float
    y_end: float = 0.0

    def _check(self) -> None:
        require(self, "total_steps", 0 < self.total_steps < math.inf, "total_steps > 0")
        for field in ("x_peak", "delta_x1", "delta_x2"):
            require(self, field, 0 < getattr(self, field) < 1, f"0 < {field} < 1")
        for field in ("y_start", "y1", "y2", "y_end"):
            require(self, field, 0 <= getattr(self, field) <= 1, f"0 <= {field} <= 1")

    def _factor(self, step: float) -> float:
        x2 = self.delta_x1 + self.delta_x2 * (1 - self.delta_x1)
        free = [(x, y) for x, y in ((self.delta_x1, self.y1), (x2, self.y2)) if x != self.x_peak]
        points = ((0.0, self.y_start), *sorted([*free, (self.x_peak, 1.0)]), (1.0, self.y_end))
        return _pchip(points, share_of(step, self.total_steps))


def _pchip(points: tuple[Point, ...], x: float) -> float:
    """Return the value at `x` of a monotone cubic spline through points with increasing positions.

    Of points whose positions are equal after rounding, the first counts. Before the first point the value is the first,
    after the last point the last.
    """
    if x <= points[0][0]:
        return points[0][1]
    if x >= points[-1][0] * (1 - ROUNDING):
        return points[-1][1]
    positions, values, tangents = _knots(points)
    index = bisect_right(positions, x) - 1
    (left, right), (low, high) = positions[index : index + 2], values[index : index + 2]
    t = (x - left) / (right - left)
    bend = tangents[index] * (1 - t) - tangents[index + 1] * t
    value = low + (high - low) * t * t * (3 - 2 * t) + (right - left) * bend * t * (1 - t)
    return min(max(value, min(low, high)), max(low, high))  # rounding can lead out of the interval


@lru_cache(maxsize=1024)
def _knots(points: tuple[Point, ...]) -> tuple[list[float], list[float], list[float]]:
    """Return positions, values and derivatives at the knots of a spline."""
    knots = dict(reversed(points))
    positions, values = list(knots)[::-1], list(knots.values())[::-1]
    widths = [right - left for left, right in pairwise(positions)]
    slopes = [(high - low) / width for (low, high), width in zip(pairwise(values), widths, strict=True)]
    return positions, values, [_tangent(widths, slopes, knot) for knot in range(len(positions))]


def _tangent(widths: Sequence[float], slopes: Sequence[float], knot: int) -> float:
    """Return the derivative of the spline at a knot."""
    if len(slopes) == 1:
        return slopes[0]
    if knot == 0:
        return _end_tangent(widths[0], widths[1], slopes[0], slopes[1])
    if knot == len(slopes):
        return _end_tangent(widths[-1], widths[-2], slopes[-1], slopes[-2])
    before, after = slopes[knot - 1], slopes[knot]
    if before == 0 or after == 0 or (before > 0) != (after > 0):
        return 0.0
    weight = (widths[knot - 1] + 2 * widths[knot]) / (3 * (widths[knot - 1] + widths[knot]))
    return 1 / (weight / before + (1 - weight) / after)


def _end_tangent(width: float, next_width: float, slope: float, next_slope: float) -> float:
    """Return the derivative at the first or last knot, from its own interval and the neighbouring one."""
    tangent = slope + (slope - next_slope) * width / (width + next_width)
    if slope == 0 or (tangent > 0) != (slope > 0):
        return 0.0
    if (next_slope > 0) != (slope > 0) or next_slope == 0:
        return math.copysign(min(abs(tangent), 3 * abs(slope)), slope)
    return tangent
