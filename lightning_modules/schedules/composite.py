"""Schedules composed of other schedules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lightning_modules._validation import require, require_to
from lightning_modules.schedules.base import Schedule, Steps, has_reached, steps_since

__all__ = ["HoldThenDecay", "Join", "Scaled", "Warmup", "join", "scaled", "warmup"]


@dataclass(frozen=True, kw_only=True)
class HoldThenDecay(Schedule):
    """Hold the initial lr, then follow any schedule.

    1 up to step `hold_steps`, then ``factor(s) = decay(s - hold_steps)``: `decay` starts at its own step 0.

    Args:
        hold_steps: Steps at the initial lr, at least 0.
        decay: The schedule after them.

    Synonyms: torch ``SequentialLR`` after ``ConstantLR(factor=1)``; in Keras the usual example of a function for the
    ``LearningRateScheduler`` callback.

    >>> from lightning_modules.schedules import StepDecay
    >>> schedule = HoldThenDecay(hold_steps=100, decay=StepDecay(decay_rate=0.5, decay_steps=10))
    >>> [schedule(step) for step in (0, 100, 109, 110, 120)]
    [1.0, 1.0, 1.0, 0.5, 0.25]
    """

    hold_steps: Steps
    decay: Schedule

    def _check(self) -> None:
        require(self, "hold_steps", 0 <= self.hold_steps < math.inf, "hold_steps >= 0")
        require_to(self, "decay", isinstance(self.decay, Schedule), "be a schedule")

    def _factor(self, step: float) -> float:
        if not has_reached(step, self.hold_steps):
            return 1.0
        return self.decay(steps_since(step, self.hold_steps))


@dataclass(frozen=True, kw_only=True)
class Warmup(Schedule):
    """Linear warmup to the first value of any schedule, followed by that schedule.

    ``factor(s) = schedule(0) * (start + (1 - start) * s / steps)`` before step `steps`, then ``schedule(s - steps)``.
    ``start * schedule(0)`` at step 0, ``schedule(0)`` at step `steps`. The schedule is delayed, not cut: a decay of
    1000 steps after a warmup of 100 steps ends at step 1100.

    Args:
        schedule: The schedule after the warmup.
        steps: Steps of the warmup, at least 0.
        start: Share of the schedule's first value that the warmup starts with, between 0 and 1.

    Source: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017.
    Synonyms: the ``warmup_steps`` of Keras's ``CosineDecay``; torch ``SequentialLR`` after
    ``LinearLR(start_factor=start, total_iters=steps)``; timm ``warmup_t`` with ``warmup_prefix=True``.

    >>> from lightning_modules.schedules import CosineDecay
    >>> schedule = warmup(CosineDecay(decay_steps=100), 10)
    >>> [round(schedule(step), 6) for step in (0, 5, 10, 60, 110)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    schedule: Schedule
    steps: Steps
    start: float = 0.0

    def _check(self) -> None:
        require_to(self, "schedule", isinstance(self.schedule, Schedule), "be a schedule")
        require(self, "steps", 0 <= self.steps < math.inf, "steps >= 0")
        require(self, "start", 0 <= self.start <= 1, "0 <= start <= 1")

    def _factor(self, step: float) -> float:
        if has_reached(step, self.steps):
            return self.schedule(steps_since(step, self.steps))
        return self.schedule(0) * (self.start + (1 - self.start) * step / self.steps)


@dataclass(frozen=True, kw_only=True)
class Join(Schedule):
    """Several schedules, one after the other.

    ``factor(s) = schedules[0](s)`` before the first of `starts`, and ``schedules[i + 1](s - starts[i])`` from step
    ``starts[i]`` on: each schedule begins at its own step 0, and the last one never ends.

    Args:
        schedules: The schedules in order, at least one.
        starts: Steps at which the second and later schedules begin, increasing, above 0; one fewer than schedules.

    Synonyms: torch ``SequentialLR`` (milestones = starts); optax ``join_schedules``.

    >>> from lightning_modules.schedules import Constant, PolynomialDecay
    >>> schedule = join([Constant(), PolynomialDecay(decay_steps=10, end_factor=0.0)], [100])
    >>> [schedule(step) for step in (0, 100, 105, 110)]
    [1.0, 1.0, 0.5, 0.0]
    """

    schedules: tuple[Schedule, ...]
    starts: tuple[Steps, ...]

    def _check(self) -> None:
        require_to(
            self, "schedules", all(isinstance(each, Schedule) for each in self.schedules), "be a list of schedules"
        )
        require_to(self, "starts", len(self.starts) == len(self.schedules) - 1, "have one item fewer than schedules")
        require(self, "starts", all(0 < each < math.inf for each in self.starts), "starts > 0")
        require_to(self, "starts", all(left < right for left, right in pairwise(self.starts)), "be increasing")

    def _factor(self, step: float) -> float:
        for schedule, start in zip(self.schedules[:0:-1], self.starts[::-1], strict=True):
            if has_reached(step, start):
                return schedule(steps_since(step, start))
        return self.schedules[0](step)


@dataclass(frozen=True, kw_only=True)
class Scaled(Schedule):
    """Any schedule multiplied by a constant.

    ``scaled(s) = factor * schedule(s)``

    Args:
        schedule: The schedule that is multiplied.
        factor: The constant, above 0.

    Synonyms: none; other libraries change the lr itself. It is useful for the parts of a `Join`.

    >>> from lightning_modules.schedules import StepDecay
    >>> schedule = scaled(StepDecay(decay_rate=0.5, decay_steps=10), 0.1)
    >>> [schedule(step) for step in (0, 10, 20)]
    [0.1, 0.05, 0.025]
    """

    schedule: Schedule
    factor: float

    def _check(self) -> None:
        require_to(self, "schedule", isinstance(self.schedule, Schedule), "be a schedule")
        require(self, "factor", 0 < self.factor < math.inf, "factor > 0")

    def _factor(self, step: float) -> float:
        return self.factor * self.schedule(step)


def warmup(schedule: Schedule, steps: float, start: float = 0.0) -> Warmup:
    """Return the schedule after a linear warmup; see `Warmup`."""
    return Warmup(schedule=schedule, steps=steps, start=start)


def join(schedules: Sequence[Schedule], starts: Sequence[float]) -> Join:
    """Return the schedules one after the other, each from its start; see `Join`."""
    return Join(schedules=tuple(schedules), starts=tuple(starts))


def scaled(schedule: Schedule, factor: float) -> Scaled:
    """Return the schedule multiplied by a factor; see `Scaled`."""
    return Scaled(schedule=schedule, factor=factor)
