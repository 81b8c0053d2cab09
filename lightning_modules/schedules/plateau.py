"""Plateau reduction: a scale that depends on a metric and multiplies any schedule.

`Plateau` has the settings and `PlateauState` the state; `Plateau.update` is a pure function from one state to the next,
so a plateau can be checkpointed, resumed and run for many trials at once. Standard library only.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from lightning_modules._validation import check_types, require, require_to
from lightning_modules.schedules.base import Schedule
from lightning_modules.schedules.decay import Constant

__all__ = ["Plateau", "PlateauState"]


@dataclass(frozen=True, kw_only=True)
class PlateauState:
    """The state of a plateau.

    Args:
        scale: Factor on the schedule, from 1 down to the plateau's `min_factor`.
        best: Best value so far; None before the first.
        bad_evaluations: Consecutive evaluations without improvement.
        cooldown_left: Remaining evaluations of the cooldown, which are not counted as bad.
    """

    scale: float = 1.0
    best: float | None = None
    bad_evaluations: int = 0
    cooldown_left: int = 0


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """Reduce the lr when a metric has stopped improving, on top of any schedule.

    ``lr(s) = initial_lr * schedule(s) * scale``. After `patience` evaluations without improvement, the next one without
    improvement multiplies the scale by `factor`. This is torch's definition. With a `convention` of "keras", patience
    and cooldown follow Keras, which has only a `threshold_mode` of "abs" and differs in four points:

    * It reduces *at* the `patience`-th evaluation without improvement, torch at the next one. A patience of ``n`` in
      torch is a patience of ``n + 1`` in Keras, where 0 means the same as 1.
    * The evaluation that ends the cooldown counts: a cooldown of ``n`` skips ``n - 1`` evaluations in Keras, and ``n``
      in torch. A cooldown of 1 has no effect in Keras.
    * The first value is always the best so far. If it is NaN, no value ever improves on it; torch waits for a number
      (neither counts a later NaN as an improvement).
    * An improvement is ``value - threshold > best`` for "max" and ``value + threshold < best`` for "min"; torch adds
      the threshold to the other side, which differs by rounding only.

    Args:
        factor: Factor on the scale at each reduction, above 0 and below 1.
        patience: Tolerated evaluations without improvement; with Keras's convention, the last of them is not tolerated.
        threshold: Smallest difference from the best value that counts as an improvement.
        threshold_mode: Whether `threshold` is relative to the best value ("rel") or absolute ("abs").
        cooldown: Evaluations after a reduction that are not counted as bad; with Keras's convention, the last of them
            is counted.
        min_factor: Lower bound of the scale, between 0 and 1.
        mode: Whether the metric should fall ("min") or rise ("max").
        monitor: Name of the logged metric.
        schedule: The schedule that the scale multiplies.
        convention: Definition of patience and cooldown, "torch" or "keras".

    Synonyms: torch ``ReduceLROnPlateau`` (min_lr = min_factor * initial_lr, eps = 0), to which it is equal; Keras
    ``ReduceLROnPlateau`` (min_delta = threshold, min_lr = min_factor * initial_lr), to which it is equal with a
    `convention` of "keras" and a `threshold_mode` of "abs"; timm ``plateau``, which is torch's.

    >>> plateau = Plateau(factor=0.5, patience=1)
    >>> state = PlateauState()
    >>> scales = []
    >>> for loss in (1.0, 0.9, 0.9, 0.9, 0.9):
    ...     state = plateau.update(state, loss)
    ...     scales.append(state.scale)
    >>> scales
    [1.0, 1.0, 1.0, 0.5, 0.5]
    >>> plateau = Plateau(factor=0.5, patience=1, threshold_mode="abs", convention="keras")
    >>> state = PlateauState()
    >>> scales = []
    >>> for loss in (1.0, 0.9, 0.9, 0.9, 0.9):
    ...     state = plateau.update(state, loss)
    ...     scales.append(state.scale)
    >>> scales
    [1.0, 1.0, 0.5, 0.25, 0.125]
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    min_factor: float = 0.0
    mode: Literal["min", "max"] = "min"
    monitor: str = "val/loss"
    schedule: Schedule = field(default_factory=Constant)
    convention: Literal["torch", "keras"] = "torch"

    def __post_init__(self) -> None:
        check_types(self)
        require(self, "factor", 0 < self.factor < 1, "0 < factor < 1")
        require(self, "patience", self.patience >= 0, "patience >= 0")
        require(self, "threshold", 0 <= self.threshold < math.inf, "threshold >= 0")
        require_to(self, "threshold_mode", self.threshold_mode in ("rel", "abs"), 'be "rel" or "abs"')
        require(self, "cooldown", self.cooldown >= 0, "cooldown >= 0")
        require(self, "min_factor", 0 <= self.min_factor <= 1, "0 <= min_factor <= 1")
        require_to(self, "mode", self.mode in ("min", "max"), 'be "min" or "max"')
        require_to(self, "monitor", isinstance(self.monitor, str), "be the name of a metric")
        require_to(self, "schedule", isinstance(self.schedule, Schedule), "be a schedule")
        require_to(self, "convention", self.convention in ("torch", "keras"), 'be "torch" or "keras"')

    def update(self, state: PlateauState, value: float) -> PlateauState:
        """Return the state after an evaluation with this value; NaN is not an improvement."""
        value = float(value)
        keras = self.convention == "keras"
        improved = self._improves(value, state.best)
        # torch decrements the cooldown after the evaluation, Keras before it.
        cooling = state.cooldown_left > (1 if keras else 0)
        cooldown_left = max(0, state.cooldown_left - 1)
        bad = 0 if improved or cooling else state.bad_evaluations + 1
        scale = state.scale
        if bad > 0 and bad >= (self.patience if keras else self.patience + 1):
            scale = max(scale * self.factor, self.min_factor)
            bad, cooldown_left = 0, self.cooldown
        return PlateauState(
            scale=scale,
            best=value if improved else state.best,
            bad_evaluations=bad,
            cooldown_left=cooldown_left,
        )

    def _improves(self, value: float, best: float | None) -> bool:
        keras = self.convention == "keras"
        sign = 1 if self.mode == "max" else -1
        if best is None:
            return keras or sign * value > -math.inf
        if self.threshold_mode == "rel":
            return sign * value > sign * (best * (1 + sign * self.threshold))
        if keras:
            return sign * value - self.threshold > sign * best
        return sign * value > sign * best + self.threshold
