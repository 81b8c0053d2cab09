"""Optuna's database, SQLite or PostgreSQL: reachable, locked by one coordinator, and asked again when it is away.

On one machine the locks are the kernel's, on a file beside the study's checkpoints and in an SQLite database's own. In
PostgreSQL there is one of the server as well (an advisory lock of a session), so that coordinators on several machines
exclude each other. All are gone the moment the process is, however it ends.
"""

import contextlib
import fcntl
import hashlib
import os
import socket
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import optuna
import sqlalchemy
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from tuner.errors import BadInputError, StudyFailedError, TunerError
from tuner.files import network_file_system
from tuner.storage.attributes import ATTEMPT
from tuner.storage.folders import Held, check_folder, check_writable, held, lock_in_file, open_own, running
from tuner.urls import without_password

__all__ = ["Database", "state_directory", "trial_directory"]

Result = TypeVar("Result")

SERVER_SETTINGS = {
    "tcp_keepalives_idle": 20,
    "tcp_keepalives_interval": 10,
    "tcp_keepalives_count": 3,
    "idle_in_transaction_session_timeout": 120_000,
}
STUDIES, BEGINNING = 0x1EA4, 0x1EA5  # what the locks in PostgreSQL are for: its first number


def state_directory(url: str, study: str) -> Path:
    """Return the folder of a study's lock, checkpoints and results: beside an SQLite database, else in this folder."""
    file = sqlite_file(url)
    return (file.parent if file else Path.cwd()) / ".tuner" / study


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite database, by its one name without links; None for other databases.

    Raises:
        BadInputError: If it is no URL, or that of a database in memory.
    """
    with _explained(url):
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return None
        name = parsed.database or ""
        if name.startswith("file:") and str(parsed.query.get("uri", "")).lower() in ("true", "1", "yes", "on"):
            name = (
                "" if parsed.query.get("mode") == "memory" else urllib.parse.unquote(urllib.parse.urlsplit(name).path)
            )
        if name in ("", ":memory:"):
            raise ArgumentError("it would be in memory, where no other process sees it")
    return Path(name).resolve()


def trial_directory(url: str, study: str, identifier: str, number: int) -> Path:
    """Return the folder of a trial's checkpoints, result and output."""
    return state_directory(url, study) / f"trials-{identifier[:8]}" / str(number)  # not those of a deleted database


class Database:
    """A database of Optuna's, held for one study.

    Args:
        url: Its SQLAlchemy URL.
        study: Name of the study.
        note: Called with what a person should know.

    Attributes:
        storage: Optuna's storage in it.
    """

    PATIENCE_SECONDS = 600.0
    LONGEST_PAUSE = 10.0

    def __init__(self, url: str, study: str, note: Callable[[str], None]) -> None:
        self.url, self._study, self._note = url, study, note
        self._has_given_up = False
        self._is_patient = False
        self._lock: _ServerLock | None = None
        self._held: Held | None = None
        self.storage: _OwnStorage

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the study, and open the storage.

        Raises:
            StudyRunningError: If another process holds the study.
            BadInputError: If there is no such database.
            StudyFailedError: If it cannot be used.
        """
        directory, file = state_directory(self.url, self._study), sqlite_file(self.url)
        if kind := network_file_system(directory):
            self._note(
                f"{directory} is on a network file system ({kind}), where locks and SQLite are not safe; better run "
                "the study on a local disk, or with its databases in PostgreSQL"
            )
        with held(directory, self._study) as self._held, contextlib.ExitStack() as stack:
            if file is None:
                self._lock = _ServerLock(self.url, self._study)
                with _explained(self.url):
                    self._lock.take()
                stack.callback(self._lock.release)
            with self.alone():
                self.storage = cast(_OwnStorage, stack.enter_context(_storage(self.url, _OwnStorage)))
            if file is not None:
                stack.enter_context(lock_in_file(file, self._study))
                self._held.watch(file)
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for other studies that just begin here: while it creates its tables, a database takes one process only.

        Raises:
            BadInputError: If the database is away.
        """
        with os.fdopen(open_own(state_directory(self.url, self._study).parent / ".lock")) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.nullcontext() if self._lock is None else self._lock.alone():
                yield

    @staticmethod
    def check(url: str, study: str) -> None:
        """Find out, without creating anything, whether a study can be written: its folder, and an SQLite database.

        Raises:
            BadInputError: If not.
        """
        if file := sqlite_file(url):
            if file.exists() and not file.is_file():
                raise BadInputError([f"storage: {without_password(url)} cannot be used: {file} is not a file."])
            check_writable(file)
            check_writable(file.parent)  # where SQLite keeps its journal
            if file.exists():
                _check_transaction(url)
        check_folder(state_directory(url, study))

    @staticmethod
    @contextlib.contextmanager
    def look(url: str) -> Iterator[optuna.storages.RDBStorage | None]:
        """Open the storage as it is, for reading; None if there is none.

        Raises:
            BadInputError: If there is no such database.
            BadInputError: If it cannot be used.
        """
        file = sqlite_file(url)
        if file is not None and not file.exists():
            yield None
            return
        with _explained(url):
            engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
            with engine.connect() as connection:  # the last thing that whoever creates the tables writes
                is_there = sqlalchemy.inspect(connection).has_table("alembic_version") and bool(
                    connection.execute(sqlalchemy.text("select 1 from alembic_version")).first()
                )
        if not is_there:
            yield None
            return
        with _storage(url, optuna.storages.RDBStorage, as_it_is=True) as storage:
            try:
                yield storage
            except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
                where = without_password(url)
                raise BadInputError([f"storage: {where} cannot be used: {_reason(error)}."]) from error

    def give_up(self) -> None:
        """Wait for the database no longer; a signal handler may call it."""
        self._has_given_up = True

    def patiently(self, action: Callable[[], Result]) -> Result:
        """Do something with the database; if that is away, do it again when it is back.

        Args:
            action: What to do. It may be done again though it was done: the answer can be lost as well.

        Raises:
            BadInputError: If it cannot be used: it is damaged, or may not be written.
            StudyFailedError: If it stays away, or was removed.
            StudyRunningError: If another process took the study meanwhile.
        """
        if self._is_patient:  # what is done again is the whole, not a part of it
            return action()
        self._is_patient = True
        try:
            return self._again_and_again(action)
        finally:
            self._is_patient = False

    def _again_and_again(self, action: Callable[[], Result]) -> Result:
        deadline, pause = 0.0, 0.2
        while True:
            try:
                if self._held is not None:
                    self._held.keep()
                if self._lock is not None:
                    self._lock.keep()
                result = action()
            except (optuna.exceptions.StorageInternalError, DatabaseError, InterfaceError) as error:
                where = without_password(self.url)
                if not _may_pass(error):
                    raise BadInputError([f"storage: {where} cannot be used: {_reason(error)}."]) from error
                if not deadline:
                    deadline = time.monotonic() + self.PATIENCE_SECONDS
                    self._note(f"the database does not answer ({_reason(error)}); it is asked again, for ten minutes")
                is_late = time.monotonic() >= deadline
                if not is_late:
                    self._pause(pause)
                if is_late or self._has_given_up:
                    raise StudyFailedError(f"the database {where} is away: {_reason(error)}") from error
                pause = min(2 * pause, self.LONGEST_PAUSE)
                self.storage.remove_session()
            else:
                if deadline:
                    self._note("the database answers again")
                return result

    def _pause(self, seconds: float) -> None:
        # In slices, as a sleep goes on after a signal. An event would not do: to set it in a signal handler can wait
        # for ever, for a lock that the interrupted thread itself has.
        end = time.monotonic() + seconds
        while not self._has_given_up and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))


class _OwnStorage(optuna.storages.RDBStorage):
    """Holds studies of which one is changed by this process alone: of that, only what was changed is read again.

    Optuna reads all running trials for each value that it draws and for each verdict of a pruner. With 64 of them, that
    was most of what a trial cost.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._changed: set[int] = set()
        self._newest = -1

    def _get_trials(self, study_id: int, states: Any, included_trial_ids: set[int], trial_id_greater_than: int) -> Any:
        if trial_id_greater_than < 0:  # it wants all, having none
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        trials = super()._get_trials(study_id, states, self._changed, self._newest)
        self._changed = set()
        self._newest = max([self._newest, *(trial._trial_id for trial in trials)])
        return trials

    def reopen_failed(self, study_id: int, forget: Callable[[int], None]) -> None:
        """Put the failed trials of a study back into the queue, with their numbers and parameters and nothing else.

        Optuna has no way to do that, since it lets no finished trial change, and remembers those that it has read. So
        this comes before anything reads them. A trial counts its attempts, from 0.

        Args:
            study_id: The study.
            forget: Called with the number of each trial, before it is changed.
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

    # What changes a trial. It is noted before, since a change can be made and only the answer be lost.

    def _set_trial_param(self, trial_id: int, *args: Any) -> None:
        self._changed.add(trial_id)
        super()._set_trial_param(trial_id, *args)

    def set_trial_state_values(self, trial_id: int, *args: Any, **kwargs: Any) -> bool:
        self._changed.add(trial_id)
        return super().set_trial_state_values(trial_id, *args, **kwargs)

    def set_trial_intermediate_value(self, trial_id: int, *args: Any) -> None:
        self._changed.add(trial_id)
        super().set_trial_intermediate_value(trial_id, *args)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._changed.add(trial_id)
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._changed.add(trial_id)
        super().set_trial_system_attr(trial_id, key, value)


def _check_transaction(url: str) -> None:
    """Find out whether an SQLite database can be written, by what is then taken back; one that is locked can, later."""
    with _explained(url), sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool).connect() as connection:
        try:
            connection.exec_driver_sql("begin immediate")  # which alone succeeds where nothing can be written
            connection.exec_driver_sql("create table of_the_tuner (x)")
            connection.rollback()
        except OperationalError as error:
            if "locked" not in str(error):
                raise


@contextlib.contextmanager
def _storage(
    url: str, kind: type[optuna.storages.RDBStorage], *, as_it_is: bool = False
) -> Iterator[optuna.storages.RDBStorage]:
    with _explained(url):
        storage = kind(
            url,
            engine_kwargs={"pool_pre_ping": True, **_engine_settings(url)},
            skip_compatibility_check=as_it_is,
            skip_table_creation=as_it_is,
        )
        if not url.startswith("sqlite"):
            sqlalchemy.event.listen(storage.engine, "connect", _let_server_notice)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what can go wrong with a new connection into what a person can do about it."""
    shown = without_password(url)
    try:
        if not url.startswith(("sqlite:", "sqlite+", "postgresql:", "postgresql+")):
            raise ArgumentError("it is neither SQLite nor PostgreSQL")
        yield
    except (ArgumentError, NoSuchModuleError) as error:
        form = "write sqlite:///file.db or postgresql://user@host/database"
        raise BadInputError([f"storage: {shown} cannot be used: {_reason(error)}; {form}."]) from error
    except ImportError as error:
        raise BadInputError([f'storage: {error}. PostgreSQL needs pip install "lr-tuner[postgresql]".']) from error
    except (InterfaceError, OperationalError) as error:
        raise BadInputError([f"storage: cannot reach {shown}: {_reason(error)}."]) from error
    except TunerError:
        raise
    except Exception as error:  # the driver's or Optuna's
        raise BadInputError([f"storage: {shown} cannot be used: {_reason(error)}."]) from error


def _reason(error: BaseException) -> str:
    """Return the first line of what the driver said."""
    inner = error.__cause__ or error
    inner = getattr(inner, "orig", None) or inner
    return " ".join((str(inner).strip().splitlines() or [type(inner).__name__])[0].split()).rstrip(".")


def _may_pass(error: BaseException) -> bool:
    """Return whether it may be otherwise when asked again: the server is away, the disk is full, another has locked it.

    A database that is damaged, lacks tables or may not be written stays so.
    """
    inner = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    if type(inner) is DatabaseError or isinstance(inner, ProgrammingError):
        return False
    return not any(text in str(inner) for text in ("readonly database", "no such table"))


def _engine_settings(url: str) -> dict[str, Any]:
    """Return settings of SQLAlchemy with which a connection to PostgreSQL that is lost is noticed in a minute."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql" or parsed.get_driver_name() not in ("psycopg", "psycopg2"):
        return {}
    wanted = {"keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
    return {"connect_args": {name: value for name, value in wanted.items() if name not in parsed.query}}


def _let_server_notice(connection: Any, record: Any) -> None:
    """Let the server end a session whose client is gone: it takes hours otherwise, and keeps the locks for so long."""
    with contextlib.closing(connection.cursor()) as cursor:
        for name, value in SERVER_SETTINGS.items():
            cursor.execute(f"set {name} = {value}")
    connection.commit()


class _ServerLock:
    """Holds a study in a PostgreSQL server, by a lock that lives as long as its session."""

    END_SECONDS = 10.0  # for a session that is terminated

    def __init__(self, url: str, study: str) -> None:
        digest = hashlib.sha256(f"lr-tuner {study}".encode()).digest()
        self._url, self._study, self._key = url, study, int.from_bytes(digest[:4], "big", signed=True)
        # By the token the session is known again. The server keeps 63 bytes of it.
        self._token = f" #{uuid.uuid4().hex[:12]}"
        self._name = f"pid {os.getpid()} on host {socket.gethostname()}"[: 63 - len(self._token)] + self._token
        self._session: sqlalchemy.Connection | None = None

    def take(self) -> None:
        """Take the lock in a new session.

        If a session of this process has it that only the server knows of, as it is when the connection was cut on one
        side, that is ended.

        Raises:
            StudyRunningError: If another process holds it.
        """
        engine = sqlalchemy.create_engine(self._url, poolclass=sqlalchemy.pool.NullPool, **_engine_settings(self._url))
        sqlalchemy.event.listen(engine, "connect", _let_server_notice)
        session = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        session.execute(sqlalchemy.text("select set_config('application_name', :me, false)"), {"me": self._name})
        deadline = time.monotonic() + self.END_SECONDS
        while not session.execute(sqlalchemy.text("select pg_try_advisory_lock(:space, :key)"), self._place()).scalar():
            pid, holder = session.execute(sqlalchemy.text(_HOLDER), self._place()).first() or (0, "")
            is_ours = holder.endswith(self._token)
            if pid and (not is_ours or time.monotonic() > deadline):
                session.close()
                raise running(self._study, holder.partition(" #")[0])
            if is_ours:
                session.execute(sqlalchemy.text("select pg_terminate_backend(:pid)"), {"pid": pid})
            time.sleep(0.1)
        self._session = session

    def keep(self) -> None:
        """Make sure that the session lives; take the lock in another if it does not.

        Raises:
            StudyRunningError: If another process got it meanwhile.
            OperationalError: If the server is away.
        """
        if self._session is not None:
            try:
                self._session.execute(sqlalchemy.text("select 1"))
                return
            except (InterfaceError, OperationalError):
                self.release()
                raise
        self.take()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold a second lock, one for all studies; wait for it."""
        if self._session is None:
            raise StudyFailedError("the study is not locked.")
        with _explained(self._url):
            self._session.execute(sqlalchemy.text("select pg_advisory_lock(:space, 0)"), {"space": BEGINNING})
        try:
            yield
        finally:
            with contextlib.suppress(InterfaceError, OperationalError):  # with the session, the lock is gone as well
                self._session.execute(sqlalchemy.text("select pg_advisory_unlock(:space, 0)"), {"space": BEGINNING})

    def release(self) -> None:
        """End the session, and so the lock."""
        if self._session is not None:
            with contextlib.suppress(InterfaceError, OperationalError):
                self._session.close()
            self._session = None

    def _place(self) -> dict[str, int]:
        return {"space": STUDIES, "key": self._key}


_HOLDER = """\
select pid, application_name from pg_locks join pg_stat_activity using (pid)
where locktype = 'advisory' and granted and database = (select oid from pg_database where datname = current_database())
and classid::bigint = :space and objid::bigint = (:key + 4294967296) % 4294967296"""
