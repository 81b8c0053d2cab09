"""Schedules that warm up before they decay."""

import math
from dataclasses import dataclass
from typing import Literal

from lightning_modules._validation import require, require_to
from lightning_modules.schedules.base import Schedule, Steps, has_reached

__all__ = [
    "InverseSqrt",
    "WarmupStableDecay",
]


@dataclass(frozen=True, kw_only=True)
class InverseSqrt(Schedule):
    """Linear warmup, then decay with the inverse square root of the step.

    ``factor(s) = min((s + 1) / warmup_steps, sqrt(warmup_steps / (s + 1)))``. ``1 / warmup_steps`` at step 0, 1 at step
    ``warmup_steps - 1`` (the paper counts steps from 1), then approaches 0: 0.5 at four times the warmup.

    Args:
        warmup_steps: Steps of the warmup, above 0; a longer warmup also makes the decay slower.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, with ``initial_lr = (d_model * warmup_steps) **
    -0.5``.
    Synonyms: the Noam schedule; fairseq ``inverse_sqrt`` and transformers ``get_inverse_sqrt_schedule``, which count
    steps from 0.

    >>> schedule = InverseSqrt(warmup_steps=100)
    >>> [round(schedule(step), 6) for step in (0, 49, 99, 399)]
    [0.01, 0.5, 1.0, 0.5]
    """

    warmup_steps: Steps

    def _check(self) -> None:
        require(self, "warmup_steps", 0 < self.warmup_steps < math.inf, "warmup_steps > 0")

    def _factor(self, step: float) -> float:
        return min((step + 1) / self.warmup_steps, math.sqrt(self.warmup_steps / (step + 1)))


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Schedule):
    """Linear warmup, constant lr, and a decay at the end (WSD, trapezoidal).

    ``s / warmup_steps`` up to step `warmup_steps`, 1 for the next `hold_steps`, and then, with ``t`` the elapsed share
    of `decay_steps`, ``factor(s) = (1 - min_factor) * shape(t) ** power + min_factor``, where ``shape(t)`` is ``1 - t``
    ("linear"), ``(1 + cos(pi * t)) / 2`` ("cosine") or ``1 - sqrt(t)`` ("sqrt"). 0 at step 0 unless there is no warmup,
    `min_factor` at the end and beyond. The decay may end after the run does; the last lr is then above the minimum.

    Args:
        warmup_steps: Steps of the warmup, at least 0.
        hold_steps: Steps at the initial lr, at least 0; leave it out with `total_steps`.
        decay_steps: Steps of the decay.
        min_factor: Factor at the end, between 0 and 1.
        shape: Shape of the decay; "sqrt" falls fastest at first, and was best in the second paper.
        power: Exponent of the shape, above 0.
        total_steps: Step at which the decay ends, in place of `hold_steps`: the lr is held between warmup and decay.
            A search over `decay_steps` then moves the beginning of the decay and not its end.

    Source: Hu et al., "MiniCPM", COLM 2024; Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations", NeurIPS 2024; Dremov et al., "Training Dynamics of the Cooldown Stage in Warmup-Stable-Decay
    Learning Rate Scheduler", TMLR 2025, on shapes.
    Synonyms: transformers ``get_wsd_schedule``, which warms up from its min_lr_ratio, here from 0; torch
    ``SequentialLR`` of ``LinearLR``, ``ConstantLR`` and ``LinearLR``.

    >>> schedule = WarmupStableDecay(warmup_steps=10, hold_steps=70, decay_steps=20)
    >>> [round(schedule(step), 6) for step in (0, 5, 10, 80, 90, 100)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    >>> schedule = WarmupStableDecay(warmup_steps=0, total_steps=120, decay_steps=40, power=2)
    >>> [round(schedule(step), 6) for step in (0, 80, 100, 120)]
    [1.0, 1.0, 0.25, 0.0]
    """

    warmup_steps: Steps
    hold_steps: Steps | None = None
    decay_steps: Steps
    min_factor: float = 0.0
    shape: Literal["linear", "cosine", "sqrt"] = "linear"
    power: float = 1.0
    total_steps: Steps | None = None

    def _check(self) -> None:
        require(self, "warmup_steps", 0 <= self.warmup_steps < math.inf, "warmup_steps >= 0")
        require(self, "decay_steps", 0 < self.decay_steps < math.inf, "decay_steps > 0")
        if self.total_steps is None:
            require_to(self, "hold_steps", self.hold_steps is not None, "be given unless total_steps is")
            require(self, "hold_steps", 0 <= self._held < math.inf, "hold_steps >= 0")
        else:
            require_to(self, "hold_steps", self.hold_steps is None, "be left out if total_steps is given")
            # Lengths that were rounded to whole steps can be a step longer together.
            rule = "warmup_steps + decay_steps <= total_steps"
            require(self, "total_steps", -1 <= self._held < math.inf, rule)
        require(self, "min_factor", 0 <= self.min_factor <= 1, "0 <= min_factor <= 1")
        require_to(self, "shape", self.shape in ("linear", "cosine", "sqrt"), 'be "linear", "cosine" or "sqrt"')
        require(self, "power", 0 < self.power < math.inf, "power > 0")

    @property
    def _held(self) -> float:
        """Return the steps at the initial lr."""
        if self.total_steps is None:
            return self.hold_steps or 0
        return self.total_steps - self.warmup_steps - self.decay_steps

    def _factor(self, step: float) -> float:
        if step < self.warmup_steps:
            return step / self.warmup_steps
        over = step - self.warmup_steps - max(0, self._held)
        progress = min(1.0, max(0.0, over) / self.decay_steps)
        if has_reached(progress, 1.0):
            return self.min_factor  # a small power would amplify a rounding error
        if self.shape == "cosine":
            left = 0.5 * (1 + math.cos(math.pi * progress))
        else:
            left = 1 - (math.sqrt(progress) if self.shape == "sqrt" else progress)
        return float((1 - self.min_factor) * left**self.power + self.min_factor)
