"""Checks of a study's folder: it is writable, and only this user can write into it."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from tuner.errors import BadInputError

__all__ = ["OBJECTS_FILE", "check_folder", "check_own", "check_writable", "open_own"]

OBJECTS_FILE = "objects.pkl"
"""Name of the file with the objects that are sent to runs by value."""
FILES = ("lock", "study.yaml", "folder", OBJECTS_FILE, "review.log")


def check_folder(folder: Path) -> None:
    """Check that a study can write into its folder, and that no other user can, without creating anything.

    Args:
        folder: The folder of the study; it and its parent need not exist.

    Raises:
        BadInputError: If it cannot be used, with the reason.
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
    """Check that a file or folder can be written or created.

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
    """Check that the folder of a study, if it exists, belongs to this user, and that no other user can write into it.

    Raises:
        BadInputError: If not.
    """
    for each in (folder.parent, folder):
        if os.path.lexists(each):
            _check_own(each, each.lstat())


def _check_own(folder: Path, info: os.stat_result) -> None:
    if stat.S_ISLNK(info.st_mode):
        raise BadInputError([f"{folder}: is a symbolic link; a study writes only into its own folder."])
    if not stat.S_ISDIR(info.st_mode):
        raise BadInputError([f"{folder}: is not a folder; move it elsewhere."])
    is_foreign, is_open = info.st_uid != os.geteuid(), bool(info.st_mode & stat.S_IWOTH)
    if not is_foreign and not is_open:
        return
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=folder) as made:
        usual = Path(made).stat()  # some file systems give every file one owner and write permission for all
        if usual.st_uid == info.st_uid and (not is_open or usual.st_mode & stat.S_IWOTH):
            return
    how = f"belongs to another user (uid {info.st_uid})" if is_foreign else "can be written by all users (chmod o-w)"
    raise BadInputError(
        [f"{folder}: {how}; its contents determine which code runs, so only you may have write access."]
    )


def _check_file(file: Path, info: os.stat_result) -> None:
    """Reject a link or a special file: writing to it could destroy another file, or block forever."""
    is_file = stat.S_ISREG(info.st_mode)
    if stat.S_ISLNK(info.st_mode) or (is_file and info.st_nlink > 1):
        raise BadInputError([f"{file}: is a link; a study writes only into its own files."])
    if not is_file:
        raise BadInputError([f"{file}: is not a file; move it elsewhere."])


def open_own(file: Path) -> int:
    """Open a file of a study for reading and writing, create it if needed, and return its descriptor.

    Raises:
        BadInputError: If it cannot be opened, or is not a regular file.
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
