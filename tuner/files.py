"""File systems that several machines share: locks and SQLite databases are not safe on them."""

import re
from pathlib import Path

__all__ = ["network_file_system"]

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|glusterfs|lustre|beegfs|gpfs|fuse\.(sshfs|glusterfs|.*nfs.*|s3fs)"
)


def network_file_system(path: Path, mounts: str | None = None) -> str:
    """Return the kind of the network file system that a path is on; empty if it is on none, as far as is known.

    Args:
        path: It need not exist.
        mounts: The mounts, as Linux tells them in ``/proc/self/mountinfo``, which is read if they are not given.
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
