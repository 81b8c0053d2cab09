"""MLflow: the study is a parent run, each trial a child run.

The coordinator is the only writer. What it hands over is written by two threads, one for runs and one for artifacts, so
that neither a training nor the coordinator waits for MLflow; see `records` for what happens to what cannot be written.
Every point of a trial carries the timestamp ``start of its run + step`` in milliseconds: sent twice, it is stored once.
A trial's result lies in its file, so what MLflow lacks is read again from there, and not kept in memory.
"""

import csv
import io
import json
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from tuner.config import StudyConfig, TrialConfig
from tuner.crashes import crash_point
from tuner.errors import BadInputError, TunerError
from tuner.messages import Points, TrialResult
from tuner.mlflow_text import LONGEST_PARAM, LONGEST_TAG, NAME_RULE, Names, fitting, storable
from tuner.pages import runs_page, standing, trials_page, with_network
from tuner.record import LR_TABLE, simplified
from tuner.records import Record, RecordWriter
from tuner.sent import SentPoints
from tuner.study_file import as_yaml
from tuner.tracked import CHAMPION_TAG, METRIC_TAG, STUDY_ID_TAG, find_children, find_parent, metric_names
from tuner.tracking_store import (
    add_files,
    artifact_folder,
    can_pass,
    create_experiment,
    explained,
    is_refusal,
    open_client,
    reason,
    take_along,
)
from tuner.urls import without_password
from tuner.wording import joined

if TYPE_CHECKING:
    from tuner.storage import Tested

__all__ = ["REVIEWED_TAG", "TRIAL_STATUS", "Tracker"]

BATCH = 1000
MOST_WAITING = 100_000
"""Points that wait in memory, at most; the others are read from their trial's result at its end."""
MOST_READINGS = 1000
PATIENCE_SECONDS = 30.0
ARTIFACT_TRY_SECONDS = 15.0
TRIAL_STATUS = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "diverged": "KILLED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
"""MLflow's status for each end of a trial; the tag `tuner.state` tells them all apart."""

STUDY_TAG, TRIAL_TAG, STATE_TAG, REPLACES_TAG = "tuner.study", "tuner.trial", "tuner.state", "tuner.replaces"
ATTEMPT_TAG, FAILED_TAG = "tuner.attempt", "tuner.failed_trial"
"""Of the run of a trial that was trained again because it had failed, and of the run that it had before."""
REVIEWED_TAG = "tuner.reviewed"
MISSING_TAG = "tuner.missing"
"""Of a run that lacks records: which, and why. The next run of the study sends them."""
REFUSED_TAG = "tuner.refused"
"""Of a run that lacks records which MLflow cannot store: which, and why."""
ARTIFACTS, RUN, END = "artifacts", "the run", "the end"
INHERITED_TAGS = (METRIC_TAG, CHAMPION_TAG, "tuner.model", "tuner.confirmed")
"""What the run of a study takes over from the deleted one that it replaces."""

Reader = Callable[[], TrialResult | None]

_NUMBERS = re.compile(r"[0-9a-f]{32}|\d+")


@dataclass
class _ChildRun:
    """The run of a trial.

    Args:
        run_id: MLflow's identifier.
        start_time: In milliseconds since 1970.
        artifacts: Where its artifacts are.
        state: That of the trial; "running" for a run that is open, whatever its tag says.
        sent: The points that it has; None if that is not known.
        lacks: What it lacks that can be sent another time, and why.
        refused: What MLflow cannot store of it, and why.
        has_values: Whether its parameters and data are known to be there.
        is_marked: Whether its run says that records are missing.
        attempt: How often the trial had failed before this run.
        waits: How many of its artifacts are not written yet.
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
    waits: int = 0


class _NoRunError(Exception):
    """There is no run to write to; why, was said before."""


class _DeletedError(Exception):
    """A run was deleted before something was written to it."""


class _LostStudyError(TunerError):
    """The run of the study was deleted, and there can be no other."""


@dataclass
class _Batch:
    """What became of the points of a record that was divided."""

    taken: int = 0
    given_up: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Return whether the store takes none of them."""
        return self.given_up >= 3 and not self.taken


class Tracker:
    """Records a study.

    Args:
        config: The study.
        uri: MLflow's tracking URI.
        study_id: What tells this study from others of the same name, in other databases.
        warn: Called, from other threads, with what a user should know.
        tags: What the study runs with.
        digests: The digest of each data set, by its name in the study file.
        has_report: Whether a report is put beside the study's run.

    Raises:
        BadInputError: If MLflow's store cannot be used.
    """

    def __init__(
        self,
        config: StudyConfig,
        uri: str,
        study_id: str,
        warn: Callable[[str], None],
        tags: Mapping[str, str] = MappingProxyType({}),
        digests: Mapping[str, str] = MappingProxyType({}),
        has_report: bool = False,
    ) -> None:
        self.uri = uri
        self._warn, self._config, self._study_id = warn, config, study_id
        self._tags, self._digests, self._has_report = tags, digests, has_report
        self._deleted: dict[int, str] = {}
        self._replaced: dict[int, str] = {}  # runs of attempts that failed
        with explained(uri):
            self._client = open_client(uri)
            self._open_experiment()
            self._parent = self._open_parent()
            used = set(self._parent.data.metrics)
            self._children = dict(self._find_children(used))
        self._is_open = self._parent.info.status == "RUNNING"
        self._is_marked = MISSING_TAG in self._parent.data.tags
        self._names = Names(metric_names(self._parent), used)
        self._sent: SentPoints | None = None  # the study's own points
        self._standings: list[tuple[Points, int]] = []
        self._files: dict[str, Callable[[], str | Path | None]] = {}  # the newest of the study
        self._unsure: set[int] = set()  # trials whose run may be there, though the answer was lost
        self._held = 0  # points that wait
        self._left_out: set[int] = set()  # trials of which not every report waited
        self._lock = threading.Lock()
        self._losses: dict[tuple[str, str, bool], tuple[str, dict[str, None]]] = {}
        self._left = 0
        for number, child in self._children.items():
            for what in child.refused:
                self._losses.setdefault(("records", what, True), (what, {}))[1][f"trial #{number}"] = None
        self._runs = RecordWriter("tracking", can_pass, self._probe, self._went, self._came_back)
        self._artifacts = RecordWriter("artifacts", can_pass, self._probe_artifacts, self._artifacts_went, lambda: None)
        self._describe_study()
        self._put_artifact(None, "study.yaml", lambda: self._config.text)
        self._artifacts.settle(ARTIFACT_TRY_SECONDS)

    @property
    def experiment_id(self) -> str:
        """Return the id of the study's experiment."""
        return self._experiment_id

    @property
    def reviewed(self) -> str:
        """Return which state of the study the plots, the report and the model in MLflow are of."""
        return str(self._parent.data.tags.get(REVIEWED_TAG, ""))

    @property
    def parent_id(self) -> str:
        """Return the id of the study's run."""
        return str(self._parent.info.run_id)

    @property
    def backlog(self) -> int:
        """Return how many records are not written yet."""
        return self._runs.waiting + self._artifacts.waiting

    @property
    def missing(self) -> list[str]:
        """Return what MLflow lacks of the study, why, and what to do, in sentences; nothing if it has everything."""
        sentences = []
        if self._left:
            sentences.append("MLflow did not take all records; run the same command again when it is up")
        with self._lock:
            losses = [(what, is_final, why, list(whom)) for (what, _, is_final), (why, whom) in self._losses.items()]
        for what, is_final, why, whom in losses:
            ending = "it cannot store that" if is_final else "the next run of the study sends it again"
            sentences.append(f"{self._sentence(what, joined(whom), why)}; {ending}")
        return sentences

    def _sentence(self, what: str, whom: str, why: str) -> str:
        if what == ARTIFACTS:
            return f"artifacts of {whom} cannot be written to {self._place}: {why}"
        return f"MLflow did not take {what} of {whom}: {why}"

    def unfinished(self, numbers: Sequence[int]) -> list[int]:
        """Return those of the given finished trials whose runs are missing, do not say so, or lack records."""
        return [number for number in numbers if self._is_unfinished(self._children.get(number))]

    @staticmethod
    def _is_unfinished(child: _ChildRun | None) -> bool:
        return child is None or child.state in ("running", "interrupted") or bool(child.lacks)

    # -- what is recorded ----------------------------------------------------------------------------------------------

    def start_trial(self, number: int, config: TrialConfig, attempt: int = 0) -> None:
        """Open a trial's run, or the one that it had before it was cut short.

        Args:
            number: The trial.
            config: Its values.
            attempt: How often it has failed before; each attempt has a run.
        """

        def write() -> None:
            if not self._is_open:
                self._on_study(lambda: self._client.update_run(self.parent_id, status="RUNNING"))
                self._is_open = True
            child = self._children.get(number)
            if child is not None and child.attempt < attempt:
                self._client.set_tag(child.run_id, FAILED_TAG, str(number))
                self._client.delete_tag(child.run_id, TRIAL_TAG)
                self._replaced[number] = child.run_id
                child = None
            if child is not None and not self._is_gone(child.run_id):
                self._client.update_run(child.run_id, status="RUNNING")
                self._client.set_tag(child.run_id, STATE_TAG, "running")
                child.state = "running"
                child.lacks.clear()
                child.refused.clear()
            else:
                self._children.pop(number, None)
                self._create_child(number, config, attempt)

        self._runs.put(number, Record(write, lambda error: self._lose(RUN, number, error)))
        self._put_values(number, config)

    def log_points(self, number: int, points: Points) -> None:
        """Add metrics to a trial's run; those it has are left out."""
        with self._lock:
            if self._held and self._held + len(points) > MOST_WAITING:
                self._left_out.add(number)
                return  # MLflow is away; at its end the trial sends what is in its result
            self._held += len(points)

        def release() -> None:
            with self._lock:
                self._held -= len(points)

        self._runs.put(number, self._points_record(number, lambda: points, _Batch(), release))

    def finish_trial(
        self,
        number: int,
        config: TrialConfig,
        result: TrialResult,
        read: Callable[[], TrialResult | None] | None = None,
        files: Path | None = None,
    ) -> None:
        """Close a trial's run, with the points that it lacks.

        Args:
            number: The trial.
            config: Its values.
            result: How it ended.
            read: Reads its result, with all points, from its file; called from other threads. Without it, `result` is
                kept until MLflow has it.
            files: Folder of the files that its module recorded itself; it need not exist.
        """
        if read is None:
            kept = result

            def points() -> Points:
                return kept.points

        else:
            result, reader = replace(result, points=()), read

            def points() -> Points:
                stored = reader()
                if stored is None and number in self._left_out:
                    self._lose("some points", number, RuntimeError("they were kept in a result that is gone"))
                return stored.points if stored is not None else ()

        self._put_end(number, config, result, points, files, again=True)

    def _put_end(
        self,
        number: int,
        config: TrialConfig,
        result: TrialResult,
        points: Callable[[], Points],
        files: Path | None,
        again: bool,
    ) -> None:
        def open_run() -> None:
            if number not in self._children:
                self._create_child(number, config)
            self._put_artifacts(number, result, points, files)

        def once_more() -> None:  # its run was deleted meanwhile: another gets all
            if again:
                self._put_end(number, config, result, points, files, again=False)
            else:
                self._lose(RUN, number, RuntimeError("it was deleted again"))

        def close(child: _ChildRun) -> None:
            self._mark(child)
            value = "" if result.value is None else f" {result.value:.4f}"
            self._client.update_run(child.run_id, name=storable(f"#{number} {config.schedule.name}{value}"))
            crash_point("run described")
            self._client.set_terminated(child.run_id, TRIAL_STATUS[result.state])  # last: now it has all
            child.state = result.state
            if result.state != "interrupted":
                child.sent = None

        self._runs.put(number, Record(open_run, lambda error: self._lose(RUN, number, error)))
        self._put_values(number, config, result.params)
        self._runs.put(number, self._points_record(number, points, _Batch(), gone=once_more))
        self._runs.put(number, self._tags_record(number, _tags_of(result), once_more))
        self._runs.put(number, self._record(number, END, close, gone=once_more))

    def log_standing(self, finished: int, best: float | None, at: float) -> None:
        """Add to the study's run how it stood when so many trials were finished.

        Args:
            finished: How many.
            best: Value of the best of them.
            at: When that was, in seconds since 1970.
        """
        points = [("trials_done", finished, float(finished))]
        if best is not None:
            points.append(("best_value", finished, best))
        self._log_of_study(points, int(at * 1000))

    def log_study(
        self, table: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None, found: Sequence[str] = ()
    ) -> None:
        """Write the table of finished trials, the best of them, and what was found in words, to the study's run."""

        def write() -> None:
            child = self._children.get(best["number"]) if best is not None else None
            champion = self._client.get_run(self.parent_id).data.tags.get(CHAMPION_TAG)
            text = standing(self._config, self._pages(child), len(table), best["params"] if best else {}, found)
            tags = {MLFLOW_RUN_NOTE: with_network(text, self._config.name, champion)}
            if best is not None:
                tags |= {"tuner.best_trial": str(best["number"]), "tuner.best_run_id": child.run_id if child else ""}
            self._tag_study(tags)

        self._put_of_study("the description", write, "description")
        if best is not None:
            self._put_artifact(None, "best.yaml", lambda: as_yaml(best["config"]))
        self._put_artifact(None, "trials.csv", lambda: _csv(table))

    def log_test(self, test: "Tested") -> None:
        """Write what the best trial reaches on the test data, to its run and to the study's."""

        def write(child: _ChildRun) -> None:
            names, at = self._names_of(test.metrics), child.start_time + test.step
            metrics = [Metric(names[key], float(value), at, test.step) for key, value in test.metrics.items()]
            self._client.log_batch(child.run_id, metrics=metrics)

        self._runs.put(test.trial, self._record(test.trial, "the test", write))
        self._log_of_study(
            [(key, test.finished, value) for key, value in test.metrics.items()], int(time.time() * 1000)
        )

    def log_system(self, values: Mapping[str, float]) -> None:
        """Write how busy the machine is to the study's run, at the millisecond since the study began."""
        if self._runs.waiting > MOST_READINGS:
            return  # MLflow is away: of so long a time only the beginning is kept
        now = int(time.time() * 1000)
        points = [Metric(key, value, now, now - self._parent.info.start_time) for key, value in values.items()]

        def write() -> None:
            if self._is_open:  # else no trial has begun: nothing is done in a study that is finished
                self._client.log_batch(self.parent_id, metrics=points)

        self._runs.put("system", self._study_record("system metrics", write))

    def close(self, status: str, patience: float = PATIENCE_SECONDS) -> bool:
        """Write what is left, and close the study's run; if nothing was done in it, it keeps its end.

        Args:
            status: MLflow status of the study's run.
            patience: Seconds to wait for a store that takes nothing.

        Returns:
            Whether everything was delivered, but for what MLflow cannot store. `missing` says what was not; the next
            run of the study sends it.
        """

        def write() -> None:
            sentences = "; ".join(self.missing)
            if sentences:
                self._client.set_tag(self.parent_id, MISSING_TAG, fitting(sentences, LONGEST_TAG))
            elif self._is_marked:
                self._client.delete_tag(self.parent_id, MISSING_TAG)
            self._is_marked = bool(sentences)
            if self._is_open or self._parent.info.status != status:
                self._client.set_terminated(self.parent_id, status)

        is_drained = self._runs.drain(patience)
        self._artifacts.drain(patience if is_drained else min(patience, 5.0))
        if is_drained:
            self._put_of_study(END, write)
            self._runs.drain(patience)
        self._left = self.backlog
        self._runs.close()
        self._artifacts.close()
        with self._lock:
            return not self._left and all(is_final for _, _, is_final in self._losses)

    # -- the study's run -----------------------------------------------------------------------------------------------

    def _open_experiment(self) -> None:
        name = self._config.experiment or self._config.name
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            experiment = create_experiment(self._client, self.uri, name)
        elif experiment.lifecycle_stage != LifecycleStage.ACTIVE:
            raise BadInputError([f'MLflow: the experiment "{name}" was deleted. Restore it, or rename the study.'])
        else:
            take_along(self._client, self.uri, experiment, self._warn)
            experiment = self._client.get_experiment(experiment.experiment_id)
        self._experiment_id = str(experiment.experiment_id)
        location = experiment.artifact_location
        self._place = without_password(str(artifact_folder(self.uri, location) or location))

    def _open_parent(self) -> Run:
        """Return the study's run; if it was deleted, another with the runs of its trials."""
        parent = find_parent(self._client, [self._experiment_id], self._study_id)
        if parent is None:
            deleted = find_parent(self._client, [self._experiment_id], self._study_id, ViewType.DELETED_ONLY)
            parent = self._create_parent(deleted)
            if deleted is not None:
                self._warn("the run of this study in MLflow was deleted; the study gets another, with its trials' runs")
        if replaced := parent.data.tags.get(REPLACES_TAG):
            for run in find_children(self._client, self._experiment_id, replaced):
                self._client.set_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID, parent.info.run_id)
        return parent

    def _create_parent(self, replaced: Run | None) -> Run:
        tags = {STUDY_TAG: self._config.name, STUDY_ID_TAG: self._study_id}
        within = self._config.within and find_parent(self._client, [self._experiment_id], self._config.within)
        if within:
            tags[MLFLOW_PARENT_RUN_ID] = within.info.run_id
        if replaced is not None:
            before = replaced.data.tags.items()
            tags |= {key: value for key, value in before if key.startswith(INHERITED_TAGS)}
            tags[REPLACES_TAG] = replaced.info.run_id
        return self._client.create_run(self._experiment_id, run_name=self._config.name, tags=tags)

    def _describe_study(self) -> None:
        """Record what the study is and runs with, and learn which points its run has."""

        def learn() -> None:
            self._sent = self._stored(self.parent_id)

        self._put_of_study("the points that it has", learn)
        tags = {key: fitting(value, LONGEST_TAG) for key, value in self._tags.items()}
        self._put_of_study("tags", partial(self._tag_study, tags))
        for name in self._digests:
            self._put_of_study("a data set", partial(self._log_data_of_study, name))

    def _tag_study(self, tags: Mapping[str, str]) -> None:
        self._client.log_batch(self.parent_id, tags=_run_tags(tags))

    def _log_data_of_study(self, name: str) -> None:
        self._client.log_inputs(self.parent_id, [self._dataset(name, {})])

    def _replace_parent(self) -> None:
        """Let the study go on in another run, as its own was deleted."""
        self._parent = self._open_parent()
        self._is_open, self._is_marked, self._sent = True, False, SentPoints()
        self._describe_study()
        for points, at in list(self._standings):
            self._put_points_of_study(points, at)
        for name, content in list(self._files.items()):
            self._put_artifact(None, name, content)

    def _log_of_study(self, points: Points, at: int) -> None:
        """Add metrics to the study's run; their step is the number of finished trials. Those it has are left out."""
        self._standings.append((points, at))
        self._put_points_of_study(points, at)

    def _put_points_of_study(self, points: Points, at: int) -> None:
        def write() -> None:
            if self._sent is None:
                raise _NoRunError("which points the study's run has is not known")
            names = self._names_of(key for key, _, _ in points)
            new = [point for point in points if (names[point[0]], point[1]) not in self._sent]
            if new:
                metrics = [Metric(names[key], float(value), at, step) for key, step, value in new]
                self._client.log_batch(self.parent_id, metrics=metrics)
                for key, step, _ in new:
                    self._sent.add(names[key], step)

        self._put_of_study("points", write)

    def _pages(self, child: _ChildRun | None) -> dict[str, str]:
        objective = self._config.objective
        metric = self._names[objective.metric]
        trials = trials_page(self._experiment_id, self.parent_id, metric, objective.direction)
        pages = {"All trials and their charts": trials}
        if child:
            pages = {"The best trial": runs_page(self._experiment_id, child.run_id), **pages}
        if self._has_report:
            report = runs_page(self._experiment_id, self.parent_id, "artifacts", "report.html")
            pages = {"Report with all plots": report, **pages}
        return pages

    def _put_of_study(self, what: str, write: Callable[[], object], newest: str = "") -> None:
        self._runs.put("study", self._study_record(what, write, newest))

    def _study_record(self, what: str, write: Callable[[], object], newest: str = "") -> Record:
        return Record(lambda: self._on_study(write), lambda error: self._lose(what, None, error), newest=newest)

    def _on_study(self, write: Callable[[], object]) -> None:
        """Write something to the study's run; if that was deleted, to the one that replaces it."""
        try:
            write()
        except MlflowException as error:
            if not self._is_gone(self.parent_id, error):
                raise
            try:
                self._replace_parent()
            except MlflowException as reason_of_all:
                said = reason(reason_of_all, self.uri)
                raise _LostStudyError(f"its run was deleted, and it cannot get another: {said}") from reason_of_all
            write()

    # -- the runs of trials --------------------------------------------------------------------------------------------

    def _find_children(self, metrics: set[str]) -> Iterator[tuple[int, _ChildRun]]:
        """Yield the runs of trials that are in MLflow, and add the metrics that they have."""
        for run in find_children(self._client, self._experiment_id, self.parent_id, ViewType.ALL):
            tags, info = run.data.tags, run.info
            if not tags.get(TRIAL_TAG, "").isdecimal():
                continue  # somebody else put it there
            number = int(tags[TRIAL_TAG])
            metrics.update(run.data.metrics)
            if info.lifecycle_stage == LifecycleStage.DELETED:
                self._deleted[number] = info.run_id
                continue
            state = "running" if info.status == "RUNNING" else tags.get(STATE_TAG, "running")
            child = _ChildRun(info.run_id, info.start_time, info.artifact_uri, state, is_marked=MISSING_TAG in tags)
            child.attempt = int(tags.get(ATTEMPT_TAG, 0))
            child.lacks = {tags[MISSING_TAG]: None} if MISSING_TAG in tags else {}
            child.refused = {tags[REFUSED_TAG]: None} if REFUSED_TAG in tags else {}
            yield number, child

    def _create_child(self, number: int, config: TrialConfig, attempt: int = 0) -> None:
        if number in self._unsure:  # the run may be there, and only the answer was lost
            self._children = dict(self._find_children(set())) | self._children
            if number in self._children:
                self._unsure.discard(number)
                return
        tags = {
            MLFLOW_PARENT_RUN_ID: self.parent_id,
            STUDY_TAG: self._config.name,
            TRIAL_TAG: str(number),
            STATE_TAG: "running",
        }
        if attempt:
            tags[ATTEMPT_TAG] = str(attempt)
        if failed := self._replaced.get(number):
            tags[REPLACES_TAG] = failed
        if deleted := self._deleted.get(number):
            tags[REPLACES_TAG] = deleted
            self._warn(f"the run of trial #{number} in MLflow was deleted; the trial gets another")
        name = storable(f"#{number} {config.schedule.name}")
        self._unsure.add(number)
        run = self._client.create_run(self._experiment_id, run_name=name, tags=tags)
        self._unsure.discard(number)
        crash_point("run created")
        info = run.info
        child = _ChildRun(info.run_id, info.start_time, info.artifact_uri, "running", SentPoints(), attempt=attempt)
        self._children[number] = child

    def _put_values(self, number: int, config: TrialConfig, own: Mapping[str, str] = MappingProxyType({})) -> None:
        """Put parameters and data beside a trial's run, unless it is known to have them; and those of its module."""
        values = {**self._config.described(number), **config.flat()}
        names = Names()
        names.add({**values, **own})

        def params(of: Mapping[str, Any]) -> list[Param]:
            return [Param(names[key], fitting(_text(value), LONGEST_PARAM)) for key, value in of.items()]

        def record(some: Sequence[Param], is_own: bool = False) -> Record:
            def write(child: _ChildRun) -> None:
                for batch in () if child.has_values and not is_own else _batches(some, 100):
                    self._client.log_batch(child.run_id, params=batch)

            def divide() -> list[Record]:
                return [record(part, is_own) for part in _halves(some)]

            what = f"the parameter {some[0].key}" if len(some) == 1 else "parameters"
            return self._record(number, what, write, divide)

        def write_data(child: _ChildRun) -> None:
            if not child.has_values:
                data = self._dataset(config.data.name, config.data.arguments)
                self._client.log_inputs(child.run_id, [data])
                child.has_values = True

        if values:
            self._runs.put(number, record(params(values)))
        if added := {key: value for key, value in own.items() if key not in values}:
            self._runs.put(number, record(params(added), is_own=True))
        self._runs.put(number, self._record(number, "the data set", write_data))

    def _points_record(
        self,
        number: int,
        points: Callable[[], Points],
        batch: _Batch,
        done: Callable[[], None] = lambda: None,
        gone: Callable[[], None] = lambda: None,
    ) -> Record:
        def new_points(child: _ChildRun) -> list[tuple[str, int, float]]:
            if child.sent is None:
                child.sent = self._stored(child.run_id)
            some = points()
            names, sent = self._names_of(key for key, _, _ in some), child.sent
            return [(key, step, value) for key, step, value in some if (names[key], step) not in sent]

        def write(child: _ChildRun) -> None:
            for part in _batches(new_points(child), BATCH):
                metrics = [
                    Metric(self._names[key], float(value), child.start_time + step, step) for key, step, value in part
                ]
                self._client.log_batch(child.run_id, metrics=metrics)
                for metric in metrics:
                    if child.sent is not None:
                        child.sent.add(metric.key, metric.step)
                batch.taken += len(part)
            done()

        def divide() -> list[Record]:
            child = self._children.get(number)
            left = new_points(child) if child is not None and not batch.is_hopeless else []
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
            self._lose(f"points of {joined(metrics)}" if metrics else "points", number, error, gone)

        record = self._record(number, "points", write, divide)
        record.give_up = give_up
        return record

    def _tags_record(self, number: int, tags: Mapping[str, str], gone: Callable[[], None]) -> Record:
        def write(child: _ChildRun) -> None:
            self._client.log_batch(child.run_id, tags=_run_tags(tags))

        def divide() -> list[Record]:
            return [self._tags_record(number, {key: value}, gone) for key, value in tags.items()]

        what = f"the tag {next(iter(tags))}" if len(tags) == 1 else "tags"
        return self._record(number, what, write, divide, gone)

    def _record(
        self,
        number: int,
        what: str,
        write: Callable[[_ChildRun], None],
        divide: Callable[[], Sequence[Record]] = tuple,
        gone: Callable[[], None] = lambda: None,
    ) -> Record:
        """Return a record of a trial's run.

        Args:
            number: The trial.
            what: What it is, for messages.
            write: Writes it to the run.
            divide: Returns its parts.
            gone: Called if the run was deleted before this was written.
        """

        def attempt() -> None:
            child = self._children.get(number)
            if child is None:
                raise _NoRunError("the trial has no run")
            try:
                write(child)
            except MlflowException as error:
                if not self._is_gone(child.run_id, error):
                    raise
                self._deleted[number] = child.run_id
                del self._children[number]
                raise _DeletedError("the run was deleted") from error

        return Record(attempt, lambda error: self._lose(what, number, error, gone), divide)

    def _is_gone(self, run_id: str, error: MlflowException | None = None) -> bool:
        """Return whether a run was deleted, if that can be what an error is about."""
        if error is not None and (can_pass(error) or error.error_code in ("PERMISSION_DENIED", "UNAUTHENTICATED")):
            return False
        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED)
        except MlflowException as missing:
            if missing.error_code == "RESOURCE_DOES_NOT_EXIST":
                return True
            if error is None:
                raise
            return False

    def _mark(self, child: _ChildRun) -> None:
        """Write to a run whether records are missing."""
        lacks = "; ".join([*child.lacks, *([ARTIFACTS] if child.waits else [])])
        if lacks:
            self._client.set_tag(child.run_id, MISSING_TAG, fitting(lacks, LONGEST_TAG))
        elif child.is_marked:
            self._client.delete_tag(child.run_id, MISSING_TAG)
        child.is_marked = bool(lacks)
        if child.refused:
            self._client.set_tag(child.run_id, REFUSED_TAG, fitting("; ".join(child.refused), LONGEST_TAG))

    # -- artifacts -----------------------------------------------------------------------------------------------------

    def _put_artifacts(
        self, number: int, result: TrialResult, points: Callable[[], Points], files: Path | None
    ) -> None:
        """Put files beside a trial's run: where it failed, its lr, and those that its module recorded itself."""
        if files is not None and files.is_dir():
            self._put_artifact(number, "", lambda: files)
        if result.traceback:
            self._put_artifact(number, "traceback.txt", lambda: storable(result.traceback))
        if result.state == "interrupted":
            return

        def table() -> str | None:
            rates = simplified(sorted({step: lr for key, step, lr in points() if key == "lr"}.items()))
            return _csv([{"step": step, "lr": lr} for step, lr in rates]) if rates else None

        self._put_artifact(number, LR_TABLE, table)  # MLflow draws a sample of a long curve; here is where it bends

    def _put_artifact(self, number: int | None, name: str, content: Callable[[], str | Path | None]) -> None:
        """Put a file of this name beside a run, or all files of a folder."""
        child = self._children.get(number) if number is not None else None
        if child is not None:
            with self._lock:
                child.waits += 1

        def write() -> None:
            run, location = self.parent_id, self._parent.info.artifact_uri
            if child is not None:
                run, location = child.run_id, child.artifacts
            found = content()
            if isinstance(found, Path):
                add_files(self._client, self.uri, run, location, found)
            elif found is not None:
                with tempfile.TemporaryDirectory() as folder:
                    Path(folder, name).write_text(storable(found), encoding="utf-8")
                    add_files(self._client, self.uri, run, location, Path(folder))
            end()

        def end() -> None:
            if child is not None and number is not None:
                with self._lock:
                    child.waits -= 1
                    is_last = not child.waits
                if is_last and self._children.get(number) is child:  # the run may be closed, and say that they lack
                    self._runs.put(number, self._record(number, "what it lacks", self._mark))

        def give_up(error: Exception) -> None:
            self._lose(ARTIFACTS, number, error)
            end()

        lane = "study" if number is None else number
        if number is None:
            self._files[name] = content
        self._artifacts.put(lane, Record(write, give_up, newest=name if number is None else ""))

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def _lose(self, what: str, number: int | None, error: Exception, gone: Callable[[], None] = lambda: None) -> None:
        """Note that a record cannot be written, and say so once.

        Args:
            what: The record.
            number: The trial that it is of; None for the study.
            error: Why it cannot.
            gone: Called instead if the run was deleted.
        """
        if isinstance(error, _DeletedError):
            gone()
            return
        if isinstance(error, _NoRunError):
            return
        why, is_final = reason(error, self.uri), is_refusal(error) and what not in (ARTIFACTS, RUN, END)
        whom = "the study" if number is None else f"trial #{number}"
        child = self._children.get(number) if number is not None else None
        if child is not None:
            (child.refused if is_final else child.lacks)[f"{what}: {why}"] = None
        with self._lock:
            key = (what, _NUMBERS.sub("0", why), is_final)
            is_new = key not in self._losses
            self._losses.setdefault(key, (why, {}))[1][whom] = None
        if is_new:
            self._warn(self._sentence(what, whom, why))

    def _probe(self) -> None:
        self._client.set_tag(self.parent_id, STUDY_TAG, self._config.name)

    def _probe_artifacts(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "study.yaml").write_text(storable(self._config.text), encoding="utf-8")
            add_files(self._client, self.uri, self.parent_id, self._parent.info.artifact_uri, Path(folder))

    def _went(self, error: Exception) -> None:
        self._warn(f"MLflow takes no records at present ({reason(error, self.uri)}); they are kept and sent later")

    def _came_back(self) -> None:
        self._warn("MLflow takes records again")

    def _artifacts_went(self, error: Exception) -> None:
        why = reason(error, self.uri)
        self._warn(f"artifacts cannot be written to {self._place} at present ({why}); they are kept and sent later")

    # -- parts of records ----------------------------------------------------------------------------------------------

    def _names_of(self, metrics: Iterable[str]) -> Names:
        """Return the names in MLflow; of those that are other than the metrics' own, say so once."""
        for name, stored in self._names.add(metrics).items():
            self._warn(f'the metric "{name}" is "{stored}" in MLflow, as {NAME_RULE}')
            tags = {f"{METRIC_TAG}{stored}": fitting(name, LONGEST_TAG)}
            self._put_of_study("a tag", partial(self._tag_study, tags))
        return self._names

    def _dataset(self, name: str, arguments: Mapping[str, Any]) -> DatasetInput:
        digest = self._digests.get(name, "")
        profile = json.dumps({**arguments, "digest": digest})
        source = json.dumps({"name": name})
        dataset = Dataset(storable(name), digest[:32] or "unknown", "tuner", source, profile=profile)
        return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training, validation")])

    def _stored(self, run_id: str) -> SentPoints:
        """Return which points a run has: an epoch that is done again gives the same ones, but for roundings."""
        keys = self._client.get_run(run_id).data.metrics
        return SentPoints((key, point.step) for key in keys for point in self._client.get_metric_history(run_id, key))


def _tags_of(result: TrialResult) -> dict[str, str]:
    tags = {**result.tags, STATE_TAG: result.state, "tuner.epochs": str(result.epochs)}
    if result.state != "interrupted":
        setup = ", ".join(f"{key} {value}" for key, value in result.setup.items())
        tags |= {"tuner.seconds": f"{result.seconds:.1f}", "tuner.device": result.device, "tuner.setup": setup}
    if result.message:
        tags["tuner.message"] = result.message
    return {key: fitting(value, LONGEST_TAG) for key, value in tags.items()}


def _run_tags(tags: Mapping[str, str]) -> list[RunTag]:
    return [RunTag(key, storable(value)) for key, value in tags.items()]


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _halves(items: Sequence[Any]) -> Sequence[Sequence[Any]]:
    middle = len(items) // 2
    return (items[:middle], items[middle:]) if middle else ()


def _same(points: Points) -> Points:
    return points


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
