"""Trials in Optuna as observations for the search."""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial

from tuner.config.search_space import suggest
from tuner.config.shares import ShareSuggester
from tuner.config.study import StudyConfig
from tuner.config.trainer import TrainerConfig
from tuner.search.observed_data import Observation
from tuner.storage.trial_ends import newly_finished, state_of

__all__ = ["ObservedTrials", "observation_of"]


def observation_of(config: StudyConfig, trial: FrozenTrial) -> Observation:
    """Return a trial, with values of the study's search space, as far as it was trained."""
    trainer = suggest(ShareSuggester(lambda name: 0.0, trial.params), config.trial["trainer"], "trainer")
    return Observation(
        number=trial.number,
        params=trial.params,
        reports={epoch: value for epoch, value in trial.intermediate_values.items() if math.isfinite(value)},
        epochs=TrainerConfig.from_values(trainer).evaluations,
        has_diverged=trial.state.is_finished() and state_of(trial) == "diverged",
    )


class ObservedTrials:
    """The trials of a study as observations, each of which is made once, and again when the trial ends.

    Args:
        observe: Returns a trial as the search sees it; None if the search ignores it.
    """

    def __init__(self, observe: Callable[[FrozenTrial], Observation | None]) -> None:
        self._observe = observe
        self._numbers: set[int] = set()
        self._ended: list[tuple[datetime, int, Observation]] = []  # in this order
        self._observations: list[Observation] = []
        self._running: dict[int, tuple[Mapping[str, Any], Observation | None]] = {}  # each with the values it is of

    def finished(self, trials: Sequence[FrozenTrial]) -> Sequence[Observation]:
        """Return the observations of the finished trials, in the order in which the trials ended.

        Args:
            trials: All finished trials, in the order of their numbers; those of earlier calls are among them.
        """
        before = len(self._ended)
        for trial in newly_finished(trials, self._numbers):
            self._add(trial)
        if len(self._ended) > before:
            self._observations = [observation for _, _, observation in self._ended]
        return self._observations

    def running(self, trials: Sequence[FrozenTrial]) -> Sequence[Observation]:
        """Return the observations of the running trials. Their reports may be missing.

        Args:
            trials: All running trials.
        """
        before, self._running = self._running, {}
        for trial in trials:
            params, observation = before.get(trial.number, (None, None))
            if params is not trial.params:  # it is replaced when it changes
                observation = self._observe(trial)
            self._running[trial.number] = trial.params, observation
        return [observation for _, observation in self._running.values() if observation]

    def _add(self, trial: FrozenTrial) -> None:
        if observation := self._observe(trial):
            bisect.insort(self._ended, (trial.datetime_complete or datetime.max, trial.number, observation))
