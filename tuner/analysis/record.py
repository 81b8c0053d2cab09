"""A study as plain data, from which plots and reports are made, independent of the stores."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.analysis.pareto import pareto_front
from tuner.direction import Direction
from tuner.text import format_interval, pluralize

__all__ = [
    "CONSTANT",
    "FAMILY",
    "INITIAL_LR",
    "LR_TABLE",
    "MIN_FOR_IMPORTANCE",
    "ROUNDING",
    "Curve",
    "Retrained",
    "StudyRecord",
    "TrialRecord",
    "Work",
    "is_share",
    "resolution",
    "simplified",
]

Curve = Sequence[tuple[int, float]]
"""Steps and values of a metric, in order."""

FAMILY = "schedule.name"
INITIAL_LR = "optimizer.initial_lr"
CONSTANT = "constant"
"""Name of the schedule of a constant lr."""
ROUNDING = 1e-6
"""Relative rounding of single precision: smaller differences between values of a metric count as zero."""
ACCURACY = "acc|accuracy|top[0-9]+"
OTHER_SHARE = "ap|auc|auprc|auroc|dice|f1|iou|map|precision|recall"
VALIDATION = "val|valid|validation"
MIN_FOR_IMPORTANCE = 8
"""Number of completed trials below which importances are not computed."""
LR_TABLE = "lr.csv"
"""Name of the artifact of a trial's run that holds its lr at the steps where it bends."""


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial.

    Args:
        number: Its number in the study.
        state: Its final state, as in the tag `tuner.state`.
        family: Name of its schedule; empty if it is the call of an objective function.
        value: The objective after its last epoch; NaN if it completed no epoch.
        epochs: Number of its epochs.
        seconds: Duration of its run, without the time that it waited at rungs or was interrupted.
        ended: Seconds from the start of the study to its end, including pauses of the study.
        params: Its searched values, by their names in Optuna.
        constant_lr: Whether its lr was the same at every step, such as with a plateau that never lowered it.
        message: The error, if it failed.
        curves: Its metrics.
        began: Seconds from the start of the study to its start, or to its last continuation.
        reported: The objective after each of its epochs.
        spans: When each part of its run began and ended, in seconds from the start of the study; empty if that is not
            known.
        further: The values of the further objectives; empty if there are none, or it was not trained to the end.
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
    began: float = 0.0
    reported: Curve = ()
    further: Sequence[float] = ()
    spans: Sequence[tuple[float, float]] = ()

    @property
    def is_complete(self) -> bool:
        """Return whether it was trained to the end; only then can its value be compared."""
        return self.state == "complete"

    @property
    def name(self) -> str:
        """Return number and schedule, as messages name it."""
        return f"#{self.number} {self.family}".rstrip()


@dataclass(frozen=True)
class TestResult:
    """The result of a trial on the test data.

    Args:
        trial: Its number.
        metrics: Its metrics.
        step: The last step of its run.
        finished: Number of trials of which it is the best.
    """

    __test__ = False  # not a pytest class

    trial: int
    metrics: Mapping[str, float]
    step: int
    finished: int


@dataclass(frozen=True)
class Work:
    """Training done in addition to the finished trials of a study.

    Args:
        trials: The number of trials or runs.
        epochs: The number of their epochs.
        seconds: Their duration, as far as it is known.
        ended: Seconds from the start of the study to the end of the last one.
    """

    trials: int = 0
    epochs: int = 0
    seconds: float = 0.0
    ended: float = 0.0

    def __bool__(self) -> bool:
        return self.trials > 0


@dataclass(frozen=True)
class Retrained:
    """The winner of a study's final runs or its confirmation, which have fresh seeds.

    Args:
        name: Its name, such as "#12 one_cycle".
        mean: The mean of its objective over the seeds.
        seeds: The number of seeds.
        interval: The 95% confidence interval of the mean; empty if it is unknown.
    """

    name: str
    mean: float
    seeds: int
    interval: Sequence[float] = ()

    @property
    def certainty(self) -> str:
        """Return the number of seeds in the mean, and its interval, as text.

        >>> Retrained("#1 cosine", 0.9, 3, [0.8, 1.0]).certainty
        'mean of 3 fresh seeds, 95% interval 0.8000 to 1.0000'
        """
        bounds = format_interval(self.interval)
        return f"mean of {pluralize(self.seeds, 'fresh seed')}{f', 95% interval {bounds}' if bounds else ''}"

    @property
    def metrics(self) -> dict[str, float]:
        """Return the mean and the ends of its interval, by their names in MLflow."""
        return {"fresh_mean": self.mean, **dict(zip(("fresh_low", "fresh_high"), self.interval, strict=False))}


@dataclass(frozen=True)
class StudyRecord:
    """A study.

    Args:
        name: Its name.
        metric: The objective metric, the first one if there are several.
        direction: Whether large or small values are better.
        trials: Its finished trials, in the order of their numbers.
        searched: Names of the searched parameters in Optuna, and whether each is searched on a log scale.
        importances: Importance of each parameter, summing up to 1; empty if it is unknown.
        validation_images: Number of validation images, if it is known.
        test: Metrics of the best trial on the test data; empty if it was not tested.
        choices: The choices of each categorical parameter, by its name in Optuna.
        ranges: The lowest and the highest value of each numeric parameter, by its name in Optuna.
        answer: The findings of its final runs or its confirmation, with fresh seeds, in sentences; empty without them.
        retrained: Their winner; None without them.
        prediction: Whether trials were stopped by predictions, and why, as a clause; empty if its pruner does not
            predict.
        further: The metrics of the further objectives, and whether large or small values are better.
        of_function: Whether its trials are calls of an objective function, not training runs.
        unfinished: Its trials that have begun and are not finished.
        final: Its final runs.
        versions: Numbers of the trials trained with each version of the study's own modules, if there are several.
        changed_files: The files in which these versions differ.
        data: Digest of its data sets; empty if it is unknown.
        so_far: How much of its budget its trials have used, such as "2 of 6 trials"; empty if it is over, or unknown.
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
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    answer: Sequence[str] = ()
    retrained: Retrained | None = None
    prediction: str = ""
    further: Sequence[tuple[str, Direction]] = ()
    of_function: bool = False
    unfinished: Work = field(default_factory=Work)
    final: Work = field(default_factory=Work)
    versions: Sequence[Sequence[int]] = ()
    changed_files: Sequence[str] = ()
    so_far: str = ""
    data: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "StudyRecord":
        """Read a record from the JSON of `values`."""
        trials = [TrialRecord(**trial) for trial in values["trials"]]
        further = [(metric, Direction(direction)) for metric, direction in values.get("further", ())]
        retrained = Retrained(**values["retrained"]) if values.get("retrained") else None
        direction = Direction(values["direction"])
        more: dict[str, Any] = {"direction": direction, "trials": trials, "further": further, "retrained": retrained}
        more |= {key: Work(**values[key]) for key in ("unfinished", "final") if key in values}
        return cls(**{**values, **more})

    def values(self) -> dict[str, Any]:
        """Return the record in the form that `from_json` reads."""
        return dataclasses.asdict(self)

    @property
    def seconds(self) -> float:
        """Return the duration of everything that was trained, the final runs included."""
        return sum(trial.seconds for trial in self.trials) + self.unfinished.seconds + self.final.seconds

    @property
    def ended(self) -> float:
        """Return the seconds from the start of the first trial to the end of the last one or of the last final run."""
        return max([self.final.ended, *(trial.ended for trial in self.trials)])

    @property
    def by_value(self) -> list[TrialRecord]:
        """Return the completed trials, the best in the first objective first; of equal ones, the earlier first."""
        complete = [trial for trial in self.trials if trial.is_complete]
        return sorted(complete, key=lambda trial: (self.direction.sort_key(trial.value), trial.number))

    @property
    def ranking(self) -> list[TrialRecord]:
        """Return the completed trials, the best first; of equal ones, the earlier first.

        With several objectives, the Pareto front comes first, and the first objective orders both parts.
        """
        if not self.further:
            return self.by_value
        front = self.front
        numbers = {trial.number for trial in front}
        return [*front, *(trial for trial in self.by_value if trial.number not in numbers)]

    @property
    def front(self) -> list[TrialRecord]:
        """Return the trials of the Pareto front, the best in the first objective first; none with one objective."""
        complete = {trial.number: trial for trial in self.trials if trial.is_complete and self.further}
        directions = [self.direction, *(direction for _, direction in self.further)]
        points = {number: (trial.value, *trial.further) for number, trial in complete.items()}
        return [complete[number] for number in pareto_front(points, directions)]

    @property
    def metrics(self) -> list[str]:
        """Return the metrics of all objectives."""
        return [self.metric, *(metric for metric, _ in self.further)]

    @property
    def objectives(self) -> str:
        """Return all objectives, each with its direction, such as "val/acc (maximize)"."""
        return ", ".join(
            f"{metric} ({direction})" for metric, direction in [(self.metric, self.direction), *self.further]
        )

    @property
    def validation_data(self) -> str:
        """Return which data its values are from, such as "data 1a2b3c4d, 500 validation examples"."""
        digests = " ".join(each[:8] for each in self.data.split())
        images = f"{self.validation_images:,} validation examples" if self.validation_images else ""
        return ", ".join(filter(None, [f"data {digests}" if digests else "unknown data", images]))

    @property
    def best(self) -> TrialRecord | None:
        """Return the best trial; None if no trial was completed, or there are several objectives."""
        return None if self.further else next(iter(self.ranking), None)

    @property
    def winner(self) -> TrialRecord | None:
        """Return the trial that won with fresh seeds, or else the best one; None if the winner is no trial."""
        if self.retrained is None:
            return self.best
        return next((trial for trial in self.ranking if trial.name == self.retrained.name), None)

    @property
    def families(self) -> list[str]:
        """Return the schedules that were tried, by their best trials; those without a completed trial come last."""
        return list(dict.fromkeys(trial.family for trial in [*self.ranking, *self.trials]))


def is_share(metric: str, values: Iterable[float]) -> bool:
    """Return whether a metric is a share from 0 to 1, judging by its name and values; some are in percent.

    >>> is_share("val/acc", [0.9]), is_share("val_accuracy", [97.0]), is_share("val_f1", [0.5]), is_share("face", [0.5])
    (True, False, True, False)
    """
    return _is_named(metric, ACCURACY, OTHER_SHARE) and all(0 <= value <= 1 for value in values)


def resolution(metric: str, values: Iterable[float], validation_images: int | None) -> float:
    """Return the smallest difference between two values of a metric; 0 if it is unknown.

    >>> resolution("val/acc", [0.9], 500), resolution("train/acc", [0.9], 500), resolution("val/loss", [0.9], 500)
    (0.002, 0.0, 0.0)
    """
    is_counted = _is_named(metric, ACCURACY) and _is_named(metric, VALIDATION) and is_share(metric, values)
    return 1 / validation_images if validation_images and is_counted else 0.0


def _is_named(metric: str, *words: str) -> bool:
    """Return whether a word of a metric's name matches one of these."""
    return any(re.fullmatch("|".join(words), word) for word in re.findall("[a-z]+[0-9]*", metric.lower()))


def simplified(curve: Curve, tolerance: float = 2e-3) -> list[tuple[int, float]]:
    """Return the points of a curve whose connecting lines deviate from it by at most `tolerance` of a value.

    >>> simplified([(0, 0.1), (1, 0.1), (2, 0.1), (3, 0.05), (4, 0.05)])
    [(0, 0.1), (2, 0.1), (3, 0.05), (4, 0.05)]
    """
    kept = list(curve[:1])
    lowest, highest = (
        -math.inf,
        math.inf,
    )  # slopes from the last kept point that pass all later points within the tolerance
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
