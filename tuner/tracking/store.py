"""Open MLflow's store, after a check that creates nothing.

MLflow creates its tables and the folder of a database as soon as a store is opened, and retries an unreachable store
for minutes. So the store is checked first, with SQLAlchemy or one request, within seconds.
"""

import contextlib
import functools
import logging
import os
import re
import secrets
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import ViewType
from sqlalchemy.exc import ArgumentError

from tuner import postgresql
from tuner.process import changed_environment
from tuner.tracking.artifacts import FOLDER, check_length, local_path, present_place
from tuner.tracking.store_errors import FORMS, deleted_experiment, explained, refused
from tuner.tracking.store_uri import file_of, is_server, resolved
from tuner.urls import is_web, without_password

__all__ = ["open_client", "tracking_uri"]

CHECK_SECONDS = 14.0
LOCK_SECONDS = 5.0
QUICK = {  # read by MLflow at each request
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
NEEDED_TABLES = frozenset({"experiments", "runs", "metrics", "params", "tags"})


def tracking_uri(given: str | None, must_exist: bool = False, study: str = "", storage: str = "") -> str:
    """Return MLflow's tracking URI: the given one, else MLFLOW_TRACKING_URI, else ``sqlite:///mlflow.db``.

    The store is checked within seconds, without creating anything.

    Args:
        given: A tracking URI.
        must_exist: Whether the store is only read, so that a missing database is an error.
        study: The experiment that will be written; empty for none.
        storage: URL of Optuna's database, which must be another one.

    Raises:
        BadInputError: If it cannot be used.
    """
    uri = resolved(given)
    shown = without_password(uri)
    with explained(uri):
        if is_server(uri):
            _within(CHECK_SECONDS, shown, lambda: _check_server(uri, study))
        elif uri.startswith("sqlite:"):
            _check_database(uri, must_exist, study, storage)
        elif uri.startswith("file:") or not re.match(r"[a-zA-Z][\w+.-]*:|databricks-uc$", uri):
            raise refused(f"{shown}: MLflow no longer writes file stores; use sqlite:///mlflow.db.")
        else:
            _within(CHECK_SECONDS, shown, lambda: _check_database(uri, must_exist, study, storage))
    return uri


def _within(seconds: float, shown: str, action: Callable[[], None]) -> None:
    """Run an action that may hang, for example on a server that does not answer, on DNS or on a lock.

    Raises:
        BadInputError: If it takes too long.
    """
    failed: list[Exception] = []

    def do() -> None:
        try:
            action()
        except Exception as error:
            failed.append(error)

    with changed_environment(QUICK):
        thread = threading.Thread(target=do, name="MLflow's store", daemon=True)
        thread.start()
        thread.join(seconds)
    if thread.is_alive():
        raise refused(f"{shown} did not answer within {seconds:.0f} seconds.")
    if failed:
        raise failed[0]


def _check_server(uri: str, study: str) -> None:
    if is_web(uri):
        try:
            parts = urllib.parse.urlsplit(uri)
            is_address = bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", uri)
        except ValueError:
            is_address = False
        if not is_address:
            raise refused(f"{without_password(uri)} is not an address; {FORMS}.")
    client = open_client(uri)
    if study:
        _check_experiment(client, uri, study)
    elif not client.search_experiments(ViewType.ALL, max_results=1):
        raise refused(f"{without_password(uri)} has no records of MLflow.")


def _check_database(uri: str, must_exist: bool, study: str, storage: str) -> None:
    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() not in ("sqlite", "postgresql", "mysql", "mssql"):
        raise ArgumentError(f"MLflow does not support stores of the kind {url.drivername}")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ArgumentError("a database in memory is gone with its process")
    if storage and _is_same(url, storage):
        raise ArgumentError("it is Optuna's database, and MLflow needs its own")
    file = file_of(uri)
    if file is not None:
        if not file.exists():
            if must_exist:
                raise refused(f"{uri}: there is no such file.")
            _check_writable(file.parent)
            _check_writable(Path.cwd() / FOLDER)
            return
        if not file.is_file():
            raise refused(f"{uri} is not a file.")
        if not must_exist:
            _check_writable(file.parent)  # a transaction creates a journal next to it
    timeout = {"timeout": LOCK_SECONDS} if url.get_backend_name() == "sqlite" else {}
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, connect_args=timeout)
    with engine.connect() as connection:
        if not must_exist:
            _check_transaction(connection)
        tables = {name for name in sqlalchemy.inspect(connection).get_table_names() if not name.startswith("alembic")}
        if not must_exist:
            _check_rights(connection, bool(tables))
        if tables == NEEDED_TABLES and not _has_rows(connection):  # left on a server by a process that was killed
            tables = set()
    shown = without_password(uri)
    if study:
        check_length(uri, study)
    if not tables:
        if must_exist:
            raise refused(f"{shown} has no records of MLflow.")
        _check_writable(Path.cwd() / FOLDER)
        return
    if not tables >= NEEDED_TABLES:
        names = ", ".join(sorted(tables)[:3])
        raise refused(f"{shown} is the database of another program (it has {names}); give MLflow its own.")
    if not tables >= _known_tables():  # MLflow would migrate it silently
        raise refused(f"{shown} was written by an older MLflow. Make a copy of it, then run: mlflow db upgrade {shown}")
    client = open_client(uri)
    if study:
        _check_experiment(client, uri, study)


def _has_rows(connection: sqlalchemy.Connection) -> bool:
    """Return whether MLflow's first tables have any rows.

    On a server, MLflow creates these tables, and then all others in a second transaction. If it is killed in between,
    the database looks like one of its oldest version.
    """
    counts = (f"select count(*) from {table}" for table in ("experiments", "runs"))
    return any(connection.exec_driver_sql(count).scalar() for count in counts)


def _known_tables() -> set[str]:
    from mlflow.store.db import utils  # imports all modules that declare tables

    return set(utils.Base.metadata.tables)  # type: ignore[attr-defined]


def _is_same(url: sqlalchemy.URL, storage: str) -> bool:
    """Return whether Optuna and MLflow would use the same database."""
    try:
        other = sqlalchemy.make_url(storage)
    except (ArgumentError, ValueError):
        return False  # reported where the storage is opened
    if url.get_backend_name() == other.get_backend_name() == "sqlite":
        files = [Path(each.database or "").absolute().resolve() for each in (url, other)]
        return files[0] == files[1] and not url.query and not other.query
    keys = ("host", "port", "database")
    places = [
        [each.get_backend_name(), *(getattr(each, key) or each.query.get(key, "") for key in keys)]
        for each in (url, other)
    ]
    return places[0] == places[1]


def _check_transaction(connection: sqlalchemy.Connection) -> None:
    """Begin a write transaction and roll it back: this fails on a locked or read-only database."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("begin immediate")
        version = connection.exec_driver_sql("pragma user_version").scalar()
        connection.exec_driver_sql(f"pragma user_version = {version}")  # fails if the database is read-only
        connection.rollback()
    elif connection.dialect.name == "postgresql":
        is_read_only = connection.exec_driver_sql("show transaction_read_only").scalar() == "on"
        connection.rollback()
        if is_read_only:
            raise PermissionError("it is read-only")


def _check_rights(connection: sqlalchemy.Connection, has_tables: bool) -> None:
    if connection.dialect.name != "postgresql":
        return
    if has_tables:
        allowed = connection.exec_driver_sql(
            "select coalesce(bool_and(has_table_privilege(oid, 'insert')), true) from pg_class "
            "where relkind = 'r' and relname in ('experiments', 'runs', 'tags') and pg_table_is_visible(oid)"
        ).scalar()
    else:
        allowed = connection.exec_driver_sql(
            "select coalesce(has_schema_privilege(current_schema(), 'create'), false)"
        ).scalar()
    if not allowed:
        user = connection.exec_driver_sql("select current_user").scalar()
        raise PermissionError(f"the user {user} may not {'write to' if has_tables else 'create'} its tables")


def _check_writable(folder: Path) -> None:
    """Check that a folder is writable, or can be created.

    Raises:
        BadInputError: If not.
    """
    there = folder
    while not there.exists() and not there.is_symlink() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise refused(f"{folder} cannot be written: {there} is not a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise refused(f"{folder} cannot be written: permission denied.")


def _check_experiment(client: MlflowClient, uri: str, name: str) -> None:
    """Check that a study can be written into the experiment of its name, if there is one."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        if not is_server(uri):
            _check_writable(Path.cwd() / FOLDER)
        return
    if not experiment.experiment_id or experiment.name != name:
        raise refused(
            f"the server at {without_password(uri)} is not a usable MLflow server: it returns another experiment."
        )
    if experiment.lifecycle_stage != "active":
        raise deleted_experiment(name, experiment.experiment_id, uri)
    path = local_path(experiment.artifact_location)
    if path is not None and not is_server(uri):
        _check_writable(present_place(path, uri, experiment.experiment_id))


def open_client(uri: str) -> MlflowClient:
    """Return a client of a store, and create the tables of a new database.

    An SQLite file is created under a temporary name and renamed when it has all tables: MLflow takes a second to create
    them, in many steps, and cannot use a file that has only some.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs tracebacks of errors that it raises
    # The tracker retries itself. Unlike MLflow, it checks first whether a run was created and only its answer was lost.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # the files are small
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # the URL may contain a password
    file = file_of(uri)
    if file is None:
        if not is_server(uri):
            _notice_silence(uri)
        return MlflowClient(tracking_uri=uri)
    with _without_new_folders(uri, file) as new:
        if not file.exists():
            for leftover in file.parent.glob(f"{file.name}.*.tmp*"):  # the file and its journal
                leftover.unlink()
            suffix = f".{secrets.token_hex(8)}.tmp"
            try:
                MlflowClient(tracking_uri=f"{uri}{suffix}").search_experiments(max_results=1)
            except BaseException:  # such as a full disk
                _close_connections(f"{uri}{suffix}")
                for leftover in file.parent.glob(f"{file.name}{suffix}*"):
                    leftover.unlink()
                raise
            for each in (f"{uri}{suffix}", uri):  # they may be connected to an earlier file of this name
                _close_connections(each)
            file.with_name(f"{file.name}{suffix}").replace(file)
        client = MlflowClient(tracking_uri=uri)
        if new:
            client._get_registry_client()  # type: ignore[no-untyped-call]  # otherwise made later, with the folders
        return client


@functools.cache
def _notice_silence(uri: str) -> None:
    """Make connections to a PostgreSQL database fail if the server does not answer.

    MLflow creates the engines, and connects at once, so all engines are watched for connections to this database.
    """
    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() != "postgresql" or url.get_driver_name() != "psycopg":
        return
    _, of_database = url.get_dialect()().create_connect_args(url)

    def connect(dialect: sqlalchemy.Dialect, record: Any, arguments: list[Any], settings: dict[str, Any]) -> Any:
        is_same = dialect.driver == url.get_driver_name() and of_database.items() <= settings.items()
        return postgresql.connect(*arguments, **settings) if is_same else None

    sqlalchemy.event.listen(sqlalchemy.Engine, "do_connect", connect)


def _close_connections(uri: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = getattr(SqlAlchemyStore, "_engine_map", {}).get(uri)
    if engine is not None:
        engine.dispose()


@contextlib.contextmanager
def _without_new_folders(uri: str, file: Path) -> Iterator[list[Path]]:
    """Remove the empty folders that MLflow creates because it takes the URI, with its escapes, for the path.

    Yield those folders.
    """
    taken = Path(uri.removeprefix("sqlite:///")).parent
    new = [] if taken == file.parent else [each for each in (taken, *taken.parents) if not each.exists()]
    try:
        yield new
    finally:
        for folder in new:
            with contextlib.suppress(OSError):
                folder.rmdir()
