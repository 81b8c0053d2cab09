"""The data of a search: points on the lr curves of the trials, and the values that belong to them."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import numpy as np

from tuner.config.study import StudyConfig
from tuner.direction import Direction
from tuner.search.gaussian_process import Array, GaussianProcess, Kernel

__all__ = ["Observation", "ObservedData", "rank"]

MOST_POINTS = 200
STOPS = 4
"""Number of epochs, in addition to the last and the middle one, at which full runs are compared with stopped ones."""

SPREAD = 0.35
"""How much above the median, as a logarithm, losses are distinguished; all worse ones count as equally bad."""

SMALLEST_ERROR = 1e-3


@dataclass(frozen=True)
class Observation:
    """A trial, as far as it was trained.

    Args:
        number: Its number.
        params: Its values, by their names in Optuna.
        reports: The objective after each epoch.
        epochs: The number of epochs of its full run.
        has_diverged: Whether its loss was not finite.
    """

    number: int
    params: Mapping[str, Any]
    reports: Mapping[int, float]
    epochs: int
    has_diverged: bool = False

    @cached_property
    def values(self) -> frozenset[tuple[str, Any]]:
        """Return its values as a set, which can be compared."""
        return frozenset(self.params.items())


class ObservedData:
    """The points and values of finished trials.

    Args:
        config: The study.
        trials: Its finished trials, the best first.
        points: Returns the points of trials, each after an epoch [parts, inputs].
    """

    def __init__(
        self,
        config: StudyConfig,
        trials: Sequence[Observation],
        points: Callable[[Sequence[tuple[Observation, int]]], Array],
    ) -> None:
        self._trials, self._points = trials, points
        self.best = [trial for trial in trials if trial.reports]
        reports = {trial.number: _counted(config, trial.reports) for trial in trials}
        self._losses, self.unit = _losses(config, reports)
        self._stops = _stops(trials)
        self._caps = self._caps_by_epoch()
        rows = [(trial, *row) for trial in trials for row in self._rows(trial)]
        self._table = points([(trial, epoch) for trial, epoch, _ in rows])
        self._values = np.array([value for *_, value in rows])

    def process(self, kernel: Kernel | None, random: Random) -> GaussianProcess:
        """Return the Gaussian process: of all points, or of the best ones and a random choice of the others."""
        rows = np.arange(len(self._values))
        if len(rows) > MOST_POINTS:
            order = np.argsort(self._values, kind="stable")
            others = random.sample(range(MOST_POINTS // 2, len(rows)), MOST_POINTS - MOST_POINTS // 2)
            rows = order[[*range(MOST_POINTS // 2), *sorted(others)]]
        return GaussianProcess(self._table[rows], self._values[rows], kernel)

    def lowest(self, process: GaussianProcess) -> float:
        """Return the lowest value at the end of a run: of the full runs or, without any, the lowest expected one."""
        whole = [self._losses[trial.number][trial.epochs] for trial in self._trials if trial.epochs in trial.reports]
        if whole:
            return min(whole)
        points = self._points([(trial, trial.epochs) for trial in self.best])
        return float(process.predict(points)[0].min())

    def _rows(self, trial: Observation) -> Iterable[tuple[int, float]]:
        """Return the epochs of a trial that count, with their values.

        They are its last epoch, half of its training, and where others stopped.
        """
        losses = self._losses[trial.number]
        if trial.has_diverged:
            return [(trial.epochs, max(self._caps.values(), default=0.0))]
        epochs = {max(losses), -(-trial.epochs // 2), *self._stops} & losses.keys()
        return [(epoch, min(losses[epoch], self._cap(epoch))) for epoch in sorted(epochs)]

    def _caps_by_epoch(self) -> dict[int, float]:
        """Return the highest loss that is distinguished from others, for each epoch with enough of them."""
        by_epoch: dict[int, list[float]] = {}
        for losses in self._losses.values():
            for epoch, loss in losses.items():
                by_epoch.setdefault(epoch, []).append(loss)
        most = max(map(len, by_epoch.values()), default=0)
        enough = min(4, most)
        return {epoch: float(np.median(losses)) + SPREAD for epoch, losses in by_epoch.items() if len(losses) >= enough}

    def _cap(self, epoch: int) -> float:
        earlier = [each for each in self._caps if each <= epoch]
        return self._caps[max(earlier)] if earlier else max(self._caps.values())


def rank(direction: Direction, trial: Observation) -> tuple[float, float, int]:
    """Return a sort key that puts the best trial first; trials stopped before a fifth of their run come last."""
    if not trial.reports:
        return 0.0, 0.0, trial.number
    return -min(_share(trial), 0.2), direction.sort_key(trial.reports[max(trial.reports)]), trial.number


def _share(trial: Observation) -> float:
    return max(trial.reports) / trial.epochs


def _stops(trials: Sequence[Observation]) -> list[int]:
    """Return the epochs at which most trials were stopped."""
    stopped = Counter(max(trial.reports) for trial in trials if trial.reports and trial.epochs not in trial.reports)
    return [epoch for epoch, _ in stopped.most_common(STOPS)]


def _counted(config: StudyConfig, reports: Mapping[int, float]) -> dict[int, float]:
    """Return the values that count after each epoch: the last one, or the best so far."""
    if config.objective.epoch == "last":
        return dict(reports)
    key, counted, best = config.objective.direction.sort_key, {}, None
    for epoch in sorted(reports):
        best = reports[epoch] if best is None else min(best, reports[epoch], key=key)
        counted[epoch] = best
    return counted


def _losses(
    config: StudyConfig, reports: Mapping[int, Mapping[int, float]]
) -> tuple[dict[int, dict[int, float]], float]:
    """Return the reports as numbers of which lower ones are better, and whose differences mean the same everywhere.

    Positive losses and the errors of accuracies are logarithms. Anything else is divided by how much the better half
    of the values differ. The second result converts a small difference at the best value to the unit of the objective.
    """
    direction = config.objective.direction
    values = [value for each in reports.values() for value in each.values()]
    lowest, highest = min(values, default=-1.0), max(values, default=-1.0)
    signed = sorted(map(direction.sort_key, values)) or [0.0]
    scale = max(signed[len(signed) // 2] - signed[0], 1e-12) / SPREAD
    loss: Callable[[float], float]
    if direction is Direction.MINIMIZE and lowest > 0:
        loss, unit = math.log, lowest
    elif direction is Direction.MAXIMIZE and lowest >= 0 and highest <= 1:
        loss, unit = _log_error, max(1 - highest, SMALLEST_ERROR)
    else:
        loss, unit = lambda value: direction.sort_key(value) / scale, scale
    return {number: {epoch: loss(value) for epoch, value in each.items()} for number, each in reports.items()}, unit


def _log_error(accuracy: float) -> float:
    return math.log(max(1 - accuracy, SMALLEST_ERROR))
