"""The Optuna study, opened under a lock: `ask` for trials, `report` epochs, `finish` trials.

An interrupted trial keeps its number. It goes back to WAITING with its parameters and reports, and Optuna's own queue
hands it out again, so a study of N trials has N rows however often it was killed.
"""

import contextlib
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.analysis.comparison import Comparison
from tuner.analysis.findings import answer, findings
from tuner.analysis.record import StudyRecord
from tuner.config.study import StudyConfig
from tuner.config.trial import AnyTrial
from tuner.errors import StudyFailedError
from tuner.storage.attributes import ADDED, ATTEMPT, GAIN, IDENTIFIER, PARTS
from tuner.storage.batched_storage import BatchedStorage
from tuner.storage.continuation import as_recorded, create_or_load
from tuner.storage.database import Database, state_directory, trial_directory
from tuner.storage.finished_trials import FinishedTrials, foreign_trial, trial_config
from tuner.storage.inventory import comparisons, with_fresh_seeds
from tuner.storage.reader import identifier_of, record_of
from tuner.storage.rung_record import RUNGS, RungRecord, judged_of
from tuner.storage.samplers import make_sampler
from tuner.storage.samplers.possible_gain import is_due, possible_gain
from tuner.storage.study_attributes import StudyAttributes
from tuner.storage.trial_ends import attribute, is_complete, progress_of
from tuner.storage.trial_values import TrialValues
from tuner.text import pluralize
from tuner.urls import without_password

__all__ = ["StudyStore"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def _retrying(
    method: Callable[Concatenate["StudyStore", Parameters], Result],
) -> Callable[Concatenate["StudyStore", Parameters], Result]:
    """Wrap a method in `StudyStore.retry`."""

    @functools.wraps(method)
    def call(store: "StudyStore", /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return store.retry(lambda: method(store, *args, **kwargs))

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

    Each change is written in a separate transaction, or, within `together`, in one with the others.

    Attributes:
        database: The database that holds it.
        directory: Folder of the lock, the checkpoints and the results.
        identifier: Unique identifier, different for a study of the same name in another database.
        attributes: The recorded facts about the study as a whole.
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
        self.attributes = StudyAttributes(self._study, config, self.retry)
        self._prunes = not isinstance(study.pruner, optuna.pruners.NopPruner)
        self._outages = database.outages
        self._asked: set[int] = set()
        self._rungs = RungRecord(config.rungs, config.objective.direction) if config.rungs else None
        self._paused: dict[int, int] = {}  # how much of the allowance each trial that waits at a rung has used
        self._values = TrialValues(config, self._study, self._trials)
        self._gain: tuple[float, int] | None = None  # the gain, and the number of complete trials it was computed from
        self._count_all()

    def _count_all(self) -> None:
        self._foreign = self._trials.foreign
        self._finished = FinishedTrials(self._config, self.finished())
        self._paused = {number: used for number, used in self._paused.items() if number not in self._finished}

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
            study, repeats = database.retry_while_unavailable(
                lambda: create_or_load(database, config, identity, retry_failed)
            )
            if repeats:
                note(
                    f"{pluralize(repeats, 'trial')} of this grid, begun by an earlier version, had the same values as "
                    "others. New trials will not repeat others; to train every point, give the study a new name"
                )
            yield database.retry_while_unavailable(lambda: cls(study, database, as_recorded(config, study.user_attrs)))

    def retry(self, action: Callable[[], Result]) -> Result:
        """Call a function, again if the database was unreachable, and report if the study was deleted."""
        try:
            return self.database.retry_while_unavailable(action)
        except KeyError:
            self.check_not_deleted()
            raise

    @_retrying
    def together(self, action: Callable[[], Result]) -> Result:
        """Call a function, and write its changes to the study in one transaction at its end.

        Args:
            action: The function. It is called again if the database was unreachable, or another program has added
                trials.
        """
        if self._trials.is_together:
            return action()
        if self._outages != self.database.outages:
            self._outages = self.database.outages
            self._trials.doubt()
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

    def progress(self, trial: FrozenTrial) -> int:
        """Return the number of epochs after which a trial was last reported, or of a function's reports."""
        return progress_of(trial, of_function=not self._config.kind.trains)

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
        return self._finished.spent + sum(self._paused.values())

    @property
    def trained(self) -> int:
        """Return how much of the allowance was trained, interrupted trials included."""
        waiting = self.trials(TrialState.WAITING)
        return self.spent + sum(self._finished.cost(trial, self.progress(trial)) for trial in waiting)

    @_retrying
    def possible_gain(self) -> float:
        """Return by how much the next trial is expected to be better; infinity if that is unknown.

        It is stored, so that a study that it has ended stays ended.
        """
        if self._gain is None:
            stored: dict[str, Any] = attribute(self._study.user_attrs, GAIN, {})
            self._gain = attribute(stored, "gain", math.inf), attribute(stored, "complete", 0)
        if self._config.sampler.name == "curve" and is_due(self._finished.complete, self._gain[1]):
            gain = possible_gain(self._config, self._study)
            self._study.set_user_attr(GAIN, {"gain": gain, "complete": self._finished.complete})
            self._gain = gain, self._finished.complete
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

    @property
    def has_result(self) -> bool:
        """Return whether any trial is complete."""
        return self._finished.complete > 0

    @property
    def best(self) -> FrozenTrial | None:
        """Return the best complete trial; None if there is none, or the study has several objectives."""
        return self._finished.best

    @property
    def front(self) -> list[FrozenTrial]:
        """Return the Pareto front of several objectives, the best in the first one first; none with one objective."""
        return list(self._finished.front)

    def kept_numbers(self) -> set[int]:
        """Return the finished trials whose weights may still be needed."""
        best = self._finished.best
        return {trial.number for trial in self._finished.front} | ({best.number} if best else set())

    def may_keep_weights(self, values: Mapping[int, float]) -> set[int]:
        """Return which of the trials that end with these values may have to keep their weights."""
        return self._finished.may_be_best(values)

    def ranking(self) -> list[FrozenTrial]:
        """Return the complete trials, best first; with several objectives, the Pareto front first."""
        return self._finished.ranking(filter(is_complete, self.trials(TrialState.COMPLETE)))

    @property
    def best_value(self) -> float | None:
        """Return the value of the best trial."""
        return self.best.value if self.best else None

    def history(self) -> list[tuple[datetime, float | None]]:
        """Return when each finished trial ended, with the best value so far."""
        return self._finished.history(self.finished())

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

    def config_of(self, trial: FrozenTrial) -> AnyTrial:
        """Return the configuration that a trial's parameters give.

        Raises:
            StudyFailedError: If they are not of the search space, because another program added the trial.
        """
        return trial_config(self._config, trial)

    @_together
    def ask(self) -> tuple[int, AnyTrial]:
        """Return the next trial and its configuration: an interrupted one if there is any, else a new one."""
        known = self._asked | self._paused.keys()
        waiting = [trial for trial in self._trials.unfinished if trial.number not in known]
        for trial in waiting:
            # Asked for in an earlier call, during which the database became unreachable.
            if trial.state is TrialState.RUNNING:
                self.suspend(trial.number)
        number = min((trial.number for trial in waiting), default=len(self.trials()))
        self._study.sampler = make_sampler(self._config, number, before=self._study.sampler)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            fixed = None if waiting else self._values.fixed(number)
            if fixed:
                self._study.enqueue_trial(dict(fixed.params), {ADDED: True} if fixed.is_added else None)
            asked = self._study.ask()
        try:
            if waiting:
                self._values.resample(asked)
            if self._config.constraints or self._config.can_repeat:
                asked = self._values.feasible(asked, fixed)
            config = self._config.suggest(asked)
        except ValueError as error:  # Optuna: the stored parameters do not fit this search space
            raise foreign_trial(asked.number, error) from error
        self._asked.add(asked.number)
        return asked.number, config

    def attempt(self, number: int) -> int:
        """Return how many times a failed trial was retried."""
        return attribute(self.trial(number).user_attrs, ATTEMPT, 0)

    @_together
    def report(self, number: int, epoch: int, value: float, may_prune: bool) -> Literal["continue", "prune", "pause"]:
        """Record an epoch of an asked trial and return the decision on it.

        An epoch that is repeated after a kill is not recorded twice. The pruner judges a trial by its last report, so
        of the repeated epochs only the last one consults it. A trial that another program has ended is pruned.
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
        self._paused[number] = self._finished.cost(trial, max(trial.intermediate_values, default=0))

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
    def finish(
        self,
        number: int,
        state: TrialState,
        value: float | None,
        attributes: Mapping[str, Any],
        further: Sequence[float] = (),
    ) -> None:
        """Set the final state of a trial; a finished trial keeps the state it has.

        Args:
            number: The trial.
            state: The state.
            value: Its value.
            attributes: Attributes to set.
            further: Its values of the further objectives.
        """
        if not self.trial(number).state.is_finished():
            for key, content in attributes.items():
                self.set_attribute(number, key, content)
            values = [cast(float, value), *further] if state is TrialState.COMPLETE else None
            self._study.tell(number, values, state)
        self._asked.discard(number)
        self._paused.pop(number, None)
        self._finished.add(self.trial(number))

    def add_part(self, number: int, epoch: int, seconds: float) -> None:
        """Record a part of a run, which ends now, and which another one may follow.

        Args:
            number: The trial.
            epoch: The epoch after which it ended; a part that was already recorded is not changed.
            seconds: How long it took.
        """
        parts: dict[str, Any] = attribute(self.trial(number).user_attrs, PARTS, {})
        if str(epoch) not in parts:
            now = time.time()
            self.set_attribute(number, PARTS, {**parts, str(epoch): [round(now - seconds, 3), round(now, 3)]})

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
        """Set an attribute of an unfinished trial; a trial that another program has ended is not changed."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._trials.set_trial_user_attr(number, key, value)

    @_retrying
    def record(self) -> StudyRecord:
        """Return the finished trials as plain data, without curves, and what is known from fresh seeds."""
        return with_fresh_seeds(record_of(self._study), self._study, self.database.storage)

    @_retrying
    def comparisons(self) -> dict[str, Comparison]:
        """Return the comparisons of its confirmations and final runs, by their names."""
        return comparisons(self._study, self.database.storage)

    def conclusion(self, record: StudyRecord) -> tuple[str, list[str]]:
        """Return the result in a sentence, and the findings, as sentences.

        Args:
            record: The record of the study.
        """
        return answer(record), findings(record)
