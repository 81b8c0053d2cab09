"""Learning-rate schedules: pure functions of the step.

A schedule is a frozen dataclass that, called with a step, returns the *factor* by which the initial lr is multiplied:

    lr(step) = initial_lr * schedule(step)

A step is one optimizer update, counted from 0; the lr at step ``s`` is the one that update ``s`` uses. Being a pure
closed form, a schedule can be drawn, checked, tabulated and resumed without training. This module imports the standard
library only.

One field of a dataclass is at once the Python argument, the key in a study file, the type that is checked, the axis that
is searched and the parameter that is logged. To add a family: write one dataclass with ``_check`` and ``_factor``, and
add its line to `SCHEDULES`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from lightning_modules.checks import require

__all__ = ["SCHEDULES", "Constant", "CosineRestarts", "ExponentialDecay", "Schedule"]


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """A pure function from the step to the factor of the initial lr, finite and never negative."""

    def __post_init__(self) -> None:
        self._check()

    def __call__(self, step: int) -> float:
        """Return the factor at `step`.

        Args:
            step: Number of optimizer updates done before this one, 0 or more.

        Raises:
            ValueError: If `step` is negative.
        """
        if step < 0:
            raise ValueError(f"step >= 0 must hold, but got step={step}")
        return self._factor(step)

    def _check(self) -> None:
        """Raise ValueError, naming the rule and the value, if the arguments do not make a schedule."""

    @abstractmethod
    def _factor(self, step: int) -> float:
        """Return the factor at a step that is known to be valid."""


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The initial lr at every step.

    ``factor(s) = 1``

    >>> [Constant()(step) for step in (0, 10, 10**9)]
    [1.0, 1.0, 1.0]
    """

    def _factor(self, step: int) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class ExponentialDecay(Schedule):
    """Multiply by `decay_rate` every `decay_steps` steps, continuously or at once.

    ``factor(s) = decay_rate ** (s / decay_steps)``, with ``floor(s / decay_steps)`` as the exponent when `staircase`.
    1 at step 0, `decay_rate` at step `decay_steps`, towards 0 beyond.

    Args:
        decay_rate: Factor per `decay_steps` steps, above 0 and at most 1.
        decay_steps: Steps in which the lr is multiplied by `decay_rate` once.
        staircase: Hold the lr between multiples of `decay_steps`.

    Synonyms: TensorFlow and Keras ``ExponentialDecay``; torch ``ExponentialLR(gamma=decay_rate ** (1 / decay_steps))``
    stepped every update, and with `staircase` ``StepLR(step_size=decay_steps, gamma=decay_rate)``; timm ``step``.

    >>> schedule = ExponentialDecay(decay_rate=0.5, decay_steps=100, staircase=True)
    >>> [schedule(step) for step in (0, 99, 100, 250)]
    [1.0, 1.0, 0.5, 0.25]
    """

    decay_rate: float
    decay_steps: float
    staircase: bool = False

    def _check(self) -> None:
        require(self, "decay_rate", 0 < self.decay_rate <= 1, "0 < decay_rate <= 1")
        require(self, "decay_steps", 0 < self.decay_steps < math.inf, "decay_steps > 0")

    def _factor(self, step: int) -> float:
        exponent = step // self.decay_steps if self.staircase else step / self.decay_steps
        return float(self.decay_rate**exponent)


@dataclass(frozen=True, kw_only=True)
class CosineRestarts(Schedule):
    """Cosine decay to `min_factor`, started again from a peak at the end of every period (SGDR).

    Period ``k`` begins at ``restart_period * (period_growth**k - 1) / (period_growth - 1)`` (``k * restart_period``
    without growth) and lasts ``restart_period * period_growth**k`` steps, not rounded. With ``t`` the share of the
    period that is over:

    ``factor(s) = (1 - min_factor) * peak_decay**k * (1 + cos(pi * t)) / 2 + min_factor``

    1 at step 0; at a restart exactly ``(1 - min_factor) * peak_decay**k + min_factor``; it goes on restarting for ever.

    Args:
        restart_period: Steps in the first period.
        period_growth: Ratio of the length of a period to the one before, a real number of at least 1.
        peak_decay: Ratio of the height of a peak to the one before, above 0 and at most 1.
        min_factor: Factor that each period decays to, between 0 and 1.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.
    Synonyms: TensorFlow and Keras ``CosineDecayRestarts`` (t_mul, m_mul, alpha); torch ``CosineAnnealingWarmRestarts``
    (whole numbers only, no decaying peaks); timm ``CosineLRScheduler`` (cycle_mul, cycle_decay).

    >>> schedule = CosineRestarts(restart_period=10, period_growth=3, peak_decay=0.5)
    >>> [round(schedule(step), 6) for step in (0, 5, 10, 25, 40)]
    [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    restart_period: float
    period_growth: float = 1.0
    peak_decay: float = 1.0
    min_factor: float = 0.0

    def _check(self) -> None:
        require(self, "restart_period", 0 < self.restart_period < math.inf, "restart_period > 0")
        require(self, "period_growth", 1 <= self.period_growth < math.inf, "period_growth >= 1")
        require(self, "peak_decay", 0 < self.peak_decay <= 1, "0 < peak_decay <= 1")
        require(self, "min_factor", 0 <= self.min_factor <= 1, "0 <= min_factor <= 1")

    def _factor(self, step: int) -> float:
        period, progress = self._locate(step)
        wave = 0.5 * (1 + math.cos(math.pi * progress))
        return float((1 - self.min_factor) * self.peak_decay**period * wave + self.min_factor)

    def _start(self, period: int) -> float:
        """Return the (real-valued) step at which a period begins."""
        growth = self.period_growth - 1
        if growth == 0:
            return self.restart_period * period
        if growth > 1e-3:
            return float(self.restart_period * (self.period_growth**period - 1) / growth)
        # growth**period - 1 would lose most of its digits here.
        return self.restart_period * math.expm1(period * math.log1p(growth)) / growth

    def _locate(self, step: int) -> tuple[int, float]:
        """Return the period that `step` lies in and the share of that period that is over, in [0, 1)."""
        growth = self.period_growth - 1
        periods = step / self.restart_period  # if all were as long as the first
        period = int(periods if growth == 0 else math.log1p(periods * growth) / math.log1p(growth))
        # The logarithm is only a guess, wrong by one at a boundary: the starts decide. They are real numbers, and
        # 220.00000000000003 is the step 220 (as in 100 + 100 * 1.2) within their rounding.
        reached = step * (1 + 1e-12)
        while period > 0 and self._start(period) > reached:
            period -= 1
        while self._start(period + 1) <= reached:
            period += 1
        start = self._start(period)
        length = self._start(period + 1) - start
        return period, max(0.0, (step - start) / length)


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "cosine_restarts": CosineRestarts,
    "exponential": ExponentialDecay,
}
