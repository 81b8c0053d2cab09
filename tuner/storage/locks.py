"""The locks of a study: on a file of this machine, in an SQLite file, and in a PostgreSQL server.

On one machine the kernel holds the locks: one on a file in the study's folder, and one in the SQLite database itself.
PostgreSQL holds an advisory lock as well, which excludes coordinators on other machines. All of them are released when
the process ends, even if it is killed.
"""

import contextlib
import fcntl
import hashlib
import os
import socket
import struct
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy
from sqlalchemy.exc import InterfaceError, OperationalError

from tuner.console import printable
from tuner.errors import BadInputError, StudyFailedError, StudyRunningError
from tuner.storage.connection import connection_errors, make_sql_engine
from tuner.storage.folders import check_folder, open_own

__all__ = ["FolderLock", "ServerLock", "is_locked", "lock_folder", "lock_in_file"]

STUDIES, INITIALIZATION = 0x1EA4, 0x1EA5  # first number of PostgreSQL's advisory locks: their purpose

_descriptors: dict[tuple[int, int], int] = {}  # descriptors of databases in which this process has locked studies
_locked_here: set[tuple[tuple[int, int], str]] = set()  # the studies that this process has locked


class FolderLock:
    """The lock of a study on this machine.

    Args:
        file: The locked file.
        descriptor: Its descriptor.
    """

    def __init__(self, file: Path, descriptor: int) -> None:
        self._files = {file: _identity(os.fstat(descriptor))}

    def watch(self, file: Path) -> None:
        """Make `check` look at another file too."""
        self._files[file] = _identity(file.stat())

    def check(self) -> None:
        """Check that the files are still the same: another process could lock files that have replaced them.

        Raises:
            StudyFailedError: If one was removed or replaced.
        """
        for file, identity in self._files.items():
            try:
                now = _identity(file.stat())
            except FileNotFoundError:
                now = None
            except OSError:  # the file system is unavailable
                continue
            if now != identity:
                raise StudyFailedError(f"{file} was removed or replaced while the study ran; run the command again")


@contextlib.contextmanager
def lock_folder(folder: Path, study: str) -> Iterator[FolderLock]:
    """Create the folder of a study, and lock the study on this machine.

    Raises:
        BadInputError: If the folder cannot be used.
        StudyRunningError: If another process has the lock.
    """
    check_folder(folder)
    try:
        for each in (folder.parent, folder):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise BadInputError([f"cannot write {folder}: {error.strerror}."]) from error
    file = folder / "lock"
    with os.fdopen(open_own(file), "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _running(study, lock.read().strip()) from None
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on host {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        lock.flush()
        folder_lock = FolderLock(file, lock.fileno())
        folder_lock.check()  # the file may have been removed before it was locked
        yield folder_lock


@contextlib.contextmanager
def lock_in_file(file: Path, study: str) -> Iterator[None]:
    """Lock a study in the file of its SQLite database.

    This holds whatever path leads to the database, and after the study's folder was removed. It uses Linux's locks of
    byte ranges, which may lie beyond the end of a file: far behind it, one byte for each study.

    Raises:
        StudyRunningError: If another process has the lock.
    """
    if sys.platform != "linux" or sys.maxsize < 2**32:
        yield
        return
    # The file stays open: closing it would release the locks that SQLite has on it in this process.
    identity = _identity(file.stat())
    if identity not in _descriptors:
        _descriptors[identity] = os.open(file, os.O_RDWR)
    if (identity, study) in _locked_here:
        raise _running(study, "this process")
    try:
        _lock_byte(_descriptors[identity], study, fcntl.F_WRLCK)
    except BlockingIOError:
        raise _running(study, "another process") from None
    except OSError:  # the file system does not support these locks
        yield
        return
    _locked_here.add((identity, study))
    try:
        yield
    finally:
        _locked_here.remove((identity, study))
        _lock_byte(_descriptors[identity], study, fcntl.F_UNLCK)


def is_locked(folder: Path, file: Path | None, url: str, study: str) -> bool:
    """Return whether a process runs a study, without taking its lock.

    Args:
        folder: The folder of the study.
        file: Its SQLite database; None if the database is on a server.
        url: SQLAlchemy URL of the database.
        study: Name of the study.

    Raises:
        BadInputError: If the server is unreachable.
    """
    if file is None:
        with connection_errors(url), make_sql_engine(url).connect() as session:
            return session.execute(sqlalchemy.text(_HOLDER), ServerLock(url, study).numbers()).first() is not None
    try:
        with (folder / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # for a moment only, as the file is closed at once
    except BlockingIOError:
        return True
    except OSError:  # it was never run here
        return False
    return False


def _lock_byte(descriptor: int, study: str, kind: int) -> None:
    offset = (1 << 62) + int.from_bytes(hashlib.sha256(study.encode()).digest()[:7])
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi", kind, os.SEEK_SET, offset, 1, 0))


def _running(study: str, holder: str) -> StudyRunningError:
    who = printable(holder) or "another process"
    return StudyRunningError(f'study "{study}" is already being run by {who}. Wait, or stop that process.')


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


class ServerLock:
    """The lock of a study in a PostgreSQL server: an advisory lock, which lives as long as its session.

    Args:
        url: SQLAlchemy URL of the database.
        study: Name of the study.
        is_hurried: Returns whether the server must answer within a few seconds.
    """

    END_SECONDS = 10.0  # time that a terminated session may take to end

    def __init__(self, url: str, study: str, is_hurried: Callable[[], bool] = lambda: False) -> None:
        digest = hashlib.sha256(f"lr-tuner {study}".encode()).digest()
        self._url, self._study, self._is_hurried = url, study, is_hurried
        self._key = int.from_bytes(digest[:4], "big", signed=True)
        # The token identifies this object's sessions. The server keeps 63 bytes of the name.
        self._token = f" #{uuid.uuid4().hex[:12]}"
        self._name = f"pid {os.getpid()} on host {socket.gethostname()}"[: 63 - len(self._token)] + self._token
        self._session: sqlalchemy.Connection | None = None

    def take(self) -> None:
        """Take the lock in a new session.

        If an earlier session of this process still has it, because the connection was lost on one side only, that
        session is terminated.

        Raises:
            StudyRunningError: If another process has the lock.
        """
        engine = make_sql_engine(self._url, self._is_hurried)
        session = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        session.execute(sqlalchemy.text("select set_config('application_name', :me, false)"), {"me": self._name})
        deadline = time.monotonic() + self.END_SECONDS
        while not session.execute(
            sqlalchemy.text("select pg_try_advisory_lock(:space, :key)"), self.numbers()
        ).scalar():
            pid, holder = session.execute(sqlalchemy.text(_HOLDER), self.numbers()).first() or (0, "")
            is_ours = holder.endswith(self._token)
            if pid and (not is_ours or time.monotonic() > deadline):
                session.close()
                raise _running(self._study, holder.partition(" #")[0])
            if is_ours:
                session.execute(sqlalchemy.text("select pg_terminate_backend(:pid)"), {"pid": pid})
            time.sleep(0.1)
        self._session = session

    def check(self) -> None:
        """Check that the session lives; if it does not, take the lock in a new one.

        Raises:
            StudyRunningError: If another process has taken the lock.
            OperationalError: If the server is unreachable.
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
    def initialization_lock(self) -> Iterator[None]:
        """Wait for a second lock, shared by all studies of the server's database, and hold it."""
        if self._session is None:
            raise StudyFailedError("the study is not locked.")
        attempt = sqlalchemy.text("select pg_try_advisory_lock(:space, 0)")
        with connection_errors(self._url):
            while not self._session.execute(attempt, {"space": INITIALIZATION}).scalar():
                time.sleep(0.1)
        try:
            yield
        finally:
            with contextlib.suppress(InterfaceError, OperationalError):  # a lost session has released the lock
                self._session.execute(
                    sqlalchemy.text("select pg_advisory_unlock(:space, 0)"), {"space": INITIALIZATION}
                )

    def release(self) -> None:
        """End the session, which releases the lock."""
        if self._session is not None:
            with contextlib.suppress(InterfaceError, OperationalError):
                self._session.close()
            self._session = None

    def numbers(self) -> dict[str, int]:
        """Return the two numbers of the advisory lock."""
        return {"space": STUDIES, "key": self._key}


_HOLDER = """\
select pid, application_name from pg_locks join pg_stat_activity using (pid)
where locktype = 'advisory' and granted and database = (select oid from pg_database where datname = current_database())
and classid::bigint = :space and objid::bigint = (:key + 4294967296) % 4294967296"""
