"""Whether a training hangs: nothing was heard of it for a while, though it was listened to, and it computes nothing.

Validations, tests and set-ups tell nothing for as long as they take, but they compute. What is stopped, or waits for
something that never comes, does not; a thread of it that gave signs of life might do so all the same.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Pulse", "processor_seconds"]

SHARE = 0.0003
"""Of a processor's time, what a training uses at least that does something.

A loop of torch's that asks every five seconds whether a dead data loader has something takes a tenth of it, one that
waits for a lock of another process's download ten times as much.
"""


WATCHING = ("gloo", "pt_gloo", "pt_nccl", "nccl", "NCCL", "cuda")
"""Beginnings of the names of threads that look for messages all the time, also for those that never come."""


class Pulse:
    """The signs of life of a training.

    Args:
        sessions: The process ids of those of its processes that lead a session.
        timeout: Seconds without a sign after which it is taken for hung.
    """

    def __init__(self, sessions: Sequence[int], timeout: float) -> None:
        self._sessions, self._timeout = sessions, timeout
        self._silent = 0.0
        self._used: float | None = None  # processor time when half of the timeout was over

    def heard(self) -> None:
        """Take note of a message."""
        self._silent, self._used = 0.0, None

    def is_lost_after(self, seconds: float) -> bool:
        """Take note of more seconds in which no message came, and return whether the training hangs."""
        self._silent += seconds
        if self._silent < self._timeout / 2:
            return False
        if self._used is None:
            self._used = processor_seconds(self._sessions)
        if self._silent < self._timeout:
            return False
        if abs(processor_seconds(self._sessions) - self._used) < SHARE * self._timeout / 2:  # less if a part has ended
            return True
        self.heard()
        return False


def processor_seconds(sessions: Sequence[int]) -> float:
    """Return the processor time that the processes of sessions have used; 0 where the system does not tell."""
    seconds = 0.0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
            if int(process.name) in sessions or int(fields[3]) in sessions:  # it leads the session, or will
                seconds += sum(map(_seconds_of_thread, (process / "task").iterdir()))
                seconds += sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")  # its ended children
    return seconds


def _seconds_of_thread(thread: Path) -> float:
    with contextlib.suppress(OSError, ValueError):
        if not (thread / "comm").read_text().startswith(WATCHING):
            return int((thread / "schedstat").read_text().split()[0]) / 1e9
    return 0.0
