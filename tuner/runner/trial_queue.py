"""The trials that the coordinator has asked for: those waiting for a slot are grouped to be trained together."""

from collections.abc import Callable, Iterable

from tuner.protocol import Assignment
from tuner.runner.group_size import alike

__all__ = ["TrialQueue"]


class TrialQueue:
    """Trials that have begun and are not finished, in the order in which they are given to slots."""

    def __init__(self) -> None:
        self._begun: dict[int, Assignment] = {}
        self._waiting: list[Assignment] = []

    def __len__(self) -> int:
        return len(self._begun)

    @property
    def assignments(self) -> list[Assignment]:
        """All trials, waiting or with a slot."""
        return list(self._begun.values())

    @property
    def first(self) -> Assignment | None:
        """The trial that has waited longest; None if none waits."""
        return self._waiting[0] if self._waiting else None

    def lacks(self, unasked: int, size: int, slots: int) -> int:
        """Return how many trials to ask for, so that a full group waits.

        Towards the end of a study, each slot gets its share of the trials that are left.

        Args:
            unasked: Number of trials that the study can still ask for.
            size: Number of trials that a slot trains at a time.
            slots: Number of slots.
        """
        waiting = len(self._waiting)
        share = -(-(unasked + waiting) // slots)
        return max(0, min(unasked, min(size, share) - waiting))

    def add(self, assignment: Assignment) -> None:
        """Append a trial that was just asked for."""
        self._begun[assignment.number] = assignment
        self._waiting.append(assignment)

    def take(self, size: int, is_suspect: Callable[[int], bool]) -> tuple[Assignment, ...]:
        """Remove the next trials to train together from the waiting ones.

        Args:
            size: Largest number.
            is_suspect: Returns whether the trial of a number has killed its process more than once. Such a trial goes
                first and alone, so that it kills no others.
        """
        suspects = [each for each in self._waiting if is_suspect(each.number)]
        if suspects:
            group = suspects[:1]
        else:
            group = [each for each in self._waiting if alike(each.config, self._waiting[0].config)][:size]
        taken = {each.number for each in group}
        self._waiting = [each for each in self._waiting if each.number not in taken]
        return tuple(group)

    def put_back(self, assignments: Iterable[Assignment]) -> None:
        """Put trials back in front of the waiting ones: no work was done on them."""
        self._waiting = [*assignments, *self._waiting]

    def remove(self, number: int) -> None:
        """Remove a trial that is finished, or goes back to the store, if it is there."""
        self._waiting = [each for each in self._waiting if each.number != number]
        self._begun.pop(number, None)
