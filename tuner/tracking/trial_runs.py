"""The runs of trials in MLflow. Each trial's records have their own lane; records that a run lacks are sent again."""

import csv
import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlflow.entities import LifecycleStage, Metric, Param, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tuner.analysis.record import LR_TABLE, simplified
from tuner.config.study import StudyConfig
from tuner.config.trial import TrialConfig
from tuner.process import crash_point
from tuner.protocol import Points, TrialResult
from tuner.text import join_names
from tuner.tracking.names import LONGEST_PARAM, LONGEST_TAG, Names, fitting, storable, value_text
from tuner.tracking.reader import find_children
from tuner.tracking.record_writer import Record
from tuner.tracking.recorder import ARTIFACTS, END, RUN, DeletedRunError, NoRunError, Recorder
from tuner.tracking.sent_points import SentPoints
from tuner.tracking.study_run import MISSING_TAG, REPLACES_TAG, STUDY_TAG, StudyRun, run_tags

__all__ = ["TRIAL_STATUS", "TrialRun", "TrialRuns", "csv_text"]

BATCH = 1000
MAX_WAITING_POINTS = 100_000
"""Points that wait in memory, at most; others are read from the trial's result when the trial ends."""
TRIAL_STATUS = {
    "complete": "FINISHED",
    "pruned": "FINISHED",  # MLflow shows a killed run as a failure
    "diverged": "KILLED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
"""MLflow's status for each final state of a trial; the tag `tuner.state` has the exact one."""
TRIAL_TAG, STATE_TAG = "tuner.trial", "tuner.state"
ATTEMPT_TAG, FAILED_TAG = "tuner.attempt", "tuner.failed_trial"
"""Tags of the run of a retried trial, and of the run of its failed attempt."""
VALUES_TAG, OTHER_TAG = "tuner.values", "tuner.trial_of_other_values"
"""Tags of a trial's run: the digest of its values; and of the run that it had with values that its database lost."""
REFUSED_TAG = "tuner.refused"
"""Tag of a run without the records that MLflow cannot store: which ones, and why."""


def _nothing() -> None:
    pass


@dataclass
class TrialRun:
    """The run of a trial.

    Args:
        run_id: MLflow's identifier.
        start_time: In milliseconds since 1970.
        artifacts: MLflow's artifact location.
        state: State of the trial; "running" for an open run, whatever its tag says.
        sent: The points that it has; None if they are not known.
        lacks: Missing records that can be sent later, with the reasons (a dict used as an ordered set).
        refused: Records that MLflow cannot store, with the reasons.
        has_values: Whether its parameters and data set are known to be stored.
        is_marked: Whether it has the tag `tuner.missing`.
        attempt: How many times the trial had failed before this run.
        values: Digest of the trial's values; empty if unknown, as in runs of earlier versions.
        waits: Number of its artifacts that are not written yet.
    """

    run_id: str
    start_time: int
    artifacts: str
    state: str
    sent: SentPoints | None = None
    lacks: dict[str, None] = field(default_factory=dict)
    refused: dict[str, None] = field(default_factory=dict)
    has_values: bool = False
    is_marked: bool = False
    attempt: int = 0
    values: str = ""
    waits: int = 0

    @property
    def is_unfinished(self) -> bool:
        """Return whether the run is open, or lacks records."""
        return self.state in ("running", "interrupted") or bool(self.lacks)


@dataclass
class _Batch:
    """Counts of the points of a record that was split: taken and given up."""

    taken: int = 0
    given_up: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Return whether the store seems to take none of them."""
        return self.given_up >= 3 and not self.taken


class TrialRuns:
    """The runs of a study's trials.

    Args:
        config: The study.
        study: The study's run.
        recorder: The writer.
    """

    def __init__(self, config: StudyConfig, study: StudyRun, recorder: Recorder) -> None:
        self._config, self._study, self._recorder = config, study, recorder
        self._client = recorder.client
        self._replaced: dict[int, str] = {}  # runs that were deleted, or set aside
        self._deleted: set[int] = set()
        self._attempts: dict[int, int] = {}
        self._unsure: set[int] = set()  # trials whose run may have been created though the answer was lost
        self._lock = threading.Lock()
        self._held = 0  # number of points that wait
        self._left_out: set[int] = set()  # trials whose points were not all queued
        self.by_number = dict(self._find())
        for number, run in self.by_number.items():
            for what in run.refused:
                recorder.lost_before(what, f"trial #{number}")

    def _find(self) -> Iterator[tuple[int, TrialRun]]:
        """Yield the trials' runs in MLflow, and register the names of their metrics."""
        for run in find_children(self._client, self._study.experiment_id, self._study.run_id, ViewType.ALL):
            tags, info = run.data.tags, run.info
            if not tags.get(TRIAL_TAG, "").isdecimal():
                continue  # from another program
            number = int(tags[TRIAL_TAG])
            self._study.names.use(run.data.metrics)
            if info.lifecycle_stage == LifecycleStage.DELETED:
                self._replaced[number] = info.run_id
                self._deleted.add(number)
                continue
            state = "running" if info.status == "RUNNING" else tags.get(STATE_TAG, "running")
            found = TrialRun(info.run_id, info.start_time, info.artifact_uri, state, is_marked=MISSING_TAG in tags)
            found.attempt, found.values = int(tags.get(ATTEMPT_TAG, 0)), tags.get(VALUES_TAG, "")
            found.lacks = {tags[MISSING_TAG]: None} if MISSING_TAG in tags else {}
            found.refused = {tags[REFUSED_TAG]: None} if REFUSED_TAG in tags else {}
            yield number, found

    # -- start, reports and end of a trial -----------------------------------------------------------------------------

    def start(self, number: int, config: TrialConfig, attempt: int = 0) -> None:
        """Open a trial's run; an interrupted trial continues in the run that it has.

        Args:
            number: The trial.
            config: Its configuration.
            attempt: How many times it has failed before; each attempt has its own run.
        """
        self._attempts[number] = attempt

        def write() -> None:
            self._study.reopen()
            run = self.by_number.get(number)
            if run is not None and run.values not in ("", config.digest):
                self._recorder.warn(
                    f"the run of trial #{number} in MLflow is of other values, which the database has lost; "
                    "the trial gets another run"
                )
                self._set_aside(number, run, OTHER_TAG, f"#{number} of values that the database has lost")
                run = None
            elif run is not None and run.attempt < attempt:
                self._set_aside(number, run, FAILED_TAG, f"#{number}, failed attempt {run.attempt + 1}")
                run = None
            if run is not None and not self._recorder.is_gone(run.run_id):
                self._client.update_run(run.run_id, status="RUNNING")
                self._client.set_tag(run.run_id, STATE_TAG, "running")
                run.state = "running"
                run.lacks.clear()
                run.refused.clear()
            else:
                self.by_number.pop(number, None)
                self._create(number, config)

        self._recorder.put(number, Record(write, partial(self._lose, RUN, number, _nothing)))
        self._put_values(number, config)

    def _set_aside(self, number: int, run: TrialRun, tag: str, name: str) -> None:
        """Make a run one that the trial had before, which its name says."""
        self._client.set_tag(run.run_id, tag, str(number))
        self._client.update_run(run.run_id, name=name)
        self._recorder.remove_tag(run.run_id, TRIAL_TAG)
        self._replaced[number] = run.run_id

    def put_points(self, number: int, points: Points) -> None:
        """Add points to a trial's run, except for those that it has."""
        with self._lock:
            if self._held and self._held + len(points) > MAX_WAITING_POINTS:
                self._left_out.add(number)
                return  # MLflow is away; `end` sends the points from the trial's result
            self._held += len(points)

        def release() -> None:
            with self._lock:
                self._held -= len(points)

        self._recorder.put(number, self._points_record(number, lambda: points, _Batch(), release))

    def put_metrics(self, number: int, metrics: Mapping[str, float], step: int) -> None:
        """Add a trial's metrics on the test data to its run."""

        def write(run: TrialRun) -> None:
            names, at = self._study.names_of(metrics), run.start_time + step
            points = [Metric(names[key], float(value), at, step) for key, value in metrics.items()]
            self._client.log_batch(run.run_id, metrics=points)

        self._recorder.put(number, self._record(number, "the test", write))

    def end(
        self,
        number: int,
        config: TrialConfig,
        result: TrialResult,
        points: Callable[[], Points | None],
        files: Path | None = None,
    ) -> None:
        """Send everything that a trial's run lacks, and close the run.

        Args:
            number: The trial.
            config: Its configuration.
            result: Its result, whose points are not used.
            points: Returns all of its points, from its result file; None if that is gone. Called from other threads.
            files: Folder of the files that its module logged itself; it need not exist.
        """

        def stored() -> Points:
            found = points()
            if found is None and number in self._left_out:
                self._lose("points", number, _nothing, RuntimeError("the result that had them is gone"))
            return found or ()

        self._put_end(number, config, result, stored, files, again=True)

    def _put_end(
        self,
        number: int,
        config: TrialConfig,
        result: TrialResult,
        points: Callable[[], Points],
        files: Path | None,
        again: bool,
    ) -> None:
        def open_run() -> bool:
            is_new = number not in self.by_number
            if is_new:
                self._create(number, config)
            self._put_files(number, result, points, files)
            return is_new

        def once_more() -> None:  # the run was deleted meanwhile: send everything to a new one
            if again:
                self._put_end(number, config, result, points, files, again=False)
            else:
                self._lose(RUN, number, _nothing, RuntimeError("it was deleted again"))

        def close(run: TrialRun) -> None:
            self._mark(run)
            value = "" if result.value is None else f" {result.value:.4f}"
            state = "" if result.state == "complete" else f", {result.state}"
            self._client.update_run(run.run_id, name=storable(f"#{number} {config.schedule.name}{value}{state}"))
            crash_point("run described")
            self._client.set_terminated(run.run_id, TRIAL_STATUS[result.state])  # last: a closed run is complete
            run.state = result.state
            if result.state != "interrupted":
                run.sent = None

        self._recorder.put(number, Record(open_run, partial(self._lose, RUN, number, _nothing)))
        self._put_values(number, config, result.params)
        self._recorder.put(number, self._points_record(number, points, _Batch(), gone=once_more))
        self._recorder.put(number, self._tags_record(number, _tags_of(result), once_more))
        self._recorder.put(number, self._record(number, END, close, gone=once_more))

    def _create(self, number: int, config: TrialConfig) -> None:
        if number in self._unsure:
            self.by_number = dict(self._find()) | self.by_number
            if number in self.by_number:
                self._unsure.discard(number)
                return
        tags = {
            MLFLOW_PARENT_RUN_ID: self._study.run_id,
            STUDY_TAG: self._config.name,
            TRIAL_TAG: str(number),
            STATE_TAG: "running",
            VALUES_TAG: config.digest,
        }
        if attempt := self._attempts.get(number):
            tags[ATTEMPT_TAG] = str(attempt)
        if replaced := self._replaced.get(number):
            tags[REPLACES_TAG] = replaced
        if number in self._deleted:
            self._recorder.warn(f"the run of trial #{number} in MLflow was deleted; the trial gets a new one")
        name = storable(f"#{number} {config.schedule.name}")
        self._unsure.add(number)
        run = self._client.create_run(self._study.experiment_id, run_name=name, tags=tags)
        self._unsure.discard(number)
        crash_point("run created")
        info = run.info
        created = TrialRun(info.run_id, info.start_time, info.artifact_uri, "running", SentPoints())
        created.attempt, created.values = self._attempts.get(number, 0), config.digest
        self.by_number[number] = created

    # -- records -------------------------------------------------------------------------------------------------------

    def _put_values(self, number: int, config: TrialConfig, own: Mapping[str, str] = MappingProxyType({})) -> None:
        """Add parameters and data set to a trial's run, unless it is known to have them, and the module's own."""
        values = {**self._config.described(number), **config.flat()}
        names = Names()
        names.add({**values, **own})

        def params(of: Mapping[str, Any]) -> list[Param]:
            return [Param(names[key], fitting(value_text(value), LONGEST_PARAM)) for key, value in of.items()]

        def record(some: Sequence[Param], is_own: bool = False) -> Record:
            def write(run: TrialRun) -> bool:
                is_needed = is_own or not run.has_values
                for batch in _batches(some, 100) if is_needed else ():
                    self._client.log_batch(run.run_id, params=batch)
                return is_needed

            what = f"the parameter {some[0].key}" if len(some) == 1 else "parameters"
            return self._record(number, what, write, lambda: [record(part, is_own) for part in _halves(some)])

        def write_data(run: TrialRun) -> bool:
            if run.has_values:
                return False
            self._client.log_inputs(run.run_id, [self._study.dataset(config.data.name, config.data.arguments)])
            run.has_values = True
            return True

        if values:
            self._recorder.put(number, record(params(values)))
        if added := {key: value for key, value in own.items() if key not in values}:
            self._recorder.put(number, record(params(added), is_own=True))
        self._recorder.put(number, self._record(number, "the data set", write_data))

    def _points_record(
        self,
        number: int,
        points: Callable[[], Points],
        batch: _Batch,
        done: Callable[[], None] = _nothing,
        gone: Callable[[], None] = _nothing,
    ) -> Record:
        """Return a record of points.

        Args:
            number: The trial.
            points: Returns the points.
            batch: Counts of the record that they are a part of.
            done: Called once, when they are written, split or given up.
            gone: Called if the run was deleted before.
        """

        def new_points(run: TrialRun) -> list[tuple[str, int, float]]:
            some, sent = points(), self._sent_of(run)
            names = self._study.names_of(key for key, _, _ in some)
            return [(key, step, value) for key, step, value in some if (names[key], step) not in sent]

        def write(run: TrialRun) -> bool:
            new, names, sent = new_points(run), self._study.names, self._sent_of(run)
            for part in _batches(new, BATCH):
                metrics = [Metric(names[key], float(value), run.start_time + step, step) for key, step, value in part]
                self._client.log_batch(run.run_id, metrics=metrics)
                for metric in metrics:
                    sent.add(metric.key, metric.step)
                batch.taken += len(part)
            done()
            return bool(new)

        def divide() -> list[Record]:
            run = self.by_number.get(number)
            left = new_points(run) if run is not None and not batch.is_hopeless else []
            metrics = dict.fromkeys(key for key, _, _ in left)
            parts = [[point for point in left if point[0] == key] for key in metrics] if len(metrics) > 1 else []
            parts = parts or [list(half) for half in _halves(left)]
            if len(parts) > 1:
                done()
            return [self._points_record(number, partial(_same, part), batch, gone=gone) for part in parts]

        def give_up(error: Exception) -> None:
            batch.given_up += 1
            done()
            metrics = sorted({key for key, _, _ in points()})
            self._lose(f"points of {join_names(metrics)}" if metrics else "points", number, gone, error)

        record = self._record(number, "points", write, divide)
        record.give_up = give_up
        return record

    def _sent_of(self, run: TrialRun) -> SentPoints:
        if run.sent is None:
            run.sent = self._recorder.stored(run.run_id)
        return run.sent

    def _tags_record(self, number: int, tags: Mapping[str, str], gone: Callable[[], None]) -> Record:
        def write(run: TrialRun) -> None:
            self._client.log_batch(run.run_id, tags=run_tags(tags))

        def divide() -> list[Record]:
            return [self._tags_record(number, {key: value}, gone) for key, value in tags.items()]

        what = f"the tag {next(iter(tags))}" if len(tags) == 1 else "tags"
        return self._record(number, what, write, divide, gone)

    def _record(
        self,
        number: int,
        what: str,
        write: Callable[[TrialRun], object],
        divide: Callable[[], Sequence[Record]] = tuple,
        gone: Callable[[], None] = _nothing,
    ) -> Record:
        """Return a record of a trial's run.

        Args:
            number: The trial.
            what: Name of the record, for messages.
            write: Writes it to the run; returns False if there was nothing to write.
            divide: Returns its parts.
            gone: Called if the run was deleted before it was written.
        """

        def attempt() -> object:
            run = self.by_number.get(number)
            if run is None:
                raise NoRunError("the trial has no run")
            try:
                return write(run)
            except MlflowException as error:
                if not self._recorder.is_gone(run.run_id, error):
                    raise
                self._replaced[number] = run.run_id
                self._deleted.add(number)
                del self.by_number[number]
                raise DeletedRunError("the run was deleted") from error

        def parts(error: Exception) -> Sequence[Record]:
            return () if isinstance(error, NoRunError | DeletedRunError) else divide()

        return Record(attempt, partial(self._lose, what, number, gone), parts)

    def _lose(self, what: str, number: int, gone: Callable[[], None], error: Exception) -> None:
        """Note that a record cannot be written; see `_record`."""
        if isinstance(error, DeletedRunError):
            gone()
        elif not isinstance(error, NoRunError):
            missing, is_final = self._recorder.lose(what, f"trial #{number}", error)
            run = self.by_number.get(number)
            if run is not None:
                (run.refused if is_final else run.lacks)[missing] = None

    def _mark(self, run: TrialRun) -> bool:
        """Write the tags about missing records to a run; return whether there was anything to write."""
        is_needed = bool(run.lacks or run.waits or run.is_marked or run.refused)
        lacks = "; ".join([*run.lacks, *([ARTIFACTS] if run.waits else [])])
        if lacks:
            self._client.set_tag(run.run_id, MISSING_TAG, fitting(lacks, LONGEST_TAG))
        elif run.is_marked:
            self._recorder.remove_tag(run.run_id, MISSING_TAG)
        run.is_marked = bool(lacks)
        if run.refused:
            self._client.set_tag(run.run_id, REFUSED_TAG, fitting("; ".join(run.refused), LONGEST_TAG))
        return is_needed

    # -- files ---------------------------------------------------------------------------------------------------------

    def _put_files(self, number: int, result: TrialResult, points: Callable[[], Points], files: Path | None) -> None:
        """Queue the artifacts of a trial's run: its traceback, its lr table, and the files of its module."""
        if files is not None and files.is_dir():
            self._put_file(number, "", lambda: files)
        if result.traceback:
            self._put_file(number, "traceback.txt", lambda: result.traceback)
        if result.state == "interrupted":
            return

        def table() -> str | None:
            rates = simplified(sorted({step: lr for key, step, lr in points() if key == "lr"}.items()))
            return csv_text([{"step": step, "lr": lr} for step, lr in rates]) if rates else None

        self._put_file(number, LR_TABLE, table)  # MLflow samples long curves; the table has every change of slope

    def _put_file(self, number: int, name: str, content: Callable[[], str | Path | None]) -> None:
        run = self.by_number[number]
        with self._lock:
            run.waits += 1

        def write() -> bool:
            if (found := content()) is not None:
                self._study.add_file(run.run_id, run.artifacts, name, found)
            done()
            return found is not None

        def give_up(error: Exception) -> None:
            missing, _ = self._recorder.lose(ARTIFACTS, f"trial #{number}", error)
            run.lacks[missing] = None
            done()

        def done() -> None:
            with self._lock:
                run.waits -= 1
                is_last = not run.waits
            if is_last and self.by_number.get(number) is run:  # the closed run may still be marked as lacking them
                self._recorder.put(number, self._record(number, END, self._mark))

        self._recorder.artifacts.put(number, Record(write, give_up))


def _tags_of(result: TrialResult) -> dict[str, str]:
    names = Names()
    names.add(result.tags)
    own = {names[key]: value for key, value in result.tags.items()}
    tags = {**own, STATE_TAG: result.state, "tuner.epochs": str(result.epochs)}
    if result.state != "interrupted":
        setup = ", ".join(f"{key} {value}" for key, value in result.setup.items())
        tags |= {"tuner.seconds": f"{result.seconds:.1f}", "tuner.device": result.device, "tuner.setup": setup}
    if result.message:
        tags["tuner.message"] = result.message
    return {key: fitting(value, LONGEST_TAG) for key, value in tags.items()}


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _halves(items: Sequence[Any]) -> Sequence[Sequence[Any]]:
    middle = len(items) // 2
    return (items[:middle], items[middle:]) if middle else ()


def _same(points: Points) -> Points:
    return points


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, with a column for each key."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
