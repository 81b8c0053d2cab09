"""Atomic writing of files, and detection of network file systems."""

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tuner.errors import BadInputError

__all__ = ["DiskFullError", "network_file_system", "write_atomically", "write_json", "write_output"]

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|glusterfs|lustre|beegfs|gpfs|fuse\.(sshfs|glusterfs|.*nfs.*|s3fs)"
)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(Exception):
    """There is no room for a file, so it was not written; an earlier file of its name is unchanged."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file atomically: whole, or not at all. The permissions of an earlier file of its name are kept.

    Args:
        path: Final name; a file of that name is replaced.
        write: Called with the open file.

    Raises:
        DiskFullError: If there is no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        cause: BaseException | None = error
        while cause is not None:  # torch wraps the error
            if isinstance(cause, OSError) and cause.errno in _FULL:
                raise DiskFullError(f"{path.parent}: {os.strerror(cause.errno or 0)}") from error
            cause = cause.__context__
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_output(path: Path, content: bytes, option: str = "") -> None:
    """Write a file that the user has asked for: whole, or not at all, unless it is a pipe or a device.

    Args:
        path: The file, in an existing folder.
        content: Its content.
        option: The option that names it, for the message.

    Raises:
        BadInputError: If it cannot be written.
    """
    try:
        target = path.resolve()
        if path.parent in (Path("/dev"), Path("/dev/fd")) or (target.exists() and not target.is_file()):
            path.write_bytes(content)
            return
        if not target.parent.is_dir():  # `write_atomically` would create it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        try:
            write_atomically(target, lambda file: file.write(content))
        except OSError:
            path.write_bytes(content)  # some files can be written, but not replaced, such as a mounted one
    except (OSError, RuntimeError, DiskFullError) as error:  # Python 3.11 reports a loop of links as a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else error
        raise BadInputError([f"{option}{path}: cannot be written ({reason})."]) from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically."""
    content = json.dumps(value).encode()
    write_atomically(path, lambda file: file.write(content))


def network_file_system(path: Path, mounts: str | None = None) -> str:
    """Return the type of the network file system that contains a path; empty if it is local, or unknown.

    Args:
        path: A path, which need not exist.
        mounts: Content of ``/proc/self/mountinfo``; None to read it.
    """
    if mounts is None:
        try:
            mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return ""
    path = path.resolve()
    kinds: dict[Path, str] = {}
    for line in mounts.splitlines():
        place, _, kind = line.partition(" - ")
        kinds[Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), place.split()[4]))] = kind.split()[0]
    kind = next((kinds[folder] for folder in (path, *path.parents) if folder in kinds), "")
    return kind if NETWORK.fullmatch(kind) else ""
