"""The Optuna study, opened under a lock: `ask` for trials, `report` epochs, `finish` trials.

An interrupted trial keeps its number. It goes back to WAITING with its parameters and reports, and Optuna's own queue
hands it out again, so a study of N trials has N rows however often it was killed.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Concatenate, Literal, ParamSpec, Self, TypeVar, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.analysis.record import StudyRecord, TestResult
from tuner.config import by_value
from tuner.config.component import Component
from tuner.config.rungs import Rungs
from tuner.config.sampler_options import PRUNERS, SAMPLERS
from tuner.config.sources import Sources, with_sources
from tuner.config.study import StudyConfig
from tuner.config.trial import TrialConfig
from tuner.errors import BadInputError, StudyFailedError
from tuner.files import DiskFullError, write_atomically
from tuner.storage.attributes import (
    ANSWER,
    ATTEMPT,
    GAIN,
    IDENTIFIER,
    IDENTITY,
    SOURCES,
    STARTS,
    TEST,
    TRIALS,
    VALIDATION_IMAGES,
)
from tuner.storage.batched_storage import BatchedStorage
from tuner.storage.connection import count_trials
from tuner.storage.database import Database, state_directory, trial_directory
from tuner.storage.feasible_draws import feasible_params
from tuner.storage.folders import OBJECTS_FILE
from tuner.storage.possible_gain import is_due, possible_gain
from tuner.storage.reader import config_of, identifier_of, record_of, test_of
from tuner.storage.rung_record import RUNGS, RungRecord, judged_of
from tuner.storage.samplers import make_pruner, make_sampler
from tuner.storage.trial_ends import attribute, end_of
from tuner.text import pluralize
from tuner.urls import without_password

__all__ = ["DEFINITION_FILE", "FOLDER_FILE", "StudyStore", "as_begun", "check_continued"]

DEFINITION_FILE = "study.yaml"
FOLDER_FILE = "folder"

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def _retrying(
    method: Callable[Concatenate["StudyStore", Parameters], Result],
) -> Callable[Concatenate["StudyStore", Parameters], Result]:
    """Wrap a method in `Database.retry_while_unavailable`, and say if the study was deleted."""

    @functools.wraps(method)
    def call(store: "StudyStore", /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return store.database.retry_while_unavailable(lambda: method(store, *args, **kwargs))
        except KeyError:
            store.check_not_deleted()
            raise

    return call


def _together(
    method: Callable[Concatenate["StudyStore", Parameters], Result],
) -> Callable[Concatenate["StudyStore", Parameters], Result]:
    """Wrap a method in `StudyStore.together`."""

    @functools.wraps(method)
    def call(store: "StudyStore", /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return store.together(lambda: method(store, *args, **kwargs))

    return call


class StudyStore:
    """A study in Optuna's storage, locked by this process.

    Each change is written in a transaction of its own, or, within `together`, in one with the others.

    Attributes:
        database: The database that holds it.
        directory: Folder of the lock, the checkpoints and the results.
        identifier: Unique identifier, which differs from that of a study of the same name in another database.
    """

    def __init__(self, study: optuna.Study, database: Database, config: StudyConfig) -> None:
        self.database = database
        self.directory = state_directory(database.url, config.name)
        self.identifier = identifier_of(study)
        self._trials = BatchedStorage(database.storage, study._study_id)
        self._study = optuna.load_study(
            study_name=config.name, storage=self._trials, sampler=study.sampler, pruner=study.pruner
        )
        self._config = config
        self._prunes = not isinstance(study.pruner, optuna.pruners.NopPruner)
        self._asked: set[int] = set()
        self._rungs = RungRecord(config.rungs, config.objective.direction) if config.rungs else None
        self._paused: dict[int, int] = {}  # how much of the allowance each trial that waits at a rung has used
        # Cached, because only this process changes the study: reading all trials after each of thousands of trials
        # would take longer and longer.
        self._gain: tuple[float, int] | None = None  # and the number of complete trials that it was computed from
        self._count_all()

    def _count_all(self) -> None:
        self._foreign = self._trials.foreign
        self._finished: set[int] = set()
        self._spent = self._complete = 0
        for trial in self.finished():
            self._add(trial)
        self._paused = {number: used for number, used in self._paused.items() if number not in self._finished}
        self._best = next(iter(self.ranking()), None)

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        config: StudyConfig,
        url: str,
        identity: Mapping[str, Any],
        note: Callable[[str], None],
        retry_failed: bool = False,
    ) -> Iterator[Self]:
        """Create or reopen a study, under its lock.

        Args:
            config: The study.
            url: SQLAlchemy URL of Optuna's database.
            identity: The settings that may not change when a study is continued, by dotted paths.
            note: Called with messages for the user.
            retry_failed: Whether to put failed trials back into the queue, under their numbers.

        Raises:
            StudyRunningError: If another process has the lock.
            BadInputError: If the study was begun with another identity, or there is no such database.
            StudyFailedError: If the database cannot be used.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        database = Database(url, config.name, note)
        with database.hold():
            study, repeats = database.retry_while_unavailable(lambda: _begun(database, config, identity, retry_failed))
            if repeats:
                note(
                    f"{pluralize(repeats, 'trial')} of this grid, begun by an earlier version, had the same values as "
                    "others. No further one will have; to train every point, give the study a new name"
                )
            yield database.retry_while_unavailable(lambda: cls(study, database, _as_begun(config, study.user_attrs)))

    @_retrying
    def together(self, action: Callable[[], Result]) -> Result:
        """Call a function, and write what it changes in the study in one transaction at its end.

        Args:
            action: The function. It is called again if the database was away, or another program has added trials.
        """
        if self._trials.is_together:
            return action()
        asked, paused = set(self._asked), dict(self._paused)

        def attempt() -> Result:
            self._asked, self._paused = set(asked), dict(paused)
            if self._foreign != self._trials.foreign:
                self._count_all()
            return action()

        try:
            return self._trials.together(attempt)
        except BaseException:
            self._asked, self._paused = asked, paused
            raise

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in the given states, or all, in the order of their numbers."""
        return self._study.get_trials(deepcopy=False, states=states or None)

    def trial(self, number: int) -> FrozenTrial:
        """Return a trial as it is stored."""
        return self._trials.get_trial(number)

    def finished(self) -> list[FrozenTrial]:
        """Return the complete, pruned and failed trials."""
        return self.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

    @property
    def cut_short(self) -> int:
        """Return the number of interrupted trials, which will be continued."""
        return len(self.trials(TrialState.WAITING))

    @property
    def count(self) -> int:
        """Return the number of finished trials."""
        return len(self._finished)

    @property
    def spent(self) -> int:
        """Return how much of the study's allowance was used, except by running trials; 0 if there is no allowance."""
        return self._spent + sum(self._paused.values())

    @_retrying
    def possible_gain(self) -> float:
        """Return by how much the next trial is expected to be better; infinity if that is unknown.

        It is stored, so that a study that has ended by it stays so.
        """
        if self._gain is None:
            stored: dict[str, Any] = attribute(self._study.user_attrs, GAIN, {})
            self._gain = attribute(stored, "gain", math.inf), attribute(stored, "complete", 0)
        if self._config.sampler.name == "curve" and is_due(self._complete, self._gain[1]):
            gain = possible_gain(self._config, self._study)
            self._study.set_user_attr(GAIN, {"gain": gain, "complete": self._complete})
            self._gain = gain, self._complete
        return self._gain[0]

    def reserved(self) -> dict[int, int]:
        """Return how much of the allowance each interrupted trial has reserved, by its number."""
        longest = self._config.allowance.longest if self._config.allowance else 0
        reserved = {}
        for trial in self.trials(TrialState.WAITING):
            try:
                reserved[trial.number] = self._config.whole(self.config_of(trial))
            except StudyFailedError:  # it was interrupted before it had all of its parameters
                reserved[trial.number] = longest
        return reserved

    def _add(self, trial: FrozenTrial) -> None:
        """Count a finished trial."""
        if trial.number in self._finished:
            return
        self._finished.add(trial.number)
        self._complete += trial.state is TrialState.COMPLETE
        self._spent += self._cost(trial, end_of(trial).epochs)

    def _cost(self, trial: FrozenTrial, epochs: int) -> int:
        """Return how much of the allowance a number of epochs of a trial takes; 0 if there is no allowance."""
        allowance = self._config.allowance
        if allowance is None:
            return 0
        interval = 1
        if allowance.unit == "steps":
            with contextlib.suppress(StudyFailedError):  # another program added it
                interval = self.config_of(trial).trainer.val_check_interval
        return allowance.cost(epochs, interval)

    @property
    def has_result(self) -> bool:
        """Return whether any trial is complete."""
        return bool(self.trials(TrialState.COMPLETE))

    @property
    def best(self) -> FrozenTrial | None:
        """Return the best complete trial."""
        return self._best

    def kept_numbers(self) -> set[int]:
        """Return the finished trials whose weights may still be needed."""
        return {self._best.number} if self._best else set()

    def may_keep_weights(self, values: Mapping[int, float]) -> set[int]:
        """Return the trials, of those that end with these values, whose weights may be needed."""
        best = min(values, key=lambda number: self._rank(values[number], number), default=None)
        return {best} if best is not None and self._would_be_best(best, values[best]) else set()

    def ranking(self) -> list[FrozenTrial]:
        """Return the complete trials, best first."""
        return sorted(self.trials(TrialState.COMPLETE), key=self._rank_of)

    @property
    def best_value(self) -> float | None:
        """Return the value of the best trial."""
        return self.best.value if self.best else None

    def history(self) -> list[tuple[datetime, float | None]]:
        """Return when each finished trial ended, with the best value so far."""
        best: FrozenTrial | None = None
        history = []
        for trial in sorted(self.finished(), key=lambda trial: cast(datetime, trial.datetime_complete)):
            if trial.state is TrialState.COMPLETE:
                best = trial if best is None else min(best, trial, key=self._rank_of)
            history.append((cast(datetime, trial.datetime_complete), best.value if best else None))
        return history

    def _would_be_best(self, number: int, value: float) -> bool:
        return self._best is None or self._rank(value, number) < self._rank_of(self._best)

    def _rank_of(self, trial: FrozenTrial) -> tuple[float, int]:
        return self._rank(cast(float, trial.value), trial.number)

    def _rank(self, value: float, number: int) -> tuple[float, int]:
        return self._config.objective.direction.sort_key(value), number

    def trial_directory(self, number: int) -> Path:
        """Return the folder of a trial's checkpoints, result and output."""
        return trial_directory(self.database.url, self._config.name, self.identifier, number)

    def check_not_deleted(self) -> None:
        """Check that the study is still in the database.

        Raises:
            StudyFailedError: If another program deleted it.
        """
        name, where = self._config.name, without_password(self.database.url)
        with contextlib.suppress(KeyError):
            attributes = self.database.storage.get_study_user_attrs(self._study._study_id)
            if attributes.get(IDENTIFIER) == self.identifier:
                return
        raise StudyFailedError(f'study "{name}" was deleted from {where} while it ran; run the command again')

    def config_of(self, trial: FrozenTrial) -> TrialConfig:
        """Return the configuration that a trial's parameters give.

        Raises:
            StudyFailedError: If they are not of the search space, because another program added the trial.
        """
        try:
            return config_of(self._config, trial.params)
        except (StudyFailedError, TypeError, ValueError) as error:
            raise _foreign(trial.number, error) from error

    @_together
    def ask(self) -> tuple[int, TrialConfig]:
        """Return the next trial and its configuration: an interrupted one if there is any, else a new one."""
        waiting = []
        for trial in self._trials.unfinished:
            # Asked for in an earlier call, during which the database went away.
            if trial.state is TrialState.RUNNING and trial.number not in self._asked | self._paused.keys():
                self.suspend(trial.number)
            if trial.number not in self._asked | self._paused.keys():
                waiting.append(trial.number)
        number = min(waiting, default=len(self.trials()))
        self._study.sampler = make_sampler(self._config, number, before=self._study.sampler)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if not waiting:
                self._study.enqueue_trial(self._fixed(number))
            asked = self._study.ask()
        try:
            if waiting:
                self._resample(asked, self.trial(asked.number))
            if self._config.constraints:
                asked = self._constrained(asked)
            config = self._config.suggest(asked)
        except ValueError as error:  # from Optuna, if the stored parameters do not fit this search space
            raise _foreign(asked.number, error) from error
        self._asked.add(asked.number)
        return asked.number, config

    def _fixed(self, number: int) -> dict[str, Any]:
        """Return the fixed values of a new trial."""
        trials = self.trials()
        fixed = self._config.fixed(number, (trial.params for trial in trials))
        if not self._config.first.further:
            return fixed
        drawn = [{**trial.system_attrs.get("fixed_params", {}), **trial.params} for trial in trials]
        return {**fixed, **self._config.first.next_further(number, drawn)}

    def _constrained(self, asked: optuna.Trial) -> optuna.Trial:
        """Return an asked trial with fixed values that satisfy the constraints."""
        params = feasible_params(self._config, self._study, asked, self.trial(asked.number))
        self._trials.set_trial_system_attr(asked._trial_id, "fixed_params", params)
        return optuna.Trial(self._study, asked._trial_id)

    def _resample(self, asked: optuna.Trial, trial: FrozenTrial) -> None:
        """Sample the parameters that a trial already has, to bring the sampler's random numbers to where they were.

        The stored values stay. This matters only if the trial was interrupted before it had all of its parameters.
        """
        given = {*asked.relative_params, *trial.system_attrs.get("fixed_params", {})}
        for name, distribution in trial.distributions.items():
            if name not in given and not distribution.single():
                self._study.sampler.sample_independent(self._study, trial, name, distribution)

    def attempt(self, number: int) -> int:
        """Return how many times a failed trial was retried."""
        return attribute(self.trial(number).user_attrs, ATTEMPT, 0)

    @_together
    def report(self, number: int, epoch: int, value: float, may_prune: bool) -> Literal["continue", "prune", "pause"]:
        """Record an epoch of an asked trial and return what becomes of it.

        An epoch that is repeated after a kill is not recorded twice. The pruner judges a trial by its last report, so
        of the repeated epochs only the last one asks it. A trial that another program has ended meanwhile is pruned.
        """
        reported = self.trial(number).intermediate_values
        if epoch not in reported:
            try:
                self._trials.set_trial_intermediate_value(number, epoch, float(value))
            except optuna.exceptions.UpdateFinishedTrialError:
                return "prune"
        if self._rungs:
            if not may_prune or not self._rungs.rungs.is_due(number, judged_of(self.trial(number)), epoch):
                return "continue"
            others = (each for each in self.trials() if each.number != number)
            decision, changed = self._rungs.judge(self.trial(number), epoch, others)
            if changed:
                self.set_attribute(number, RUNGS, changed)
            return decision
        is_asked = self._prunes and may_prune and epoch == max([*reported, epoch])
        return "prune" if is_asked and self._study.pruner.prune(self._study, self.trial(number)) else "continue"

    @property
    def paused(self) -> set[int]:
        """Return the trials that wait at a rung."""
        return set(self._paused)

    def pause(self, number: int) -> None:
        """Let a trial wait at a rung; to Optuna, it is running."""
        trial = self.trial(number)
        self._paused[number] = self._cost(trial, max(trial.intermediate_values, default=0))

    def decided(self) -> tuple[set[int], set[int]]:
        """Return which of the trials that wait at a rung continue, and which do not, as far as that is known."""
        if not self._rungs or not self._paused:
            return set(), set()
        continuing, out = self._rungs.decided(self.trials())
        return continuing & self._paused.keys(), out & self._paused.keys()

    def resume(self, number: int) -> None:
        """Put a trial that has passed its rung back into the queue."""
        if self._rungs:
            self.set_attribute(number, RUNGS, self._rungs.passing(self.trial(number)))
        self.suspend(number)

    @_together
    def finish(self, number: int, state: TrialState, value: float | None, attributes: Mapping[str, Any]) -> None:
        """Set the final state of a trial; a finished trial keeps the state it has."""
        if not self.trial(number).state.is_finished():
            for key, content in attributes.items():
                self.set_attribute(number, key, content)
            self._study.tell(number, value if state is TrialState.COMPLETE else None, state)
        self._asked.discard(number)
        self._paused.pop(number, None)
        self._count(self.trial(number))

    def _count(self, trial: FrozenTrial) -> None:
        self._add(trial)
        if trial.state is TrialState.COMPLETE and self._would_be_best(trial.number, cast(float, trial.value)):
            self._best = trial

    @_together
    def suspend(self, number: int) -> None:
        """Put a trial back into the queue, with its number, parameters and reports."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # another program has ended it
            self._trials.set_trial_state_values(number, TrialState.WAITING)
        self._asked.discard(number)
        self._paused.pop(number, None)

    @_together
    def suspend_running(self) -> None:
        """Put the running trials, whose processes are gone, back into the queue."""
        for trial in self.trials(TrialState.RUNNING):
            self.suspend(trial.number)

    @_together
    def set_attribute(self, number: int, key: str, value: Any) -> None:
        """Set an attribute of an unfinished trial; one that another program has ended stays as it is."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._trials.set_trial_user_attr(number, key, value)

    @_retrying
    def record(self) -> StudyRecord:
        """Return the finished trials as plain data, without curves."""
        return record_of(self._study)

    def keep_definition(self) -> None:
        """Save the study's definition and the folder of its modules, so that it can be read by its name alone.

        Raises:
            StudyFailedError: If the disk is full.
        """
        files = {}
        if self._config.values:
            files[DEFINITION_FILE] = json.dumps(self._config.values, ensure_ascii=False, indent=1).encode()
        if (own := self._config.folder) is not None:
            own, here = own.resolve(), self.directory.parent.parent.resolve()  # relative, so both can move together
            files[FOLDER_FILE] = os.fsencode(own.relative_to(here) if own.is_relative_to(here) else own)
        if held := self._config.held:
            files[OBJECTS_FILE] = by_value.pack(held)
        try:
            for name, content in files.items():
                write_atomically(self.directory / name, functools.partial(_write, content=content))
        except DiskFullError as error:
            raise StudyFailedError(f"the disk is full: {error}") from error

    @_retrying
    def set_answer(self, sentences: Sequence[str]) -> None:
        """Record what the last trainings, with fresh seeds, said."""
        self._study.set_user_attr(ANSWER, {"sentences": list(sentences), "trials": self.count})

    @_retrying
    def answer(self) -> dict[str, Any]:
        """Return what the last trainings said, as it is stored; empty if there were none."""
        return attribute(self._study.user_attrs, ANSWER, {})

    @_retrying
    def set_trials(self) -> None:
        """Record the number of trials that are asked for; 0 if the budget limits their training instead."""
        self._study.set_user_attr(TRIALS, 0 if self._config.allowance else self._config.trials)

    @_retrying
    def set_validation_images(self, number: int | None) -> None:
        """Record the number of validation images."""
        self._study.set_user_attr(VALIDATION_IMAGES, number)

    @_retrying
    def set_sources(self, commit: str, files: Mapping[str, str]) -> str:
        """Record the sources used from now on, and return a note for the user if they changed; empty otherwise.

        Args:
            commit: The commit of the working folder; empty if there is none.
            files: Digests of the files that define the study's own modules.
        """
        before = self._study.user_attrs.get(SOURCES)
        history, note = with_sources(before, Sources(len(self.trials()), commit, files))
        if history != before:
            self._study.set_user_attr(SOURCES, history)
        begun = len(self.trials()) - self.count
        return f"{note}, and so may the {pluralize(begun, 'trial')} begun before" if note and begun else note

    @_retrying
    def validation_images(self) -> int | None:
        """Return the number of validation images, if it is known."""
        return attribute(self._study.user_attrs, VALIDATION_IMAGES, 0) or None

    @_retrying
    def tested(self) -> TestResult | None:
        """Return the last test result; None if there was no test."""
        return test_of(self._study)

    @_retrying
    def set_tested(self, test: TestResult) -> None:
        """Record a test result."""
        self._study.set_user_attr(TEST, dataclasses.asdict(test))


def _foreign(number: int, error: Exception) -> StudyFailedError:
    return StudyFailedError(f"trial #{number} in the database does not belong to this study: {error}")


def _write(file: IO[bytes], content: bytes) -> None:
    file.write(content)


def _begun(
    database: Database, config: StudyConfig, identity: Mapping[str, Any], retry_failed: bool
) -> tuple[optuna.Study, int]:
    """Create or load a study; return it, and how many of its trials repeat others. Idempotent, so it can be retried."""
    _check_identity(database.storage, database.url, config, identity)
    if config.name not in optuna.get_all_study_names(database.storage):
        database.storage.remove_lost_trials()
    study = optuna.create_study(
        storage=database.storage,
        study_name=config.name,
        direction=config.objective.direction.value,
        sampler=make_sampler(config, 0),
        pruner=make_pruner(config),
        load_if_exists=True,
    )
    study.set_user_attr(IDENTITY, dict(identity))
    if config.has_read and STARTS not in study.user_attrs:  # later changes of the other studies do not count
        study.set_user_attr(STARTS, [dict(params) for params in config.first.earlier])
    if config.rungs and RUNGS not in study.user_attrs:  # they depend on the budget, which may change
        study.set_user_attr(RUNGS, dataclasses.asdict(config.rungs))
    if IDENTIFIER not in study.user_attrs:
        study.set_user_attr(IDENTIFIER, uuid.uuid4().hex)
    if retry_failed:
        identifier = identifier_of(study)

        def forget(number: int) -> None:
            directory = trial_directory(database.url, config.name, identifier, number)
            (directory / "result.json").unlink(missing_ok=True)  # else the failure would be recorded again

        database.storage.reopen_failed(study._study_id, forget)
    grid = study.get_trials(deepcopy=False) if config.sampler.name == "grid" else []
    return study, config.repeats(trial.params for trial in grid)


def as_begun(config: StudyConfig, url: str) -> StudyConfig:
    """Return a study as it began, if it has begun.

    It has the rungs and the values of earlier studies that were recorded then and, if its file names none, the sampler
    and the pruner that were the default then.

    Args:
        config: The study.
        url: URL of Optuna's database.
    """
    Database.check(url, config.name)
    with Database.open_readonly(url) as storage:
        if storage is None:
            return config
        try:
            study = storage.get_study_id_from_name(config.name)
        except KeyError:
            return config
        return _as_begun(config, storage.get_study_user_attrs(study))


def _as_begun(config: StudyConfig, attributes: Mapping[str, Any]) -> StudyConfig:
    identity: dict[str, Any] = attribute(attributes, IDENTITY, {})
    sampler = _default_then(config, "sampler", config.sampler, SAMPLERS, identity)
    pruner = _default_then(config, "pruner", config.pruner, PRUNERS, identity)
    names = {"sampler.name": sampler.name, "pruner.name": pruner.name}
    if (sampler, pruner) != (config.sampler, config.pruner):
        config = dataclasses.replace(config, sampler=sampler, pruner=pruner, identity={**config.identity, **names})
    if config.pruner.name == "rungs":
        rungs: dict[str, Any] = attribute(attributes, RUNGS, {})
        config = dataclasses.replace(config, rungs=Rungs(**rungs) if rungs else config.rungs)
    else:
        config = dataclasses.replace(config, rungs=None)
    starts: list[dict[str, Any]] = attribute(attributes, STARTS, [])
    return config.with_earlier(starts) if config.start and STARTS in attributes else config


def _default_then(
    config: StudyConfig, kind: str, now: Component, known: Mapping[str, Any], identity: Mapping[str, Any]
) -> Component:
    """Return the sampler or the pruner of a study that began with an identity; of another only if its file names it."""
    before = {key.partition(".")[2]: value for key, value in identity.items() if key.startswith(f"{kind}.")}
    name = before.pop("name", None)
    if kind not in config.implied or name not in known or before != dict(now.arguments):
        return now
    return Component(name, before)


def check_continued(config: StudyConfig, url: str, identity: Mapping[str, Any]) -> int:
    """Return the number of trials of a study, without changing anything; 0 if it has not begun.

    Raises:
        BadInputError: If it was begun with another identity or by another program, or cannot be written.
    """
    Database.check(url, config.name)
    with Database.open_readonly(url) as storage:
        return 0 if storage is None else _check_identity(storage, url, config, identity)


def _check_identity(
    storage: optuna.storages.RDBStorage, url: str, config: StudyConfig, identity: Mapping[str, Any]
) -> int:
    """Refuse a study that was begun with another identity or by another program; return its number of trials."""
    try:
        study = storage.get_study_id_from_name(config.name)
    except KeyError:
        return 0
    attributes, trials = storage.get_study_user_attrs(study), count_trials(storage, study)
    if IDENTITY in attributes:
        _compare(attributes[IDENTITY], identity, config)
        return trials
    # A study without trials may come from a run that was killed just after it had created it.
    is_new = not trials and not attributes.keys() & {IDENTIFIER, TEST, VALIDATION_IMAGES}
    direction = optuna.study.StudyDirection[config.objective.direction.name]
    if not is_new or storage.get_study_directions(study) != [direction]:
        raise BadInputError(
            [
                f'{without_password(url)} has a study "{config.name}" that is not the tuner\'s. '
                f"Give this one another name ({config.RENAMING})."
            ]
        )
    return trials


def _compare(before: Any, now: Mapping[str, Any], config: StudyConfig) -> None:
    if not isinstance(before, Mapping):
        raise StudyFailedError(f'the identity of study "{config.name}" in the database was changed.')
    if difference := config.difference_from(before):
        raise BadInputError([difference])
    now = json.loads(json.dumps(dict(now)))
    changes = [
        f"  {key}: was {json.dumps(before[key]) if key in before else 'not given'}, "
        f"now {json.dumps(now[key]) if key in now else 'not given'}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changes:
        raise BadInputError(
            [
                f'study "{config.name}" was started with other settings:',
                *changes,
                f"Put them back, or give the study a new name ({config.RENAMING}). "
                "The number of trials, the time and the devices may change.",
            ]
        )
