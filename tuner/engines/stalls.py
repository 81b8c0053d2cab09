"""Detect hung runs: for some time they have sent no message and used no CPU time.

Validation, tests and setup send no messages for as long as they take, but they compute. A process that is stopped, or
waits for something that never comes, does not. (A heartbeat thread could outlive the run that hangs.)
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["StallDetector", "processor_seconds"]

SHARE = 0.0003
"""Smallest share of a CPU's time that a run in progress uses.

torch's loop that polls a dead data loader every five seconds uses a tenth of it; waiting for the lock of another
process's download, ten times as much.
"""


POLLING_THREADS = ("gloo", "pt_gloo", "pt_nccl", "nccl", "NCCL", "cuda")
"""Prefixes of the names of threads that poll for messages all the time, even while the run hangs."""


class StallDetector:
    """Detects that a run hangs, by its messages and its CPU time.

    Args:
        sessions: Process ids of the run's session leaders.
        timeout: Seconds without activity after which the run counts as hung.
    """

    def __init__(self, sessions: Sequence[int], timeout: float) -> None:
        self._sessions, self._timeout = sessions, timeout
        self._silent = 0.0
        self._used: float | None = None  # CPU time when half of the timeout was over

    def message_came(self) -> None:
        """Reset the timeout, after a message."""
        self._silent, self._used = 0.0, None

    def hangs_after(self, seconds: float) -> bool:
        """Add seconds without a message, and return whether the run hangs."""
        self._silent += seconds
        if self._silent < self._timeout / 2:
            return False
        if self._used is None:
            self._used = processor_seconds(self._sessions)
        if self._silent < self._timeout:
            return False
        if abs(processor_seconds(self._sessions) - self._used) < SHARE * self._timeout / 2:  # less if one ended
            return True
        self.message_came()
        return False


def processor_seconds(sessions: Sequence[int]) -> float:
    """Return the CPU time that the processes of sessions have used, in seconds; 0 if the system cannot tell."""
    seconds = 0.0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has just ended
            fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
            if int(process.name) in sessions or int(fields[3]) in sessions:  # it may not lead its session yet
                seconds += sum(map(_seconds_of_thread, (process / "task").iterdir()))
                seconds += sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")  # its ended children
    return seconds


def _seconds_of_thread(thread: Path) -> float:
    with contextlib.suppress(OSError, ValueError):
        if not (thread / "comm").read_text().startswith(POLLING_THREADS):
            return int((thread / "schedstat").read_text().split()[0]) / 1e9
    return 0.0
