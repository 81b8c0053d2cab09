"""The folder of a study beside its database: nobody else's, and held by one process of this machine at a time."""

import contextlib
import fcntl
import os
import socket
import stat
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from tuner.console import printable
from tuner.errors import BadInputError, StudyFailedError, StudyRunningError

__all__ = ["Held", "check_folder", "check_own", "check_writable", "held", "lock_in_file", "open_own", "running"]

FILES = ("lock", "study.yaml", "folder", "review.log")

_descriptors: dict[tuple[int, int], int] = {}  # of databases that studies of this process were held in
_here: set[tuple[tuple[int, int], str]] = set()  # the studies that are held in them now


def check_folder(folder: Path) -> None:
    """Find out, without creating anything, whether a study can write into its folder, and nobody else can.

    Args:
        folder: The folder of the study; it and the one around it need not exist.

    Raises:
        BadInputError: If it cannot be used, with what is in the way.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise BadInputError(
            [f"{folder}: the name of a folder is not UTF-8; rename it, or work in another one."]
        ) from None
    check_own(folder)
    for file in (folder.parent / ".lock", *(folder / name for name in FILES)):
        if os.path.lexists(file):
            _check_file(file, file.lstat())
    check_writable(folder)


def check_writable(path: Path) -> None:
    """Find out whether a file or folder can be written, or made.

    Raises:
        BadInputError: If not.
    """
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if existing != path and not existing.is_dir():
        raise BadInputError([f"cannot write {path}: {existing} is not a folder."])
    access = os.W_OK | os.X_OK if existing.is_dir() else os.W_OK
    if not os.access(existing, access, effective_ids=os.access in os.supports_effective_ids):
        raise BadInputError([f"cannot write {path}: no permission to write {existing}."])


def check_own(folder: Path) -> None:
    """Find out whether the folder of a study, if there is one, is that of this user, and nobody else can write into it.

    Raises:
        BadInputError: If not.
    """
    for each in (folder.parent, folder):
        if os.path.lexists(each):
            _check_own(each, each.lstat())


def _check_own(folder: Path, info: os.stat_result) -> None:
    if stat.S_ISLNK(info.st_mode):
        raise BadInputError([f"{folder}: is a symbolic link; a study writes into a folder of its own only."])
    if not stat.S_ISDIR(info.st_mode):
        raise BadInputError([f"{folder}: is not a folder; move it away."])
    is_foreign, is_open = info.st_uid != os.geteuid(), bool(info.st_mode & stat.S_IWOTH)
    if not is_foreign and not is_open:
        return
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=folder) as made:
        usual = Path(made).stat()  # on some file systems, all is somebody's and open to all
        if usual.st_uid == info.st_uid and (not is_open or usual.st_mode & stat.S_IWOTH):
            return
    how = f"belongs to another user (uid {info.st_uid})" if is_foreign else "can be written by all users (chmod o-w)"
    raise BadInputError([f"{folder}: {how}; what is in it decides what is run, so it has to be yours alone."])


def _check_file(file: Path, info: os.stat_result) -> None:
    """Refuse what is no file of the study's own: to write into it could destroy another, or wait for ever."""
    is_file = stat.S_ISREG(info.st_mode)
    if stat.S_ISLNK(info.st_mode) or (is_file and info.st_nlink > 1):
        raise BadInputError([f"{file}: is a link; a study writes into files of its own only."])
    if not is_file:
        raise BadInputError([f"{file}: is not a file; move it away."])


def open_own(file: Path) -> int:
    """Open a file of a study to be read and written, and return its descriptor; it is made if it is not there.

    Raises:
        BadInputError: If that cannot be, or something else is in its place.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if os.path.lexists(file):
            _check_file(file, file.lstat())
        raise BadInputError([f"cannot write {file}: {error.strerror}."]) from error
    try:
        _check_file(file, os.fstat(descriptor))
    except BadInputError:
        os.close(descriptor)
        raise
    return descriptor


class Held:
    """The lock of a study on this machine.

    Args:
        file: Where it is.
        descriptor: The open file.
    """

    def __init__(self, file: Path, descriptor: int) -> None:
        self._files = {file: _identity(os.fstat(descriptor))}

    def watch(self, file: Path) -> None:
        """Look at another file as well: what stands in its place has to be what stands there now."""
        self._files[file] = _identity(file.stat())

    def keep(self) -> None:
        """Make sure that the files are still there: another process could lock those that are put in their place.

        Raises:
            StudyFailedError: If one was removed or replaced.
        """
        for file, identity in self._files.items():
            try:
                now = _identity(file.stat())
            except FileNotFoundError:
                now = None
            except OSError:  # a file system that is away
                continue
            if now != identity:
                raise StudyFailedError(f"{file} was removed or replaced while the study ran; run the command again")


@contextlib.contextmanager
def held(folder: Path, study: str) -> Iterator[Held]:
    """Make the folder of a study, and hold the study on this machine.

    Raises:
        BadInputError: If the folder cannot be used.
        StudyRunningError: If another process holds the study.
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
            raise running(study, lock.read().strip()) from None
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on host {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        lock.flush()
        mine = Held(file, lock.fileno())
        mine.keep()  # it may have been removed before it was locked
        yield mine


@contextlib.contextmanager
def lock_in_file(file: Path, study: str) -> Iterator[None]:
    """Hold a study in the file of its database: by whatever name it is reached, and though its folder is removed.

    Linux has locks of parts of a file for that, which need not be there: here, far behind its end, one for each study.

    Raises:
        StudyRunningError: If another process holds the study.
    """
    if sys.platform != "linux" or sys.maxsize < 2**32:
        yield
        return
    # To close the file would take the locks that SQLite has on it in this process, so it stays open.
    identity = _identity(file.stat())
    if identity not in _descriptors:
        _descriptors[identity] = os.open(file, os.O_RDWR)
    if (identity, study) in _here:
        raise running(study, "this process")
    try:
        _lock_part(_descriptors[identity], study, fcntl.F_WRLCK)
    except BlockingIOError:
        raise running(study, "another process") from None
    except OSError:  # the file system has no such locks
        yield
        return
    _here.add((identity, study))
    try:
        yield
    finally:
        _here.remove((identity, study))
        _lock_part(_descriptors[identity], study, fcntl.F_UNLCK)


def _lock_part(descriptor: int, study: str, kind: int) -> None:
    place = (1 << 62) + zlib.crc32(study.encode())
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi", kind, os.SEEK_SET, place, 1, 0))


def running(study: str, holder: str) -> StudyRunningError:
    """Return the error that tells who holds a study."""
    who = printable(holder) or "another process"
    return StudyRunningError(f'study "{study}" is already being run by {who}. Wait, or stop that process.')


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
