"""Delete or rename a study in MLflow. Both can be repeated after a kill, and then finish the rest."""

import contextlib
from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from tuner.errors import BadInputError
from tuner.process import crash_point
from tuner.tracking.pages import address_of
from tuner.tracking.reader import STUDY_TAG, VERSION_TAG, experiment_of_study, find_children, find_parent
from tuner.tracking.store import open_client
from tuner.tracking.store_errors import deleted_experiment, explained
from tuner.tracking.view import renamed, view_tag

__all__ = ["check_rename", "delete_study", "has_study", "rename_study"]

MODEL_TAG = "tuner.model"


def has_study(uri: str, identifier: str) -> bool:
    """Return whether MLflow has runs of a study, by its unique identifier.

    Raises:
        BadInputError: If the store cannot be used.
    """
    with explained(uri):
        return experiment_of_study(open_client(uri), identifier) is not None


def delete_study(uri: str, name: str, identifier: str) -> None:
    """Delete the runs of a study, the model that it registered, and its experiment if nothing else is in it.

    MLflow keeps deleted runs until ``mlflow gc``. The experiment gets another name first, so that a new study can have
    its own.

    Args:
        uri: MLflow's tracking URI.
        name: The study's name.
        identifier: The study's unique identifier.

    Raises:
        BadInputError: If the store cannot be used.
    """
    with explained(uri):
        client = open_client(uri)
        experiment = experiment_of_study(client, identifier)
        if experiment is None:
            return
        parent = find_parent(client, [experiment.experiment_id], identifier)
        if parent is not None:
            _delete_model(client, name)
            for child in list(find_children(client, experiment.experiment_id, parent.info.run_id)):
                client.delete_run(child.info.run_id)
            crash_point("runs deleted")
            client.delete_run(parent.info.run_id)
            if view_tag(parent.info.run_id) in experiment.tags:
                client.delete_experiment_tag(experiment.experiment_id, view_tag(parent.info.run_id))
        is_own = experiment.name == name and experiment.lifecycle_stage == LifecycleStage.ACTIVE
        if is_own and not client.search_runs([experiment.experiment_id], max_results=1):
            client.rename_experiment(experiment.experiment_id, f"{name}-deleted-{identifier[:8]}")
            client.delete_experiment(experiment.experiment_id)


def check_rename(uri: str, name: str, new: str, identifier: str) -> None:
    """Check that the experiment of a study, and the model that it registered, can get a name.

    Raises:
        BadInputError: If another experiment or model has it, its experiment was deleted, or the store cannot be used.
    """
    with explained(uri):
        client = open_client(uri)
        other, own = client.get_experiment_by_name(new), experiment_of_study(client, identifier)
        if own is not None and own.lifecycle_stage != LifecycleStage.ACTIVE:
            raise deleted_experiment(own.name, own.experiment_id, uri)
        if other is not None and (own is None or other.experiment_id != own.experiment_id):
            raise BadInputError([f'MLflow already has an experiment "{new}"; choose another name.'])
        if _is_own_model(client, name) and _versions(client, new) is not None:
            raise BadInputError([f'MLflow\'s registry already has a model "{new}"; choose another name.'])


def rename_study(uri: str, name: str, new: str, identifier: str) -> None:
    """Rename the experiment of a study, unless it is shared with others, its runs, and the model that it registered.

    Args:
        uri: MLflow's tracking URI.
        name: The study's name.
        new: Its new name.
        identifier: The study's unique identifier.

    Raises:
        BadInputError: If the store cannot be used.
    """
    with explained(uri):
        client = open_client(uri)
        experiment = experiment_of_study(client, identifier)
        if experiment is None:
            return
        if experiment.name == name:
            client.rename_experiment(experiment.experiment_id, new)
        crash_point("experiment renamed")
        parent = find_parent(client, [experiment.experiment_id], identifier)
        if parent is None:
            return
        if _is_own_model(client, name):
            client.rename_registered_model(name, new)
        run_id, tags = parent.info.run_id, parent.data.tags
        if MODEL_TAG in tags:
            client.set_tag(run_id, MODEL_TAG, address_of(new))
        if note := tags.get(MLFLOW_RUN_NOTE):
            client.set_tag(run_id, MLFLOW_RUN_NOTE, note.replace(address_of(name), address_of(new)))
        for run in (*find_children(client, experiment.experiment_id, run_id), parent):
            if run.data.tags.get(STUDY_TAG) == name:
                client.set_tag(run.info.run_id, STUDY_TAG, new)
        if view := experiment.tags.get(view_tag(run_id)):
            client.set_experiment_tag(experiment.experiment_id, view_tag(run_id), renamed(view, new))
        client.update_run(run_id, name=new)


def _is_own_model(client: MlflowClient, name: str) -> bool:
    """Return whether the registry has a model of a name that a study registered."""
    return any(VERSION_TAG in version.tags for version in _versions(client, name) or ())


def _versions(client: MlflowClient, name: str) -> Sequence[ModelVersion] | None:
    """Return the versions of a registered model; None if there is no such model, or no registry."""
    with contextlib.suppress(MlflowException):
        client.get_registered_model(name)
        return list(client.search_model_versions(f"name = '{name}'"))
    return None


def _delete_model(client: MlflowClient, name: str) -> None:
    if _is_own_model(client, name):
        client.delete_registered_model(name)
