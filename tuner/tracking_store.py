"""Where MLflow records: its store, checked before anything is created, and the place of a study's artifacts.

MLflow makes its tables, and the folder of a database, as soon as a store is opened, and asks an unreachable one again
for minutes. So a store is looked at first, with SQLAlchemy or one request, within a few seconds.

Artifacts of a study whose database is a file in the working folder lie at paths relative to it, so that the folder can
be moved or copied. MLflow's interface turns every path into an absolute one; its tables take relative ones.
"""

import contextlib
import errno
import logging
import os
import re
import secrets
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlflow
import requests
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Experiment, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.uri import is_databricks_uri
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from tuner.errors import BadInputError, TunerError
from tuner.urls import without_password, without_passwords

__all__ = [
    "add_files",
    "artifact_folder",
    "can_pass",
    "create_experiment",
    "explained",
    "folder_of",
    "is_refusal",
    "open_client",
    "reason",
    "take_along",
    "tracking_uri",
]

CHECK_SECONDS = 14.0
LOCK_SECONDS = 5.0
ARTIFACTS = "mlruns"  # as MLflow calls it
EXPERIMENT_TAGS = MappingProxyType({"mlflow.experimentKind": "custom_model_development"})  # for its pages for training
FORMS = "write sqlite:///mlflow.db, postgresql://user@host/database or http://host:port"
QUICK = {  # read by MLflow at each request
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
NEEDED_TABLES = frozenset({"experiments", "runs", "metrics", "params", "tags"})

TEMPORARY_CODES = frozenset(
    {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "ABORTED"}
)
TEMPORARY_ERRNO = frozenset(
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EAGAIN", "EINTR", "EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "EBUSY", "EPIPE"),
        *("ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH"),
        *("ETIMEDOUT",),
    )
)
# Clients of artifact stores have errors of their own, whose classes are called so.
TEMPORARY_NAME = re.compile(r"Connect(ion|Timeout)|Timeout|Unavailable|TooManyRequests|Throttl|SlowDown|RetryError")
PERMANENT_REQUESTS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
    requests.exceptions.TooManyRedirects,
)


# -- errors ------------------------------------------------------------------------------------------------------------


def can_pass(error: BaseException) -> bool:
    """Return whether an error of a store can pass by itself: the network's, a lock's, or that of a full disk."""
    return any(_is_temporary(each) for each in _chain(error))


def is_refusal(error: BaseException) -> bool:
    """Return whether an error is about the very data, so that the store will never take them."""
    if isinstance(error, MlflowException):
        if error.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
            return True
        return any(isinstance(each, DataError | TypeError | ValueError | OverflowError) for each in _chain(error))
    return isinstance(error, TypeError | ValueError | OverflowError)


def _is_temporary(error: BaseException) -> bool:
    if isinstance(error, MlflowException) and error.error_code in TEMPORARY_CODES:
        return True
    if isinstance(error, OperationalError) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return True
    if isinstance(error, InterfaceError):  # SQLite's is for values that it cannot bind
        return type(error.orig).__module__.partition(".")[0] != "sqlite3"
    if isinstance(error, requests.RequestException) and error.response is None:
        return not isinstance(error, PERMANENT_REQUESTS)
    if (status := _http_status(error)) is not None:
        return status in (408, 425, 429) or status >= 500
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in TEMPORARY_ERRNO
    return any(TEMPORARY_NAME.search(cls.__name__) for cls in type(error).__mro__)


def _http_status(error: BaseException) -> int | None:
    """Return the status of the answer that an error is about, where the clients of artifact stores keep it."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore's
        status: Any = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(response, "status_code", None) or getattr(error, "status_code", getattr(error, "code", None))
    return status if isinstance(status, int) and 400 <= status < 600 else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that it was raised from or in place of."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def reason(error: BaseException, uri: str) -> str:
    """Return what an error says, in a line, without the password of the store's URI."""
    chain = list(_chain(error))
    said = next((each for each in chain if isinstance(each, DBAPIError) and each.orig is not None), None)
    network = [each for each in chain if isinstance(each, OSError) and each.strerror] if _of_network(chain) else []
    if said is not None:
        text = str(said.orig)
    elif network:
        text = str(network[-1].strerror)
    elif _of_network(chain):
        last = chain[-1]
        text = str(getattr(last, "reason", next((each for each in last.args if isinstance(each, Exception)), last)))
    else:
        text = str(error)
    line = " ".join(without_passwords(text, uri).split())
    says_enough = line and isinstance(
        error, MlflowException | DBAPIError | ArgumentError | OSError | ImportError | TunerError
    )
    line = line if says_enough else f"{type(error).__name__}: {line}"
    return (line if len(line) <= 300 else f"{line[:300]} ...").rstrip(".: ")


def _of_network(chain: Iterable[BaseException]) -> bool:
    return any(isinstance(each, requests.RequestException) for each in chain)


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what can go wrong with a store into a sentence that says what to do.

    Raises:
        BadInputError: If something goes wrong.
    """
    shown = without_password(uri)
    try:
        yield
    except TunerError:
        raise
    except (ArgumentError, NoSuchModuleError) as error:
        raise _refused(f"{shown} cannot be used: {reason(error, uri)}; {FORMS}.") from error
    except ImportError as error:
        extra = ' PostgreSQL needs pip install "lr-tuner[postgresql]".' if uri.startswith("postgresql") else ""
        raise _refused(f"{shown} needs a package that is not installed ({error}).{extra}") from error
    except Exception as error:
        raise _refused(_explanation(error, uri, shown)) from error


def _explanation(error: Exception, uri: str, shown: str) -> str:
    said = reason(error, uri)
    code = getattr(error, "error_code", "")
    if code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        advice = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to one that it knows."
        return f"{shown} refuses the login. {advice}"
    if code == "PERMISSION_DENIED":
        return f"{shown} does not let this user do that: {said}"
    if not _is_web(uri):
        return f"{shown} cannot be used: {said}."
    chain = list(_chain(error))
    if any(isinstance(each, requests.exceptions.RetryError) for each in chain):
        return f"the server at {shown} cannot answer at present: {said}. Try again later."
    if any(isinstance(each, requests.ConnectionError | requests.Timeout) for each in chain):
        advice = "Start it, or leave the option away to log to a local file."
        return f"no MLflow server answers at {shown} ({said}). {advice}"
    return f"what answers at {shown} is not an MLflow server that can be used: {said}."


def _refused(text: str) -> BadInputError:
    return BadInputError([f"tracking uri: {text}"])


def _is_web(uri: str) -> bool:
    return uri.lower().startswith(("http://", "https://"))


def _is_server(uri: str) -> bool:
    return _is_web(uri) or bool(is_databricks_uri(uri))  # type: ignore[no-untyped-call]


# -- the check ---------------------------------------------------------------------------------------------------------


def tracking_uri(given: str | None, must_exist: bool = False, study: str = "", storage: str = "") -> str:
    """Return where MLflow records: what is given, else MLFLOW_TRACKING_URI, else ``sqlite:///mlflow.db``.

    Whether it can be used is found out within seconds, without creating anything.

    Args:
        given: MLflow's tracking URI.
        must_exist: Whether it is only read, and a database that is not there is an error.
        study: The experiment that is to be written; empty for none.
        storage: URL of Optuna's database, which may not be the same.

    Raises:
        BadInputError: If it cannot be used.
    """
    uri = _resolved(given)
    shown = without_password(uri)
    with explained(uri):
        if _is_server(uri):
            _within(CHECK_SECONDS, shown, lambda: _check_server(uri, study))
        elif uri.startswith("sqlite:"):
            _check_database(uri, must_exist, study, storage)
        elif uri.startswith("file:") or not re.match(r"[a-zA-Z][\w+.-]*:", uri):
            raise _refused(f"{shown}: MLflow no longer writes folders of files; use sqlite:///mlflow.db.")
        else:
            _within(CHECK_SECONDS, shown, lambda: _check_database(uri, must_exist, study, storage))
    return uri


def _resolved(given: str | None) -> str:
    """Return a tracking URI whose meaning does not change with the working folder."""
    uri = given or ("" if not _is_set() else str(mlflow.get_tracking_uri())) or _default()
    file = _file_of(uri)
    if file is None:
        return uri
    path = str(Path.cwd() / file)
    try:
        path.encode()
    except UnicodeEncodeError:
        raise _refused(f"{path}: the name of its folder is not UTF-8, which MLflow cannot store.") from None
    return f"sqlite:///{path.replace('%', '%25').replace('?', '%3F')}"


def _default() -> str:
    """Return MLflow's default, in a form for which it makes no empty folder if a name has a "%"."""
    try:
        uri = mlflow.get_tracking_uri()
    except UnicodeEncodeError:  # the folder's name, which is refused
        uri = "sqlite:"
    return "sqlite:///mlflow.db" if uri.startswith("sqlite:") else uri


def _is_set() -> bool:
    return bool(mlflow.is_tracking_uri_set())  # type: ignore[no-untyped-call]


def _file_of(uri: str) -> Path | None:
    """Return the file of a store that is one, without any settings."""
    if not uri.startswith("sqlite:"):
        return None
    try:
        url = sqlalchemy.make_url(uri)
    except (ArgumentError, ValueError):
        return None
    return Path(url.database) if url.database and url.database != ":memory:" and not url.query else None


def folder_of(uri: str) -> Path | None:
    """Return the folder of a store that is a file."""
    file = _file_of(uri)
    return file.parent if file else None


def _within(seconds: float, shown: str, action: Callable[[], None]) -> None:
    """Do something that may hang: in a server that does not answer, in a name server, in a lock.

    Raises:
        BadInputError: If it takes too long.
    """
    failed: list[Exception] = []

    def do() -> None:
        try:
            action()
        except Exception as error:
            failed.append(error)

    before = {name: os.environ.get(name) for name in QUICK}
    os.environ.update(QUICK)
    try:
        thread = threading.Thread(target=do, name="MLflow's store", daemon=True)
        thread.start()
        thread.join(seconds)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    if thread.is_alive():
        raise _refused(f"{shown} does not answer within {seconds:.0f} seconds.")
    if failed:
        raise failed[0]


def _check_server(uri: str, study: str) -> None:
    if _is_web(uri):
        try:
            parts = urllib.parse.urlsplit(uri)
            is_address = bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", uri)
        except ValueError:
            is_address = False
        if not is_address:
            raise _refused(f"{without_password(uri)} is not an address; {FORMS}.")
    client = open_client(uri)
    if study:
        _check_experiment(client, uri, study)
    elif not client.search_experiments(ViewType.ALL, max_results=1):
        raise _refused(f"{without_password(uri)} has no records of MLflow.")


def _check_database(uri: str, must_exist: bool, study: str, storage: str) -> None:
    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() not in ("sqlite", "postgresql", "mysql", "mssql"):
        raise ArgumentError(f"MLflow knows no store of the kind {url.drivername}")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ArgumentError("a database in memory is gone with its process")
    if storage and _is_same(url, storage):
        raise ArgumentError("it is Optuna's database, and MLflow needs one of its own")
    file = _file_of(uri)
    if file is not None:
        if not file.exists():
            if must_exist:
                raise _refused(f"{uri}: there is no such file.")
            _check_writable(file.parent)
            _check_writable(Path.cwd() / ARTIFACTS)
            return
        if not file.is_file():
            raise _refused(f"{uri} is not a file.")
        if not must_exist:
            _check_writable(file.parent)  # a transaction needs a file beside it
    timeout = {"timeout": LOCK_SECONDS} if url.get_backend_name() == "sqlite" else {}
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, connect_args=timeout)
    with engine.connect() as connection:
        if not must_exist:
            _check_transaction(connection)
        tables = {name for name in sqlalchemy.inspect(connection).get_table_names() if not name.startswith("alembic")}
        if not must_exist:
            _check_rights(connection, bool(tables))
    shown = without_password(uri)
    if not tables:
        if must_exist:
            raise _refused(f"{shown} has no records of MLflow.")
        _check_writable(Path.cwd() / ARTIFACTS)
        return
    if not tables >= NEEDED_TABLES:
        names = ", ".join(sorted(tables)[:3])
        raise _refused(f"{shown} is the database of another program (it has {names}); give MLflow one of its own.")
    if not tables >= _known_tables():  # MLflow would migrate it without asking
        raise _refused(
            f"{shown} was written by an older MLflow. Make a copy of it, then run: mlflow db upgrade {shown}"
        )
    client = open_client(uri)
    if study:
        _check_experiment(client, uri, study)


def _known_tables() -> set[str]:
    from mlflow.store.db import utils  # which imports all that declare tables

    return set(utils.Base.metadata.tables)  # type: ignore[attr-defined]


def _is_same(url: sqlalchemy.URL, storage: str) -> bool:
    """Return whether Optuna's database is that of MLflow."""
    try:
        other = sqlalchemy.make_url(storage)
    except (ArgumentError, ValueError):
        return False  # told where it is used
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
    """Begin to write, so that a lock or a database that is only to be read shows, and write nothing."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("begin immediate")
        version = connection.exec_driver_sql("pragma user_version").scalar()
        connection.exec_driver_sql(f"pragma user_version = {version}")  # which a database that is read-only refuses
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
    """Find out whether files can be put into a folder, or whether it can be made.

    Raises:
        BadInputError: If not.
    """
    there = folder
    while not there.exists() and not there.is_symlink() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise _refused(f"{folder} cannot be written: {there} is not a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise _refused(f"{folder} cannot be written: permission denied.")


def _check_experiment(client: MlflowClient, uri: str, name: str) -> None:
    """Find out whether a study can be written into the experiment of its name, if there is one."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        if not _is_server(uri):
            _check_writable(Path.cwd() / ARTIFACTS)
        return
    if not experiment.experiment_id or experiment.name != name:
        raise _refused(f"what answers at {without_password(uri)} is not an MLflow server: it gives another experiment.")
    if experiment.lifecycle_stage != "active":
        raise BadInputError([f'MLflow: the experiment "{name}" was deleted. Restore it, or rename the study.'])
    path = _local_path(experiment.artifact_location)
    if path is not None and not _is_server(uri):
        _check_writable(_present_place(path, uri, experiment.experiment_id))


# -- clients -----------------------------------------------------------------------------------------------------------


def open_client(uri: str) -> MlflowClient:
    """Return a client of a store. A database gets its tables; a file gets its name when it has all of them.

    MLflow takes a second for its tables, in many steps, and can make nothing of a file with some of them.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of errors that it raises, too
    # The tracker tries again, and first looks whether a run was created though the answer was lost: MLflow does not.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # the files are small
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # which may hold a password
    file = _file_of(uri)
    if file is None:
        return MlflowClient(tracking_uri=uri)
    with _without_new_folders(uri, file):
        if not file.exists():
            for leftover in file.parent.glob(f"{file.name}.*.tmp*"):  # with its journal
                leftover.unlink()
            suffix = f".{secrets.token_hex(8)}.tmp"
            MlflowClient(tracking_uri=f"{uri}{suffix}").search_experiments(max_results=1)
            for each in (f"{uri}{suffix}", uri):  # connections to what was there under this name before
                _close_connections(each)
            file.with_name(f"{file.name}{suffix}").replace(file)
        return MlflowClient(tracking_uri=uri)


def _close_connections(uri: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = getattr(SqlAlchemyStore, "_engine_map", {}).get(uri)
    if engine is not None:
        engine.dispose()


@contextlib.contextmanager
def _without_new_folders(uri: str, file: Path) -> Iterator[None]:
    """Remove the empty folders that MLflow makes beside one with a sign in its name, taking the URI for the path."""
    taken = Path(uri.removeprefix("sqlite:///")).parent
    new = [] if taken == file.parent else [each for each in (taken, *taken.parents) if not each.exists()]
    try:
        yield
    finally:
        for folder in new:
            with contextlib.suppress(OSError):
                folder.rmdir()


# -- artifacts ---------------------------------------------------------------------------------------------------------


def create_experiment(client: MlflowClient, uri: str, name: str) -> Experiment:
    """Create an experiment; see the module for where its artifacts lie."""
    folder = folder_of(uri)
    location = None
    here = Path.cwd() / ARTIFACTS
    if not _is_server(uri) and urllib.parse.quote(str(here)) != str(here):  # MLflow takes a path for a part of a URI
        location = f"{here.as_uri()}/{name}"
    identifier = client.create_experiment(name, artifact_location=location, tags=dict(EXPERIMENT_TAGS))
    if folder is not None and folder.resolve() == Path.cwd():
        _write_place(uri, identifier, "", f"{ARTIFACTS}/{identifier}")
    return client.get_experiment(identifier)


def take_along(client: MlflowClient, uri: str, experiment: Experiment, note: Callable[[str], None]) -> None:
    """Let the artifacts of an experiment be found where its folder was moved or copied to.

    Args:
        client: A client of the store.
        uri: The store's URI.
        experiment: The experiment.
        note: Called with what a user should know.
    """
    before = _local_path(experiment.artifact_location)
    if before is None or _is_server(uri) or not before.is_absolute():
        return
    identifier = experiment.experiment_id
    now = _present_place(before, uri, identifier)
    if now == before:
        if not before.exists() and client.search_runs([identifier], max_results=1):
            note(f"the artifacts of this study were in {before}, which is gone; new ones are put there again")
        return
    folder = folder_of(uri)
    place = f"{ARTIFACTS}/{identifier}" if folder is not None and folder.resolve() == Path.cwd() else str(now)
    _write_place(uri, identifier, experiment.artifact_location, place)
    note(f"the folder of this study was moved or copied from {before.parent.parent}; its artifacts are in {now}")


def _present_place(before: Path, uri: str, identifier: str) -> Path:
    """Return where the artifacts of an experiment are now: beside the database, if they were taken along with it."""
    base = folder_of(uri) or Path.cwd()
    if not before.is_absolute():
        return base / before
    now = base / ARTIFACTS / identifier
    if (before.parent.name, before.name) != (ARTIFACTS, identifier) or now.resolve() == before.resolve():
        return before
    if not now.is_dir():
        return now if folder_of(uri) and not before.exists() else before
    with sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool).connect() as connection:
        query = sqlalchemy.text("select run_uuid from runs where experiment_id = :identifier")
        runs = set(connection.execute(query, {"identifier": int(identifier)}).scalars())
    is_taken_along = any(each.name in runs for each in now.iterdir())  # and is not that of another database
    return now if is_taken_along else before


def _write_place(uri: str, identifier: str, before: str, now: str) -> None:
    """Write the place of an experiment's artifacts, its runs' and its models' into MLflow's tables."""
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
    """Return the folder of local artifacts, wherever this process runs; None if they are not local.

    Args:
        uri: The store's URI.
        location: Where they are, as MLflow says.
    """
    path = _local_path(location)
    if path is None:
        return None
    base = folder_of(uri) or Path.cwd()
    if not path.is_absolute():
        return base / path
    if not path.exists() and ARTIFACTS in path.parts:
        index = len(path.parts) - 1 - path.parts[::-1].index(ARTIFACTS)
        moved = base.joinpath(*path.parts[index:])
        return moved if moved.exists() else path
    return path


def _local_path(location: str) -> Path | None:
    parts = urllib.parse.urlsplit(location)
    if parts.scheme not in ("", "file") or parts.netloc:
        return None
    return Path(urllib.request.url2pathname(parts.path if parts.scheme else location))


def add_files(client: MlflowClient, uri: str, run_id: str, location: str, folder: Path) -> None:
    """Put the files of a folder among the artifacts of a run.

    Args:
        client: A client of the store.
        uri: The store's URI.
        run_id: The run.
        location: Where its artifacts are, as MLflow says.
        folder: The files.
    """
    place = None if _is_server(uri) else artifact_folder(uri, location)
    if place is None:
        client.log_artifacts(run_id, str(folder))
    else:
        repository: Any = LocalArtifactRepository(place.as_uri())  # without annotations
        repository.log_artifacts(str(folder))
