"""Read a study's metrics from MLflow, and add files, tags and the best model to its runs."""

import contextlib
import csv
import io
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Experiment, LoggedModelOutput, Metric, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from tuner.analysis.findings import answer, findings
from tuner.analysis.record import LR_TABLE, Curve, simplified
from tuner.errors import BadInputError, StudyFailedError, in_a_line
from tuner.interrupts import temporary_folder
from tuner.text import format_metric
from tuner.tracking.artifacts import add_files, artifact_folder
from tuner.tracking.names import storable
from tuner.tracking.pages import (
    ALIAS,
    REPORT,
    address_of,
    description,
    model_note,
    runs_page,
    study_pages,
    trials_page,
    with_network,
)
from tuner.tracking.store import open_client
from tuner.tracking.store_errors import explained, reason
from tuner.tracking.store_uri import folder_of
from tuner.tracking.view import view_key, view_tag
from tuner.urls import without_password

if TYPE_CHECKING:
    import numpy as np
    import torch
    from mlflow.models.model import ModelInfo

    from tuner.analysis.record import StudyRecord
    from tuner.config.study import StudyConfig

__all__ = [
    "CHAMPION_TAG",
    "LATER_TAG",
    "METRIC_TAG",
    "PARAGRAPH",
    "REVIEWED_TAG",
    "STUDY_ID_TAG",
    "STUDY_TAG",
    "VERSION_TAG",
    "MlflowStudy",
    "experiment_of_study",
    "find_children",
    "find_experiment",
    "find_parent",
    "find_studies",
    "metric_names",
    "pages_of",
    "prepare_to_write",
]

STUDY_ID_TAG = "tuner.study_id"
STUDY_TAG = "tuner.study"
CHAMPION_TAG = "tuner.champion"
"""Tag of a study's run: the number of the trial whose network is the champion in the model registry."""
LATER_TAG = "tuner.later_study"
"""Tag of a study's run: the run of a study of the same name that was begun later, with another database."""
METRIC_TAG = "tuner.metric."
"""Prefix of a tag of a study's run, before the name of a metric in MLflow: the metric's own name, if it differs."""
REVIEWED_TAG = "tuner.reviewed"
"""Tag of a study's run: the state of the study that the plots, the report and the model in MLflow show."""
VERSION_TAG = "tuner.trial"
"""Tag of a version of a registered model: the trial that the network comes from."""

PARAGRAPH = "\n\n"
"""Separates the first paragraph of the description of a run with `LATER_TAG` from the rest."""


def find_parent(
    client: MlflowClient, experiments: list[str], study_id: str, view: int = ViewType.ACTIVE_ONLY
) -> Run | None:
    """Return the run of a study in the experiments, the newest if there are several; None if there is none."""
    found = client.search_runs(experiments, f"tags.`{STUDY_ID_TAG}` = '{study_id}'", view, max_results=1)
    return found[0] if found else None


def find_children(
    client: MlflowClient, experiment_id: str, parent_id: str, view: int = ViewType.ACTIVE_ONLY
) -> Iterator[Run]:
    """Yield the runs of a study's trials; deleted runs too if the view includes them."""
    where = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}'"
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], where, view, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def find_studies(client: MlflowClient, experiment_id: str, name: str) -> list[Run]:
    """Return the runs of the studies of a name in an experiment, the newest first, without their confirmations."""
    found = client.search_runs([experiment_id], f"tags.`{STUDY_ID_TAG}` != ''")
    return [run for run in found if run.data.tags.get(STUDY_TAG) == name and MLFLOW_PARENT_RUN_ID not in run.data.tags]


def experiment_of_study(client: MlflowClient, study_id: str) -> Experiment | None:
    """Return the experiment with the run of a study, both of which may be deleted; None if there is none."""
    return find_experiment(client, f"tags.`{STUDY_ID_TAG}` = '{study_id}'", ViewType.ALL)


def find_experiment(client: MlflowClient, where: str, view: int = ViewType.ACTIVE_ONLY) -> Experiment | None:
    """Return an experiment with a run that a filter of MLflow finds, among all experiments; None if there is none."""
    token: str | None = None
    while True:
        page = client.search_experiments(view, page_token=token)
        found = client.search_runs([each.experiment_id for each in page], where, view, max_results=1) if page else []
        if found:
            return client.get_experiment(found[0].info.experiment_id)
        token = page.token
        if not token:
            return None


def metric_names(parent: Run) -> dict[str, str]:
    """Return the names in MLflow of the metrics that have another name there, by the metrics' own names."""
    tags = parent.data.tags.items()
    return {name: tag.removeprefix(METRIC_TAG) for tag, name in tags if tag.startswith(METRIC_TAG)}


def pages_of(uri: str, name: str | None) -> list[str]:
    """Return the paths of MLflow's pages of a study, relative to MLflow's root URL; of all studies, without a name.

    The first is the page of the study's run, or the list of runs if several databases use studies of this name; the
    second, if there is a view of them, the page of its trials.

    Raises:
        BadInputError: If there is no such study.
    """
    if name is None:
        return ["/#/experiments"]
    with explained(uri):
        client = open_client(uri)
        experiment = client.get_experiment_by_name(name)
        found = find_studies(client, experiment.experiment_id, name) if experiment else []
        if not found:  # the experiment may have been renamed
            experiment = find_experiment(client, f"tags.`{STUDY_TAG}` = '{name}'") or experiment
            found = find_studies(client, experiment.experiment_id, name) if experiment else []
        if experiment is None:
            raise BadInputError([f'no study "{name}" in {without_password(uri)}.'])
    runs = [run for run in found if LATER_TAG not in run.data.tags]
    if len(runs) != 1:
        return [f"/{runs_page(experiment.experiment_id)}"]
    run_id = runs[0].info.run_id
    has_view = view_tag(run_id) in experiment.tags
    trials = [f"/{trials_page(experiment.experiment_id, view_key(run_id))}"] if has_view else []
    return [f"/{runs_page(experiment.experiment_id, run_id)}", *trials]


class MlflowStudy:
    """The runs of a study in MLflow.

    Args:
        uri: MLflow's tracking URI.
        study_id: The study's unique identifier.

    Attributes:
        parent: The run of the study; None if MLflow has none.
        children: The runs of its trials, by their numbers.
    """

    def __init__(self, uri: str, study_id: str) -> None:
        self._uri = uri
        self.parent: Run | None = None
        self.children: Mapping[int, Run] = {}
        self._names: Mapping[str, str] = {}
        with explained(uri):
            self._client = open_client(uri)
            self.parent = self._find_parent(study_id)
            if self.parent is not None:
                runs = find_children(self._client, self.parent.info.experiment_id, self.parent.info.run_id)
                numbered = ((run.data.tags.get("tuner.trial", ""), run) for run in runs)
                self.children = {int(number): run for number, run in numbered if number.isdecimal()}
                self._names = metric_names(self.parent)

    def _find_parent(self, study_id: str) -> Run | None:
        """Search all experiments, of which there may be thousands, for the study's run."""
        token: str | None = None
        while True:
            page = self._client.search_experiments(page_token=token)
            parent = find_parent(self._client, [experiment.experiment_id for experiment in page], study_id)
            token = page.token
            if parent is not None or not token:
                return parent

    def curves(self, number: int, metrics: Iterable[str]) -> dict[str, Curve]:
        """Return a trial's curves of the given metrics, simplified; metrics that it lacks are left out."""
        run = self.children.get(number)
        if run is None:
            return {}
        names = {metric: self._names.get(metric, metric) for metric in metrics}
        return {metric: self._curve(run, name) for metric, name in names.items() if name in run.data.metrics}

    def points(self, number: int) -> dict[str, Curve]:
        """Return all points of all metrics of a trial, except test metrics; empty if it has no run."""
        run = self.children.get(number)
        if run is None:
            return {}
        metrics = self._metrics_of(run)
        with explained(self._uri):
            return {metric: self._history(run, name) for metric, name in metrics.items() if metric[:5] != "test/"}

    @property
    def own_metrics(self) -> set[str]:
        """Return the metrics of the study's own run: of its best trials so far, on validation and test data."""
        return set(self._metrics_of(self.parent)) if self.parent else set()

    def _metrics_of(self, run: Run) -> dict[str, str]:
        """Return the names of a run's metrics in MLflow, by their own names."""
        own = {name: metric for metric, name in self._names.items()}
        return {own.get(name, name): name for name in run.data.metrics}

    def _history(self, run: Run, key: str) -> Curve:
        points = self._client.get_metric_history(run.info.run_id, key)
        return sorted({point.step: point.value for point in points}.items())

    def _curve(self, run: Run, key: str) -> Curve:
        if key == "lr" and (table := _lr_of(self._download(run, LR_TABLE))):  # 20 times as fast as its points
            return table
        with explained(self._uri):
            return simplified(self._history(run, key))

    def read(self, path: str) -> bytes | None:
        """Return a file of the study's run; None if it has none of this name."""
        return self._download(self.parent, path) if self.parent else None

    def _download(self, run: Run, path: str) -> bytes | None:
        place = artifact_folder(self._uri, run.info.artifact_uri)
        with contextlib.suppress(MlflowException, OSError):
            if place is not None and (place / path).is_file():
                return (place / path).read_bytes()
            with temporary_folder() as folder:
                address = f"{run.info.artifact_uri}/{path}"
                return Path(download_artifacts(address, dst_path=str(folder), tracking_uri=self._uri)).read_bytes()
        return None

    def add(self, folder: Path) -> None:
        """Add the files of a folder to the artifacts of the study's run.

        Raises:
            StudyFailedError: If they cannot be written.
        """
        if self.parent is not None:
            info = self.parent.info
            with self._writing("artifacts"):
                add_files(self._client, self._uri, info.run_id, info.artifact_uri, folder)

    @property
    def reviewed(self) -> str:
        """Return the state of the study that the plots, the report and the model show; empty if they are incomplete."""
        return str(self.parent.data.tags.get(REVIEWED_TAG, "")) if self.parent else ""

    @property
    def has_report(self) -> bool:
        """Return whether the study's run has a report."""
        return self.read(REPORT) is not None

    def describe(self, config: "StudyConfig", record: "StudyRecord") -> None:
        """Write the findings and the winner with fresh seeds to the study's run, as its coordinator does.

        Args:
            config: The study.
            record: What it has found.

        Raises:
            StudyFailedError: If they cannot be written.
        """
        if self.parent is None:
            return
        experiment, run_id, tags = self.parent.info.experiment_id, self.parent.info.run_id, self.parent.data.tags
        best, finished = record.best, len(record.trials)
        run = self.children.get(best.number) if best else None
        of_best = {"number": best.number, "params": best.params} if best else None
        pages = study_pages(experiment, run_id, view_key(run_id), run.info.run_id if run else None, self.has_report)
        found = answer(record), findings(record)
        text = description(config, pages, finished, of_best, *found, tags.get(CHAMPION_TAG))
        if LATER_TAG in tags:  # the first paragraph says that the study is an earlier one of this name
            text = f"{tags.get(MLFLOW_RUN_NOTE, '').partition(PARAGRAPH)[0]}{PARAGRAPH}{text}"
        self.set_tag(MLFLOW_RUN_NOTE, storable(text))
        metrics = record.retrained.metrics if record.retrained else {}
        if any(self.parent.data.metrics.get(key) != value for key, value in metrics.items()):
            now = int(time.time() * 1000)
            points = [Metric(key, value, now, finished) for key, value in metrics.items()]
            with self._writing("the mean with fresh seeds"):
                self._client.log_batch(run_id, metrics=points)

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag of the study's run.

        Raises:
            StudyFailedError: If it cannot be written.
        """
        if self.parent is not None:
            with self._writing(f"the tag {key}"):
                self._client.set_tag(self.parent.info.run_id, key, value)

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # from the network, the store, or the client of an artifact store
            text = f"MLflow did not accept {what} of the study: {reason(error, self._uri)}"
            raise StudyFailedError(f"{text}; run the same command again when it does.") from error

    def champion(self, name: str) -> int | None:
        """Return the trial whose network is the registry's champion of this name; None if it is not of this study."""
        with contextlib.suppress(MlflowException):  # no such model, or no registry
            champion = self._client.get_model_version_by_alias(name, ALIAS)
            return next((number for number, run in self.children.items() if run.info.run_id == champion.run_id), None)
        return None

    def add_model(self, number: int, model: "torch.nn.Module", example: "np.ndarray[Any, Any]", name: str) -> list[str]:
        """Log the best trial's network, without pickle, and register it under the study's name as the champion.

        Args:
            number: The trial.
            model: Its network, on the CPU.
            example: Two inputs [2, ...].
            name: The study's name.

        Returns:
            Sentences about steps that failed; empty if none did.
        """
        run = self.children[number]
        logged = None
        if self.champion(name) != number:
            try:
                logged = self._log_model(run, model.eval(), example)
            except Exception as error:  # torch.export raises many kinds for networks that it cannot trace
                return [
                    f"the network of trial #{number} cannot be exported, so MLflow has only its weights: "
                    f"{in_a_line(error)[:300]}"
                ]
        try:
            if not self._is_own_model(name):
                return [f'the registry has a model "{name}" that no study created, so the network is not registered']
            if logged is not None:
                self._register(run, logged, number, name)
            self._describe_model(run, number, name)
        except (MlflowException, OSError) as error:
            return [f"the model is in MLflow, but its registry did not accept it: {in_a_line(error)[:300]}"]
        return []

    def _is_own_model(self, name: str) -> bool:
        """Return whether no model of this name is registered, or the tuner registered it."""
        try:
            self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return True
            raise
        versions = self._client.search_model_versions(f"name = '{name}'")
        return not versions or any(VERSION_TAG in version.tags for version in versions)

    def _log_model(self, run: Run, model: "torch.nn.Module", example: "np.ndarray[Any, Any]") -> "ModelInfo":
        import mlflow.pytorch  # here, because it imports torch, which readers do not need
        import numpy as np
        import torch
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec
        from mlflow.utils import requirements_utils

        # MLflow fills it with the names of all installed files, which takes a second, and finds torch without it.
        requirements_utils._MODULES_TO_PACKAGES = {}  # type: ignore[assignment]
        mlflow.set_tracking_uri(self._uri)  # global, because `Model.log` takes neither a client nor an experiment
        mlflow.set_experiment(experiment_id=run.info.experiment_id)
        with torch.inference_mode():
            outputs = model(torch.from_numpy(example)).shape[1:]
        signature = ModelSignature(
            Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
            Schema([TensorSpec(np.dtype("float32"), (-1, *outputs))]),
        )
        with contextlib.chdir(folder_of(self._uri) or Path.cwd()):  # artifact locations may be relative to it
            info: ModelInfo = Model.log(
                artifact_path=None,
                name="model",
                flavor=mlflow.pytorch,
                run_id=run.info.run_id,
                pytorch_model=model,
                signature=signature,
                input_example=example,
                serialization_format="pt2",
                pip_requirements=[
                    f"torch=={torch.__version__.partition('+')[0]}"
                ],  # else MLflow infers them by running it
            )
        return info

    def _register(self, run: Run, logged: "ModelInfo", number: int, name: str) -> None:
        import mlflow

        version = mlflow.register_model(logged.model_uri, name).version
        self._client.set_registered_model_alias(name, ALIAS, version)
        if self.parent is not None:  # adds a link from the study's page to the model
            self._client.log_outputs(self.parent.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])
        self.set_tag("tuner.model", address_of(name))
        self._client.set_model_version_tag(name, version, VERSION_TAG, str(number))
        for metric in (f"{stage}/{key}" for stage in ("val", "test") for key in ("acc", "f1", "mae")):
            if metric in run.data.metrics:
                self._client.set_model_version_tag(name, version, metric, format_metric(run.data.metrics[metric]))

    def _describe_model(self, run: Run, number: int, name: str) -> None:
        """Write instructions to load the network to the pages of the study, its best trial and the registry."""
        note = model_note(address_of(name))
        for child in self.children.values():
            if child is run:
                self.set_tag(CHAMPION_TAG, str(number))
                self._client.set_tag(child.info.run_id, MLFLOW_RUN_NOTE, note)
            elif child.data.tags.get(MLFLOW_RUN_NOTE, "").startswith("The network: "):  # the previous best
                self._client.delete_tag(child.info.run_id, MLFLOW_RUN_NOTE)
        if self.parent is not None:
            before = self._client.get_run(self.parent.info.run_id).data.tags.get(MLFLOW_RUN_NOTE, "")
            self.set_tag(MLFLOW_RUN_NOTE, with_network(before, name, str(number)))
        self._client.update_registered_model(name, f"The best of study {name}. {note}")
        version = self._client.get_model_version_by_alias(name, ALIAS).version
        own = f"Trial {run.info.run_name} of study {name}. {model_note(f'models:/{name}/{version}')}"
        self._client.update_model_version(name, version, own)


def prepare_to_write() -> None:
    """Do what MLflow and torch do in the first use of a database and of a model, which takes seconds."""
    import mlflow.pytorch
    import mlflow.store.tracking.sqlalchemy_store
    import torch

    with warnings.catch_warnings(action="ignore"):  # of Pydantic models
        import mlflow.pyfunc  # noqa: F401

    exported = torch.export.export(torch.nn.Identity(), (torch.zeros(2),))
    torch.export.save(exported, io.BytesIO())


def _lr_of(table: bytes | None) -> Curve:
    """Return the steps and lrs of a CSV table; empty if it is not such a table."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        rows = csv.DictReader(io.StringIO((table or b"").decode()))
        return [(int(row["step"]), float(row["lr"])) for row in rows]
    return []
