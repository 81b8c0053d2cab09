"""Counts the trials in a row that failed in the same way: the study is then at fault, and not its values."""

import re

__all__ = ["ErrorStreak", "cause"]

SAME_ERRORS = 3


class ErrorStreak:
    """The last trials that failed, one after another, in the same way."""

    def __init__(self) -> None:
        self._message, self._count = "", 0

    def add(self, message: str | None) -> None:
        """Count a finished trial.

        Args:
            message: The error that it failed with; None if it did not fail.
        """
        if message is None:
            self._message, self._count = "", 0
        else:
            self._count = self._count + 1 if self._count and cause(message) == cause(self._message) else 1
            self._message = message

    @property
    def verdict(self) -> str:
        """A sentence once there are too many; empty before."""
        if self._count < SAME_ERRORS:
            return ""
        return f"{SAME_ERRORS} trials in a row failed in the same way: {self._message}"


def cause(message: str) -> str:
    """Return an error without its numbers: another address or step in it makes it no other error.

    Sizes do, where memory was short: with other values, a trial may have enough.

    >>> cause("ValueError: at step 12, object at 0x7f1a")
    'ValueError: at step #, object at #'
    """
    return message if message.startswith("out of memory") else re.sub(r"0x[0-9a-f]+|\d+", "#", message)
