"""`CurveSearch` as a sampler of Optuna."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from tuner.config.search_space import Choices, Range, searched
from tuner.config.study import StudyConfig
from tuner.search.curve_search import CurveSearch
from tuner.search.observed_data import Observation
from tuner.storage.observations import ObservedTrials, observation_of

__all__ = ["CurveSampler"]


class CurveSampler(optuna.samplers.BaseSampler):
    """Suggests all values of a trial together.

    Args:
        config: The study.
        search: Chooses the values.
        others: The sampler of values that the search does not give, for example in a study that was changed.
        before: The sampler of another trial of the study with this search, whose observations are reused.
    """

    def __init__(
        self,
        config: StudyConfig,
        search: CurveSearch,
        others: optuna.samplers.BaseSampler,
        before: "CurveSampler | None" = None,
    ) -> None:
        self.search = search
        self._config, self._others = config, others
        self._space: dict[str, BaseDistribution] = (
            before._space if before else {name: _distribution(spec) for name, spec in searched(config.trial)}
        )
        self._trials: ObservedTrials = before._trials if before else ObservedTrials(self._observed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the distributions of everything that is searched; a trial has the values of one family."""
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the values of a trial."""
        # Not the values that the trial has already: a trial that is sampled again must get the same ones.
        fixed: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        others = self._trials.running([each for each in running if each.number != trial.number])
        return dict(self.search.suggest(trial.number, self._finished(study), others, fixed))

    def possible_gain(self, study: optuna.Study) -> float:
        """Return by how much the next trial is expected to be better than the best one, in the objective's unit."""
        return self.search.possible_gain(self._finished(study))

    def _finished(self, study: optuna.Study) -> Sequence[Observation]:
        """Return the finished trials, in the order in which they ended."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return self._trials.finished(study.get_trials(deepcopy=False, states=states))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of a parameter that the search did not give."""
        return self._others.sample_independent(study, trial, param_name, param_distribution)

    def _fits(self, trial: FrozenTrial) -> bool:
        """Return whether a trial has values of this search space."""
        return trial.params.keys() <= self._space.keys() and all(
            self._space[name]._contains(self._space[name].to_internal_repr(value))
            for name, value in trial.params.items()
        )

    def _observed(self, trial: FrozenTrial) -> Observation | None:
        """Return a trial as the search sees it; None if another program added it with other values."""
        return observation_of(self._config, trial) if self._fits(trial) else None


def _distribution(spec: Range | Choices) -> BaseDistribution:
    """Return the distribution with which a trial asks for a parameter."""
    if isinstance(spec, Choices):
        return CategoricalDistribution(spec.values)
    if spec.integer:
        return IntDistribution(int(spec.low), int(spec.high), log=spec.log, step=int(spec.step or 1))
    return FloatDistribution(spec.low, spec.high, log=spec.log, step=spec.step)
