"""Bayesian optimization over lr curves: which values to try next.

A Gaussian process over the points of `CurveSpace` learns from whole trainings and from parts of them. The next trial
has the values with the highest expected improvement at the end of its training, among random values and values near
the best trials. All randomness is a function of the seed, the number of the trial and the finished trials.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from random import Random
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from tuner.config.study import StudyConfig
from tuner.direction import Direction
from tuner.search.curve_space import Configuration, CurveSpace
from tuner.search.gaussian_process import Array, GaussianProcess, Kernel, expected_improvement

__all__ = ["STARTS", "CurveSearch", "Observation"]

STARTS = 5
"""Number of random trials, unless the study says otherwise."""

MOST_TRIALS, MOST_POINTS = 120, 200
RANDOM_CANDIDATES, NEARBY_CANDIDATES, NEARBY_TRIALS = 30, 8, 5
WIDTHS = (0.03, 0.1)
"""Distances of candidates to the trials that they are near to, as shares of the ranges."""

STOPS = 4
"""Number of epochs, besides the last and the middle one, at which whole trainings are compared with stopped ones."""

SPREAD = 0.35
"""How much above the median, as a logarithm, losses are told apart; what is worse is only bad."""

SMALLEST_ERROR = 1e-3
GROWTH = 1.2
"""By how much the number of finished trials grows until the kernel is fitted again."""

_BLAS = ThreadpoolController()


@dataclass(frozen=True)
class Observation:
    """A trial, as far as it was trained.

    Args:
        number: Its number.
        params: Its values, by their names in Optuna.
        reports: The objective after each epoch.
        epochs: The number of epochs of its whole training.
        is_finished: Whether it is over; otherwise it is being trained now.
        has_diverged: Whether its loss was not finite.
    """

    number: int
    params: Mapping[str, Any]
    reports: Mapping[int, float]
    epochs: int
    is_finished: bool = True
    has_diverged: bool = False


class CurveSearch:
    """Chooses the values of trials.

    Args:
        config: The study.
        seed: The seed of its sampler.
        starts: Number of random trials at its beginning.
    """

    def __init__(self, config: StudyConfig, seed: int = 0, starts: int = STARTS) -> None:
        self._config, self._seed, self._starts = config, seed, starts
        self._kernels: dict[int, Kernel] = {}
        self._points: dict[tuple[int, tuple[int, ...]], Array | None] = {}  # of finished trials after some epochs

    @cached_property
    def _space(self) -> CurveSpace:
        return CurveSpace(self._config, self._seed)

    @cached_property
    def _references(self) -> list[tuple[Configuration, Array | None]]:
        return [(each, self._space.points(each, [1.0])) for each in self._space.references]

    def suggest(self, number: int, trials: Sequence[Observation], fixed: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values of a trial, by their names in Optuna.

        Args:
            number: The trial.
            trials: All others, in the order in which they ended.
            fixed: Values that are given.
        """
        # While trainings use all cores, threads for such small matrices would wait for each other.
        with _BLAS.limit(limits=1, user_api="blas"):
            return self._suggested(number, trials, fixed)

    def _suggested(self, number: int, trials: Sequence[Observation], fixed: Mapping[str, Any]) -> Mapping[str, Any]:
        random = Random(f"curve:{self._seed}:{number}")
        finished = [trial for trial in trials if trial.is_finished and self._can_be_compared(trial)]
        if number < self._starts or sum(len(trial.reports) > 0 for trial in finished) < 2:
            return self._space.random(random, fixed).params
        data = self._data(finished)
        process = data.process(self._kernel(finished), Random(f"points:{self._seed}:{len(finished)}"))
        candidates = list(self._candidates(random, data.best, fixed))
        if not candidates:
            return self._space.random(random, fixed).params
        table = np.concatenate([point for _, point in candidates])
        gains = expected_improvement(*process.predict(table), data.lowest(process))
        for trial in trials:
            if not trial.is_finished and (point := self._space.points(self._space.of(trial.params), [1.0])) is not None:
                gains = gains * (1 - process.kernel(table, point)[:, 0] / process.kernel.signal)
        return candidates[int(np.argmax(gains))][0]

    def _candidates(
        self, random: Random, best: Sequence[Observation], fixed: Mapping[str, Any]
    ) -> Iterator[tuple[Mapping[str, Any], Array]]:
        """Yield values that a trial may have, and their points at the end of its training [1, inputs]."""
        new = [self._space.random(random, fixed) for _ in range(RANDOM_CANDIDATES)]
        new += [
            self._space.nearby(trial.params, random, WIDTHS[index % len(WIDTHS)], fixed)
            for trial in best[:NEARBY_TRIALS]
            for index in range(NEARBY_CANDIDATES)
        ]
        known = [each for each in self._references if fixed.items() <= each[0].params.items()]
        for configuration, point in [*known, *((each, self._space.points(each, [1.0])) for each in new)]:
            if point is not None:
                yield configuration.params, point

    def _can_be_compared(self, trial: Observation) -> bool:
        """Return whether a trial was trained, with a schedule that can be computed."""
        return bool(trial.reports or trial.has_diverged) and self._points_of(trial, (trial.epochs,)) is not None

    def _points_of(self, trial: Observation, epochs: tuple[int, ...]) -> Array | None:
        key = trial.number, epochs
        if key not in self._points:
            shares = [epoch / trial.epochs for epoch in epochs]
            self._points[key] = self._space.points(self._space.of(trial.params), shares)
        return self._points[key]

    def _data(self, finished: Sequence[Observation]) -> "_Data":
        """Return the data of all finished trials or, of many, of the best ones and a random choice of the others."""
        if len(finished) > MOST_TRIALS:
            ranking = sorted(finished, key=partial(_rank, self._config.objective.direction))
            best, others = ranking[: MOST_TRIALS // 2], ranking[MOST_TRIALS // 2 :]
            random = Random(f"trials:{self._seed}:{len(finished)}")
            finished = [*best, *random.sample(others, MOST_TRIALS - len(best))]
        return _Data(self._config, finished, self._points_of)

    def _kernel(self, finished: Sequence[Observation]) -> Kernel:
        """Return the kernel, which is fitted each time that there are a fifth more trials."""
        count = 2
        while int(count * GROWTH) + 1 <= len(finished):
            count = int(count * GROWTH) + 1
        if count not in self._kernels:
            data = self._data(finished[:count])
            self._kernels[count] = data.process(None, Random(f"points:{self._seed}:{count}")).kernel
        return self._kernels[count]


class _Data:
    """The points and values of finished trials.

    Args:
        config: The study.
        trials: Its finished trials.
        points: Returns the points of a trial after some epochs; None if its schedule cannot be computed.
    """

    def __init__(
        self,
        config: StudyConfig,
        trials: Sequence[Observation],
        points: Callable[[Observation, tuple[int, ...]], Array | None],
    ) -> None:
        self._trials, self._points = trials, points
        reports = {trial.number: _counted(config, trial.reports) for trial in trials}
        self._losses = _losses(config, reports)
        self._stops = _stops(trials)
        self._caps = self._caps_by_epoch()
        rows = [row for trial in trials for row in self._rows(trial)]
        self._table = np.array([point for point, _ in rows])
        self._values = np.array([value for _, value in rows])
        ranking = partial(_rank, config.objective.direction)
        self.best = sorted((trial for trial in trials if trial.reports), key=ranking)

    def process(self, kernel: Kernel | None, random: Random) -> GaussianProcess:
        """Return the Gaussian process: of all points, or of the best ones and a random choice of the others."""
        rows = np.arange(len(self._values))
        if len(rows) > MOST_POINTS:
            order = np.argsort(self._values, kind="stable")
            others = random.sample(range(MOST_POINTS // 2, len(rows)), MOST_POINTS - MOST_POINTS // 2)
            rows = order[[*range(MOST_POINTS // 2), *sorted(others)]]
        return GaussianProcess(self._table[rows], self._values[rows], kernel)

    def lowest(self, process: GaussianProcess) -> float:
        """Return the lowest value at the end of a training: of a whole one, or else the lowest expected one."""
        whole = [self._losses[trial.number][trial.epochs] for trial in self._trials if trial.epochs in trial.reports]
        if whole:
            return min(whole)
        points = [self._points(trial, (trial.epochs,)) for trial in self.best]
        return float(process.predict(np.concatenate([point for point in points if point is not None]))[0].min())

    def _rows(self, trial: Observation) -> Iterator[tuple[Array, float]]:
        """Yield points and values of a trial: after its last epoch, half of its training, and where others stopped."""
        losses = self._losses[trial.number]
        if trial.has_diverged:
            wanted = {trial.epochs: max(self._caps.values(), default=0.0)}
        else:
            epochs = {max(losses), -(-trial.epochs // 2), *self._stops} & losses.keys()
            wanted = {epoch: min(losses[epoch], self._cap(epoch)) for epoch in sorted(epochs)}
        points = self._points(trial, tuple(wanted))
        if points is not None:
            yield from zip(points, wanted.values(), strict=True)

    def _caps_by_epoch(self) -> dict[int, float]:
        """Return the highest loss that is told apart from others, for each epoch with enough of them."""
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


def _rank(direction: Direction, trial: Observation) -> tuple[float, float, int]:
    """Return the key by which trials are sorted, the best first: those that were trained for longer, by their value."""
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


def _losses(config: StudyConfig, reports: Mapping[int, Mapping[int, float]]) -> dict[int, dict[int, float]]:
    """Return the reports as numbers of which lower ones are better, and whose differences mean the same everywhere.

    Positive losses and the errors of accuracies are logarithms. Anything else is divided by how much the better half
    of the values differ.
    """
    direction = config.objective.direction
    values = [value for each in reports.values() for value in each.values()]
    lowest, highest = min(values, default=-1.0), max(values, default=-1.0)
    signed = sorted(map(direction.sort_key, values)) or [0.0]
    scale = max(signed[len(signed) // 2] - signed[0], 1e-12) / SPREAD

    def loss(value: float) -> float:
        if direction is Direction.MINIMIZE and lowest > 0:
            return math.log(value)
        if direction is Direction.MAXIMIZE and lowest >= 0 and highest <= 1:
            return math.log(max(1 - value, SMALLEST_ERROR))
        return direction.sort_key(value) / scale

    return {number: {epoch: loss(value) for epoch, value in each.items()} for number, each in reports.items()}
