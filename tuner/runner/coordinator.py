"""The ask-and-tell loop: gets trials from Optuna, gives them to an engine, records results in Optuna and MLflow.

The life cycle of a trial: ask -> values -> `Assignment` -> engine -> reports and decisions -> `result.json` -> tell. If
a process dies without a result, its trial goes back into the queue, under the same number, with the same values and its
last checkpoint, up to `MAX_CRASHES` times an epoch.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from typing import Any, TypeVar

from tuner import timings
from tuner.config.study import StudyConfig
from tuner.config.trial import AnyTrial
from tuner.errors import StudyFailedError, TunerError
from tuner.process import crash_point
from tuner.protocol import (
    Assignment,
    Decision,
    Engine,
    EpochReport,
    EvaluationGroup,
    EvaluationResult,
    Group,
    MeasurementGroup,
    MeasurementResult,
    Result,
    Slot,
    StepReport,
    TrainingGroup,
    TrialResult,
)
from tuner.runner.display import Display
from tuner.runner.error_streak import ErrorStreak, cause
from tuner.runner.group_size import ONE_BY_ONE, GroupSize, GroupSizeSearch
from tuner.runner.publication import Publication
from tuner.runner.spending import Spending
from tuner.runner.trial_queue import TrialQueue
from tuner.runner.winner_test import WinnerTest
from tuner.storage.study_store import StudyStore
from tuner.storage.trial_ends import TRIAL_STATES, attribute, attributes_of, end_of, parts_of
from tuner.tracking.tracker import Tracker
from tuner.training.checkpoints import newest_checkpoint, remove_checkpoints
from tuner.training.experiment_proxy import FILES
from tuner.training.results import MODEL_FILE, RESULT_FILE, read_result

__all__ = ["Coordinator"]

MAX_CRASHES = 3
CRASHES = "crashes"  # attribute of a trial
GIVEN_UP = ": given up"

Ended = Sequence[tuple[Assignment, TrialResult]]
"""Trials and their results."""

Answer = TypeVar("Answer")


def _first(method: Callable[..., Answer]) -> Callable[..., Answer]:
    """Answer the engine before anything else is written to MLflow: a slot waits."""

    @wraps(method)
    def call(self: "Coordinator", *arguments: Any) -> Answer:
        with self._tracker.giving_way():
            return method(self, *arguments)

    return call


class Coordinator:
    """Runs a study; it is the engine's `Handler`.

    Args:
        config: The study.
        store: The study in Optuna, held by this process.
        tracker: The study in MLflow.
        display: Shows the progress to the user.
        finished: Called with the number of a trial when it is finished and recorded.
        fuse: The number of trials that a slot trains at a time, as one model.
        checkpoint_every: Seconds between checkpoints; 0 for one after every epoch.
    """

    def __init__(
        self,
        config: StudyConfig,
        store: StudyStore,
        tracker: Tracker,
        display: Display,
        finished: Callable[[int], None] = lambda number: None,
        fuse: GroupSize = ONE_BY_ONE,
        checkpoint_every: float = 0.0,
    ) -> None:
        self._config, self._store, self._tracker, self._display = config, store, tracker, display
        self._finished, self._checkpoint_every = finished, checkpoint_every
        self._queue, self._errors = TrialQueue(), ErrorStreak()
        self._spending = Spending(config, store, self._queue)
        self._group_size = GroupSizeSearch(fuse, display.note)
        self._winner_test = WinnerTest(store, tracker, display)
        self._publication = Publication(config, store, tracker)
        self._slots = 1
        self._deadline = time.monotonic() + config.timeout if config.timeout else None
        self._stopping = self._killing = False
        self._ending = self._shown_ending = ""  # the text for the requested end, and the text shown so far
        self._shown_remarks: set[str] = set()
        self._obstacle = ""  # the reason why no trial can go on now

    def run(self, engine: Engine) -> None:
        """Run the study to its end, or as far as time and signals allow.

        Raises:
            StudyFailedError: If trial after trial fails in the same way, or the disk is full.
        """
        self._slots = len(engine.slots)
        self._reconcile()
        self._publication.write()
        try:
            engine.run(self)
        finally:
            engine.close()
            with contextlib.suppress(TunerError):  # the next run corrects it
                self._suspend([*self._queue.assignments, *map(self._stored, self._store.paused)])
            with contextlib.suppress(TunerError):
                self._publication.write(self.is_done)
        if self._obstacle:
            raise StudyFailedError(f"{self._obstacle}. Fix this, then run the same command to continue.")
        if self._errors.verdict:
            raise StudyFailedError(self._errors.verdict)

    def stop(self) -> None:
        """Stop cleanly: start nothing, let running trials finish their epoch. The second call kills them.

        A signal handler calls it, between any two statements, so it only sets flags.
        """
        self._killing, self._stopping = bool(self._ending), True
        until = "epochs" if self._config.kind.trains else "steps"
        later = f"stopping after the current {until}; press Ctrl-C again to stop now"
        self._ending = "stopping now" if self._killing else later
        if self._killing:
            self._store.database.stop_retrying()
        else:
            self._store.database.hurry()

    def publish(self) -> None:
        """Write the description of the study to MLflow."""
        self._publication.write(self.is_done)

    @property
    def is_done(self) -> bool:
        """Return whether the study has all its trials."""
        return self._spending.is_over

    # -- called by the engine ------------------------------------------------------------------------------------------

    @_first
    def next_group(self, slot: Slot) -> Group | None:
        """Return the next trials for a slot, or the test of the best one when all are trained."""
        if not self._must_end():
            self._leave_rungs()
            self._ask_ahead()
        first = self._queue.first
        if first is None or self._must_end():
            return self._test_group()
        if not self._group_size.is_over:
            return self._group_size.next_group(first)
        group = self._queue.take(self._group_size.count, self._has_crashed_twice)
        for assignment in group:
            self._display.start(assignment.number, assignment.config, slot)
        return TrainingGroup(group, self._checkpoint_every, self._group_size.as_group)

    @_first
    def report(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        """Record an epoch of each trial, and return which trials continue."""
        decisions = self._store.together(
            lambda: {number: self._record(number, each) for number, each in reports.items()}
        )
        for number, report in reports.items():
            self._tracker.log_points(number, report.points)
            self._display.epoch(number, report)
        timings.last_epoch()
        if self._stopping:
            decisions = {number: "stop" if each == "continue" else each for number, each in decisions.items()}
        return {**decisions, **self._last_decisions({number: each for number, each in reports.items() if each.is_last})}

    def _record(self, number: int, report: EpochReport) -> Decision:
        if report.value is None:
            return "continue"
        may_prune = not report.lr_rose and not report.is_last
        return self._store.report(number, report.epoch, report.value, may_prune)

    def _last_decisions(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        """Return which of the ending trials are to save their weights."""
        values = {number: report.value for number, report in reports.items() if report.value is not None}
        every = self._config.objective.epoch == "best"  # the last value is not the trial's
        unneeded = set() if every else values.keys() - self._store.may_keep_weights(values)
        return {number: "forget" if number in unneeded else "continue" for number in reports}

    def progress(self, number: int, report: StepReport) -> None:
        """Show the progress of a trial."""
        timings.step()
        self._display.progress(number, report)

    def fuse_at_most(self, count: int, reason: str) -> None:
        """Limit the number of trials that a slot trains at a time to `count` from now on."""
        self._group_size.limit(count, reason)

    @_first
    def done(self, group: Group, results: Sequence[Result]) -> None:
        """Record results in Optuna and MLflow."""
        ended, suspended = [], []
        for assignment, result in zip(group.trials, results, strict=True):
            match result:
                case MeasurementResult():
                    self._group_size.done(result)
                case EvaluationResult():
                    self._winner_test.done(assignment, result)
                case TrialResult(state="interrupted") if self._may_continue(assignment.number, result):
                    self._store.add_part(assignment.number, result.epochs, result.seconds)
                    suspended.append(assignment)
                case TrialResult(state="interrupted"):
                    ended.append((assignment, _given_up("stopped before its last epoch without being asked to", 2)))
                case TrialResult():
                    ended.append((assignment, result))
        self._suspend(suspended)
        self._end(ended)

    @_first
    def died(self, group: Group, reason: str) -> None:
        """Put the trials of a dead process back into the queue, unless they died too often."""
        match group:
            case MeasurementGroup():
                self._group_size.died(reason)
            case EvaluationGroup((assignment,)):
                self._winner_test.died(assignment.number, reason)
            case _:
                self._died_in_training(group.trials, reason)

    def returned(self, group: Group) -> None:
        """Give a group to the next free slot, since its slot was lost before it started."""
        match group:
            case MeasurementGroup():
                self._group_size.returned()
            case EvaluationGroup():
                self._winner_test.returned()
            case _:
                for assignment in group.trials:
                    self._display.suspend(assignment.number)
                self._queue.put_back(group.trials)

    def _died_in_training(self, trials: Sequence[Assignment], reason: str) -> None:
        ended, suspended = [], []
        for assignment in trials:
            number, result = assignment.number, self._result_of(assignment)
            crashes = (
                0 if result or self._stopping else self._count_crash(number)
            )  # Slurm signals all processes of a job
            if crashes > MAX_CRASHES:
                result = _given_up(reason, crashes)
            if result is not None:
                ended.append((assignment, result))
            else:
                how = "resumes from its last checkpoint" if self._config.kind.trains else "is called again"
                self._display.note(f"trial #{number} {reason}; it {how}")
                suspended.append(assignment)
        self._suspend(suspended)
        self._end(ended)

    def _may_continue(self, number: int, result: TrialResult) -> bool:
        """Return whether an interrupted trial continues: at most once an epoch if nobody asked it to stop."""
        if result.message:
            self._stopping, self._obstacle = True, result.message
            return True
        return self._stopping or self._count_crash(number) <= 1

    def _result_of(self, assignment: Assignment) -> TrialResult | None:
        return read_result(assignment.directory, assignment.config, self._display.note)

    def _count_crash(self, number: int) -> int:
        """Count a crash of a trial, and return how many there were since its last epoch."""
        trial = self._store.trial(number)
        epoch = max(self._store.progress(trial), newest_checkpoint(self._store.trial_directory(number)))
        before: dict[str, Any] = attribute(trial.user_attrs, CRASHES, {})
        count = attribute(before, "count", 0) + 1 if before.get("epoch") == epoch else 1
        self._store.set_attribute(number, CRASHES, {"epoch": epoch, "count": count})
        return count

    def _has_crashed_twice(self, number: int) -> bool:
        return attribute(attribute(self._store.trial(number).user_attrs, CRASHES, {}), "count", 0) > 1

    def note(self, text: str) -> None:
        """Show a remark in the terminal; if several trials make the same one, once."""
        remark = re.sub(r"^trial #\d+ ", "", text)
        if remark == text:
            self._display.note(text)
        else:
            self._note_once(remark, text)

    def _note_once(self, remark: str, text: str) -> None:
        if remark not in self._shown_remarks:
            self._display.note(text)
            self._shown_remarks.add(remark)

    def tick(self) -> bool:
        """Redraw; return False if everything must stop now."""
        if self._shown_ending != self._ending:
            self._shown_ending = self._ending
            self._display.note(self._ending)
        self._display.lag = self._tracker.lag
        self._display.tick()
        return not self._killing

    # -- asking Optuna, and telling Optuna and MLflow ------------------------------------------------------------------

    def _must_end(self) -> bool:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return self._stopping or late or bool(self._errors.verdict)

    def _ask_ahead(self) -> None:
        """Ask for trials until a group is full."""
        while self._lacks() and not self._must_end():
            ended = []
            for assignment in self._ask():
                result = self._result_of(assignment)
                if result is None:
                    self._queue.add(assignment)
                else:
                    ended.append((assignment, result))  # its process died before the result got to Optuna
            self._end(ended)
            if ended:
                self._leave_rungs()

    def _lacks(self) -> int:
        return self._queue.lacks(self._spending.unasked, self._group_size.count, self._slots)

    def _ask(self) -> list[Assignment]:
        """Ask for trials together: none of them knows the results of the others.

        They are counted each time they are asked for, because fewer are needed if another program has added some.
        """
        asked = self._store.together(lambda: [self._store.ask() for _ in range(self._lacks())])
        for number, _ in asked:
            self._spending.asked(number)
        crash_point("asked")
        for number, config in asked:
            self._tracker.start_trial(number, config, self._store.attempt(number))
        return [self._assignment(number, config) for number, config in asked]

    def _assignment(self, number: int, config: AnyTrial) -> Assignment:
        objective, *further = self._config.objectives
        return Assignment(number, config, objective, self._store.trial_directory(number), further)

    def _end(self, ended: Ended) -> None:
        """Record the results of runs, or let their trials wait at a rung."""
        for assignment, result in ended:
            if result.state == "paused":
                self._store.add_part(assignment.number, result.epochs, result.seconds)
                self._leave_slot(assignment)
                self._store.pause(assignment.number)
        self._show_standing()
        self._finish([(each, self._whole(each.number, result)) for each, result in ended if result.state != "paused"])

    def _whole(self, number: int, result: TrialResult) -> TrialResult:
        """Return the result of a run with the time of its earlier parts, and the epochs that it reported."""
        reported = self._store.progress(self._store.trial(number))
        epochs = max(result.epochs, reported)  # an error does not know its epoch
        return replace(result, epochs=epochs, seconds=result.seconds + self._seconds_before(number))

    def _seconds_before(self, number: int) -> float:
        """Return how long the earlier parts of a run took."""
        return sum(ended - began for began, ended in parts_of(self._store.trial(number)))

    def _leave_rungs(self) -> None:
        """Continue or end the trials that wait at a rung which all have reached."""
        continuing, out = self._store.decided()
        ended = []
        for assignment in map(self._stored, sorted(out)):
            result = self._result_of(assignment) or end_of(self._store.trial(assignment.number))
            seconds = self._seconds_before(assignment.number) or result.seconds
            ended.append((assignment, replace(result, state="pruned", seconds=seconds)))
        self._finish(ended)
        for assignment, _ in ended:
            remove_checkpoints(assignment.directory)
        for number in sorted(continuing):
            assignment = self._stored(number)
            (assignment.directory / RESULT_FILE).unlink(missing_ok=True)
            self._spending.suspended(assignment)
            self._store.resume(number)

    def _stored(self, number: int) -> Assignment:
        return self._assignment(number, self._store.config_of(self._store.trial(number)))

    def _finish(self, ended: Ended) -> None:
        """Record final results in Optuna and MLflow."""
        if not ended:
            return
        for assignment, _ in ended:
            self._queue.remove(assignment.number)
        crash_point("before recorded")
        before = self._store.kept_numbers()
        standings = self._store.together(
            lambda: [self._tell(assignment.number, result) for assignment, result in ended]
        )
        crash_point("recorded")
        for assignment, result in ended:
            self._record_end(assignment, result)
        self._show_standing()
        self._tracker.log_standings(standings)
        self._keep_weights_of_best([*(assignment.number for assignment, _ in ended), *before])
        self._publication.refresh()
        for assignment, _ in ended:
            self._finished(assignment.number)

    def _tell(self, number: int, result: TrialResult) -> tuple[int, float | None, float]:
        """Store a result in Optuna; return the number of finished trials, the best value and the time."""
        self._store.finish(number, TRIAL_STATES[result.state], result.value, attributes_of(result), result.further)
        return self._store.count, self._store.best_value, time.time()

    def _record_end(self, assignment: Assignment, result: TrialResult) -> None:
        number = assignment.number
        read = partial(read_result, assignment.directory, assignment.config)
        self._tracker.finish_trial(number, assignment.config, result, read, assignment.directory / FILES)
        has_failed = result.state == "failed"
        if result.message and result.state != "diverged":
            text = f"trial #{number}{' failed' if has_failed else ''}: {result.message}"
            self._note_once(text if result.message.endswith(GIVEN_UP) else cause(result.message), text)
        if result.state == "complete" and not result.epochs and self._config.names_pruner:
            text = f"trial #{number} reported nothing, so the {self._config.pruner.name} pruner cannot stop it"
            self._note_once("reported nothing", text)
        self._errors.add(result.message if has_failed else None)
        self._display.finish(number, assignment.config, result)

    def _show_standing(self) -> None:
        store = self._store
        self._display.standing(store.count, store.spent, store.best, store.front)

    def _suspend(self, assignments: Sequence[Assignment]) -> None:
        """Put trials back into the queue."""
        for assignment in assignments:
            self._leave_slot(assignment)
            self._spending.suspended(assignment)
        if assignments:
            self._store.together(lambda: [self._store.suspend(assignment.number) for assignment in assignments])

    def _leave_slot(self, assignment: Assignment) -> None:
        number = assignment.number
        self._queue.remove(number)
        self._tracker.finish_trial(number, assignment.config, TrialResult("interrupted"))
        self._display.suspend(number)

    def _keep_weights_of_best(self, numbers: Iterable[int]) -> None:
        """Remove the weights of the given trials, except those that may still be needed."""
        kept = self._store.kept_numbers()
        for number in numbers:
            if number not in kept:
                (self._store.trial_directory(number) / MODEL_FILE).unlink(missing_ok=True)

    def _reconcile(self) -> None:
        """Repair what a killed run left behind. No other coordinator can be running, as this one holds the lock."""
        self._store.suspend_running()  # the next ask finds the results of those that have one
        self._spending.begin()
        self._show_standing()
        history = enumerate(self._store.history(), start=1)
        self._tracker.log_standings([(count, value, ended.timestamp()) for count, (ended, value) in history])
        finished = {trial.number: trial for trial in self._store.finished()}
        self._keep_weights_of_best(finished)
        for number in self._tracker.unfinished(list(finished)):
            trial = finished[number]
            config = self._store.config_of(trial)
            directory = self._store.trial_directory(number)
            result = read_result(directory, config, self._display.note) or end_of(trial)
            if result.state == "paused":  # at a rung that it did not leave
                result = replace(result, state="pruned")
            result = replace(result, seconds=end_of(trial).seconds)  # the file only has the seconds of the last part
            self._tracker.start_trial(number, config, self._store.attempt(number))
            read = partial(read_result, directory, config)
            self._tracker.finish_trial(number, config, result, read, directory / FILES)
        if tested := self._store.attributes.tested():
            self._tracker.log_test(tested)

    def _test_group(self) -> Group | None:
        may_test = self._config.kind.trains and self.is_done and not self._queue and not self._stopping
        best = self._winner_test.candidate if may_test else None
        if best:
            timings.phase("test of the best trial")
        return self._winner_test.group(self._assignment(best.number, self._store.config_of(best))) if best else None


def _given_up(reason: str, times: int) -> TrialResult:
    return TrialResult("failed", message=f"{reason}, {times} times{GIVEN_UP}")
