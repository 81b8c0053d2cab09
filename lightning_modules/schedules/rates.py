"""Schedules that decay at a rate and never end."""

import math
from dataclasses import dataclass

from lightning_modules._validation import require
from lightning_modules.schedules.base import Schedule, Steps, share_of, whole

__all__ = [
    "ExponentialDecay",
    "InverseTimeDecay",
    "NaturalExponentialDecay",
    "StepDecay",
]


@dataclass(frozen=True, kw_only=True)
class ExponentialDecay(Schedule):
    """Multiply by `decay_rate` every `decay_steps` steps, continuously or in steps.

    ``factor(s) = decay_rate ** (s / decay_steps)``, with ``floor(s / decay_steps)`` as the exponent when `staircase`.
    1 at step 0, `decay_rate` at step `decay_steps`, and approaches 0 after that.

    Args:
        decay_rate: Factor per `decay_steps` steps, above 0 and at most 1.
        decay_steps: Steps in which the lr is multiplied by `decay_rate`.
        staircase: Hold the lr between multiples of `decay_steps`.

    Synonyms: TensorFlow and Keras ``ExponentialDecay``; torch ``ExponentialLR(gamma=decay_rate ** (1 / decay_steps))``
    stepped every update, and with `staircase` ``StepLR(step_size=decay_steps, gamma=decay_rate)``; timm ``step``.

    >>> schedule = ExponentialDecay(decay_rate=0.5, decay_steps=100, staircase=True)
    >>> [schedule(step) for step in (0, 99, 100, 250)]
    [1.0, 1.0, 0.5, 0.25]
    """

    decay_rate: float
    decay_steps: Steps
    staircase: bool = False

    def _check(self) -> None:
        require(self, "decay_rate", 0 < self.decay_rate <= 1, "0 < decay_rate <= 1")
        require(self, "decay_steps", 0 < self.decay_steps < math.inf, "decay_steps > 0")

    def _factor(self, step: float) -> float:
        return float(self.decay_rate ** _elapsed(step, self.decay_steps, self.staircase))


@dataclass(frozen=True, kw_only=True)
class NaturalExponentialDecay(Schedule):
    """Exponential decay with base e.

    ``factor(s) = exp(-decay_rate * s / decay_steps)``, with ``floor(s / decay_steps)`` for ``s / decay_steps`` when
    `staircase`. 1 at step 0, ``exp(-decay_rate)`` at step `decay_steps`, and approaches 0 after that. It is an
    `ExponentialDecay` with a `decay_rate` of ``exp(-decay_rate)``.

    Args:
        decay_rate: Decrease of the logarithm of the lr per `decay_steps` steps, at least 0.
        decay_steps: Steps in which the lr is multiplied by ``exp(-decay_rate)``.
        staircase: Hold the lr between multiples of `decay_steps`.

    Synonyms: TensorFlow 1 ``natural_exp_decay``; torch ``ExponentialLR(gamma=exp(-decay_rate / decay_steps))``.

    >>> schedule = NaturalExponentialDecay(decay_rate=0.5, decay_steps=100)
    >>> [round(schedule(step), 6) for step in (0, 100, 200)]
    [1.0, 0.606531, 0.367879]
    """

    decay_rate: float
    decay_steps: Steps
    staircase: bool = False

    def _check(self) -> None:
        require(self, "decay_rate", 0 <= self.decay_rate < math.inf, "decay_rate >= 0")
        require(self, "decay_steps", 0 < self.decay_steps < math.inf, "decay_steps > 0")

    def _factor(self, step: float) -> float:
        return math.exp(-self.decay_rate * _elapsed(step, self.decay_steps, self.staircase))


@dataclass(frozen=True, kw_only=True)
class InverseTimeDecay(Schedule):
    """Decay with the inverse of time, fast at first and then slower and slower.

    ``factor(s) = 1 / (1 + decay_rate * s / decay_steps)``, with ``floor(s / decay_steps)`` for ``s / decay_steps`` when
    `staircase`. 1 at step 0, ``1 / (1 + decay_rate)`` at step `decay_steps`, and approaches 0 after that.

    Args:
        decay_rate: Increase of the inverse of the factor per `decay_steps` steps, at least 0.
        decay_steps: Steps in which the inverse of the factor increases by `decay_rate`.
        staircase: Hold the lr between multiples of `decay_steps`.

    Source: Robbins and Monro, "A Stochastic Approximation Method", Annals of Mathematical Statistics 22, 1951.
    Synonyms: TensorFlow ``inverse_time_decay`` and Keras ``InverseTimeDecay``; the ``decay`` argument of old Keras
    optimizers is ``decay_rate / decay_steps``, as is the ``lr_decay`` of torch's ``Adagrad``.

    >>> schedule = InverseTimeDecay(decay_rate=0.5, decay_steps=100)
    >>> [round(schedule(step), 6) for step in (0, 100, 600)]
    [1.0, 0.666667, 0.25]
    """

    decay_rate: float
    decay_steps: Steps
    staircase: bool = False

    def _check(self) -> None:
        require(self, "decay_rate", 0 <= self.decay_rate < math.inf, "decay_rate >= 0")
        require(self, "decay_steps", 0 < self.decay_steps < math.inf, "decay_steps > 0")

    def _factor(self, step: float) -> float:
        return 1 / (1 + self.decay_rate * _elapsed(step, self.decay_steps, self.staircase))


@dataclass(frozen=True, kw_only=True)
class StepDecay(Schedule):
    """Multiply by `decay_rate` every `decay_steps` steps, as in "halve it every five epochs".

    ``factor(s) = decay_rate ** floor(s / decay_steps)``. 1 at step 0, `decay_rate` at step `decay_steps`, and
    approaches 0 after that. The same as an `ExponentialDecay` with `staircase`.

    Args:
        decay_rate: Factor at each drop, above 0 and at most 1.
        decay_steps: Steps from one drop to the next.

    Synonyms: torch ``StepLR(step_size=decay_steps, gamma=decay_rate)``; timm ``StepLRScheduler``; Keras
    ``ExponentialDecay(staircase=True)``.

    >>> schedule = StepDecay(decay_rate=0.5, decay_steps=100)
    >>> [schedule(step) for step in (0, 99, 100, 250)]
    [1.0, 1.0, 0.5, 0.25]
    """

    decay_rate: float
    decay_steps: Steps

    def _check(self) -> None:
        require(self, "decay_rate", 0 < self.decay_rate <= 1, "0 < decay_rate <= 1")
        require(self, "decay_steps", 0 < self.decay_steps < math.inf, "decay_steps > 0")

    def _factor(self, step: float) -> float:
        return float(self.decay_rate ** _elapsed(step, self.decay_steps, staircase=True))


def _elapsed(step: float, decay_steps: float, staircase: bool) -> float:
    """Return ``step / decay_steps``, rounded down to a whole number with `staircase`."""
    share = share_of(step, decay_steps)
    return whole(share) if staircase else share
