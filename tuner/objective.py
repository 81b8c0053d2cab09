"""The trial that an objective function receives, and the exceptions that end the function early."""

import copy
import math
import numbers
import operator
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.protocol import Assignment, Channel, EpochReport, Point, StepReport

__all__ = ["DivergedError", "InterruptedTrialError", "Trial", "TrialPruned", "number_of"]

BEFORE = -1  # the step before the first one
LAST_STEP = 2**31 - 2  # what databases take, with one more for the final value


class TrialPruned(Exception):
    """Raised by an objective function to end a trial that is not worth continuing."""


class DivergedError(BaseException):
    """Ends the function after a report that is not finite; an ``except Exception`` in it does not catch this."""


class InterruptedTrialError(BaseException):
    """Ends the function because the study ends; it is called again when the study continues."""


class Trial:
    """A trial, as an objective function receives it.

    ::

        def objective(trial):
            for epoch in range(10):
                loss = ...  # with trial["lr"]
                trial.report(loss, epoch)
                if trial.should_prune():
                    raise TrialPruned
            return loss

    Attributes:
        number: Its number in the study.
        seed: Its seed. The generators of `random`, NumPy and torch are seeded with it.
        device: "cuda" if it has GPUs (it sees no others), else "cpu".
    """

    def __init__(self, assignment: Assignment, channel: Channel, device: str, folder: Path) -> None:
        self.number, self.seed, self.device = assignment.number, assignment.call.seed, device
        self._params = dict(assignment.call.params)
        self._lock = threading.RLock()
        self.points: list[Point] = []
        self.value: float | None = None
        self.last_step = BEFORE
        self.reports = 0
        self._metrics = [each.metric for each in (assignment.objective, *assignment.further)]
        self._channel, self._folder = channel, folder
        self._sent = 0
        self._last_steps: dict[str, int] = {}
        self._is_to_be_pruned = False

    @property
    def params(self) -> dict[str, Any]:
        """A copy of its searched and fixed values, by name.

        A choice of ``one_of`` is ``{"name": ..., argument: value}``.
        """
        return copy.deepcopy(self._params)

    @property
    def folder(self) -> Path:
        """Its own folder, created on first use.

        Its files are added to the trial's run in MLflow when the trial ends. They are kept if the function is called
        again after an interruption, so it can resume from them.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def __getitem__(self, name: str) -> Any:
        """Return one of its values.

        Raises:
            KeyError: If there is no such value.
        """
        if name not in self._params:
            raise KeyError(f"the trial has no value {name!r}; it has {', '.join(sorted(self._params)) or 'none'}")
        return copy.deepcopy(self._params[name])

    def __repr__(self) -> str:
        return f"Trial({self.number}, {self._params})"

    def report(self, value: Any, step: int) -> None:
        """Report an intermediate value of the (first) objective, for the pruner, the charts and MLflow.

        Threads may call it, one after the other.

        If it is not finite, the function ends here, and the trial has diverged. If the study was asked to end, the
        function ends here as well, and is called again when the study continues.

        Args:
            value: The value so far.
            step: The progress so far, such as the number of epochs; larger at each report.

        Raises:
            TypeError: If the value is not a number, or the step is not a whole number.
            ValueError: If the step is negative, above 2**31 - 2, or not above the previous one.
        """
        number, metric = number_of(value, "report"), self._metrics[0]
        with self._lock:
            at = self._step(step, "report", self.last_step)
            if not math.isfinite(number):
                raise DivergedError(f"{metric} was not finite at step {at}")
            self.value, self.last_step = number, at
            self.reports += 1
            self.points.append((metric, at, number))
            points, self._sent = self.points[self._sent :], len(self.points)
            report = EpochReport(at, number, points, lr_rose=False, step=StepReport(at, 0, 0, math.nan))
            decision = self._channel.report({self.number: report})[self.number]
        if decision == "stop":
            raise InterruptedTrialError
        self._is_to_be_pruned = decision == "prune"

    def should_prune(self) -> bool:
        """Return whether the pruner would end the trial after its last report; if so, raise `TrialPruned`."""
        return self._is_to_be_pruned

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record further metrics in MLflow.

        Args:
            metrics: Numbers by name.
            step: Their step, larger at each call for a metric; by default the step of the last report, or 0.

        Raises:
            TypeError: If something is not a number.
            ValueError: If a metric is an objective, or has a value at this step already.
        """
        for name, value in metrics.items():
            metric = str(name)
            if metric in self._metrics:
                raise ValueError(f"log: {metric} is an objective: report it, or return it")
            with self._lock:
                last = self._last_steps.get(metric, BEFORE)
                at = self._step(max(self.last_step, 0) if step is None else step, f"log: {metric}", last)
                self.points.append((metric, at, number_of(value, f"log: {metric}")))
                self._last_steps[metric] = at

    @staticmethod
    def _step(step: Any, place: str, last: int) -> int:
        try:
            at = operator.index(step)
        except TypeError:
            at = BEFORE
        if isinstance(step, bool) or not 0 <= at <= LAST_STEP:
            kind = ValueError if isinstance(step, int) else TypeError
            raise kind(f"{place}: step must be a whole number from 0 to {LAST_STEP}, but got {step!r}")
        if at <= last:
            raise ValueError(f"{place}: step must be above the last one ({last}), but got {at}")
        return at


def number_of(value: Any, place: str) -> float:
    """Return a number of Python, NumPy or torch as a float.

    Args:
        value: The number.
        place: Where it was given, for the message.

    Raises:
        TypeError: If it is something else.
    """
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
        raise TypeError(f"{place}: must be a number, but got {_short(value)}")
    try:
        return float(plain)
    except OverflowError:  # too large for a float
        return math.inf


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."
