"""The one process that asks and tells: it hands trials to an engine and keeps the study's books.

The way of a trial: ask -> values -> `Assignment` -> engine -> reports and verdicts -> `result.json` -> tell. A process
that dies without a result has its trial put back into the queue, under the same number, with the same values and its
last checkpoint, up to `MAX_CRASHES` times an epoch.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tuner.analysis.record import TestResult
from tuner.config.study import StudyConfig, TrialConfig
from tuner.errors import StudyFailedError, TunerError
from tuner.process import crash_point
from tuner.protocol import Assignment, Engine, EpochReport, Group, Slot, StepReport, TrialResult, Verdict
from tuner.runner.display import Display
from tuner.runner.group_size import ONE_BY_ONE, GroupSize, alike
from tuner.storage.attributes import CONSTANT_LR
from tuner.storage.study_store import StudyStore
from tuner.tracking.tracker import Tracker
from tuner.training.experiment_proxy import FILES
from tuner.training.lightning_cli import lightning_config
from tuner.training.run import MODEL_FILE, read_result

__all__ = ["Coordinator"]

MAX_CRASHES = 3
SAME_ERRORS = 3
PUBLICATION_SHARE = 0.01  # of the time, at most, that this process spends on the description of the study in MLflow

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.PRUNED,  # told as bad, never as infinity: Optuna ranks it by what it reported, if anything
    "failed": TrialState.FAIL,
}


class Coordinator:
    """Runs a study; it is the engine's `Handler`.

    Args:
        config: The study.
        store: The study in Optuna, held by this process.
        tracker: The study in MLflow.
        display: What the person sees.
        refresh: Called whenever a trial is finished, once that is told.
        fuse: How many trials a slot trains at a time, as one model.
        checkpoint_every: Seconds that a training goes on without a checkpoint; 0 for one after every epoch.
    """

    def __init__(
        self,
        config: StudyConfig,
        store: StudyStore,
        tracker: Tracker,
        display: Display,
        refresh: Callable[[], None] = lambda: None,
        fuse: GroupSize = ONE_BY_ONE,
        checkpoint_every: float = 0.0,
    ) -> None:
        self._config, self._store, self._tracker, self._display = config, store, tracker, display
        self._refresh = refresh
        self._running: dict[int, Assignment] = {}
        self._waiting: list[Assignment] = []  # those of the running that no slot has got yet
        self._fuse, self._to_measure = (1, fuse.most) if fuse.is_measured else (fuse.most, 0)
        self._slots = 1
        self._checkpoint_every = checkpoint_every
        self._deadline = time.monotonic() + config.timeout if config.timeout else None
        self._stopping = self._killing = False
        self._ending = self._shown_ending = ""  # what to say of the end that was asked for, and what was said
        self._testing = self._measuring = False
        self._errors: list[str] = []  # of the trials that failed last, one after another in the same way
        self._told: set[str] = set()
        self._reason = ""
        self._next_publication = 0.0  # by the monotonic clock

    def run(self, engine: Engine) -> None:
        """Bring the study to its end, or as far as time and signals allow.

        Raises:
            StudyFailedError: If trial after trial fails in the same way, or the disk is full.
        """
        self._slots = len(engine.slots)
        self._reconcile()
        self._publish()
        try:
            engine.run(self)
        finally:
            engine.close()
            for number in list(self._running):
                with contextlib.suppress(TunerError):  # the next run puts it right
                    self._suspend(number)
            with contextlib.suppress(TunerError):
                self._publish()
        if self._reason:
            raise StudyFailedError(f"{self._reason}. The same command goes on from here when that is put right.")
        if len(self._errors) >= SAME_ERRORS:
            raise StudyFailedError(f"{SAME_ERRORS} trials in a row failed in the same way: {self._errors[-1]}")

    def stop(self) -> None:
        """End in order: start nothing, let running trials finish their epoch. The second call kills them.

        A signal handler calls it, in the middle of whatever is done, so it only takes note.
        """
        self._killing, self._stopping = bool(self._ending), True
        self._ending = "ending now" if self._killing else "ending after the running epochs; once more to end now"
        if self._killing:
            self._store.database.stop_retrying()

    @property
    def is_done(self) -> bool:
        """Tell whether the study has all its trials."""
        return self._store.count >= self._config.trials

    # -- what the engine calls -----------------------------------------------------------------------------------------

    def next_group(self, slot: Slot) -> Group | None:
        """Return the next trials for a slot, or the test of the best one when all are trained."""
        if not self._must_end():
            self._ask_ahead()
        if not self._waiting or self._must_end():
            return self._test_group()
        if self._to_measure:
            return self._group_to_measure()
        group = self._next_trials()
        for assignment in group:
            self._waiting.remove(assignment)
            self._display.start(assignment.number, assignment.config, slot)
        return Group(tuple(group), checkpoint_every=self._checkpoint_every)

    def report(self, number: int, report: EpochReport) -> Verdict:
        """Record an epoch and say how the trial goes on."""
        may_prune = not report.lr_rose and not report.is_last
        prune = report.value is not None and self._store.report(number, report.epoch, report.value, may_prune)
        self._tracker.log_points(number, report.points)
        self._display.epoch(number, report)
        if report.is_last:
            return "continue" if report.value is None or self._wants_weights(number, report.value) else "forget"
        return "stop" if self._stopping else "prune" if prune else "continue"

    def progress(self, number: int, report: StepReport) -> None:
        """Show how far a trial is."""
        self._display.progress(number, report)

    def fuse_at_most(self, count: int, reason: str) -> None:
        """Ask for so many trials at a time from now on."""
        if count < self._fuse:
            few = f"{count} at a time from now on, as more do not fit into memory"
            one = "one at a time from now on, as they cannot be fused"
            self._display.note(f"trials are trained {one if count == 1 else few}: {reason}")
            self._fuse = count

    def done(self, group: Group, results: Sequence[TrialResult]) -> None:
        """Tell Optuna and MLflow how trials ended."""
        if group.task == "measure":
            self._take_measure(results[0])
            return
        for assignment, result in zip(group.trials, results, strict=True):
            if group.task == "test":
                self._tested(assignment, result)
            elif result.state == "interrupted":
                self._interrupted(assignment, result)
            else:
                self._finish(assignment, result)

    def died(self, group: Group, reason: str) -> None:
        """Put the trials of a dead process back into the queue, unless they died too often."""
        if group.task == "measure":
            self._take_measure(TrialResult("failed", message=f"a process that tried more {reason}"))
            return
        for assignment in group.trials:
            number = assignment.number
            if group.task == "test":
                self._display.note(f"the test of trial #{number} {reason}; the next run of the study tests again")
                continue
            result = self._result_of(assignment)
            if result is not None:
                self._finish(assignment, result)
                continue
            crashes = 0 if self._stopping else self._count_crash(number)  # Slurm signals all processes of a job
            if crashes <= MAX_CRASHES:
                self._display.note(f"trial #{number} {reason}; it goes on from its last checkpoint")
                self._suspend(number)
            else:
                self._give_up(assignment, reason, crashes)

    def returned(self, group: Group) -> None:
        """Give a group to the next free slot: its own was lost before anything was done with it."""
        if group.task != "train":
            self._testing = self._measuring = False  # never both
            return
        for assignment in group.trials:
            self._display.suspend(assignment.number)
        self._waiting = [*group.trials, *self._waiting]

    def _interrupted(self, assignment: Assignment, result: TrialResult) -> None:
        """Put a trial back into the queue; one that was interrupted though nothing asked for it, once in an epoch."""
        if result.message:
            self._stopping, self._reason = True, result.message
        elif not self._stopping and (times := self._count_crash(assignment.number)) > 1:
            self._give_up(assignment, "ended before its last epoch, though nothing asked it to", times)
            return
        self._suspend(assignment.number)

    def _give_up(self, assignment: Assignment, reason: str, times: int) -> None:
        self._finish(assignment, TrialResult("failed", message=f"{reason}, {times} times: given up"))

    def _result_of(self, assignment: Assignment) -> TrialResult | None:
        return read_result(assignment.directory, assignment.config, self._display.note)

    def _count_crash(self, number: int) -> int:
        """Return how often a trial has crashed since its last epoch."""
        trial = self._store.trial(number)
        epoch, before = len(trial.intermediate_values), trial.user_attrs.get("crashes", {})
        count = int(before["count"]) + 1 if before.get("epoch") == epoch else 1
        self._store.set_attribute(number, "crashes", {"epoch": epoch, "count": count})
        return count

    def note(self, text: str) -> None:
        """Show a remark in the terminal; of those that trials make alike, the first."""
        remark = re.sub(r"^trial #\d+ ", "", text)
        if remark == text or remark not in self._told:
            self._display.note(text)
            self._told.add(remark)

    def tick(self) -> bool:
        """Redraw; tell the engine to go on, unless everything shall end now."""
        if self._shown_ending != self._ending:
            self._shown_ending = self._ending
            self._display.note(self._ending)
        self._display.tick()
        return not self._killing

    # -- the books -----------------------------------------------------------------------------------------------------

    def _must_end(self) -> bool:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return self._stopping or late or len(self._errors) >= SAME_ERRORS

    def _ask_ahead(self) -> None:
        """Ask until there are trials enough for a group, each slot having its share of what is left."""
        missing = self._config.trials - self._store.count - len(self._running)
        size = min(self._fuse, -(-(missing + len(self._waiting)) // self._slots))
        while missing > 0 and len(self._waiting) < size and not self._must_end():
            assignment = self._ask()
            result = self._result_of(assignment)
            if result is None:
                self._running[assignment.number] = assignment
                self._waiting.append(assignment)
            else:
                self._finish(assignment, result)  # its process died between the result and the telling
            missing -= 1

    def _next_trials(self) -> list[Assignment]:
        """Return waiting trials that can be one model; one that died twice goes alone, not to take others with it."""
        suspects = [
            each
            for each in self._waiting
            if self._store.trial(each.number).user_attrs.get("crashes", {}).get("count", 0) > 1
        ]
        if suspects:
            return suspects[:1]
        first = self._waiting[0].config
        return [each for each in self._waiting if alike(each.config, first)][: self._fuse]

    def _group_to_measure(self) -> Group | None:
        """Have one slot find out how many trials at a time are trained fastest; the others wait for that."""
        if self._measuring:
            return None
        self._measuring = True
        return Group((self._waiting[0],), task="measure", fuse=self._to_measure)

    def _take_measure(self, result: TrialResult) -> None:
        self._to_measure, self._fuse = 0, int(result.metrics.get("fuse", 1))
        if self._fuse > 1:
            times = f"{result.metrics['gain']:.1f} times as fast as one by one"
            self._display.note(f"{self._fuse} trials at a time are trained as one model, {times}")
        else:
            reason = result.message or "no number of them is faster as one model"
            self._display.note(f"trials are trained one at a time: {reason}")

    def _ask(self) -> Assignment:
        number, config = self._store.ask()
        crash_point("asked")
        self._tracker.start_trial(number, config, self._store.attempt(number))
        return self._assignment(number, config)

    def _assignment(self, number: int, config: TrialConfig) -> Assignment:
        return Assignment(number, config, self._config.objective, self._store.trial_directory(number))

    def _finish(self, assignment: Assignment, result: TrialResult) -> None:
        number = assignment.number
        self._running.pop(number, None)
        attributes: dict[str, Any] = {
            "state": result.state,
            "epochs": result.epochs,
            "seconds": round(result.seconds, 3),
            "setup": dict(result.setup),
        }
        if lrs := {lr for metric, _, lr in result.points if metric == "lr"}:
            attributes[CONSTANT_LR] = len(lrs) == 1
        if result.message:
            attributes["message"] = result.message
        if result.traceback:
            attributes["traceback"] = result.traceback
        if result.diverged_at is not None:
            attributes["diverged_at"] = result.diverged_at
        crash_point("before recorded")
        before = self._store.best
        self._store.finish(number, STATES[result.state], result.value, attributes)
        crash_point("recorded")
        read = partial(read_result, assignment.directory, assignment.config)
        self._tracker.finish_trial(number, assignment.config, result, read, assignment.directory / FILES)
        cause = _cause(result.message)
        if result.message and result.state != "diverged" and cause not in self._told:
            self._display.note(f"trial #{number} {'failed: ' if result.state == 'failed' else ''}{result.message}")
            self._told.add(cause)
        same = result.state == "failed" and bool(self._errors) and cause == _cause(self._errors[-1])
        self._errors = [*(self._errors if same else []), *([result.message] if result.state == "failed" else [])]
        self._display.finish(number, assignment.config, result)
        best = self._store.best
        self._display.standing(self._store.count, self._config.trials, best)
        self._tracker.log_standing(self._store.count, self._store.best_value, time.time())
        self._keep_weights_of_best([number] if before is None else [number, before.number])
        if time.monotonic() >= self._next_publication:
            self._publish()
        self._refresh()

    def _suspend(self, number: int) -> None:
        assignment = self._running.pop(number)
        self._tracker.finish_trial(number, assignment.config, TrialResult("interrupted"))
        self._display.suspend(number)
        self._store.suspend(number)

    def _wants_weights(self, number: int, value: float) -> bool:
        """Tell whether the weights of a trial that ends with this value may be wanted; of a best epoch they are."""
        return self._config.objective.epoch == "best" or self._store.may_keep_weights(number, value)

    def _keep_weights_of_best(self, numbers: Iterable[int]) -> None:
        """Remove the weights of those of the trials that are not the best."""
        kept = self._store.kept_numbers()
        for number in numbers:
            if number not in kept:
                (self._store.trial_directory(number) / MODEL_FILE).unlink(missing_ok=True)

    def _publish(self) -> None:
        """Record in MLflow what all trials together say; with thousands of them that takes a while."""
        began = time.monotonic()
        summary, best = None, self._store.best
        if best is not None:
            setup = best.user_attrs.get("setup", {})
            config = lightning_config(self._store.config_of(best), self._config.objective, setup)
            summary = {"number": best.number, "params": best.params, "config": config}
        found = self._store.findings()
        table = [_row(trial) for trial in self._store.finished()]
        self._tracker.log_study(table, summary, found)
        now = time.monotonic()
        self._next_publication = now + (now - began) / PUBLICATION_SHARE

    def _reconcile(self) -> None:
        """Put right what a run that was killed left behind. No other coordinator lives: this one has the lock."""
        for trial in self._store.trials(TrialState.RUNNING):
            self._store.suspend(trial.number)  # if it has a result, the next ask finds it
        self._display.standing(self._store.count, self._config.trials, self._store.best)
        for count, (ended, value) in enumerate(self._store.history(), start=1):
            self._tracker.log_standing(count, value, ended.timestamp())
        finished = {trial.number: trial for trial in self._store.finished()}
        self._keep_weights_of_best(finished)
        for number in self._tracker.unfinished(list(finished)):
            trial = finished[number]
            config = self._store.config_of(trial)
            directory = self._store.trial_directory(number)
            result = read_result(directory, config, self._display.note)
            if result is None:
                attributes = trial.user_attrs
                result = TrialResult(attributes["state"], trial.value, attributes["epochs"], attributes["seconds"])
            self._tracker.start_trial(number, config, self._store.attempt(number))
            read = partial(read_result, directory, config)
            self._tracker.finish_trial(number, config, result, read, directory / FILES)
        if tested := self._store.tested():
            self._tracker.log_test(tested)

    # -- the test of the winner ----------------------------------------------------------------------------------------

    def _test_group(self) -> Group | None:
        best = self._store.best
        if self._running or self._testing or self._stopping or not self.is_done or best is None:
            return None
        tested = self._store.tested()
        if tested and tested.trial == best.number:
            return None
        assignment = self._assignment(best.number, self._store.config_of(best))
        if not (assignment.directory / MODEL_FILE).exists():
            self._display.note(f"the weights of trial #{best.number} are gone: it cannot be tested")
            return None
        self._testing = True
        return Group((assignment,), task="test")

    def _tested(self, assignment: Assignment, result: TrialResult) -> None:
        if result.state == "failed":
            self._display.note(f"trial #{assignment.number} cannot be tested: {result.message}")
            return
        metrics = dict(result.metrics)
        if not metrics:
            self._display.note(f"trial #{assignment.number} cannot be tested: its module or its data have no test")
        crash_point("tested")
        trained = self._result_of(assignment)
        step = max((step for _, step, _ in trained.points), default=0) if trained else 0
        tested = TestResult(assignment.number, metrics, step, self._store.count)
        self._store.set_tested(tested)
        crash_point("test recorded")
        self._tracker.log_test(tested)
        if metrics:
            self._display.tested(metrics)


def _cause(message: str) -> str:
    """Return an error without its numbers: an address or a step in it makes no other error.

    Sizes do, where memory was short: with other values, a trial may have enough.
    """
    return message if message.startswith("out of memory") else re.sub(r"0x[0-9a-f]+|\d+", "#", message)


def _row(trial: FrozenTrial) -> dict[str, Any]:
    state = trial.user_attrs.get("state", trial.state.name.lower())
    row = {"number": trial.number, "state": state, "value": trial.value, "seconds": trial.user_attrs.get("seconds")}
    return row | trial.params
