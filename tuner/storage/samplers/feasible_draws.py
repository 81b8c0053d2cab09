"""Draws the values of a trial until they satisfy the constraints of its study, and no other trial has them.

The values are fixed in the trial before Optuna is asked for them, so infeasible values are never recorded, and a trial
that was interrupted has the same values again. The draws are a function of the sampler, whose seed depends on the
number of the trial, and of the other trials. If the sampler keeps repeating configurations, the trial gets a random one
that has not been tried; if none is left, it gets the sampler's first draw.
"""

import copy
import hashlib
import random
from collections.abc import Hashable, Mapping, Sequence, Set
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from tuner.config.constraints import RandomSuggester
from tuner.config.finite_space import is_finite, points, restricted
from tuner.config.search_space import Template, grid_size, suggest
from tuner.config.study import StudyConfig, key_of
from tuner.errors import StudyFailedError

__all__ = ["feasible_params"]

OF_SAMPLER, OF_PRIORS, MOST = 50, 2500, 5000
"""Draws of the sampler, of the priors, and all draws: the others are random."""

MOST_REPEATS = 10
"""Draws that repeat other trials, after which the trial has one of the configurations that are left."""

MOST_POINTS = 20_000
"""Size of a search space above which these are found by random draws."""


class _Draft:
    """A trial as the search space sees it, which records nothing in Optuna.

    Args:
        study: The study; its sampler draws.
        trial: The trial.
        given: Values that are fixed, by name.
        relative: Values that the sampler has drawn together, by name.
        sampler: Draws the other values.
    """

    def __init__(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        given: Mapping[str, Any],
        relative: Mapping[str, Any],
        sampler: optuna.samplers.BaseSampler,
    ) -> None:
        self.params: dict[str, Any] = {}
        self._study, self._trial, self._given, self._relative, self._sampler = study, trial, given, relative, sampler

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return a whole number."""
        return int(self._suggest(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return a number."""
        return float(self._suggest(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""
        return self._suggest(name, CategoricalDistribution(tuple(choices)))

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self._given:
            value = self._given[name]
        elif name in self._relative and distribution._contains(distribution.to_internal_repr(self._relative[name])):
            value = self._relative[name]
        else:
            value = self._sampler.sample_independent(self._study, self._trial, name, distribution)
        self.params[name] = value
        return value


def feasible_params(
    config: StudyConfig,
    study: optuna.Study,
    asked: optuna.Trial,
    trial: FrozenTrial,
    tried: Set[Hashable] = frozenset(),
    meant: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return values for a trial that satisfy the constraints and, if possible, no other trial has, by name.

    Args:
        config: The study.
        study: The same study in Optuna, with the sampler for this trial.
        asked: The trial.
        trial: The same trial as it is stored, with the values that it has already.
        tried: The configurations of other trials, by their keys.
        meant: Values that the trial must have; None for the fixed values of its number.

    Raises:
        StudyFailedError: If none are found.
    """
    given = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    free = _from_priors(config, trial, given, config.first.of(trial.number) if meant is None else meant)
    sampler, relative = study.sampler, dict(asked.relative_params)
    space = sampler.infer_relative_search_space(study, trial)
    at_random = optuna.samplers.RandomSampler(seed=_seed(config, trial.number))
    is_repeated = False  # what the sampler draws
    repeats: list[dict[str, Any]] = []
    broken = None
    for attempt in range(MOST):
        if attempt and free:
            redrawn = config.of_priors(trial.number, attempt) if attempt < OF_PRIORS else {}
            given = {name: value for name, value in given.items() if name not in free}
            given |= {name: value for name, value in redrawn.items() if name in free}
        if attempt and attempt < OF_SAMPLER and not is_repeated:
            before, relative = relative, sampler.sample_relative(study, _with_fixed(trial, given), space)
            is_repeated = relative == before and not free
        is_random = attempt >= OF_SAMPLER or len(repeats) >= MOST_REPEATS
        draft = _Draft(study, trial, given, {} if is_random else relative, at_random if is_random else sampler)
        broken = config.broken(suggest(draft, config.trial))
        if broken is not None:
            continue
        fixed = {name: value for name, value in given.items() if name not in free}
        if not tried or key_of(draft.params) not in tried or draft.params.keys() <= fixed.keys():
            return draft.params
        repeats.append(draft.params)
        left = restricted(config.trial, fixed)
        if len(repeats) == MOST_REPEATS and is_finite(left) and grid_size(left) <= MOST_POINTS:
            return _untried(config, trial, left, tried) or repeats[0]
    if repeats:
        return repeats[0]
    text = broken.text if broken else ""
    raise StudyFailedError(f"trial #{trial.number}: none of {MOST:,} draws satisfies {text}; widen the search space")


def _untried(config: StudyConfig, trial: FrozenTrial, left: Template, tried: Set[Hashable]) -> dict[str, Any] | None:
    """Return a random configuration that no other trial has and that satisfies the constraints; None if there is none.

    Args:
        config: The study.
        trial: The trial.
        left: The search space, with what is fixed in the trial.
        tried: The configurations of other trials, by their keys.
    """
    for point in points(left, _seed(config, trial.number)):
        if key_of(point) not in tried:
            values = suggest(RandomSuggester(random.Random(0), point), config.trial)
            if config.broken(values) is None:
                return point
    return None


def _from_priors(
    config: StudyConfig, trial: FrozenTrial, given: Mapping[str, Any], meant: Mapping[str, Any]
) -> set[str]:
    """Return the names of the given values that were drawn from priors, so that they can be drawn again.

    Args:
        config: The study.
        trial: The trial.
        given: Its values that are fixed.
        meant: The values that it must have.
    """
    if config.sampler.name == "grid":
        return set()
    return {
        name
        for name, value in config.of_priors(trial.number).items()
        if given.get(name) == value and name not in trial.params and meant.get(name) != value
    }


def _with_fixed(trial: FrozenTrial, given: Mapping[str, Any]) -> FrozenTrial:
    """Return a trial for which some values are fixed."""
    changed = copy.copy(trial)
    changed.system_attrs = {**trial.system_attrs, "fixed_params": {**given}}
    return changed


def _seed(config: StudyConfig, number: int) -> int:
    """Return the seed of the random draws for a trial."""
    key = f"feasible:{config.sampler.arguments.get('seed', 0)}:{number}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
