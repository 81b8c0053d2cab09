"""A study as plain data: what its plots and its report are made of, whichever store it came from."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.direction import Direction

__all__ = [
    "FAMILY",
    "LR_TABLE",
    "MIN_FOR_IMPORTANCE",
    "Curve",
    "StudyRecord",
    "TrialRecord",
    "is_share",
    "resolution",
    "simplified",
]

Curve = Sequence[tuple[int, float]]
"""Steps and values of a metric, in order."""

FAMILY = "schedule.name"
ACCURACY = "acc|accuracy|top[0-9]+"
OTHER_SHARE = "ap|auc|auprc|auroc|dice|f1|iou|map|precision|recall"
VALIDATION = "val|valid|validation"
MIN_FOR_IMPORTANCE = 8
"""Trials trained to their end from which on importances say anything."""
LR_TABLE = "lr.csv"
"""Name of the file beside a trial's run that holds its lr, step by step where it bends."""


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial.

    Args:
        number: Its number in the study.
        state: How it ended, as in the tag `tuner.state`.
        family: Name of its schedule.
        value: The objective at the end of the last epoch that it reached; NaN if it reached none.
        epochs: Epochs that it was trained for.
        seconds: Time that its training took.
        ended: Seconds from the start of the study to its end, pauses of the study included.
        params: What was searched, by its name in Optuna.
        constant_lr: Whether its lr was the same at every step, as that of a plateau that never lowered it.
        message: What went wrong.
        curves: Its metrics.
    """

    number: int
    state: str
    family: str
    value: float
    epochs: int
    seconds: float
    ended: float
    params: Mapping[str, Any]
    constant_lr: bool = False
    message: str = ""
    curves: Mapping[str, Curve] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Tell whether it was trained to its end: only then its value can be compared."""
        return self.state == "complete"

    @property
    def name(self) -> str:
        """Return number and schedule, for people."""
        return f"#{self.number} {self.family}"


@dataclass(frozen=True)
class TestResult:
    """What a trial reached on the test data.

    Args:
        trial: Its number.
        metrics: What it reached.
        step: The last step of its training.
        finished: How many trials it is the best of.
    """

    __test__ = False  # it is none of pytest's

    trial: int
    metrics: Mapping[str, float]
    step: int
    finished: int


@dataclass(frozen=True)
class StudyRecord:
    """A study.

    Args:
        name: Its name.
        metric: The objective metric.
        direction: Whether large or small values are better.
        trials: Its finished trials, in the order of their numbers.
        searched: Names in Optuna of what is searched, and whether it is searched on a log scale.
        importances: The share of each parameter in what makes trials good; empty if it cannot be told.
        validation_images: How many images decided, if that is known.
        test: What the best trial reached on the test data; empty if it was not tested.
        choices: What each parameter that takes one of several values can be, by its name in Optuna.
    """

    name: str
    metric: str
    direction: Direction
    trials: Sequence[TrialRecord]
    searched: Mapping[str, bool]
    importances: Mapping[str, float] = field(default_factory=dict)
    validation_images: int | None = None
    test: Mapping[str, float] = field(default_factory=dict)
    choices: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StudyRecord":
        """Read what `json` made of a record's ``dataclasses.asdict``."""
        trials = [TrialRecord(**trial) for trial in values["trials"]]
        return cls(**{**values, "direction": Direction(values["direction"]), "trials": trials})

    def values(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return dataclasses.asdict(self)

    @property
    def ranking(self) -> list[TrialRecord]:
        """Return the trials that were trained to their end, the best first; of equals, the earlier."""
        complete = [trial for trial in self.trials if trial.is_complete]
        return sorted(complete, key=lambda trial: (self.direction.sort_key(trial.value), trial.number))

    @property
    def best(self) -> TrialRecord | None:
        """Return the best trial, if one was trained to its end."""
        return next(iter(self.ranking), None)

    @property
    def families(self) -> list[str]:
        """Return the schedules that were tried: that of the best trial first, those without any value last."""
        return list(dict.fromkeys(trial.family for trial in [*self.ranking, *self.trials]))


def is_share(metric: str, values: Iterable[float]) -> bool:
    """Return whether a metric is between 0 and 1, by its name and its values; some count in percent.

    >>> is_share("val/acc", [0.9]), is_share("val_accuracy", [97.0]), is_share("val_f1", [0.5]), is_share("face", [0.5])
    (True, False, True, False)
    """
    return _is_named(metric, ACCURACY, OTHER_SHARE) and all(0 <= value <= 1 for value in values)


def resolution(metric: str, values: Iterable[float], validation_images: int | None) -> float:
    """Return the smallest step between two values of a metric; 0 if it is not known.

    >>> resolution("val/acc", [0.9], 500), resolution("train/acc", [0.9], 500), resolution("val/loss", [0.9], 500)
    (0.002, 0.0, 0.0)
    """
    is_counted = _is_named(metric, ACCURACY) and _is_named(metric, VALIDATION) and is_share(metric, values)
    return 1 / validation_images if validation_images and is_counted else 0.0


def _is_named(metric: str, *words: str) -> bool:
    """Return whether one of the words of a metric's name is one of these."""
    return any(re.fullmatch("|".join(words), word) for word in re.findall("[a-z]+[0-9]*", metric.lower()))


def simplified(curve: Curve, tolerance: float = 2e-3) -> list[tuple[int, float]]:
    """Return the points of a curve that matter: straight lines between them leave out at most `tolerance` of a value.

    >>> simplified([(0, 0.1), (1, 0.1), (2, 0.1), (3, 0.05), (4, 0.05)])
    [(0, 0.1), (2, 0.1), (3, 0.05), (4, 0.05)]
    """
    kept = list(curve[:1])
    lowest, highest = -math.inf, math.inf  # slopes from the last kept point that pass all points since close enough
    for before, point in itertools.pairwise(curve):
        step, value = kept[-1]
        slope = (point[1] - value) / (point[0] - step)
        if not lowest <= slope <= highest:
            kept.append(before)
            (step, value), lowest, highest = before, -math.inf, math.inf
        room = tolerance * abs(point[1])
        lowest = max(lowest, (point[1] - room - value) / (point[0] - step))
        highest = min(highest, (point[1] + room - value) / (point[0] - step))
    return [*kept, curve[-1]] if len(curve) > 1 else kept
