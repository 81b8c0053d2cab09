"""Draws the values of a trial until they satisfy the constraints of its study.

The values are fixed in the trial before Optuna is asked for them, so infeasible values are never recorded, and a trial
that was interrupted has the same values again. The draws are a function of the sampler, whose seed depends on the
number of the trial, and of the finished trials.
"""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from tuner.config.search_space import suggest
from tuner.config.study import StudyConfig
from tuner.errors import StudyFailedError

__all__ = ["feasible_params"]

OF_SAMPLER, OF_PRIORS, MOST = 50, 2500, 5000
"""Draws of the sampler, of the priors, and all draws: the others are random."""


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
    config: StudyConfig, study: optuna.Study, asked: optuna.Trial, trial: FrozenTrial
) -> dict[str, Any]:
    """Return values for a trial that satisfy the constraints, by name.

    Args:
        config: The study.
        study: The same study in Optuna, with the sampler for this trial.
        asked: The trial.
        trial: The same trial as it is stored, with the values that it has already.

    Raises:
        StudyFailedError: If none are found.
    """
    given = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    free = _from_priors(config, trial, given)
    sampler, relative = study.sampler, dict(asked.relative_params)
    space = sampler.infer_relative_search_space(study, trial)
    at_random = optuna.samplers.RandomSampler(seed=_seed(config, trial.number))
    repeats = False
    broken = None
    for attempt in range(MOST):
        if attempt and free:
            redrawn = config.of_priors(trial.number, attempt) if attempt < OF_PRIORS else {}
            given = {name: value for name, value in given.items() if name not in free}
            given |= {name: value for name, value in redrawn.items() if name in free}
        if attempt and attempt < OF_SAMPLER and not repeats:
            before, relative = relative, sampler.sample_relative(study, _with_fixed(trial, given), space)
            repeats = relative == before and not free
        is_random = attempt >= OF_SAMPLER
        draft = _Draft(study, trial, given, {} if is_random else relative, at_random if is_random else sampler)
        broken = config.broken(suggest(draft, config.trial))
        if broken is None:
            return draft.params
    text = broken.text if broken else ""
    raise StudyFailedError(f"trial #{trial.number}: none of {MOST:,} draws satisfies {text}; widen the search space")


def _from_priors(config: StudyConfig, trial: FrozenTrial, given: Mapping[str, Any]) -> set[str]:
    """Return the names of the given values that were drawn from priors, so that they can be drawn again.

    Args:
        config: The study.
        trial: The trial.
        given: Its values that are fixed.
    """
    if config.sampler.name == "grid":
        return set()
    first = config.first.params
    meant = [first[trial.number]] if trial.number < len(first) else config.first.further
    return {
        name
        for name, value in config.of_priors(trial.number).items()
        if given.get(name) == value and name not in trial.params and not any(each.get(name) == value for each in meant)
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
