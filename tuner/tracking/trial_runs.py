"""The runs of trials in MLflow. Each trial's records have their own lane; records that a run lacks are sent again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlflow.entities import LifecycleStage, Metric, Param, ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tuner.config.study import StudyConfig
from tuner.config.trial import AnyTrial
from tuner.process import crash_point
from tuner.protocol import Points, TrialResult
from tuner.text import format_metric
from tuner.tracking.names import LONGEST_PARAM, Names, fitting, storable, value_text
from tuner.tracking.reader import find_children
from tuner.tracking.record_writer import Record
from tuner.tracking.recorder import END, RUN, Recorder
from tuner.tracking.sent_points import SentPoints
from tuner.tracking.study_run import MISSING_TAG, REPLACES_TAG, STUDY_TAG, StudyRun, run_tags
from tuner.tracking.trial_files import TrialFiles
from tuner.tracking.trial_points import TrialPoints
from tuner.tracking.trial_records import Entries, TrialRecords, halves, nothing
from tuner.tracking.trial_run import (
    ATTEMPT_TAG,
    FAILED_TAG,
    OTHER_TAG,
    REFUSED_TAG,
    STATE_TAG,
    TRIAL_STATUS,
    TRIAL_TAG,
    VALUES_TAG,
    TrialRun,
    tags_of,
)

__all__ = ["TrialRuns"]


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
        self._records = TrialRecords(recorder)
        self._points = TrialPoints(self._records, study, recorder)
        self._files = TrialFiles(self._records, study, recorder)
        self.by_number = self._records.by_number
        self._attempts: dict[int, int] = {}
        self.by_number.update(self._find())
        for number, run in self.by_number.items():
            for what in run.refused:
                recorder.lost_before(what, f"trial #{number}")

    def _find(self) -> Iterator[tuple[int, TrialRun]]:
        """Yield the trials' runs in MLflow, and register the names of their metrics."""
        for run in find_children(self._client, self._study.experiment_id, self._study.run_id, ViewType.ALL):
            tags, info = run.data.tags, run.info
            if not tags.get(TRIAL_TAG, "").isdecimal():
                continue  # the run belongs to another program
            number = int(tags[TRIAL_TAG])
            self._study.names.use(run.data.metrics)
            if info.lifecycle_stage == LifecycleStage.DELETED:
                self._records.replaced[number] = info.run_id
                self._records.deleted.add(number)
                continue
            state = "running" if info.status == "RUNNING" else tags.get(STATE_TAG, "running")
            found = TrialRun(info.run_id, info.start_time, info.artifact_uri, state, is_marked=MISSING_TAG in tags)
            found.attempt, found.values = int(tags.get(ATTEMPT_TAG, 0)), tags.get(VALUES_TAG, "")
            found.lacks = {tags[MISSING_TAG]: None} if MISSING_TAG in tags else {}
            found.refused = {tags[REFUSED_TAG]: None} if REFUSED_TAG in tags else {}
            yield number, found

    # -- start, reports and end of a trial -----------------------------------------------------------------------------

    def start(self, number: int, config: AnyTrial, attempt: int = 0) -> None:
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
                    f"trial #{number} now has different values from its MLflow run, because the database was restored; "
                    "creating a new run"
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

        create = partial(self._create, number, config)
        self._recorder.put(
            number,
            self._records.opening(number, write, create, lambda: self._study.is_open and self._is_new(number)),
        )
        self._put_data(number, config)
        self._put_values(number, config)

    def _set_aside(self, number: int, run: TrialRun, tag: str, name: str) -> None:
        """Mark a run as superseded, and say so in its name."""
        self._client.set_tag(run.run_id, tag, str(number))
        self._client.update_run(run.run_id, name=name)
        self._recorder.remove_tag(run.run_id, TRIAL_TAG)
        self._records.replaced[number] = run.run_id

    def put_points(self, number: int, points: Points) -> None:
        """Add points to a trial's run, except for points that it already has."""
        self._points.put(number, points)

    def put_metrics(self, number: int, metrics: Mapping[str, float], step: int) -> None:
        """Add a trial's metrics on the test data to its run."""

        def write(run: TrialRun) -> None:
            names, at = self._study.names_of(metrics), run.start_time + step
            points = [Metric(names[key], float(value), at, step) for key, value in metrics.items()]
            self._client.log_batch(run.run_id, metrics=points)

        self._recorder.put(number, self._records.record(number, "the test", write))

    def end(
        self,
        number: int,
        config: AnyTrial,
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
            if found is None and number in self._points.left_out:
                self._records.lose("points", number, nothing, RuntimeError("the result that had them is gone"))
            return found or ()

        self._put_end(number, config, result, stored, files, again=True)

    def _put_end(
        self,
        number: int,
        config: AnyTrial,
        result: TrialResult,
        points: Callable[[], Points],
        files: Path | None,
        again: bool,
    ) -> None:
        has_files = False

        def open_run() -> bool:
            is_new = create()
            opened()
            return is_new

        def create() -> bool:
            is_new = number not in self.by_number
            if is_new:
                self._create(number, config)
            return is_new

        def is_ready() -> bool:
            return number in self.by_number or self._is_new(number)

        def opened() -> None:
            nonlocal has_files
            self._files.put(number, result, points, files)
            has_files = True

        def once_more() -> None:  # the run was deleted meanwhile: send everything to a new one
            if again:
                self._put_end(number, config, result, points, files, again=False)
            else:
                self._records.lose(RUN, number, nothing, RuntimeError("it was deleted again"))

        def close(run: TrialRun) -> None:
            self._records.mark(run)
            value = "" if result.value is None else f" {format_metric(result.value)}"
            state = "" if result.state == "complete" else f", {result.state}"
            name = storable(f"{_title(number, config)}{value}{state}")
            crash_point("run described")
            # This comes last, because a closed run is complete.
            self._recorder.close_run(run.run_id, name, TRIAL_STATUS[result.state])
            run.state = result.state
            if result.state != "interrupted":
                run.sent = None

        self._recorder.put(number, self._records.opening(number, open_run, create, is_ready, opened))
        self._put_values(number, config, result.params)
        self._recorder.put(number, self._points.record(number, points, gone=once_more))
        self._recorder.put(number, self._tags_record(number, tags_of(result), once_more))
        self._put_data(number, config)  # a separate record: those before are written together
        # Not in the transaction that opens the run: until its files are queued, a closed run would not be marked.
        end = self._records.record(number, END, close, gone=once_more, is_ready=lambda: has_files)
        self._recorder.put(number, end)

    def _is_new(self, number: int) -> bool:
        """Return whether a trial certainly never had a run."""
        records = self._records
        return not any(number in each for each in (self.by_number, records.unsure, records.deleted))

    def _create(self, number: int, config: AnyTrial) -> None:
        if number in self._records.unsure:
            for other, found in self._find():
                self.by_number.setdefault(other, found)
            if number in self.by_number:
                self._records.unsure.discard(number)
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
        if replaced := self._records.replaced.get(number):
            tags[REPLACES_TAG] = replaced
        if number in self._records.deleted:
            self._recorder.warn(f"the run of trial #{number} in MLflow was deleted; creating a new one")
        name = storable(_title(number, config))
        self._records.unsure.add(number)
        run = self._client.create_run(self._study.experiment_id, run_name=name, tags=tags)
        self._records.unsure.discard(number)
        crash_point("run created")
        info = run.info
        created = TrialRun(info.run_id, info.start_time, info.artifact_uri, "running", SentPoints())
        created.attempt, created.values = self._attempts.get(number, 0), config.digest
        self.by_number[number] = created

    # -- records -------------------------------------------------------------------------------------------------------

    def _put_values(self, number: int, config: AnyTrial, own: Mapping[str, str] = MappingProxyType({})) -> None:
        """Add parameters to a trial's run, unless it is known to have them, and the module's own."""
        values = {**self._config.described(number), **config.flat()}
        names = Names()
        names.add({**values, **own})

        def params(of: Mapping[str, Any]) -> list[Param]:
            return [Param(names[key], fitting(value_text(value), LONGEST_PARAM)) for key, value in of.items()]

        def record(some: Sequence[Param], is_own: bool = False) -> Record:
            def entries(run: TrialRun) -> Entries:
                return Entries(params=some if is_own or not run.has_values else ())

            def divide() -> list[Record]:
                if (run := self.by_number.get(number)) is not None:
                    run.has_values = True  # its parts are written in any case
                return [record(part, is_own=True) for part in halves(some)]

            def written() -> None:
                if (run := self.by_number.get(number)) is not None:
                    run.has_values = True

            what = f"the parameter {some[0].key}" if len(some) == 1 else "parameters"
            return self._records.log_record(number, what, entries, divide=divide, written=written)

        if values:
            self._recorder.put(number, record(params(values)))
        if added := {key: value for key, value in own.items() if key not in values}:
            self._recorder.put(number, record(params(added), is_own=True))

    def _put_data(self, number: int, config: AnyTrial) -> None:
        """Add the data set to a trial's run, unless it has none, or is known to have it."""
        data = config.dataset
        if data is None:
            return

        def write(run: TrialRun) -> bool:
            if run.has_data:
                return False
            self._client.log_inputs(run.run_id, [self._study.dataset(data.name, data.arguments)])
            run.has_data = True
            return True

        self._recorder.put(number, self._records.record(number, "the data set", write))

    def _tags_record(self, number: int, tags: Mapping[str, str], gone: Callable[[], None]) -> Record:
        def entries(run: TrialRun) -> Entries:
            return Entries(tags=run_tags(tags))

        def divide() -> list[Record]:
            return [self._tags_record(number, {key: value}, gone) for key, value in tags.items()]

        what = f"the tag {next(iter(tags))}" if len(tags) == 1 else "tags"
        return self._records.log_record(number, what, entries, divide=divide, gone=gone)


def _title(number: int, config: AnyTrial) -> str:
    return f"#{number} {config.family}".rstrip()
