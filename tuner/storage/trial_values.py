"""The values of a new trial in Optuna: which are fixed, and which no other trial has."""

from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.config.study import StudyConfig, key_of
from tuner.storage.attributes import ADDED
from tuner.storage.batched_storage import BatchedStorage
from tuner.storage.samplers.feasible_draws import feasible_params

__all__ = ["Fixed", "TrialValues"]


class Fixed(NamedTuple):
    """The fixed values of a new trial.

    Args:
        params: The values.
        meant: The values that are not drawn from priors.
        to_come: The values of the first trials that follow it.
        is_added: Whether they were added after the study began.
    """

    params: Mapping[str, Any]
    meant: Mapping[str, Any] = MappingProxyType({})
    to_come: Sequence[Mapping[str, Any]] = ()
    is_added: bool = False


class TrialValues:
    """Chooses the values of new trials of a study.

    Args:
        config: The study.
        study: The study in Optuna.
        storage: Its storage.
    """

    def __init__(self, config: StudyConfig, study: optuna.Study, storage: BatchedStorage) -> None:
        self._config, self._study, self._storage = config, study, storage
        self._keys: dict[int, tuple[Mapping[str, Any], Hashable]] = {}  # the configuration of each trial

    @property
    def _trials(self) -> Sequence[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def fixed(self, number: int) -> Fixed:
        """Return the fixed values of a new trial."""
        trials, first = self._trials, self._config.first
        if not first.params and not first.further:
            return Fixed(self._config.fixed(number, (trial.params for trial in trials)))
        place = first.place((_values(trial), ADDED in trial.user_attrs) for trial in trials)
        added = first.next_further(place, [_values(trial) for trial in trials]) if first.further else {}
        meant, to_come = added or first.of(place), first.params[place if added else place + 1 :]
        return Fixed({**self._config.of_priors(number), **meant}, meant, to_come, bool(added))

    def feasible(self, asked: optuna.Trial, fixed: Fixed | None) -> optuna.Trial:
        """Return an asked trial with fixed values that satisfy the constraints, and that no other trial has.

        Args:
            asked: The trial.
            fixed: Its fixed values; None if it was asked for before.
        """
        study, trial = self._study, self._storage.get_trial(asked.number)
        tried = self._tried(asked.number, fixed.to_come if fixed else ()) if self._config.can_repeat else set()
        params = feasible_params(self._config, study, asked, trial, tried, fixed.meant if fixed else None)
        self._storage.set_trial_system_attr(asked._trial_id, "fixed_params", params)
        sampler, study.sampler = study.sampler, optuna.samplers.RandomSampler(seed=0)  # there is nothing to sample
        try:
            return optuna.Trial(study, asked._trial_id)
        finally:
            study.sampler = sampler

    def _tried(self, number: int, to_come: Sequence[Mapping[str, Any]]) -> set[Hashable]:
        """Return the keys of the configurations that a trial should not have.

        Args:
            number: The trial.
            to_come: The values of first trials after it.
        """
        tried = {key_of(params) for params in to_come}
        for trial in self._trials:
            if trial.number == number or trial.state is TrialState.FAIL:
                continue
            params, key = self._keys.get(trial.number, (None, None))
            if params is not trial.params:  # it is new, or was asked for again
                key = key_of(_values(trial))
                self._keys[trial.number] = trial.params, key
            tried.add(key)
        return tried

    def resample(self, asked: optuna.Trial) -> None:
        """Sample the parameters that a trial already has, to bring the sampler's random numbers to where they were.

        The stored values stay. This matters only if the trial was interrupted before it had all of its parameters.
        """
        trial = self._storage.get_trial(asked.number)
        given = {*asked.relative_params, *trial.system_attrs.get("fixed_params", {})}
        for name, distribution in trial.distributions.items():
            if name not in given and not distribution.single():
                self._study.sampler.sample_independent(self._study, trial, name, distribution)


def _values(trial: FrozenTrial) -> dict[str, Any]:
    """Return the values of a trial, whether it has drawn all of them or not."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}
