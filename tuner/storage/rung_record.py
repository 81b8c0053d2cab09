"""The rungs of a study, as the attributes of its trials record them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optuna.trial import FrozenTrial

from tuner.config.rungs import Rungs
from tuner.direction import Direction
from tuner.search.rungs import Entry, continues, decided
from tuner.storage.trial_ends import attribute

__all__ = ["RUNGS", "RungRecord", "judged_of"]

RUNGS = "rungs"
"""Attribute of a study: its rungs; and of a trial: where it was compared, and how many rungs it has passed."""


@dataclass(frozen=True)
class RungRecord:
    """Decides which trials continue at rungs.

    Args:
        rungs: The rungs.
        direction: Direction of the objective.
    """

    rungs: Rungs
    direction: Direction

    def judge(
        self, trial: FrozenTrial, epoch: int, others: Iterable[FrozenTrial]
    ) -> tuple[Literal["continue", "prune", "pause"], Mapping[str, Any]]:
        """Return what happens to a trial after an epoch, and its new attribute; empty if unchanged.

        Args:
            trial: The trial, whose value after the epoch is recorded.
            epoch: The epoch.
            others: All other trials.
        """
        judged, passed = judged_of(trial), _passed(trial)
        if not self.rungs.is_due(trial.number, judged, epoch):
            return "continue", {}
        if epoch in judged:  # the epoch is repeated after a kill
            if judged.index(epoch) < passed or max(trial.intermediate_values) > epoch:
                return "continue", {}
        else:
            judged = [*judged, epoch]
        changed = {"judged": judged, "passed": passed}
        if self.rungs.waits(trial.number):
            return "pause", changed
        entry = Entry(trial.number, self._losses(trial), judged)
        return "continue" if continues(self.rungs, entry, map(self._entry, others)) else "prune", changed

    def decided(self, trials: Iterable[FrozenTrial]) -> tuple[set[int], set[int]]:
        """Return which of the first trials continue from their last rung, and which do not."""
        first = [trial for trial in trials if self.rungs.waits(trial.number)]
        if len(first) < self.rungs.starts:
            return set(), set()
        return decided(self.rungs, map(self._entry, first))

    def passing(self, trial: FrozenTrial) -> Mapping[str, Any]:
        """Return the attribute of a trial that continues from its last rung."""
        judged = judged_of(trial)
        return {"judged": judged, "passed": len(judged)}

    def _entry(self, trial: FrozenTrial) -> Entry:
        return Entry(trial.number, self._losses(trial), judged_of(trial), trial.state.is_finished())

    def _losses(self, trial: FrozenTrial) -> dict[int, float]:
        return {epoch: self.direction.sort_key(value) for epoch, value in trial.intermediate_values.items()}


def judged_of(trial: FrozenTrial) -> list[int]:
    """Return the epochs after which a trial was compared."""
    stored: dict[str, Any] = attribute(trial.user_attrs, RUNGS, {})
    return attribute(stored, "judged", [])


def _passed(trial: FrozenTrial) -> int:
    stored: dict[str, Any] = attribute(trial.user_attrs, RUNGS, {})
    return attribute(stored, "passed", 0)
