"""A study that MLflow holds: its curves to read, and what is made of them, and of its best model, to be put beside."""

import contextlib
import csv
import io
import os
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from tuner.errors import BadInputError
from tuner.record import LR_TABLE, Curve, simplified

if TYPE_CHECKING:
    import numpy as np
    import torch
    from mlflow.models.model import ModelInfo

__all__ = [
    "ALIAS",
    "CHAMPION_TAG",
    "STUDY_ID_TAG",
    "TrackedStudy",
    "address_of",
    "find_children",
    "find_parent",
    "model_note",
    "page_of",
    "runs_page",
    "trials_page",
]

ALIAS = "champion"
STUDY_ID_TAG = "tuner.study_id"
CHAMPION_TAG = "tuner.champion"
"""Of a study's run: the number of the trial whose network is the champion in the model registry."""


def address_of(study: str) -> str:
    """Return where the best network of a study is in the model registry."""
    return f"models:/{study}@{ALIAS}"


def model_note(address: str) -> str:
    """Return how to get a network from the model registry, in Markdown, in a sentence: pages fold what is longer."""
    return (
        f'The network: `mlflow.pytorch.load_model("{address}")`, in the study\'s folder or after '
        "`mlflow.set_tracking_uri(...)`. It takes batches of the study's data module, in the shape of its signature, "
        "and is in evaluation mode: exported networks have no `train()` and `eval()`."
    )


def find_parent(client: MlflowClient, experiments: list[str], study_id: str) -> Run | None:
    """Return the run of a study, if it is in one of the experiments."""
    found = client.search_runs(experiments, f"tags.`{STUDY_ID_TAG}` = '{study_id}'", max_results=1)
    return found[0] if found else None


def find_children(client: MlflowClient, parent: Run, view: int = ViewType.ACTIVE_ONLY) -> Iterator[Run]:
    """Yield the runs of a study's trials; those that were deleted, too, if the view is of all."""
    where = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.info.run_id}'"
    token: str | None = None
    while True:
        page = client.search_runs([parent.info.experiment_id], where, view, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def runs_page(experiment_id: str, *inside: str) -> str:
    """Return where MLflow shows the runs of an experiment, or what lies inside, behind its address and a slash."""
    path = "/".join(("experiments", experiment_id, "runs", *inside))
    return f"#/{path}?workflowType=machine_learning"  # else MLflow shows its pages for language models


def trials_page(parent: Run, metric: str, direction: str) -> str:
    """Return where MLflow shows the trials of a study, the best first, with their charts; see `runs_page`."""
    settings = {
        "compareRunsMode": "CHART",
        "searchFilter": f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.info.run_id}'",
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": str(direction == "minimize").lower(),
    }
    more = urllib.parse.urlencode(settings, quote_via=urllib.parse.quote, safe="")
    return f"{runs_page(parent.info.experiment_id)}&{more}"


def page_of(uri: str, name: str | None) -> str:
    """Return where MLflow shows a study, behind its address; all of them, without a name.

    That is the page of its run, or the list of runs if studies in several databases have this name.

    Raises:
        BadInputError: If there is no such study.
    """
    if name is None:
        return "/#/experiments"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise BadInputError([f'tracking uri: MLflow has no study "{name}" there.'])
    found = client.search_runs([experiment.experiment_id], f"tags.`{STUDY_ID_TAG}` != ''")
    runs = [run for run in found if MLFLOW_PARENT_RUN_ID not in run.data.tags]  # not those of its confirmations
    return "/" + runs_page(experiment.experiment_id, *(runs[0].info.run_id,) if len(runs) == 1 else ())


class TrackedStudy:
    """A study in MLflow.

    Args:
        uri: MLflow's tracking URI.
        study_id: The study's identifier in Optuna.

    Attributes:
        parent: The run of the study; None if MLflow has none.
        children: The runs of its trials, by their numbers.
    """

    def __init__(self, uri: str, study_id: str) -> None:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # the files are small
        self._uri = uri
        self._client = MlflowClient(tracking_uri=uri)
        experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
        self.parent = find_parent(self._client, experiments, study_id)
        self.children: Mapping[int, Run] = {}
        if self.parent is not None:
            numbered = ((run.data.tags.get("tuner.trial", ""), run) for run in find_children(self._client, self.parent))
            self.children = {int(number): run for number, run in numbered if number.isdecimal()}

    def curves(self, number: int, metrics: Iterable[str]) -> dict[str, Curve]:
        """Return those of the metrics that a trial has: steps and values, without the points that add nothing."""
        run = self.children.get(number)
        return {key: self._curve(run, key) for key in metrics if key in run.data.metrics} if run else {}

    def points(self, number: int) -> dict[str, Curve]:
        """Return every point of every metric of a trial's training, as it is stored; nothing if it has no run."""
        run = self.children.get(number)
        names = [key for key in run.data.metrics if not key.startswith("test/")] if run else []
        return {key: self._history(run, key) for key in names} if run else {}

    def _history(self, run: Run, key: str) -> Curve:
        points = self._client.get_metric_history(run.info.run_id, key)
        return sorted({point.step: point.value for point in points}.items())

    def _curve(self, run: Run, key: str) -> Curve:
        if key == "lr" and (table := _lr_of(self._download(run, LR_TABLE))):  # a twentieth of the time
            return table
        return simplified(self._history(run, key))

    def read(self, path: str) -> bytes | None:
        """Return a file of the study's run; None if it has none of this name."""
        return self._download(self.parent, path) if self.parent else None

    def _download(self, run: Run, path: str) -> bytes | None:
        address = f"{run.info.artifact_uri}/{path}"
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(MlflowException, OSError):
            return Path(download_artifacts(address, dst_path=folder, tracking_uri=self._uri)).read_bytes()
        return None

    def add(self, folder: Path) -> None:
        """Put the files of a folder beside the study's run."""
        if self.parent is not None:
            self._client.log_artifacts(self.parent.info.run_id, str(folder))

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag of the study's run."""
        if self.parent is not None:
            self._client.set_tag(self.parent.info.run_id, key, value)

    def champion(self, name: str) -> int | None:
        """Return the trial whose network is the champion of this name in the registry, if it is one of this study."""
        with contextlib.suppress(MlflowException):  # no such model, or no registry
            champion = self._client.get_model_version_by_alias(name, ALIAS)
            return next((number for number, run in self.children.items() if run.info.run_id == champion.run_id), None)
        return None

    def add_model(self, number: int, model: "torch.nn.Module", example: "np.ndarray[Any, Any]", name: str) -> list[str]:
        """Log the best trial's network, without pickle, and register it under the study's name, as its champion.

        Args:
            number: The trial.
            model: Its network, on the CPU.
            example: Two inputs.
            name: The study's name.

        Returns:
            What could not be done.
        """
        run = self.children[number]
        logged = None
        if self.champion(name) != number:
            try:
                logged = self._log_model(run, model.eval(), example)
            except Exception as error:  # torch.export's, for a network that it cannot trace: there are many
                reason = f"cannot be exported, so MLflow has its weights only: {_line(error)}"
                return [f"the network of trial #{number} {reason}"]
        try:
            if logged is not None:
                self._register(run, logged, number, name)
            self._describe_model(run, name)
        except (MlflowException, OSError) as error:
            return [f"the model is in MLflow, but its registry did not take it: {_line(error)}"]
        return []

    def _log_model(self, run: Run, model: "torch.nn.Module", example: "np.ndarray[Any, Any]") -> "ModelInfo":
        import mlflow.pytorch  # here: it brings torch, and whoever only reads does not need it
        import numpy as np
        import torch
        from mlflow.models import Model, ModelSignature
        from mlflow.types import Schema, TensorSpec

        mlflow.set_tracking_uri(self._uri)  # of this process: `Model.log` takes neither a client nor an experiment
        mlflow.set_experiment(experiment_id=run.info.experiment_id)
        with torch.inference_mode():
            outputs = model(torch.from_numpy(example)).shape[1:]
        signature = ModelSignature(
            Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
            Schema([TensorSpec(np.dtype("float32"), (-1, *outputs))]),
        )
        info: ModelInfo = Model.log(
            artifact_path=None,
            name="model",
            flavor=mlflow.pytorch,
            run_id=run.info.run_id,
            pytorch_model=model,
            signature=signature,
            input_example=example,
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],  # or MLflow runs it to find out
        )
        return info

    def _register(self, run: Run, logged: "ModelInfo", number: int, name: str) -> None:
        import mlflow

        version = mlflow.register_model(logged.model_uri, name).version
        self._client.set_registered_model_alias(name, ALIAS, version)
        if self.parent is not None:  # its page leads to the model, too
            self._client.log_outputs(self.parent.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])
        self.set_tag("tuner.model", address_of(name))
        self._client.set_model_version_tag(name, version, "tuner.trial", str(number))
        for metric in ("val/acc", "test/acc"):
            if metric in run.data.metrics:
                self._client.set_model_version_tag(name, version, metric, f"{run.data.metrics[metric]:.4f}")

    def _describe_model(self, run: Run, name: str) -> None:
        """Say on the pages of the study, of its best trial and of the registry how to get the network."""
        note = model_note(address_of(name))
        for number, child in self.children.items():
            if child is run:
                self.set_tag(CHAMPION_TAG, str(number))
                self._client.set_tag(child.info.run_id, MLFLOW_RUN_NOTE, note)
            elif child.data.tags.get(MLFLOW_RUN_NOTE) == note:  # it was the best before
                self._client.delete_tag(child.info.run_id, MLFLOW_RUN_NOTE)
        if self.parent is not None:
            told = self._client.get_run(self.parent.info.run_id).data.tags.get(MLFLOW_RUN_NOTE, "")
            if note not in told:
                self.set_tag(MLFLOW_RUN_NOTE, f"{told}\n\n{note}")
        self._client.update_registered_model(name, f"The best of study {name}. {note}")
        version = self._client.get_model_version_by_alias(name, ALIAS).version
        own = f"Trial {run.info.run_name} of study {name}. {model_note(f'models:/{name}/{version}')}"
        self._client.update_model_version(name, version, own)


def _lr_of(table: bytes | None) -> Curve:
    """Return the steps and lrs of a table; none if it is no such table."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        rows = csv.DictReader(io.StringIO((table or b"").decode()))
        return [(int(row["step"]), float(row["lr"])) for row in rows]
    return []


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
