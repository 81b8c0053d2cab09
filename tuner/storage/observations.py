"""Trials in Optuna as observations for the search."""

import math

from optuna.trial import FrozenTrial, TrialState

from tuner.config.search_space import suggest
from tuner.config.shares import ShareSuggester
from tuner.config.study import StudyConfig
from tuner.config.trainer import TrainerConfig
from tuner.search.observed_data import Observation
from tuner.storage.trial_ends import state_of

__all__ = ["observation_of"]


def observation_of(config: StudyConfig, trial: FrozenTrial) -> Observation:
    """Return a trial, with values of the study's search space, as far as it was trained."""
    trainer = suggest(ShareSuggester(lambda name: 0.0, trial.params), config.trial["trainer"], "trainer")
    return Observation(
        number=trial.number,
        params=trial.params,
        reports={epoch: value for epoch, value in trial.intermediate_values.items() if math.isfinite(value)},
        epochs=TrainerConfig.from_values(trainer).evaluations,
        is_finished=trial.state is not TrialState.RUNNING,
        has_diverged=trial.state.is_finished() and state_of(trial) == "diverged",
    )
