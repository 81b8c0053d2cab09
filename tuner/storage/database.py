"""Optuna's database of one study: opened, locked by one coordinator, and retried while it is unavailable."""

import contextlib
import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import optuna
from sqlalchemy.exc import DatabaseError, InterfaceError, SQLAlchemyError

from tuner import interrupts
from tuner.errors import BadInputError, StudyFailedError
from tuner.files import network_file_system
from tuner.storage.connection import (
    EditableStorage,
    can_pass,
    check_transaction,
    connection_errors,
    has_tables,
    open_storage,
    reason_of,
    sqlite_file,
)
from tuner.storage.folders import check_folder, check_writable, open_own
from tuner.storage.locks import FolderLock, ServerLock, lock_folder, lock_in_file
from tuner.urls import without_password

__all__ = ["Database", "state_directory", "trial_directory"]

Result = TypeVar("Result")


def state_directory(url: str, study: str) -> Path:
    """Return the folder of a study's lock, checkpoints and results: next to an SQLite database, else in this folder."""
    file = sqlite_file(url)
    return (file.parent if file else Path.cwd()) / ".tuner" / study


def trial_directory(url: str, study: str, identifier: str, number: int) -> Path:
    """Return the folder of a trial's checkpoints, result and output."""
    # The identifier keeps it apart from the folder of a study of this name in a database that was deleted.
    return state_directory(url, study) / f"trials-{identifier[:8]}" / str(number)


class Database:
    """Optuna's database, locked for one study.

    Args:
        url: Its SQLAlchemy URL.
        study: Name of the study.
        note: Called with messages for the user.

    Attributes:
        storage: Optuna's storage in it.
        outages: How often it did not answer, or the lock was lost; meanwhile, another process may have changed it.
    """

    RETRY_SECONDS = 600.0
    LONGEST_PAUSE = 10.0

    def __init__(self, url: str, study: str, note: Callable[[str], None]) -> None:
        self.url, self._study, self._note = url, study, note
        self._is_stopped = False
        self._hurried_at = math.inf
        self._gave_up: StudyFailedError | None = None
        self._is_retrying = False
        self.outages = 0
        self._server_lock: ServerLock | None = None
        self._folder_lock: FolderLock | None = None
        self.storage: EditableStorage

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the study, and open the storage.

        Raises:
            StudyRunningError: If another process has the lock.
            BadInputError: If there is no such database.
            StudyFailedError: If it cannot be used.
        """
        directory, file = state_directory(self.url, self._study), sqlite_file(self.url)
        if kind := network_file_system(directory):
            self._note(
                f"{directory} is on a network file system ({kind}), where locks and SQLite are not safe; run "
                "the study on a local disk, or with its databases in PostgreSQL"
            )
        with lock_folder(directory, self._study) as self._folder_lock, contextlib.ExitStack() as stack:
            if file is None:
                self._server_lock = ServerLock(self.url, self._study, self._is_hurried)
                with connection_errors(self.url):
                    self._server_lock.take()
                stack.callback(self._server_lock.release)
            with self.initialization_lock():
                self.storage = stack.enter_context(open_storage(self.url, EditableStorage, is_hurried=self._is_hurried))
            if file is not None:
                stack.enter_context(lock_in_file(file, self._study))
                self._folder_lock.watch(file)
            yield

    @contextlib.contextmanager
    def initialization_lock(self) -> Iterator[None]:
        """Wait for other studies that are starting here, and exclude them: only one process may create tables.

        Raises:
            BadInputError: If the database is unreachable.
        """
        with os.fdopen(open_own(state_directory(self.url, self._study).parent / ".lock")) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.nullcontext() if self._server_lock is None else self._server_lock.initialization_lock():
                yield

    @staticmethod
    def check(url: str, study: str) -> None:
        """Check that the folder of a study and an SQLite database can be written, without creating anything.

        Raises:
            BadInputError: If one cannot.
        """
        if file := sqlite_file(url):
            if file.exists() and not file.is_file():
                raise BadInputError([f"storage: {without_password(url)} cannot be used: {file} is not a file."])
            check_writable(file)
            check_writable(file.parent)  # SQLite keeps its journal there
            if file.exists():
                check_transaction(url)
        check_folder(state_directory(url, study))

    @staticmethod
    @contextlib.contextmanager
    def open_readonly(url: str) -> Iterator[optuna.storages.RDBStorage | None]:
        """Open the storage for reading, without creating anything; None if there is none.

        Raises:
            BadInputError: If there is no such database, or it cannot be used.
        """
        file = sqlite_file(url)
        if (file is not None and not file.exists()) or not has_tables(url):
            yield None
            return
        with open_storage(url, optuna.storages.RDBStorage, read_only=True) as storage:
            try:
                yield storage
            except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
                where = without_password(url)
                raise BadInputError([f"storage: {where} cannot be used: {reason_of(error)}."]) from error

    def delete_study(self) -> None:
        """Delete the study that is held."""
        optuna.delete_study(study_name=self._study, storage=self.storage)

    def rename_study(self, name: str) -> None:
        """Give the study that is held another name."""
        self.storage.rename_study(self._study, name)

    def hurry(self) -> None:
        """Let `retry_while_unavailable` wait for a few more seconds only; safe to call in a signal handler."""
        self._hurried_at = min(self._hurried_at, time.monotonic())

    def _is_hurried(self) -> bool:
        return self._hurried_at < math.inf

    def stop_retrying(self) -> None:
        """Make `retry_while_unavailable` fail instead of waiting; safe to call in a signal handler."""
        self._is_stopped = True

    def retry_while_unavailable(self, action: Callable[[], Result]) -> Result:
        """Call a function that uses the database, and call it again while the database is unavailable.

        Args:
            action: The function. It may be called again after it succeeded, if only its answer was lost.

        Raises:
            BadInputError: If the database cannot be used: it is damaged or read-only.
            StudyFailedError: If it stays unreachable, or was removed. After that, the database is not tried again.
            StudyRunningError: If another process has taken the lock meanwhile.
        """
        if self._is_retrying:  # the outermost call retries all of its action, not a part
            return action()
        if self._gave_up is not None:
            raise self._gave_up
        self._is_retrying = True
        try:
            return self._retry(action)
        finally:
            self._is_retrying = False

    def _retry(self, action: Callable[[], Result]) -> Result:
        began, pause = 0.0, 0.2
        while True:
            try:
                self._check_locks()
                result = action()
            except (optuna.exceptions.StorageInternalError, DatabaseError, InterfaceError) as error:
                self.outages += 1
                where = without_password(self.url)
                if not can_pass(error):
                    self._check_locks()  # the file may have been removed since
                    raise BadInputError([f"storage: {where} cannot be used: {reason_of(error)}."]) from error
                if not began:
                    began = time.monotonic()
                    how_long = "a few seconds" if self._is_hurried() else "ten minutes"
                    self._note(f"the database does not answer ({reason_of(error)}); retrying for {how_long}")
                is_late = self._seconds_left(began) <= 0
                if not is_late:
                    self._pause(pause, began)
                if is_late or self._is_stopped:
                    self._gave_up = StudyFailedError(f"the database {where} is unreachable: {reason_of(error)}")
                    raise self._gave_up from error
                pause = min(2 * pause, self.LONGEST_PAUSE)
                self.storage.remove_session()
            else:
                if began:
                    self._note("the database is answering again")
                return result

    def _check_locks(self) -> None:
        if self._folder_lock is not None:
            self._folder_lock.check()
        if self._server_lock is not None:
            self._server_lock.check()

    def _seconds_left(self, began: float) -> float:
        """Return how much longer to wait in an outage."""
        last = max(began, self._hurried_at) + interrupts.HURRIED_SECONDS
        return min(began + self.RETRY_SECONDS, last) - time.monotonic()

    def _pause(self, seconds: float, began: float) -> None:
        # In slices, because sleep() continues after a signal. No threading.Event: setting it in a signal handler can
        # deadlock on a lock that the interrupted thread itself holds.
        end = time.monotonic() + seconds
        while not self._is_stopped and (left := min(end - time.monotonic(), self._seconds_left(began))) > 0:
            time.sleep(min(left, 0.1))
