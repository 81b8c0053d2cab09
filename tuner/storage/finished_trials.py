"""The finished trials of a study: how many there are, what they cost, and which is the best."""

import contextlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import cast

from optuna.trial import FrozenTrial

from tuner.analysis.pareto import pareto_front
from tuner.config.study import StudyConfig
from tuner.config.trial import AnyTrial
from tuner.errors import StudyFailedError
from tuner.storage.reader import config_of
from tuner.storage.trial_ends import end_of, is_complete, value_of

__all__ = ["FinishedTrials", "foreign_trial", "trial_config"]


class FinishedTrials:
    """Counts the finished trials of a study as they come.

    Only one process changes a study, so they can be counted as they come. Reading all trials after each of thousands
    would take longer and longer.

    Args:
        config: The study.
        trials: The trials that are already finished.

    Attributes:
        complete: How many of them are complete.
        spent: How much of the study's allowance they used; 0 if there is no allowance.
        best: The best complete trial; None if there is none, or there are several objectives.
        front: The Pareto front of several objectives, the best in the first one first; empty with one objective.
    """

    def __init__(self, config: StudyConfig, trials: Iterable[FrozenTrial]) -> None:
        self._config = config
        self._numbers: set[int] = set()
        self.complete = self.spent = 0
        self.best: FrozenTrial | None = None
        self.front: list[FrozenTrial] = []
        for trial in trials:
            self.add(trial)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, number: int) -> bool:
        return number in self._numbers

    def add(self, trial: FrozenTrial) -> None:
        """Count a trial, unless it is counted."""
        if trial.number in self._numbers:
            return
        self._numbers.add(trial.number)
        self.spent += self.cost(trial, end_of(trial).epochs)
        if not is_complete(trial):
            return
        self.complete += 1
        if self._config.further:
            self.front = self._front_of([*self.front, trial])
        else:
            self.best = trial if self.best is None else min(self.best, trial, key=self.rank_of)

    def cost(self, trial: FrozenTrial, epochs: int) -> int:
        """Return how much of the allowance a number of epochs of a trial takes; 0 if there is no allowance."""
        allowance = self._config.allowance
        if allowance is None:
            return 0
        interval = 1
        if allowance.unit == "steps":
            with contextlib.suppress(StudyFailedError):  # another program added it
                interval = trial_config(self._config, trial).epoch_steps
        return allowance.cost(epochs, interval)

    def _front_of(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        by_number = {trial.number: trial for trial in trials}
        directions = [objective.direction for objective in self._config.objectives]
        points = {number: trial.values for number, trial in by_number.items()}
        return [by_number[number] for number in pareto_front(points, directions)]

    def ranking(self, complete: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Return complete trials, best first; with several objectives, the Pareto front first."""
        front = {trial.number for trial in self.front}
        return sorted(complete, key=lambda trial: (trial.number not in front, self.rank_of(trial)))

    def rank_of(self, trial: FrozenTrial) -> tuple[float, int]:
        """Return a key by which complete trials are sorted, best first."""
        return self._rank(cast(float, value_of(trial)), trial.number)

    def may_be_best(self, values: Mapping[int, float]) -> set[int]:
        """Return the trials, of those ending with these values, that might be the best so far.

        At most one; or all with several objectives, because the other values are not known yet.
        """
        if self._config.further:
            return set(values)
        number = min(values, key=lambda number: self._rank(values[number], number), default=None)
        if number is None or (self.best is not None and self._rank(values[number], number) >= self.rank_of(self.best)):
            return set()
        return {number}

    def history(self, trials: Iterable[FrozenTrial]) -> list[tuple[datetime, float | None]]:
        """Return when each finished trial ended, with the best value so far unless there are several objectives.

        Args:
            trials: The trials.
        """
        best: FrozenTrial | None = None
        history = []
        for trial in sorted(trials, key=lambda trial: cast(datetime, trial.datetime_complete)):
            if is_complete(trial) and not self._config.further:
                best = trial if best is None else min(best, trial, key=self.rank_of)
            history.append((cast(datetime, trial.datetime_complete), best.value if best else None))
        return history

    def _rank(self, value: float, number: int) -> tuple[float, int]:
        return self._config.objective.direction.sort_key(value), number


def trial_config(config: StudyConfig, trial: FrozenTrial) -> AnyTrial:
    """Return the configuration that a trial's parameters give.

    Raises:
        StudyFailedError: If they are not of the search space, because another program added the trial.
    """
    try:
        return config_of(config, trial.params)
    except (StudyFailedError, TypeError, ValueError) as error:
        raise foreign_trial(trial.number, error) from error


def foreign_trial(number: int, error: Exception) -> StudyFailedError:
    """Return the error that a trial in the database is not of the study."""
    return StudyFailedError(f"trial #{number} in the database does not belong to this study: {error}")
