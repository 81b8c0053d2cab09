"""Schedules that rise and fall."""

import math
import sys
from dataclasses import dataclass
from typing import Literal

from lightning_modules._validation import require, require_to
from lightning_modules.schedules.base import ROUNDING, Schedule, Steps, share_of, whole

__all__ = ["CosineRestarts", "OneCycle", "TriangularCyclic"]


@dataclass(frozen=True, kw_only=True)
class TriangularCyclic(Schedule):
    """Linear cycles between a minimum and the initial lr.

    In cycle ``k = floor(s / (2 * half_period))``, where ``h`` rises from 0 to 1 in the middle of the cycle and falls
    back to 0:

    ``low = min_factor * min_decay**k``, ``factor(s) = low + (1 - min_factor) * peak_decay**k * h``

    `min_factor` at step 0, 1 at step `half_period`, `min_factor * min_decay` at step ``2 * half_period``; the cycles
    never end. As in `CosineRestarts`, the height of a peak is measured from the minimum: no peak falls below it.

    Args:
        half_period: Steps from a minimum to the next peak.
        min_factor: Factor at the first minimum, between 0 and 1.
        peak_decay: Ratio of the height of a peak above the minimum to the previous height, above 0 and at most 1.
        min_decay: Ratio of a minimum to the previous one, above 0 and at most 1.

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017: "triangular"; "triangular2" with
    a `peak_decay` of 0.5. The paper's "exp_range" lowers both bounds at every step; here they change once per cycle.
    Synonyms: torch ``CyclicLR(base_lr=initial_lr * min_factor, max_lr=initial_lr, step_size_up=half_period,
    cycle_momentum=False)``; by default it cycles the momentum too; here the momentum has its own schedule
    (``momentum_schedule``). Neither Keras nor timm has it.

    >>> schedule = TriangularCyclic(half_period=100, min_factor=0.2, peak_decay=0.5)
    >>> [round(schedule(step), 6) for step in (0, 50, 100, 200, 300, 400)]
    [0.2, 0.6, 1.0, 0.2, 0.6, 0.2]
    """

    half_period: Steps
    min_factor: float
    peak_decay: float = 1.0
    min_decay: float = 1.0

    def _check(self) -> None:
        require(self, "half_period", 0 < self.half_period < math.inf, "half_period > 0")
        require(self, "min_factor", 0 <= self.min_factor <= 1, "0 <= min_factor <= 1")
        require(self, "peak_decay", 0 < self.peak_decay <= 1, "0 < peak_decay <= 1")
        require(self, "min_decay", 0 < self.min_decay <= 1, "0 < min_decay <= 1")

    def _factor(self, step: float) -> float:
        period = 2 * self.half_period
        cycle = whole(share_of(step, period))
        over = min(1.0, max(0.0, (step - cycle * period) / period))
        height = 1 - abs(2 * over - 1)
        low = self.min_factor * self.min_decay**cycle
        return float(low + (1 - self.min_factor) * self.peak_decay**cycle * height)


@dataclass(frozen=True, kw_only=True)
class CosineRestarts(Schedule):
    """Cosine decay to `min_factor` with warm restarts at the end of every period (SGDR).

    Period ``k`` begins at ``restart_period * (period_growth**k - 1) / (period_growth - 1)`` (``k * restart_period``
    without growth) and lasts ``restart_period * period_growth**k`` steps, not rounded. With ``t`` the elapsed share of
    the period:

    ``factor(s) = (1 - min_factor) * peak_decay**k * (1 + cos(pi * t)) / 2 + min_factor``

    1 at step 0; at a restart exactly ``(1 - min_factor) * peak_decay**k + min_factor``; the restarts never end.

    Args:
        restart_period: Steps of the first period.
        period_growth: Ratio of the length of a period to the previous one, a real number of at least 1.
        peak_decay: Ratio of the height of a peak above the minimum to the previous height, above 0 and at most 1.
        min_factor: Factor at the end of each period, between 0 and 1.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.
    Synonyms: TensorFlow and Keras ``CosineDecayRestarts`` (t_mul, m_mul, alpha); torch ``CosineAnnealingWarmRestarts``
    (whole numbers only, no decaying peaks); timm ``CosineLRScheduler`` (cycle_mul, cycle_decay), which decays the peak
    itself and not its height above the minimum: the same only with a `min_factor` of 0.

    >>> schedule = CosineRestarts(restart_period=10, period_growth=3, peak_decay=0.5)
    >>> [round(schedule(step), 6) for step in (0, 5, 10, 25, 40)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    restart_period: Steps
    period_growth: float = 1.0
    peak_decay: float = 1.0
    min_factor: float = 0.0

    def _check(self) -> None:
        require(self, "restart_period", 0 < self.restart_period < math.inf, "restart_period > 0")
        require(self, "period_growth", 1 <= self.period_growth < math.inf, "period_growth >= 1")
        require(self, "peak_decay", 0 < self.peak_decay <= 1, "0 < peak_decay <= 1")
        require(self, "min_factor", 0 <= self.min_factor <= 1, "0 <= min_factor <= 1")

    def _factor(self, step: float) -> float:
        period, progress = self._locate(step)
        wave = 0.5 * (1 + math.cos(math.pi * progress))
        return float((1 - self.min_factor) * self.peak_decay**period * wave + self.min_factor)

    def _start(self, period: int) -> float:
        """Return the step, a real number, at which a period begins."""
        growth = self.period_growth - 1
        if growth == 0:
            return self.restart_period * period
        if period * math.log(self.period_growth) > 700:  # too large for a float, and beyond any step
            return math.inf
        if growth > 1e-3:
            return float(self.restart_period * (self.period_growth**period - 1) / growth)
        # growth**period - 1 would lose most of its digits.
        return self.restart_period * math.expm1(period * math.log1p(growth)) / growth

    def _locate(self, step: float) -> tuple[int, float]:
        """Return the period of a step, and the elapsed share of the period, in [0, 1]."""
        growth = self.period_growth - 1
        periods = share_of(step, self.restart_period)  # for periods of equal length
        if growth > 0:
            periods = math.log1p(min(periods * growth, sys.float_info.max)) / math.log1p(growth)
        period = int(periods)
        # The logarithm is only an estimate, which at a boundary is often one too low. The start of the next period
        # decides; it is compared with a tolerance, because 100 + 100 * 1.2 = 220.00000000000003 means step 220.
        if self._start(period + 1) <= step * (1 + ROUNDING):
            period += 1
        start = self._start(period)
        length = self._start(period + 1) - start
        return period, min(1.0, max(0.0, (step - start) / length)) if length > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """One rise to the initial lr and one fall to far below the start.

    The rise from `start_factor` to 1 takes ``rise_share * total_steps - 1`` steps; the fall from there reaches
    `end_factor` at the last step, ``total_steps - 1``. With `three_phase`, the fall takes as long as the rise and ends
    at `start_factor`; the remaining steps lead from there to `end_factor`. `start_factor` at step 0, `end_factor` at
    the end and beyond.

    Args:
        total_steps: Steps of the cycle, usually of the whole run.
        rise_share: Share of the steps in which the lr rises, above 0 and below 1 (at most 0.5 with `three_phase`).
        start_factor: Factor at step 0, between 0 and 1.
        end_factor: Factor at the end, between 0 and 1.
        shape: Shape of the rise and the fall; the paper has "linear".
        three_phase: Fall to `start_factor` first, as in the paper.

    Source: Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
    2018.
    Synonyms: torch ``OneCycleLR(max_lr=initial_lr, pct_start=rise_share, div_factor=1 / start_factor,
    final_div_factor=start_factor / end_factor, anneal_strategy=shape, cycle_momentum=False)``; by default it cycles the
    momentum too; here the momentum has its own schedule (``momentum_schedule``). Neither Keras nor timm has it.

    >>> schedule = OneCycle(total_steps=101, rise_share=51 / 101, start_factor=0.2, end_factor=0.0)
    >>> [round(schedule(step), 6) for step in (0, 25, 50, 75, 100, 1000)]
    [0.2, 0.6, 1.0, 0.5, 0.0, 0.0]
    """

    total_steps: Steps
    rise_share: float = 0.3
    start_factor: float = 0.04
    end_factor: float = 4e-6
    shape: Literal["cosine", "linear"] = "cosine"
    three_phase: bool = False

    def _check(self) -> None:
        require(self, "total_steps", 1 < self.total_steps < math.inf, "total_steps > 1")
        require(self, "rise_share", 0 < self.rise_share < 1, "0 < rise_share < 1")
        if self.three_phase:
            require(self, "rise_share", self.rise_share <= 0.5, "rise_share <= 0.5 with three_phase")
        require(self, "rise_share", self.rise_share * self.total_steps >= 1, "rise_share * total_steps >= 1")
        require(self, "start_factor", 0 <= self.start_factor <= 1, "0 <= start_factor <= 1")
        require(self, "end_factor", 0 <= self.end_factor <= 1, "0 <= end_factor <= 1")
        require_to(self, "shape", self.shape in ("cosine", "linear"), 'be "cosine" or "linear"')

    def _factor(self, step: float) -> float:
        rise = self.rise_share * self.total_steps - 1
        end = self.total_steps - 1
        if step < rise:
            return self._between(self.start_factor, 1, step / rise)
        if not self.three_phase:
            return self._between(1, self.end_factor, (step - rise) / (end - rise))
        if step < 2 * rise:
            return self._between(1, self.start_factor, (step - rise) / rise)
        return self._between(self.start_factor, self.end_factor, (step - 2 * rise) / (end - 2 * rise))

    def _between(self, first: float, last: float, progress: float) -> float:
        """Return the factor between `first` and `last` at a progress of 0 to 1; beyond 1 it is `last`."""
        progress = min(1.0, progress)
        left = 0.5 * (1 + math.cos(math.pi * progress)) if self.shape == "cosine" else 1 - progress
        return last + (first - last) * left
