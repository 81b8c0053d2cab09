"""The location of a study's artifacts.

If the database is a file in the working folder, artifacts have paths relative to that folder, so it can be moved or
copied. MLflow's API makes every path absolute; its tables accept relative ones.
"""

import contextlib
import shutil
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from tuner.tracking.store_errors import refused
from tuner.tracking.store_uri import folder_of, is_server
from tuner.urls import without_password

__all__ = [
    "FOLDER",
    "add_files",
    "artifact_folder",
    "check_length",
    "create_experiment",
    "local_path",
    "present_place",
    "take_along",
]

FOLDER = "mlruns"
"""MLflow's name for the folder of artifacts."""
LONGEST_LOCATION = 200
"""Size in characters of the column for a run's artifact location, in databases that enforce it."""
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # makes MLflow show its pages for training


def create_experiment(client: MlflowClient, uri: str, name: str) -> Experiment:
    """Create an experiment; the module's docstring says where its artifacts are."""
    identifier = client.create_experiment(name, artifact_location=_location(uri, name), tags=EXPERIMENT_TAGS)
    folder = folder_of(uri)
    if folder is not None and folder.resolve() == Path.cwd():
        _write_place(uri, identifier, "", f"{FOLDER}/{identifier}")
    return client.get_experiment(identifier)


def _location(uri: str, name: str) -> str | None:
    """Return the artifact location for a new experiment; None for MLflow's default."""
    here = Path.cwd() / FOLDER
    if not is_server(uri) and urllib.parse.quote(str(here)) != str(here):  # MLflow uses a path as part of a URI
        return f"{here.as_uri()}/{name}"
    return None


def check_length(uri: str, name: str) -> None:
    """Check that the paths of artifacts fit into the columns of a database server.

    Raises:
        BadInputError: If they do not.
    """
    longest = len(_location(uri, name) or f"{Path.cwd() / FOLDER}/1000000") + len(f"/{'0' * 32}/artifacts")
    if not uri.startswith("sqlite:") and longest > LONGEST_LOCATION:
        raise refused(
            f"the path of this folder is {longest - LONGEST_LOCATION} characters too long for artifact locations in "
            f"{without_password(uri)}; run the study in a folder with a shorter path, or use an MLflow server."
        )


def take_along(client: MlflowClient, uri: str, experiment: Experiment, note: Callable[[str], None]) -> None:
    """Update the artifact location of an experiment whose folder was moved or copied.

    Args:
        client: A client of the store.
        uri: The store's URI.
        experiment: The experiment.
        note: Called with messages for the user.
    """
    before = local_path(experiment.artifact_location)
    if before is None or is_server(uri) or not before.is_absolute():
        return
    identifier = experiment.experiment_id
    now = present_place(before, uri, identifier)
    if now == before:
        if not before.exists() and client.search_runs([identifier], "tags.`tuner.study` != ''", max_results=1):
            note(f"the artifacts of this study were in {before}, which is gone; new ones are written there")
        return
    folder = folder_of(uri)
    place = f"{FOLDER}/{identifier}" if folder is not None and folder.resolve() == Path.cwd() else str(now)
    _write_place(uri, identifier, experiment.artifact_location, place)
    note(f"the folder of this study was moved or copied from {before.parent.parent}; its artifacts are in {now}")


def present_place(before: Path, uri: str, identifier: str) -> Path:
    """Return the current location of an experiment's artifacts, which may have moved with this folder."""
    if not before.is_absolute():
        return (folder_of(uri) or Path.cwd()) / before
    if (before.parent.name, before.name) != (FOLDER, identifier):
        return before
    places = [base / FOLDER / identifier for base in _bases(uri)]
    if any(place.resolve() == before.resolve() for place in places):
        return before
    with sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool).connect() as connection:
        query = sqlalchemy.text("select run_uuid from runs where experiment_id = :identifier")
        runs = set(connection.execute(query, {"identifier": int(identifier)}).scalars())
        query = sqlalchemy.text("select run_uuid from tags where key = 'tuner.study'")
        has_study = not runs.isdisjoint(connection.execute(query).scalars())
    if runs and not has_study:  # the user's own experiment, whose runs are left alone
        return before
    for place in places:
        if place.is_dir() and any(each.name in runs for each in place.iterdir()):  # not the folder of another database
            return place
    return places[0] if folder_of(uri) and not before.exists() else before


def _bases(uri: str) -> list[Path]:
    """Return the folders that may contain artifacts: the database's and the current one."""
    folder = folder_of(uri)
    return [Path.cwd()] if folder is None else [folder, Path.cwd()]


def _write_place(uri: str, identifier: str, before: str, now: str) -> None:
    """Write the artifact location of an experiment, its runs and its models into MLflow's tables."""
    ours = "run_id in (select run_uuid from runs where experiment_id = :identifier)"
    columns = [
        ("runs", "artifact_uri", "experiment_id = :identifier"),
        ("logged_models", "artifact_location", "experiment_id = :identifier"),
        ("model_versions", "storage_location", ours),
        ("model_versions", "source", ours),
    ]
    values = {"identifier": int(identifier), "before": f"{before}/", "now": f"{now}/", "length": len(before) + 2}
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("update experiments set artifact_location = :now where experiment_id = :identifier"),
            {"identifier": int(identifier), "now": now},
        )
        for table, column, condition in columns if before else ():
            connection.execute(
                sqlalchemy.text(
                    f"update {table} set {column} = :now || substr({column}, :length) "
                    f"where {condition} and substr({column}, 1, :length - 1) = :before"
                ),
                values,
            )


def artifact_folder(uri: str, location: str) -> Path | None:
    """Return the folder of local artifacts, whatever the working folder is; None if they are not local.

    Args:
        uri: The store's URI.
        location: MLflow's artifact location.
    """
    path = local_path(location)
    if path is None:
        return None
    if not path.is_absolute():
        return (folder_of(uri) or Path.cwd()) / path
    if not path.exists() and FOLDER in path.parts:
        index = len(path.parts) - 1 - path.parts[::-1].index(FOLDER)
        moved = (base.joinpath(*path.parts[index:]) for base in _bases(uri))
        return next((place for place in moved if place.exists()), path)
    return path


def local_path(location: str) -> Path | None:
    """Return the path in an artifact location, relative or absolute; None if it is not local."""
    parts = urllib.parse.urlsplit(location)
    if parts.scheme not in ("", "file") or parts.netloc:
        return None
    return Path(urllib.request.url2pathname(parts.path if parts.scheme else location))


def add_files(client: MlflowClient, uri: str, run_id: str, location: str, folder: Path) -> None:
    """Add the files of a folder to the artifacts of a run; anything else, such as a pipe or socket, is left out.

    Args:
        client: A client of the store.
        uri: The store's URI.
        run_id: The run.
        location: MLflow's artifact location of the run.
        folder: The folder of files.
    """
    with contextlib.ExitStack() as stack:
        if any(map(_is_special, folder.rglob("*"))):
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory()), folder.name)
            folder = Path(shutil.copytree(folder, copy, ignore=_special))
        _add_files(client, uri, run_id, location, folder)


def _is_special(path: Path) -> bool:
    return not path.is_file() and not path.is_dir()


def _special(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if _is_special(Path(folder, name))]


def _add_files(client: MlflowClient, uri: str, run_id: str, location: str, folder: Path) -> None:
    place = None if is_server(uri) else artifact_folder(uri, location)
    if place is None:
        client.log_artifacts(run_id, str(folder))
    else:
        repository: Any = LocalArtifactRepository(place.as_uri())  # MLflow's class has no annotations
        repository.log_artifacts(str(folder))
