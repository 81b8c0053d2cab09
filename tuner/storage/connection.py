"""Connections to Optuna's database, SQLite or PostgreSQL: URLs, the storage, and errors as sentences for the user."""

import contextlib
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import optuna
import sqlalchemy
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import TrialState
from sqlalchemy import func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)

from tuner import postgresql
from tuner.errors import BadInputError, TunerError, needs_extra
from tuner.storage.attributes import ATTEMPT
from tuner.urls import without_password

__all__ = [
    "EditableStorage",
    "can_pass",
    "check_transaction",
    "connection_errors",
    "count_trials",
    "has_tables",
    "make_sql_engine",
    "open_storage",
    "reason_of",
    "sqlite_file",
]

Storage = TypeVar("Storage", bound=optuna.storages.RDBStorage)

SERVER_SETTINGS = {
    "tcp_keepalives_idle": 20,
    "tcp_keepalives_interval": 10,
    "tcp_keepalives_count": 3,
    "idle_in_transaction_session_timeout": 120_000,
}


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite database, with links resolved; None for other databases.

    Raises:
        BadInputError: If the URL cannot be parsed, or names a database in memory.
    """
    with connection_errors(url):
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return None
        name = parsed.database or ""
        if name.startswith("file:") and str(parsed.query.get("uri", "")).lower() in ("true", "1", "yes", "on"):
            name = (
                "" if parsed.query.get("mode") == "memory" else urllib.parse.unquote(urllib.parse.urlsplit(name).path)
            )
        if name in ("", ":memory:"):
            raise ArgumentError("no other process can see a database in memory")
    return Path(name).resolve()


class EditableStorage(optuna.storages.RDBStorage):
    """Optuna's storage, with changes that Optuna has no API for."""

    def remove_lost_trials(self) -> None:
        """Remove trials of studies that do not exist.

        SQLite lets a trial be added to a study while that is deleted, and gives the study's id to the next one.
        """
        studies, trials = models.StudyModel, models.TrialModel
        with _create_scoped_session(self.scoped_session) as session:
            for trial in session.query(trials).filter(trials.study_id.not_in(session.query(studies.study_id))):
                session.delete(trial)

    def rename_study(self, name: str, new: str) -> None:
        """Give a study another name, which no other study may have. Optuna has no API for this."""
        with _create_scoped_session(self.scoped_session) as session:
            session.query(models.StudyModel).filter(models.StudyModel.study_name == name).update({"study_name": new})

    def reopen_failed(self, study_id: int, forget: Callable[[int], None]) -> None:
        """Put the failed trials of a study back into the queue; they keep their numbers and parameters only.

        Optuna has no API for this: it never changes a finished trial, and caches the ones it has read. So call this
        before anything reads the trials. Each trial counts its attempts, from 0.

        Args:
            study_id: The study.
            forget: Called with the number of each trial, before the trial changes.
        """
        trials, attributes, reports = (
            models.TrialModel,
            models.TrialUserAttributeModel,
            models.TrialIntermediateValueModel,
        )
        with _create_scoped_session(self.scoped_session) as session:
            failed = session.query(trials).filter(trials.study_id == study_id, trials.state == TrialState.FAIL).all()
            for trial in failed:
                forget(cast(int, trial.number))
                of_trial = session.query(attributes).filter(attributes.trial_id == trial.trial_id)
                of_trial.filter(attributes.key != ATTEMPT).delete()
                attempt = of_trial.one_or_none()
                if attempt is None:
                    attempt = attributes(trial_id=trial.trial_id, key=ATTEMPT, value_json="0")
                    session.add(attempt)
                attempt.value_json = str(int(attempt.value_json) + 1)
                session.query(reports).filter(reports.trial_id == trial.trial_id).delete()
                trial.state, trial._datetime_complete_utc = TrialState.WAITING, None


def count_trials(storage: optuna.storages.RDBStorage, study_id: int) -> int:
    """Return the number of trials of a study; Optuna reads all of them to count them."""
    of_study = models.TrialModel.study_id == study_id
    with storage.engine.connect() as connection:
        count = select(func.count()).select_from(models.TrialModel).where(of_study)
        return int(connection.execute(count).scalar_one())


@contextlib.contextmanager
def open_storage(
    url: str, kind: type[Storage], *, read_only: bool = False, is_hurried: Callable[[], bool] = lambda: False
) -> Iterator[Storage]:
    """Open a storage, and close its connections at the end.

    Args:
        url: SQLAlchemy URL of the database.
        kind: Class of the storage.
        read_only: Whether to leave the tables alone: none is created, and their version is not checked.
        is_hurried: Returns whether a server must answer within a few seconds.

    Raises:
        BadInputError: If the database cannot be reached or used.
    """
    with connection_errors(url):
        storage = kind(
            url,
            engine_kwargs={"pool_pre_ping": True, **_engine_settings(url, is_hurried)},
            skip_compatibility_check=read_only,
            skip_table_creation=read_only,
        )
        if not url.startswith("sqlite"):
            sqlalchemy.event.listen(storage.engine, "connect", _set_server_timeouts)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def make_sql_engine(url: str, is_hurried: Callable[[], bool] = lambda: False) -> sqlalchemy.Engine:
    """Return an engine without a pool, whose connections detect a lost server and are detected by it.

    Args:
        url: SQLAlchemy URL of the database.
        is_hurried: Returns whether a server must answer within a few seconds.
    """
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, **_engine_settings(url, is_hurried))
    if not url.startswith("sqlite"):
        sqlalchemy.event.listen(engine, "connect", _set_server_timeouts)
    return engine


def has_tables(url: str) -> bool:
    """Return whether a database has all of Optuna's tables.

    Raises:
        BadInputError: If the database cannot be reached or used.
    """
    with connection_errors(url), make_sql_engine(url).connect() as connection:
        # Optuna writes the version last, after it has created the tables.
        return sqlalchemy.inspect(connection).has_table("alembic_version") and bool(
            connection.execute(sqlalchemy.text("select 1 from alembic_version")).first()
        )


def check_transaction(url: str) -> None:
    """Check that an SQLite database can be written, in a transaction that is rolled back.

    A database that is locked at the moment passes.

    Raises:
        BadInputError: If it cannot be written.
    """
    with (
        connection_errors(url),
        sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool).connect() as connection,
    ):
        try:
            connection.exec_driver_sql("begin immediate")  # succeeds even where nothing can be written
            connection.exec_driver_sql("create table of_the_tuner (x)")
            connection.rollback()
        except OperationalError as error:
            if "locked" not in str(error):
                raise


@contextlib.contextmanager
def connection_errors(url: str) -> Iterator[None]:
    """Turn the errors of a new connection into a `BadInputError` that says what to do about them."""
    shown = without_password(url)
    try:
        if not url.startswith(("sqlite:", "sqlite+", "postgresql:", "postgresql+")):
            raise ArgumentError("it is neither SQLite nor PostgreSQL")
        yield
    except (ArgumentError, NoSuchModuleError) as error:
        form = "write sqlite:///file.db or postgresql://user@host/database"
        raise BadInputError([f"storage: {shown} cannot be used: {reason_of(error)}; {form}."]) from error
    except ImportError as error:
        raise BadInputError([f"storage: {error}. PostgreSQL needs {needs_extra('postgresql')}."]) from error
    except (InterfaceError, OperationalError) as error:
        raise BadInputError([f"storage: cannot reach {shown}: {reason_of(error)}."]) from error
    except TunerError:
        raise
    except Exception as error:  # from the driver or Optuna
        raise BadInputError([f"storage: {shown} cannot be used: {reason_of(error)}."]) from error


def reason_of(error: BaseException) -> str:
    """Return the first line of the driver's message."""
    inner = error.__cause__ or error
    inner = getattr(inner, "orig", None) or inner
    return " ".join((str(inner).strip().splitlines() or [type(inner).__name__])[0].split()).rstrip(".")


def can_pass(error: BaseException) -> bool:
    """Return whether a later attempt may succeed: no server answers, the disk is full, or the database is locked.

    A database that is damaged, read-only or lacks tables does not recover.
    """
    inner = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    if type(inner) is DatabaseError or isinstance(inner, ProgrammingError):
        return False
    return not any(text in str(inner) for text in ("readonly database", "no such table"))


def _engine_settings(url: str, is_hurried: Callable[[], bool]) -> dict[str, Any]:
    """Return arguments for SQLAlchemy's engine with which a lost connection to PostgreSQL is noticed in a minute."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return {}
    match parsed.get_driver_name():
        case "psycopg":
            arguments, settings = parsed.get_dialect()().create_connect_args(parsed)
            return {"creator": lambda: postgresql.connect(*arguments, is_hurried=is_hurried, **settings)}
        case "psycopg2":
            wanted = {name: value for name, value in postgresql.TCP_SETTINGS.items() if name not in parsed.query}
            return {"connect_args": wanted}
        case _:
            return {}


def _set_server_timeouts(connection: Any, record: Any) -> None:
    """Make the server end a session whose client is gone; by default, it keeps the session's locks for hours."""
    with contextlib.closing(connection.cursor()) as cursor:
        for name, value in SERVER_SETTINGS.items():
            cursor.execute(f"set {name} = {value}")
    connection.commit()
