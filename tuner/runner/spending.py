"""The number of trials that the budget still allows.

With a budget in epochs or steps, every trial reserves a full run when it begins, and gives back what it did not use
when it ends. A trial begins only if its reservation fits into what is left, so the budget is never exceeded, and which
trials begin does not depend on when a study was interrupted. If the study ends because little can be gained, the
interrupted trials are still finished.
"""

from tuner.config.study import StudyConfig
from tuner.protocol import Assignment
from tuner.runner.trial_queue import TrialQueue
from tuner.storage.study_store import StudyStore

__all__ = ["Spending"]


class Spending:
    """The budget of a study, and what its trials have used or reserved.

    Args:
        config: The study.
        store: The study in Optuna.
        queue: The trials that have begun.
    """

    def __init__(self, config: StudyConfig, store: StudyStore, queue: TrialQueue) -> None:
        self._config, self._store, self._queue = config, store, queue
        self._interrupted: dict[int, int] = {}  # reservation of each interrupted trial, by its number

    def begin(self) -> None:
        """Read which trials were interrupted in an earlier run."""
        if self._config.allowance or self._config.until:
            self._interrupted = self._store.reserved()

    def asked(self, number: int) -> None:
        """Remove a trial from the interrupted ones, if it is among them."""
        self._interrupted.pop(number, None)

    def suspended(self, assignment: Assignment) -> None:
        """Keep the reservation of a trial that was interrupted."""
        self._interrupted[assignment.number] = self._config.whole(assignment.config)

    @property
    def unasked(self) -> int:
        """Return how many trials, interrupted or new, may be asked for now."""
        trials = self._config.trials - self._store.count - len(self._queue) - len(self._store.paused)
        allowance = self._config.allowance
        if self.is_exhausted:
            trials = min(trials, len(self._interrupted))
        if allowance is None:
            return trials
        reserved = sum(self._config.whole(assignment.config) for assignment in self._queue.assignments)
        left = allowance.amount - self._store.spent - reserved
        again = 0
        for number in sorted(self._interrupted):  # Optuna returns them in this order, before any new trial
            left -= self._interrupted[number]
            if left < 0:
                return min(trials, again)
            again += 1
        return min(trials, again + left // allowance.longest)

    @property
    def is_exhausted(self) -> bool:
        """Return whether the expected gain is below the threshold of the study."""
        return bool(self._config.until) and self._store.possible_gain() < self._config.until

    @property
    def is_over(self) -> bool:
        """Return whether no trial is left, and none is running."""
        if self._config.allowance is None and not self.is_exhausted:
            return self._store.count >= self._config.trials
        return not self._queue and self.unasked <= 0
