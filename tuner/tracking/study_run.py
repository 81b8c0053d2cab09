"""The run of a study in MLflow: its points, description and files. A deleted run is replaced by a new one."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
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

from tuner.config.study import StudyConfig
from tuner.protocol import Point
from tuner.text import cut
from tuner.tracking.artifacts import add_files, artifact_folder, create_experiment, take_along
from tuner.tracking.names import LONGEST_PARAM, LONGEST_TAG, NAME_RULE, Names, fitting, storable, value_text
from tuner.tracking.pages import runs_page
from tuner.tracking.reader import (
    CHAMPION_TAG,
    LATER_TAG,
    METRIC_TAG,
    PARAGRAPH,
    STUDY_ID_TAG,
    STUDY_TAG,
    experiment_of_study,
    find_children,
    find_parent,
    find_studies,
    metric_names,
)
from tuner.tracking.record_writer import Record
from tuner.tracking.recorder import ARTIFACTS, END, POINTS_READ, STUDY, LostStudyError, NoRunError, Recorder
from tuner.tracking.sent_points import SentPoints
from tuner.tracking.store_errors import deleted_experiment, reason
from tuner.tracking.view import saved_view, view_tag
from tuner.urls import without_password

__all__ = ["MISSING_TAG", "REPLACES_TAG", "STUDY_TAG", "StudyRun", "run_tags"]

REPLACES_TAG = "tuner.replaces"
MISSING_TAG = "tuner.missing"
"""Tag of a run that lacks records: which ones, and why. The next run of the study sends them."""
PROBE_TAG = "tuner.probe"
BATCH = 1000  # points that MLflow takes at once
INHERITED_TAGS = (METRIC_TAG, CHAMPION_TAG, "tuner.model", "tuner.confirmed")
"""Tags that a study's new run inherits from the deleted run that it replaces."""

TimedPoint = tuple[Point, int]
"""A point, and when it was measured, in milliseconds since 1970."""


def run_tags(tags: Mapping[str, str]) -> list[RunTag]:
    """Return tags as MLflow's entities."""
    return [RunTag(key, storable(value)) for key, value in tags.items()]


class StudyRun:
    """The run of a study.

    Args:
        client: A client of MLflow's store.
        uri: The store's URI.
        config: The study.
        study_id: The study's unique identifier.
        warn: Called with messages for the user.
        tags: Tags of the run: versions, devices and options.
        digests: The digest of each data set, by its name in the study file.

    Attributes:
        run: The run.
        experiment_id: Its experiment.
        is_new: Whether this store had no run of the study.
        place: Location of the study's artifacts, for messages.
        names: Names of the study's metrics in MLflow.

    Raises:
        BadInputError: If its experiment was deleted.
    """

    def __init__(
        self,
        client: MlflowClient,
        uri: str,
        config: StudyConfig,
        study_id: str,
        warn: Callable[[str], None],
        tags: Mapping[str, str],
        digests: Mapping[str, str],
    ) -> None:
        self._client, self._uri, self._config, self._study_id, self._warn = client, uri, config, study_id, warn
        self._tags, self._digests = tags, digests
        self.experiment_id, self.place = self._open_experiment()
        self.run = self._open()
        self.names = Names(metric_names(self.run), self.run.data.metrics)
        self._is_open = bool(self.run.info.status == "RUNNING")
        self._is_marked = MISSING_TAG in self.run.data.tags
        self._sent: SentPoints | None = None
        self._has_probed = False
        self._view = ""
        self._points: list[TimedPoint] = []
        self._files: dict[str, Callable[[], str | None]] = {}
        self._recorder: Recorder

    @property
    def run_id(self) -> str:
        """Return MLflow's identifier of the run."""
        return str(self.run.info.run_id)

    @property
    def is_open(self) -> bool:
        """Return whether a trial has begun."""
        return self._is_open

    def _open_experiment(self) -> tuple[str, str]:
        name = self._config.experiment or self._config.name
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None or not self._is_in(experiment):
            experiment = self._elsewhere(name) or experiment
        if experiment is None:
            experiment = create_experiment(self._client, self._uri, name)
        elif experiment.lifecycle_stage != LifecycleStage.ACTIVE:
            raise deleted_experiment(experiment.name, experiment.experiment_id, self._uri)
        else:
            take_along(self._client, self._uri, experiment, self._warn)
            experiment = self._client.get_experiment(experiment.experiment_id)
        location = experiment.artifact_location
        place = without_password(str(artifact_folder(self._uri, location) or location))
        return str(experiment.experiment_id), place

    def _is_in(self, experiment: Experiment) -> bool:
        """Return whether an experiment has the run of this study, which may be deleted."""
        return find_parent(self._client, [experiment.experiment_id], self._study_id, ViewType.ALL) is not None

    def _elsewhere(self, name: str) -> Experiment | None:
        """Return the experiment with the run of this study, or of the study it is part of, if its name was changed."""
        ids = filter(None, (self._study_id, self._config.within))
        found = next(filter(None, (experiment_of_study(self._client, each) for each in ids)), None)
        if found is not None and found.name != name:
            self._warn(f'the runs of this study are in MLflow\'s experiment "{cut(found.name)}", and stay there')
        return found

    def _open(self) -> Run:
        """Return the study's run; if it was deleted, a new one, which becomes the parent of the trials' runs."""
        run = find_parent(self._client, [self.experiment_id], self._study_id)
        self.is_new = False
        if run is None:
            deleted = find_parent(self._client, [self.experiment_id], self._study_id, ViewType.DELETED_ONLY)
            run = self._create(deleted)
            self.is_new = deleted is None
            if deleted is not None:
                self._warn(
                    "the run of this study in MLflow was deleted; creating a new one for the study and its trials"
                )
        elif LATER_TAG in run.data.tags:  # the database of this study is used again
            self._client.delete_tag(run.info.run_id, LATER_TAG)
            self._client.update_run(run.info.run_id, name=self._config.name)
        if replaced := run.data.tags.get(REPLACES_TAG):
            for child in find_children(self._client, self.experiment_id, replaced):
                self._client.set_tag(child.info.run_id, MLFLOW_PARENT_RUN_ID, run.info.run_id)
        return run

    def _create(self, replaced: Run | None) -> Run:
        tags = {STUDY_TAG: self._config.name, STUDY_ID_TAG: self._study_id}
        within = self._config.within and find_parent(self._client, [self.experiment_id], self._config.within)
        if within:
            tags[MLFLOW_PARENT_RUN_ID] = within.info.run_id
        if replaced is not None:
            before = replaced.data.tags.items()
            tags |= {key: value for key, value in before if key.startswith(INHERITED_TAGS)}
            tags[REPLACES_TAG] = replaced.info.run_id
        created = self._client.create_run(self.experiment_id, run_name=self._config.name, tags=tags)
        for earlier in find_studies(self._client, self.experiment_id, self._config.name):
            if earlier.data.tags[STUDY_ID_TAG] != self._study_id:
                self._mark_as_earlier(earlier, created)
        return created

    def _mark_as_earlier(self, earlier: Run, later: Run) -> None:
        """Say on the page of a run, and by its name, that a study of the same name was begun later."""
        run_id, tags = earlier.info.run_id, earlier.data.tags
        if LATER_TAG in tags:
            return
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(earlier.info.start_time / 1000))
        page = runs_page(self.experiment_id, later.info.run_id)
        text = f"**An earlier study of this name, from another database.** [The later one]({page})"
        self._client.set_tag(
            run_id, MLFLOW_RUN_NOTE, fitting(f"{text}{PARAGRAPH}{tags.get(MLFLOW_RUN_NOTE, '')}", LONGEST_TAG)
        )
        self._client.set_tag(run_id, LATER_TAG, later.info.run_id)
        self._client.update_run(run_id, name=storable(f"{self._config.name}, begun {began}"))

    # -- records -------------------------------------------------------------------------------------------------------

    def start(self, recorder: Recorder) -> None:
        """Record the study file, tags and data sets of the study."""
        self._recorder = recorder
        self._describe()
        self.put_file("study.yaml", lambda: self._config.text)

    def reopen(self) -> None:
        """Set the run's status to RUNNING, when the first trial begins."""
        if not self._is_open:
            self.write(lambda: self._client.update_run(self.run_id, status="RUNNING"))
            self._is_open = True

    def put(self, what: str, write: Callable[[], object], newest: str = "", lane: str = STUDY) -> None:
        """Queue a record of the run; see `Record` for `newest`."""

        def give_up(error: Exception) -> None:
            if not isinstance(error, NoRunError):
                self._recorder.lose(what, "the study", error)

        self._recorder.put(lane, Record(partial(self.write, write), give_up, newest=newest))

    def write(self, write: Callable[[], object]) -> object:
        """Call a function that writes to the run, and return its result; if the run was deleted, replace it first.

        Raises:
            LostStudyError: If the run cannot be replaced.
        """
        try:
            return write()
        except MlflowException as error:
            if not self._recorder.is_gone(self.run_id, error):
                raise
            try:
                self._replace()
            except MlflowException as failure:
                said = reason(failure, self._uri)
                raise LostStudyError(f"its run was deleted and cannot be replaced: {said}") from failure
            return write()

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run, now."""
        self._client.log_batch(self.run_id, tags=run_tags(tags))

    def put_points(self, points: Sequence[TimedPoint]) -> None:
        """Add points, except for points that the run already has. Their step is the number of finished trials.

        Args:
            points: The points, each with the time when it was measured, in milliseconds since 1970.
        """
        self._points += points
        for start in range(0, len(points), BATCH):
            self._put_points(points[start : start + BATCH])

    def _put_points(self, points: Sequence[TimedPoint]) -> None:
        def write() -> bool:
            if self._sent is None:
                raise NoRunError("it is not known which points the run has")
            names = self.names_of(key for (key, _, _), _ in points)
            metrics = [Metric(names[key], float(value), at, step) for (key, step, value), at in points]
            new = [metric for metric in metrics if (metric.key, metric.step) not in self._sent]
            if new:
                self._client.log_batch(self.run_id, metrics=new)
                for metric in new:
                    self._sent.add(metric.key, metric.step)
            return bool(new)

        self.put("points", write)

    def put_params(self, values: Mapping[str, Any]) -> None:
        """Queue parameters of the run. MLflow never changes one, so their names must determine their values."""
        names = Names()
        names.add(values)
        params = [Param(names[key], fitting(value_text(value), LONGEST_PARAM)) for key, value in values.items()]
        self.put("parameters", lambda: self._client.log_batch(self.run_id, params=params), newest="parameters")

    def put_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue metrics of the run, unless these were its last ones."""

        def write() -> bool:
            if all(self.run.data.metrics.get(key) == value for key, value in metrics.items()):
                return False
            now = int(time.time() * 1000)
            points = [Metric(key, value, now, step) for key, value in metrics.items()]
            self._client.log_batch(self.run_id, metrics=points)
            return True

        self.put("the final runs", write, newest="the final runs")

    def write_view(self) -> None:
        """Write the view of the study's trials to the experiment, if it has changed, now."""
        metrics = [objective.metric for objective in self._config.objectives]
        view = saved_view(self.run, self._config, self.names_of(metrics))
        if view != self._view:
            self._client.set_experiment_tag(self.experiment_id, view_tag(self.run_id), view)
            self._remove_replaced_view()
            self._view = view

    def _remove_replaced_view(self) -> None:
        """Remove the view of the run that this one has replaced from the menu of views."""
        replaced = self.run.data.tags.get(REPLACES_TAG)
        if replaced and view_tag(replaced) in self._client.get_experiment(self.experiment_id).tags:
            self._client.delete_experiment_tag(self.experiment_id, view_tag(replaced))

    def put_file(self, name: str, content: Callable[[], str | None]) -> None:
        """Queue a text file for the run's artifacts; a newer one replaces a waiting one of the same name."""
        self._files[name] = content

        def write() -> None:
            if (text := content()) is not None:
                self.add_file(self.run_id, self.run.info.artifact_uri, name, text)

        def give_up(error: Exception) -> None:
            self._recorder.lose(ARTIFACTS, "the study", error)

        self._recorder.artifacts.put(STUDY, Record(write, give_up, newest=name))

    def add_file(self, run_id: str, location: str, name: str, content: str | Path) -> None:
        """Write a text, as a file of this name, or all files of a folder to the artifacts of a run, now."""
        if isinstance(content, Path):
            add_files(self._client, self._uri, run_id, location, content)
            return
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, name).write_text(storable(content), encoding="utf-8")
            add_files(self._client, self._uri, run_id, location, Path(folder))

    def put_end(self, status: str) -> None:
        """Queue the end of the run; a run in which no trial began keeps its end time."""

        def write() -> None:
            if self._has_probed:
                self._recorder.remove_tag(self.run_id, PROBE_TAG)
            sentences = "; ".join(self._recorder.missing)
            if sentences:
                self._client.set_tag(self.run_id, MISSING_TAG, fitting(sentences, LONGEST_TAG))
            elif self._is_marked:
                self._recorder.remove_tag(self.run_id, MISSING_TAG)
            self._is_marked = bool(sentences)
            if self._is_open or self.run.info.status != status:
                self._client.set_terminated(self.run_id, status)

        self.put(END, write)

    def probe(self) -> None:
        """Write something that the store is known to take: a tag whose value changes, so that a database writes it."""
        self._has_probed = True
        self._client.set_tag(self.run_id, PROBE_TAG, str(time.time()))

    def probe_artifacts(self) -> None:
        """Write something that the artifact store should take."""
        self.add_file(self.run_id, self.run.info.artifact_uri, "study.yaml", self._config.text)

    def names_of(self, metrics: Iterable[str]) -> Names:
        """Return the names of metrics in MLflow; a name that differs from the metric's own is reported once."""
        for name, stored in self.names.add(metrics).items():
            self._warn(f'metric "{cut(name)}" is stored as "{cut(stored)}": {NAME_RULE}')
            self.put("a tag", partial(self.set_tags, {f"{METRIC_TAG}{stored}": fitting(name, LONGEST_TAG)}))
        return self.names

    def dataset(self, name: str, arguments: Mapping[str, Any]) -> DatasetInput:
        """Return MLflow's description of a data set."""
        digest = self._digests.get(name, "")
        profile = json.dumps({**arguments, "digest": digest})
        source = json.dumps({"name": name})
        dataset = Dataset(storable(name), digest[:32] or "unknown", "tuner", source, profile=profile)
        return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training, validation")])

    def _describe(self) -> None:
        """Record tags and data sets, and read which points the run has."""

        def learn() -> None:
            self._sent = self._recorder.stored(self.run_id)

        self.put(POINTS_READ, learn)
        tags = {key: fitting(value, LONGEST_TAG) for key, value in self._tags.items()}
        self.put("tags", partial(self.set_tags, tags))
        for name in self._digests:
            self.put("a data set", partial(self._log_input, name))

    def _log_input(self, name: str) -> None:
        self._client.log_inputs(self.run_id, [self.dataset(name, {})])

    def _replace(self) -> None:
        """Continue the study in a new run, because its run was deleted."""
        self.run = self._open()
        self._is_open, self._is_marked, self._sent = True, False, SentPoints()
        self._describe()
        points = list(self._points)
        for start in range(0, len(points), BATCH):
            self._put_points(points[start : start + BATCH])
        for name, content in list(self._files.items()):
            self.put_file(name, content)
