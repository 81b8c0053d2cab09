"""The processes of a running study, to kill them."""

import contextlib
import os
import subprocess
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return all descendants of a process."""
    table = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    below: dict[int, list[int]] = {}
    for line in table.splitlines():
        child, parent = map(int, line.split())
        below.setdefault(parent, []).append(child)
    found, todo = [], [pid]
    while todo:
        for child in below.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def slots_of(pid: int) -> list[int]:
    """Return the training processes, which lead their own sessions."""
    return [child for child in children(pid) if leads_session(child)]


def leads_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:  # it has just ended
        return False


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


def standard_error_of(pid: int) -> Path:
    """Return the file that a process writes its errors to."""
    try:
        return Path(f"/proc/{pid}/fd/2").readlink()
    except OSError:  # it has just ended
        return Path()


def servers_of(pid: int) -> list[int]:
    """Return the fork server."""
    slots = slots_of(pid)
    return [child for child in children(pid) if child not in slots and is_fork_server(child)]


def is_fork_server(pid: int) -> bool:
    try:
        name = Path(f"/proc/{pid}/comm").read_text()
    except OSError:  # it has just ended
        return False
    return name == "forkserver\n" or b"multiprocessing.forkserver" in command_of(pid)


def sockets_of(pid: int) -> set[Path]:
    """Return the address of the Unix socket on which a process listens."""
    opened = set()
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has just been closed
                opened.add(str(link.readlink()))
    except OSError:  # the process has just ended
        return set()
    table = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {Path(row[7]) for row in table if len(row) == 8 and f"socket:[{row[6]}]" in opened}


def connections_to(socket: Path) -> bool:
    """Return whether a process has connected to a socket that another listens to, accepted or not."""
    table = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return len([row for row in table if row[7:] == [str(socket)]]) > 1


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
