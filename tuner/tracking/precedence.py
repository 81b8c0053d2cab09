"""Lets the coordinator go first: it shares the interpreter with the threads that write to MLflow.

A thread that writes would take half of the coordinator's time, and slots would wait twice as long for their next trial.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Precedence"]


class Precedence:
    """Makes other threads wait while a block of one thread runs."""

    LONGEST_SECONDS = 1.0
    """How long they wait for a block: it may itself be waiting for a database."""

    def __init__(self) -> None:
        self._is_free = threading.Event()
        self._is_free.set()
        self._until = 0.0  # on the monotonic clock

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Make other threads wait while the block runs."""
        self._until = time.monotonic() + self.LONGEST_SECONDS
        self._is_free.clear()
        try:
            yield
        finally:
            self._is_free.set()

    def give(self) -> None:
        """Wait until no block is running, or the running one has taken too long."""
        self._is_free.wait(max(0.0, self._until - time.monotonic()))
