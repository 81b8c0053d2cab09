"""MLflow: the study is a parent run, each trial a child run. The only module that imports mlflow.

The coordinator is the only writer. What it hands over is written by one thread, in order, in batches, so that neither
a training nor the coordinator waits for it; a store that does not answer is tried again until it does. Every point
of a trial carries the timestamp ``start of its run + step`` in milliseconds: sent twice, it is stored once.
"""

import contextlib
import csv
import io
import json
import logging
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
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
from mlflow.protos.databricks_pb2 import ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from tuner.config import StudyConfig, TrialConfig
from tuner.crashes import crash_point
from tuner.errors import BadInputError
from tuner.messages import Points, TrialResult
from tuner.record import LR_TABLE, simplified
from tuner.search_space import described, searched
from tuner.tracked import (
    CHAMPION_TAG,
    STUDY_ID_TAG,
    address_of,
    find_children,
    find_parent,
    model_note,
    runs_page,
    trials_page,
)
from tuner.urls import without_password
from tuner.wording import brief

if TYPE_CHECKING:
    from tuner.storage import Tested

__all__ = ["REVIEWED_TAG", "TRIAL_STATUS", "Tracker", "tracking_uri"]

BATCH = 1000
TRIAL_STATUS = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "diverged": "KILLED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
"""MLflow's status for each end of a trial; the tag `tuner.state` tells them all apart."""

STUDY_TAG, TRIAL_TAG, STATE_TAG, REPLACES_TAG = "tuner.study", "tuner.trial", "tuner.state", "tuner.replaces"
REVIEWED_TAG = "tuner.reviewed"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # MLflow then shows its pages for training
RETRY_SECONDS = (1, 2, 4, 8, 15, 30, 60)

# What the store refuses for good, whenever it is asked.
_REFUSALS = frozenset(
    ErrorCode.Name(code)
    for code in (ErrorCode.Value("INVALID_PARAMETER_VALUE"), ErrorCode.Value("RESOURCE_DOES_NOT_EXIST"))
)


def tracking_uri(given: str | None, must_exist: bool = False) -> str:
    """Return where MLflow records: what is given, else MLFLOW_TRACKING_URI, else ``sqlite:///mlflow.db``.

    Whether it can be used is found out without creating anything.

    Args:
        given: MLflow's tracking URI.
        must_exist: Whether a file that is not there is an error.

    Raises:
        BadInputError: If it cannot be used.
    """
    uri = given or mlflow.get_tracking_uri()
    scheme = urllib.parse.urlsplit(uri).scheme
    if scheme in ("", "file"):
        raise BadInputError(
            [f"tracking uri: {uri}: MLflow no longer writes folders of files; use sqlite:///mlflow.db."]
        )
    if scheme in ("http", "https"):
        _check_server(uri)
    file = _file_of(uri)
    if must_exist and file and not file.exists():
        raise BadInputError([f"tracking uri: {uri}: there is no such file."])
    return uri


def _create_tables(uri: str) -> None:
    """Make MLflow's tables in a file that does not exist yet.

    It takes MLflow a second, in many steps, and of a file with some of them it can make nothing. So the file gets its
    name when it has all.
    """
    path = _file_of(uri)
    if path is None or path.exists():
        return
    for leftover in path.parent.glob(f"{path.name}.*.tmp*"):  # with its journal
        leftover.unlink()
    suffix = f".{os.getpid()}.tmp"
    MlflowClient(tracking_uri=f"{uri}{suffix}").search_experiments(max_results=1)
    path.with_name(f"{path.name}{suffix}").replace(path)


def _file_of(uri: str) -> Path | None:
    """Return the file of a store that is one, and nothing more is said of it."""
    scheme, _, path = uri.partition("sqlite:///")
    return None if scheme or not path or "?" in path else Path(urllib.parse.unquote(path))


def _check_server(uri: str) -> None:
    parts = urllib.parse.urlsplit(uri)
    shown = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    try:
        with urllib.request.urlopen(f"{shown.rstrip('/')}/health", timeout=10):
            pass
    except urllib.error.HTTPError:
        pass  # something answers; what it wants (a login, say) it tells below
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise BadInputError(
            [
                f"tracking uri: no MLflow server answers at {shown} ({reason}). "
                "Start it, or leave the option away to log to a local file."
            ]
        ) from None
    with _login_explained(shown):
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


@contextlib.contextmanager
def _login_explained(server: str) -> Iterator[None]:
    """Turn a server's refusal of who asks into an error that a person can act upon."""
    try:
        yield
    except MlflowException as error:
        if error.error_code == "UNAUTHENTICATED":
            raise BadInputError(
                [
                    f"tracking uri: {server} refuses the login. "
                    "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to one that it knows."
                ]
            ) from None
        if error.error_code == "PERMISSION_DENIED":
            raise BadInputError([f"tracking uri: {server} does not let this user do that: {error.message}"]) from None
        raise


@dataclass
class _ChildRun:
    """The run of a trial.

    Args:
        run_id: MLflow's identifier.
        start_time: In milliseconds since 1970.
        state: That of the trial; "running" for a run that is open, whatever its tag says.
        sent: Metrics and steps of the points that it has, as far as that is known.
        has_values: Whether its parameters and data are known to be there.
    """

    run_id: str
    start_time: int
    state: str
    sent: set[tuple[str, int]] = field(default_factory=set)
    has_values: bool = False


class Tracker:
    """Records a study.

    Args:
        config: The study.
        uri: MLflow's tracking URI.
        study_id: What tells this study from others of the same name, in other databases.
        warn: Called, from another thread, with what a person should know.
        tags: What the study runs with.
        digests: The digest of each data set, by its name in the study file.
        has_report: Whether a report is put beside the study's run.
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
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the thread below tries again, and says so
        self.uri = uri
        self._warn = warn
        self._config = config
        _create_tables(uri)
        self._client = MlflowClient(tracking_uri=uri)
        with _login_explained(without_password(uri)):
            self._experiment_id = self._open_experiment()
            self._parent = find_parent(self._client, [self._experiment_id], study_id) or self._create_parent(study_id)
        self._is_open = self._parent.info.status == "RUNNING"
        self._deleted: dict[int, str] = {}
        self._children = dict(self._find_children())
        self._sent: set[tuple[str, int]] = set()  # of the study's own points
        self._is_unsure = False
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="tracking", daemon=True)
        self._thread.start()
        self._digests, self._has_report = digests, has_report
        self._put(lambda: self._open(tags))

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
        return self._queue.unfinished_tasks

    def unfinished(self, numbers: Sequence[int]) -> list[int]:
        """Return those of the given finished trials whose runs are missing or do not say so."""
        return [n for n in numbers if n not in self._children or self._children[n].state in ("running", "interrupted")]

    def start_trial(self, number: int, config: TrialConfig) -> None:
        """Open a trial's run, or the one that it had before it was cut short."""

        def write() -> None:
            if not self._is_open:
                self._client.update_run(self.parent_id, status="RUNNING")
                self._is_open = True
            if self._is_unsure:  # the run may be there, and only the answer was lost
                self._children = dict(self._find_children()) | self._children
                self._is_unsure = False
            child = self._children.get(number)
            if child is not None:
                self._client.update_run(child.run_id, status="RUNNING")
                self._client.set_tag(child.run_id, STATE_TAG, "running")
                child.state = "running"
                child.sent = child.sent or self._stored(child.run_id)
            else:
                child = self._children[number] = self._create_child(number, config)
            if not child.has_values:  # a crash may have come between the run and these
                values = {**self._config.described(number), **config.flat()}
                params = [Param(key, _text(value)) for key, value in values.items()]
                for batch in _batches(params, 100):
                    self._client.log_batch(child.run_id, params=batch)
                self._client.log_inputs(child.run_id, [self._dataset(config.data.name, config.data.arguments)])
                child.has_values = True

        self._put(write)

    def _create_child(self, number: int, config: TrialConfig) -> _ChildRun:
        tags = {
            MLFLOW_PARENT_RUN_ID: self.parent_id,
            STUDY_TAG: self._config.name,
            TRIAL_TAG: str(number),
            STATE_TAG: "running",
        }
        if deleted := self._deleted.get(number):
            tags[REPLACES_TAG] = deleted
            self._warn(f"the run of trial #{number} in MLflow was deleted; the trial gets another")
        name = f"#{number} {config.schedule.name}"
        run = self._client.create_run(self._experiment_id, run_name=name, tags=tags)
        crash_point("run created")
        return _ChildRun(run.info.run_id, run.info.start_time, "running")

    def log_points(self, number: int, points: Points) -> None:
        """Add metrics to a trial's run; those it has are left out."""

        def write() -> None:
            child = self._children[number]
            new = [point for point in points if (point[0], point[1]) not in child.sent]
            for batch in _batches(new, BATCH):
                metrics = [Metric(key, value, child.start_time + step, step) for key, step, value in batch]
                self._client.log_batch(child.run_id, metrics=metrics)
                child.sent.update((key, step) for key, step, _ in batch)

        self._put(write)

    def finish_trial(self, number: int, config: TrialConfig, result: TrialResult) -> None:
        """Close a trial's run, with the points that it lacks."""
        self.log_points(number, result.points)

        def write() -> None:
            child = self._children[number]
            tags = {STATE_TAG: result.state, "tuner.epochs": str(result.epochs)}
            if result.state != "interrupted":
                setup = ", ".join(f"{key} {value}" for key, value in result.setup.items())
                tags |= {"tuner.seconds": f"{result.seconds:.1f}", "tuner.device": result.device, "tuner.setup": setup}
            if result.message:
                tags["tuner.message"] = result.message[:5000]
            self._client.log_batch(child.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
            if result.traceback:
                self._client.log_text(child.run_id, result.traceback, "traceback.txt")
            rates = simplified(sorted({step: lr for key, step, lr in result.points if key == "lr"}.items()))
            if rates:  # MLflow draws a sample of a long curve; here is where it bends
                self._client.log_text(child.run_id, _csv([{"step": step, "lr": lr} for step, lr in rates]), LR_TABLE)
            value = "" if result.value is None else f" {result.value:.4f}"
            self._client.update_run(child.run_id, name=f"#{number} {config.schedule.name}{value}")
            crash_point("run described")
            self._client.set_terminated(child.run_id, TRIAL_STATUS[result.state])  # last: now it has all
            child.state = result.state
            if result.state != "interrupted":
                child.sent.clear()

        self._put(write)

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
            tags = {MLFLOW_RUN_NOTE: self._description(best, len(table), found)}
            if best is not None:
                child = self._children.get(best["number"])
                tags |= {"tuner.best_trial": str(best["number"]), "tuner.best_run_id": child.run_id if child else ""}
                self._client.log_dict(self.parent_id, best["config"], "best.yaml")
            self._client.log_batch(self.parent_id, tags=[RunTag(key, value) for key, value in tags.items()])
            self._client.log_text(self.parent_id, _csv(table), "trials.csv")

        self._put(write)

    def log_test(self, test: "Tested") -> None:
        """Write what the best trial reaches on the test data, to its run and to the study's."""

        def write() -> None:
            child = self._children[test.trial]
            at = child.start_time + test.step
            points = [Metric(key, value, at, test.step) for key, value in test.metrics.items()]
            self._client.log_batch(child.run_id, metrics=points)

        self._put(write)
        points = [(key, test.finished, value) for key, value in test.metrics.items()]
        self._log_of_study(points, int(time.time() * 1000))

    def _log_of_study(self, points: Points, at: int) -> None:
        """Add metrics to the study's run; their step is the number of finished trials. Those it has are left out."""

        def write() -> None:
            new = [point for point in points if (point[0], point[1]) not in self._sent]
            if new:
                metrics = [Metric(key, value, at, step) for key, step, value in new]
                self._client.log_batch(self.parent_id, metrics=metrics)
                self._sent.update((key, step) for key, step, _ in new)

        self._put(write)

    def log_system(self, values: Mapping[str, float]) -> None:
        """Write how busy the machine is to the study's run, at the millisecond since the study began."""
        now = int(time.time() * 1000)
        points = [Metric(key, value, now, now - self._parent.info.start_time) for key, value in values.items()]

        def write() -> None:
            if self._is_open:  # else no trial has begun: nothing is done in a study that is finished
                self._client.log_batch(self.parent_id, metrics=points)

        self._put(write)

    def close(self, status: str, patience: float = 30.0) -> bool:
        """Write what is left, and close the study's run; if nothing was done in it, it keeps its end.

        Args:
            status: MLflow status of the study's run.
            patience: Seconds to wait for a store that takes nothing.

        Returns:
            Whether everything was written. What was not is sent by the next run of the study.
        """

        def write() -> None:
            if self._is_open or self._parent.info.status != status:
                self._client.set_terminated(self.parent_id, status)

        self._put(write)
        self._queue.put(None)
        self._closing.set()
        left, deadline = self._queue.qsize(), time.monotonic() + patience
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(0.5)
            if self._queue.qsize() < left:
                left, deadline = self._queue.qsize(), time.monotonic() + patience
        return not self._thread.is_alive()

    def _open_experiment(self) -> str:
        name = self._config.experiment or self._config.name
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return str(self._client.create_experiment(name, tags=EXPERIMENT_TAGS))
        if experiment.lifecycle_stage != "active":
            raise BadInputError(
                [f'MLflow: the experiment "{experiment.name}" was deleted. Restore it, or rename the study.']
            )
        return str(experiment.experiment_id)

    def _create_parent(self, study_id: str) -> Run:
        tags = {STUDY_TAG: self._config.name, STUDY_ID_TAG: study_id}
        within = self._config.within and find_parent(self._client, [self._experiment_id], self._config.within)
        if within:
            tags[MLFLOW_PARENT_RUN_ID] = within.info.run_id
        return self._client.create_run(self._experiment_id, run_name=self._config.name, tags=tags)

    def _find_children(self) -> Iterator[tuple[int, _ChildRun]]:
        for run in find_children(self._client, self._parent, ViewType.ALL):
            tags, info = run.data.tags, run.info
            if not tags.get(TRIAL_TAG, "").isdecimal():
                continue  # somebody else put it there
            if info.lifecycle_stage == LifecycleStage.DELETED:
                self._deleted[int(tags[TRIAL_TAG])] = info.run_id
            else:
                state = "running" if info.status == "RUNNING" else tags.get(STATE_TAG, "running")
                yield int(tags[TRIAL_TAG]), _ChildRun(info.run_id, info.start_time, state)

    def _open(self, tags: Mapping[str, str]) -> None:
        """Record what the study is and runs with, and learn which points its run has."""
        self._sent = self._stored(self.parent_id)
        self._client.log_text(self.parent_id, self._config.text, "study.yaml")
        self._client.log_batch(self.parent_id, tags=[RunTag(key, value) for key, value in tags.items()])
        for name in self._digests:
            self._client.log_inputs(self.parent_id, [self._dataset(name, {})])

    def _description(self, best: Mapping[str, Any] | None, finished: int, found: Sequence[str]) -> str:
        """Return the text that MLflow shows first, in Markdown."""
        child = self._children.get(best["number"]) if best else None
        objective = self._config.objective
        pages = {"All trials and their charts": trials_page(self._parent, objective.metric, objective.direction)}
        if child:
            pages = {"The best trial": runs_page(self._experiment_id, child.run_id), **pages}
        if self._has_report:
            report = runs_page(self._experiment_id, self.parent_id, "artifacts", "report.html")
            pages = {"Report with all plots": report, **pages}
        links = " · ".join(f"[{name}]({page})" for name, page in pages.items())
        parts = [f"**{finished} of {self._config.trials} trials.** {links}\n"]  # MLflow folds all but a few lines away
        parts += [f"- {_plain(sentence)}" for sentence in found]
        chosen: Mapping[str, Any] = best["params"] if best else {}
        parts += ["\n| searched | among | the best has |", "|---|---|---|"]
        for path, spec in searched(self._config.trial):
            value = brief(chosen[path]) if path in chosen else ""
            parts.append(f"| {_plain(path)} | {_plain(described(spec))} | {_plain(value)} |")
        text = "\n".join(parts)[:5000]
        champion = self._parent.data.tags.get(CHAMPION_TAG)  # as the study was opened; a review to come adds the rest
        is_champion = best is not None and champion == str(best["number"])
        return f"{text}\n\n{model_note(address_of(self._config.name))}" if is_champion else text

    def _dataset(self, name: str, arguments: Mapping[str, Any]) -> DatasetInput:
        digest = self._digests.get(name, "")
        profile = json.dumps({**arguments, "digest": digest})
        source = json.dumps({"name": name})
        dataset = Dataset(name, digest[:32] or "unknown", "tuner", source, profile=profile)
        return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training, validation")])

    def _stored(self, run_id: str) -> set[tuple[str, int]]:
        """Return which points a run has: an epoch that is done again gives the same ones, but for roundings."""
        keys = self._client.get_run(run_id).data.metrics
        return {(key, point.step) for key in keys for point in self._client.get_metric_history(run_id, key)}

    def _put(self, write: Callable[[], None]) -> None:
        self._queue.put(write)

    def _write(self) -> None:
        while (write := self._queue.get()) is not None:
            attempt = 0
            while True:
                try:
                    write()
                    break
                except MlflowException as error:
                    if error.error_code in _REFUSALS:
                        self._warn(f"MLflow refused a record: {error.message}")
                        break
                    self._pause(attempt, error)
                except KeyError as error:
                    self._warn(f"MLflow has no run for trial #{error}")
                    break
                except Exception as error:  # the network's, the database driver's
                    self._pause(attempt, error)
                attempt += 1
            self._queue.task_done()

    def _pause(self, attempt: int, error: Exception) -> None:
        self._is_unsure = True
        if attempt == 0:
            self._warn(f"MLflow takes no records at present ({type(error).__name__}); they are kept and sent later")
        # Once the study is over, somebody waits: try often.
        if self._closing.is_set():
            time.sleep(1)
        else:
            self._closing.wait(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", text.replace("\n", " "))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
