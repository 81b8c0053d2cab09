"""Bayesian optimization over lr curves: which values to try next.

The first trials are a Latin hypercube sample. Then a Gaussian process over the points of `CurveSpace` learns from full
runs and from parts of them, and the next trial has the values with the highest expected improvement at the end of its
run, among random values and values near the best trials.
All randomness is a function of the seed, the number of the trial and the finished trials.
"""

import importlib
import math
from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import islice
from random import Random
from typing import Any, cast

import numpy as np
from threadpoolctl import ThreadpoolController

from tuner.config.study import StudyConfig
from tuner.search.curve_space import Configuration, CurveSpace, Placed
from tuner.search.gaussian_process import Array, GaussianProcess, Kernel, expected_improvement
from tuner.search.observed_data import Observation, ObservedData, rank

__all__ = ["CurveSearch"]

DEVIATIONS = 0.5
"""The share of the standard deviation that counts when the next trial is chosen.

With all of it, a study of a dozen or two trials spends too many of them on configurations that are merely unknown.
"""

MOST_TRIALS = 120
NEARBY_TRIALS = 5
SHARED, OWN = (20, 6), (10, 2)
"""Numbers of candidates, shared by trials that are asked for together, and per trial: random, near each good trial."""

WIDTHS = (0.03, 0.1)
"""Distances of candidates to the trials that they are near to, as shares of the ranges."""

MOST_DRAWS = 200
"""Random draws until one satisfies the constraints."""

SPREAD_DRAWS = 20
"""Those of a trial of a Latin hypercube sample that stay in its parts of the ranges."""

GROWTH = 1.2
"""Growth of the number of finished trials after which the kernel is fitted again."""


@cache
def _libraries() -> ThreadpoolController:
    """Return the numerical libraries, one of which scipy loads when it is first used."""
    importlib.import_module("scipy.linalg")
    return ThreadpoolController()


def _one_thread() -> AbstractContextManager[Any]:
    """Use one thread: while runs use all cores, threads for such small matrices would wait for each other."""
    limit: AbstractContextManager[Any] = _libraries().limit(limits=1, user_api="blas")
    return limit


Values = frozenset[tuple[str, Any]]
Candidate = tuple[Mapping[str, Any], Values, Array]
"""Values that a trial may have, by their names in Optuna and as a set, and their point at the end of its training."""
Expected = tuple[Candidate, float, float]
"""A candidate, and the mean and the standard deviation of its value."""


@dataclass(frozen=True)
class _Candidates:
    """Values that a trial may have.

    Args:
        params: Those of each, by their names in Optuna.
        points: Their points at the end of the training [candidates, inputs].
        gains: By how much each is expected to be better than the best trial [candidates].
        kernel: The kernel that expects it.
    """

    params: Sequence[Mapping[str, Any]]
    points: Array
    gains: Array
    kernel: Kernel


@dataclass(frozen=True)
class _Finished:
    """The finished trials.

    Args:
        trials: All of them, in the order in which they ended.
        comparable: The trained trials whose schedule can be computed, in the same order.
        ranking: The same, the best first.
        tried: The values of all.
    """

    trials: Sequence[Observation] = ()
    comparable: Sequence[Observation] = ()
    ranking: Sequence[Observation] = ()
    tried: Set[Values] = frozenset()


@dataclass(frozen=True)
class _Known:
    """A process conditioned on the finished trials.

    Args:
        finished: The trials.
        data: Their points and values.
        process: The process that is conditioned on them.
        lowest: The lowest value at the end of a run.
        shared: Candidates for all trials that are asked for before the next one ends, by their given values.
    """

    finished: _Finished
    data: ObservedData
    process: GaussianProcess
    lowest: float
    shared: dict[Values, list[Expected]] = field(default_factory=dict)

    def expected(self, candidates: Sequence[Candidate]) -> list[Expected]:
        """Return candidates with what is expected of them."""
        if not candidates:
            return []
        mean, deviation = self.process.predict(np.array([point for *_, point in candidates]))
        return list(zip(candidates, mean.tolist(), deviation.tolist(), strict=True))


class CurveSearch:
    """Chooses the values of trials.

    Args:
        config: The study.
        seed: The seed of its sampler.
        starts: Number of trials at its beginning that have random or given values.
        spread: The numbers of those that are a Latin hypercube sample.
    """

    def __init__(self, config: StudyConfig, seed: int, starts: int, spread: range) -> None:
        self._config, self._seed, self._starts, self._spread = config, seed, starts, spread
        self._kernels: dict[int, Kernel] = {}
        self._placed: dict[Values, Placed | None] = {}  # trials; None if the schedule cannot be computed
        self._points: dict[tuple[Values, float], Array] = {}  # of trials, by their values and the part of the training
        self._finished = _Finished()
        self._known: _Known | None = None

    @cached_property
    def _space(self) -> CurveSpace:
        return CurveSpace(self._config, self._seed)

    @cached_property
    def _references(self) -> list[Candidate]:
        return self._candidates(self._space.references)

    def suggest(
        self,
        number: int,
        trials: Sequence[Observation],
        running: Sequence[Observation],
        fixed: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        """Return the values of a trial, by their names in Optuna.

        Args:
            number: The trial.
            trials: The finished trials, in the order in which they ended.
            running: The other trials that have begun.
            fixed: Values that are given.
        """
        finished = self._finished_of(trials)
        reported = (trial for trial in finished.comparable if trial.reports)
        if number < self._starts or len(list(islice(reported, 2))) < 2:
            return self._at_random(number, fixed)
        with _one_thread():
            return self._suggested(number, finished, running, fixed)

    def possible_gain(self, trials: Sequence[Observation]) -> float:
        """Return by how much the next trial is expected to be better than the best one, in the objective's unit.

        It is infinity while too little is known. It is first-order: the improvement of a logarithm times its argument.

        Args:
            trials: The finished trials, in the order in which they ended.
        """
        finished = self._finished_of(trials)
        comparable = finished.comparable
        if len(comparable) < self._starts or not any(trial.epochs in trial.reports for trial in comparable):
            return math.inf
        with _one_thread():
            candidates = self._evaluated(len(trials), finished, (), {}, deviations=1.0)
            return max(candidates.gains, default=math.inf) * self._known_of(finished).data.unit

    def _suggested(
        self,
        number: int,
        finished: _Finished,
        running: Sequence[Observation],
        fixed: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        candidates = self._evaluated(number, finished, running, fixed, DEVIATIONS)
        if not candidates.params:
            return self._at_random(number, fixed)
        gains = candidates.gains
        ends = [(trial, trial.epochs) for trial in running if self._placed_of(trial)]
        if ends:
            alike = candidates.kernel(candidates.points, self._points_of(ends)) / candidates.kernel.signal
            gains = gains * (1 - alike).prod(1)
        return candidates.params[int(np.argmax(gains))]

    def _at_random(self, number: int, fixed: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return random values that satisfy the constraints, if such are found."""
        random = self._random(number)
        for draw in range(MOST_DRAWS):
            if number in self._spread and draw < SPREAD_DRAWS:
                found = self._space.at(partial(self._share, number, random), fixed)
            else:
                found = self._space.random(random, fixed)
            if self._is_feasible(found):
                break
        return found.params

    def _share(self, number: int, random: Random, name: str) -> float:
        """Return the share of a parameter's range at which a trial of the Latin hypercube sample has its value.

        Each of its trials has the value of another of equal parts of the range.
        """
        parts = len(self._spread)
        order = Random(f"parts:{self._seed}:{name}").sample(range(parts), parts)
        return (order[self._spread.index(number)] + random.random()) / parts

    def _is_feasible(self, configuration: Configuration) -> bool:
        return self._config.broken(configuration.values) is None

    def _random(self, number: int) -> Random:
        return Random(f"curve:{self._seed}:{number}")

    def _finished_of(self, trials: Sequence[Observation]) -> _Finished:
        """Return the finished trials; the result stays the same until another trial ends."""
        before = self._finished
        if trials == before.trials:
            return before
        if trials[: len(before.trials)] != before.trials:  # another program has added earlier ones
            before = _Finished(trials[:0])
        new = trials[len(before.trials) :]
        comparable = list(filter(self._can_be_compared, new))
        ranking = list(before.ranking)
        for trial in comparable:
            insort(ranking, trial, key=partial(rank, self._config.objective.direction))
        tried = before.tried | {trial.values for trial in new}
        self._finished = _Finished(trials, [*before.comparable, *comparable], ranking, tried)
        return self._finished

    def _evaluated(
        self,
        number: int,
        finished: _Finished,
        others: Sequence[Observation],
        fixed: Mapping[str, Any],
        deviations: float,
    ) -> _Candidates:
        """Return values that no trial has, and by how much each is expected to be better than the best trial.

        Args:
            number: The trial that is to have one of them.
            finished: The finished trials.
            others: The other trials that have begun.
            fixed: Values that are given.
            deviations: The share of the standard deviation that counts.
        """
        known = self._known_of(finished)
        given = frozenset(fixed.items())
        if given not in known.shared:
            random = Random(f"candidates:{self._seed}:{len(finished.comparable)}")
            shared = [*self._of_references(fixed), *self._drawn(random, SHARED, known.data.best, fixed)]
            known.shared[given] = known.expected(shared)
        own = self._drawn(self._random(number), OWN, known.data.best, fixed)
        running = {trial.values for trial in others}
        untried = [
            each
            for each in (*known.shared[given], *known.expected(own))
            if (values := each[0][1]) not in finished.tried and values not in running
        ]
        if not untried:
            return _Candidates([], np.empty((0, 0)), np.empty(0), known.process.kernel)
        candidates, mean, deviation = zip(*untried, strict=True)
        gains = expected_improvement(np.array(mean), deviations * np.array(deviation), known.lowest)
        points = np.array([point for *_, point in candidates])
        return _Candidates([params for params, *_ in candidates], points, gains, known.process.kernel)

    def _known_of(self, finished: _Finished) -> _Known:
        """Return what is known from finished trials; it stays the same until another trial ends."""
        if self._known is None or self._known.finished is not finished:
            data = self._data(finished.ranking)
            random = Random(f"points:{self._seed}:{len(finished.ranking)}")
            process = data.process(self._kernel(finished.comparable), random)
            self._known = _Known(finished, data, process, data.lowest(process))
        return self._known

    def _of_references(self, fixed: Mapping[str, Any]) -> Iterator[Candidate]:
        return (each for each in self._references if fixed.items() <= each[0].items())

    def _drawn(
        self, random: Random, counts: tuple[int, int], best: Sequence[Observation], fixed: Mapping[str, Any]
    ) -> list[Candidate]:
        """Return random candidates, and candidates near the best trials."""
        everywhere, nearby = counts
        drawn = [self._space.random(random, fixed) for _ in range(everywhere)]
        drawn += [
            self._space.nearby(trial.params, random, WIDTHS[index % len(WIDTHS)], fixed)
            for trial in best[:NEARBY_TRIALS]
            for index in range(nearby)
        ]
        return self._candidates(drawn)

    def _candidates(self, configurations: Sequence[Configuration]) -> list[Candidate]:
        """Return those that satisfy the constraints, and whose schedule can be computed."""
        feasible = filter(self._is_feasible, configurations)
        placed = [(each, curve) for each in feasible if (curve := self._space.curve(each)) is not None]
        points = self._space.points(placed) if placed else ()
        return [
            (each.params, frozenset(each.params.items()), point)
            for (each, _), point in zip(placed, points, strict=True)
        ]

    def _can_be_compared(self, trial: Observation) -> bool:
        """Return whether a trial was trained, with a schedule that can be computed."""
        return bool(trial.reports or trial.has_diverged) and self._placed_of(trial) is not None

    def _placed_of(self, trial: Observation) -> Placed | None:
        if trial.values not in self._placed:
            configuration = self._space.of(trial.params)
            curve = self._space.curve(configuration)
            self._placed[trial.values] = None if curve is None else (configuration, curve)
        return self._placed[trial.values]

    def _points_of(self, parts: Sequence[tuple[Observation, int]]) -> Array:
        """Return the points of trials whose schedules can be computed, each after an epoch [parts, inputs]."""
        keys = [(trial.values, epoch / trial.epochs) for trial, epoch in parts]
        missing: defaultdict[float, dict[Values, Placed]] = defaultdict(dict)
        for (trial, _), (values, share) in zip(parts, keys, strict=True):
            if (values, share) not in self._points:
                missing[share][values] = cast(Placed, self._placed_of(trial))
        for share, placed in missing.items():
            points = self._space.points(list(placed.values()), share)
            self._points.update(zip(((values, share) for values in placed), points, strict=True))
        return np.array([self._points[key] for key in keys])

    def _data(self, ranking: Sequence[Observation]) -> ObservedData:
        """Return the data of all finished trials or, of many, of the best ones and a random choice of the others.

        Args:
            ranking: The trials, the best first.
        """
        if len(ranking) > MOST_TRIALS:
            best = MOST_TRIALS // 2
            random = Random(f"trials:{self._seed}:{len(ranking)}")
            others = sorted(random.sample(range(best, len(ranking)), MOST_TRIALS - best))
            ranking = [*ranking[:best], *(ranking[place] for place in others)]
        return ObservedData(self._config, ranking, self._points_of)

    def _kernel(self, finished: Sequence[Observation]) -> Kernel:
        """Return the kernel, which is fitted each time that there are a fifth more trials."""
        count = 2
        while int(count * GROWTH) + 1 <= len(finished):
            count = int(count * GROWTH) + 1
        if count not in self._kernels:
            data = self._data(sorted(finished[:count], key=partial(rank, self._config.objective.direction)))
            self._kernels[count] = data.process(None, Random(f"points:{self._seed}:{count}")).kernel
        return self._kernels[count]
