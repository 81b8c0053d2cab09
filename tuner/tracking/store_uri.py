"""MLflow's tracking URIs: resolved, and told apart by the kind of store."""

from pathlib import Path

import mlflow
import sqlalchemy
from mlflow.utils.uri import is_databricks_uri
from sqlalchemy.exc import ArgumentError

from tuner.tracking.store_errors import refused
from tuner.urls import is_web

__all__ = ["file_of", "folder_of", "is_server", "resolved"]


def resolved(given: str | None) -> str:
    """Return a tracking URI that does not depend on the working folder."""
    uri = given or ("" if not _is_set() else str(mlflow.get_tracking_uri())) or _default()
    file = file_of(uri)
    if file is None:
        return uri
    path = str(Path.cwd() / file)
    try:
        path.encode()
    except UnicodeEncodeError:
        raise refused(f"{path}: the name of its folder is not UTF-8, which MLflow cannot store.") from None
    return f"sqlite:///{path.replace('%', '%25').replace('?', '%3F')}"


def _default() -> str:
    """Return MLflow's default URI, in a form that creates no empty folder if the path has a "%"."""
    try:
        uri = mlflow.get_tracking_uri()
    except UnicodeEncodeError:  # from the folder's name, which the caller refuses
        uri = "sqlite:"
    return "sqlite:///mlflow.db" if uri.startswith("sqlite:") else uri


def _is_set() -> bool:
    return bool(mlflow.is_tracking_uri_set())  # type: ignore[no-untyped-call]


def file_of(uri: str) -> Path | None:
    """Return the file of an SQLite store; None for other stores and for URIs with options."""
    if not uri.startswith("sqlite:"):
        return None
    try:
        url = sqlalchemy.make_url(uri)
    except (ArgumentError, ValueError):
        return None
    return Path(url.database) if url.database and url.database != ":memory:" and not url.query else None


def folder_of(uri: str) -> Path | None:
    """Return the folder of an SQLite store; None for other stores."""
    file = file_of(uri)
    return file.parent if file else None


def is_server(uri: str) -> bool:
    """Return whether the store is a server, which manages the artifact location itself."""
    return is_web(uri) or bool(is_databricks_uri(uri))  # type: ignore[no-untyped-call]
