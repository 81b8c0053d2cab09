"""Draws the values of a trial until they satisfy the constraints of its study.

The values are fixed in the trial before Optuna is asked for them, so what is infeasible is never recorded, and a trial
that was interrupted has the same values again. The draws are a function of the sampler, whose seed depends on the
number of the trial, and of the finished trials.
"""

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

OF_SAMPLER, MOST = 50, 5000
"""Draws of the sampler, and all draws: the others are random."""


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
    sampler, relative = study.sampler, dict(asked.relative_params)
    space = sampler.infer_relative_search_space(study, trial)
    at_random = optuna.samplers.RandomSampler(seed=_seed(config, trial.number))
    broken = None
    for attempt in range(MOST):
        if attempt and attempt < OF_SAMPLER:
            relative = sampler.sample_relative(study, trial, space)
        is_random = attempt >= OF_SAMPLER
        draft = _Draft(study, trial, given, {} if is_random else relative, at_random if is_random else sampler)
        broken = config.broken(suggest(draft, config.trial))
        if broken is None:
            return draft.params
    text = broken.text if broken else ""
    raise StudyFailedError(f"trial #{trial.number}: none of {MOST:,} draws satisfies {text}; widen the search space")


def _seed(config: StudyConfig, number: int) -> int:
    """Return the seed of the random draws for a trial."""
    key = f"feasible:{config.sampler.arguments.get('seed', 0)}:{number}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
