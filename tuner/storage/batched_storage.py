"""A study of Optuna in memory, whose changes are written to the database together, in one transaction.

Optuna's own storage writes every parameter, report and attribute in a separate transaction, with several queries
each. Here Optuna's samplers and pruners read and change trials in memory, and `BatchedStorage.together` writes the rows
that changed. They are the rows that Optuna would write, in its tables, so every other program reads them as usual.
"""

import bisect
import copy
import json
import operator
from collections.abc import Callable, Container, Sequence
from datetime import datetime
from typing import Any, NoReturn, TypeVar

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import BindParameter, Connection, bindparam, func, select

from tuner.errors import StudyFailedError
from tuner.storage.trial_rows import Change, row_of, write_changes
from tuner.text import pluralize

__all__ = ["BatchedStorage"]

Result = TypeVar("Result")

STUDIES, TRIALS = models.StudyModel.__table__, models.TrialModel.__table__
IDS: BindParameter[int] = bindparam("ids", expanding=True)
STATES = select(TRIALS.c.state).where(TRIALS.c.trial_id.in_(IDS)).with_for_update()


class _OutdatedError(Exception):
    """Another program has added trials, or ended one that was changed here."""


class BatchedStorage(optuna.storages.BaseStorage):
    """The trials of one study, which only this process changes; other programs may add trials, or end them.

    Everything is read from memory, where trials have their numbers as ids. A change is written at once, or at the end
    of `together`. After an error, nothing of the changes is in memory, though they may be in the database: the next
    change reads it first.

    Args:
        database: The database.
        study_id: The study in it.

    Raises:
        StudyFailedError: If trials are missing in the database.

    Attributes:
        is_together: Whether `together` is collecting changes.
        foreign: How often trials were read that other programs have added or ended.
    """

    def __init__(self, database: optuna.storages.RDBStorage, study_id: int) -> None:
        self._database, self._study_id = database, study_id
        self._name = database.get_study_name_from_id(study_id)
        self._directions = database.get_study_directions(study_id)
        self._trials: list[FrozenTrial] = []  # trials with unwritten changes, by number
        self._stored: list[FrozenTrial] = []  # trials as in the database; they are replaced, never changed
        self._rows: list[int] = []  # the ids of the trials in the database
        self._unfinished: dict[int, None] = {}  # numbers of trials, in their order
        self._changed: set[int] = set()
        self._distributions: dict[str, BaseDistribution] = {}
        self.is_together = self._is_unsure = False
        self.foreign = 0
        self._found: dict[tuple[TrialState, ...], list[FrozenTrial]] = {}  # finished trials by their states
        self._ended: list[int] = []  # numbers of the trials that have ended since they were found
        is_this = STUDIES.c.study_id == study_id, STUDIES.c.study_name == self._name
        self._touch = STUDIES.update().where(*is_this).values(study_name=self._name)
        for trial in sorted(database.get_all_trials(study_id, deepcopy=False), key=lambda trial: trial.number):
            self._append(trial)

    # -- the database --------------------------------------------------------------------------------------------------

    def together(self, action: Callable[[], Result]) -> Result:
        """Call a function, and write all changes that it makes in one transaction.

        Args:
            action: The function. If another program has added trials, or ended one that it changes, they are read, and
                it is called again.

        Raises:
            KeyError: If the study is gone.
        """
        if self.is_together:
            return action()
        while True:
            if self._is_unsure:
                self._read()
            self.is_together = True
            try:
                result = action()
                self._write()
            except _OutdatedError:
                self._forget()
                self._is_unsure = True
            except BaseException:
                self._forget()
                self._is_unsure = True
                raise
            else:
                return result
            finally:
                self.is_together = False

    def doubt(self) -> None:
        """Read the database before the next change, because another process may have changed it."""
        self._is_unsure = True

    def _read(self) -> None:
        """Reread the unfinished trials, and read the added ones.

        Raises:
            KeyError: If the study is gone.
        """
        newest = self._rows[-1] if self._rows else 0
        of_study = TRIALS.c.study_id == self._study_id
        count = select(func.count()).select_from(TRIALS).where(of_study, TRIALS.c.trial_id <= newest)
        study = select(STUDIES.c.study_name, count.scalar_subquery()).where(STUDIES.c.study_id == self._study_id)
        with self._database.engine.connect() as connection:
            if connection.execute(study).one_or_none() != (self._name, len(self._rows)):
                raise KeyError(self._name)
            added = connection.scalars(select(TRIALS.c.trial_id).where(of_study, TRIALS.c.trial_id > newest)).all()
        for number in list(self._unfinished):
            self._set_stored(number, self._database.get_trial(self._rows[number]))
        for trial in sorted(map(self._database.get_trial, added), key=lambda trial: trial.number):
            self._append(trial)
        self._is_unsure = False
        self._found.clear()
        self.foreign += 1

    def _append(self, trial: FrozenTrial) -> None:
        number = len(self._rows)
        if trial.number != number:
            raise StudyFailedError(
                f'the trials of study "{self._name}" in the database are not complete: the next one after '
                f"{pluralize(number, 'trial')} has the number {trial.number} instead of {number}"
            )
        self._rows.append(trial._trial_id)
        self._stored.append(trial)
        self._trials.append(trial)
        self._set_stored(number, trial)
        for name, distribution in trial.distributions.items():
            self._distributions.setdefault(name, distribution)

    def _set_stored(self, number: int, trial: FrozenTrial) -> None:
        trial._trial_id = number
        self._stored[number] = self._trials[number] = trial
        if trial.state.is_finished():
            self._unfinished.pop(number, None)
        else:
            self._unfinished[number] = None

    def _forget(self) -> None:
        """Undo all changes that are not written yet."""
        self._found.clear()
        self._ended.clear()
        del self._trials[len(self._stored) :]
        for number in self._changed:
            self._unfinished.pop(number, None)
            if number < len(self._stored):
                self._set_stored(number, self._stored[number])
        self._changed.clear()

    def _write(self) -> None:
        """Write the changed trials."""
        if not self._changed:
            return
        first, changed = len(self._stored), sorted(self._changed)
        old, new = [number for number in changed if number < first], range(first, len(self._trials))
        with self._database.engine.begin() as connection:
            self._lock(connection)
            self._check_unfinished(connection, old)
            rows = self._create(connection, new)
            changes: list[Change] = [(self._rows[number], self._stored[number], self._trials[number]) for number in old]
            write_changes(connection, changes + [(rows[number], None, self._trials[number]) for number in new])
        self._changed.clear()
        self._rows += [rows[number] for number in new]
        self._stored += self._trials[first:]
        for number in old:
            self._set_stored(number, self._trials[number])

    def _lock(self, connection: Connection) -> None:
        """Keep other programs from adding trials until the transaction ends, in SQLite from writing anything."""
        if not connection.execute(self._touch).rowcount:
            raise KeyError(self._name)

    def _check_unfinished(self, connection: Connection, numbers: Sequence[int]) -> None:
        """Check that the trials are there, and that no other program has ended one, or will in this transaction."""
        if numbers:
            states = connection.scalars(STATES, {"ids": [self._rows[number] for number in numbers]}).all()
            if len(states) < len(numbers):
                raise KeyError(self._name)
            if any(state.is_finished() for state in states):
                raise _OutdatedError

    def _create(self, connection: Connection, numbers: Sequence[int]) -> dict[int, int]:
        """Insert the rows of new trials, and return their ids by number."""
        if not numbers:
            return {}
        connection.execute(
            TRIALS.insert(),
            [{"study_id": self._study_id, "number": number, **row_of(self._trials[number])} for number in numbers],
        )
        of_study = TRIALS.c.study_id == self._study_id
        if connection.execute(select(func.count()).select_from(TRIALS).where(of_study)).scalar() != len(self._trials):
            raise _OutdatedError
        query = select(TRIALS.c.number, TRIALS.c.trial_id).where(of_study, TRIALS.c.number >= numbers[0])
        return {row.number: row.trial_id for row in connection.execute(query)}

    # -- Optuna's interface: trials ------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> list[FrozenTrial]:
        """Return the trials that are running or waiting."""
        return [self._trials[number] for number in sorted(self._unfinished)]

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add a trial, and return its number."""

        def create() -> int:
            if template_trial is None:
                trial = optuna.trial.create_trial(state=TrialState.RUNNING)
                trial.datetime_start = datetime.now()
            else:
                trial = copy.deepcopy(template_trial)
            trial.number = trial._trial_id = len(self._trials)
            self._trials.append(trial)
            self._mark(trial)
            return trial.number

        return self.together(create)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Set a parameter."""
        before = self._distributions.setdefault(param_name, distribution)
        check_distribution_compatibility(before, distribution)
        value = distribution.to_external_repr(param_value_internal)
        self._change(
            trial_id,
            lambda trial: {
                "params": {**trial.params, param_name: value},
                "distributions": {**trial.distributions, param_name: distribution},
            },
        )

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set the state, and the values; return whether the state could be set."""
        if state is TrialState.RUNNING and self._trials[trial_id].state is not TrialState.WAITING:
            return False
        changes: dict[str, Any] = {"state": state}
        if values is not None:
            changes["values"] = list(values)
        if state is TrialState.RUNNING:
            changes["datetime_start"] = datetime.now()
        if state.is_finished():
            changes["datetime_complete"] = datetime.now()
        self._change(trial_id, lambda trial: changes)
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Record a report."""
        self._change(
            trial_id, lambda trial: {"intermediate_values": {**trial.intermediate_values, step: intermediate_value}}
        )

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set a user attribute."""
        self._set_attribute(trial_id, "user_attrs", key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set a system attribute."""
        self._set_attribute(trial_id, "system_attrs", key, value)

    def _set_attribute(self, number: int, kind: str, key: str, value: Any) -> None:
        value = json.loads(json.dumps(value))  # the value that the database will return
        self._change(number, lambda trial: {kind: {**getattr(trial, kind), key: value}})

    def _change(self, number: int, changes: Callable[[FrozenTrial], dict[str, Any]]) -> None:
        def change() -> None:
            trial = copy.copy(self._trials[number])
            self.check_trial_is_updatable(number, trial.state)
            for name, value in changes(trial).items():
                setattr(trial, name, value)
            self._trials[number] = trial
            self._mark(trial)

        self.together(change)

    def _mark(self, trial: FrozenTrial) -> None:
        self._changed.add(trial.number)
        if trial.state.is_finished():
            self._unfinished.pop(trial.number, None)
            self._ended.append(trial.number)
        else:
            self._unfinished[trial.number] = None

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a trial. Optuna changes the contents of the one that it gets."""
        trial = copy.copy(self._trials[trial_id])
        for field in ("params", "distributions", "user_attrs", "system_attrs", "intermediate_values"):
            setattr(trial, field, dict(getattr(trial, field)))
        return trial

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials in the given states, or all, in the order of their numbers."""
        if states is None:
            trials = list(self._trials)
        else:
            trials = self._finished_in(states)
            for trial in self.unfinished:
                if trial.state in states:
                    bisect.insort(trials, trial, key=operator.attrgetter("number"))
        return copy.deepcopy(trials) if deepcopy else trials

    def _finished_in(self, states: Container[TrialState]) -> list[FrozenTrial]:
        """Return the finished trials in these states: all are read once, and later those that have ended since."""
        for trial in map(self._trials.__getitem__, self._ended):
            for among, found in self._found.items():
                if trial.state in among:
                    bisect.insort(found, trial, key=operator.attrgetter("number"))
        self._ended.clear()
        ended = tuple(state for state in TrialState if state.is_finished() and state in states)
        if ended not in self._found:
            self._found[ended] = [trial for trial in self._trials if trial.state in ended]
        return list(self._found[ended])

    # -- Optuna's interface: the study ---------------------------------------------------------------------------------

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the id of the study in the database."""
        return self._database.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """Return the name."""
        return self._name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return the directions."""
        return list(self._directions)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Read the user attributes."""
        return self._database.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Read the system attributes."""
        return self._database.get_study_system_attrs(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set a user attribute, at once."""
        self._database.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set a system attribute, at once."""
        self._database.set_study_system_attr(study_id, key, value)

    def get_all_studies(self) -> list[Any]:
        """Return this study, and the others of the database."""
        return self._database.get_all_studies()

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> NoReturn:
        """Not available: this storage has one study."""
        raise NotImplementedError

    def delete_study(self, study_id: int) -> NoReturn:
        """Not available: the study is held."""
        raise NotImplementedError
