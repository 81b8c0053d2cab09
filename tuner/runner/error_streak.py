"""Counts consecutive trials that failed in the same way: the cause is then the study, not the values of a trial."""

import re

__all__ = ["ErrorStreak", "cause"]

SAME_ERRORS = 3


class ErrorStreak:
    """Consecutive trials that failed in the same way."""

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
        """A sentence once there are `SAME_ERRORS` of them; empty before."""
        if self._count < SAME_ERRORS:
            return ""
        return f"{SAME_ERRORS} trials in a row failed in the same way: {self._message}"


def cause(message: str) -> str:
    """Return an error without its numbers, since a different address or step is still the same error.

    An error of memory keeps them: a trial with smaller sizes may fit.

    >>> cause("ValueError: at step 12, object at 0x7f1a")
    'ValueError: at step #, object at #'
    """
    return message if message.startswith("out of memory") else re.sub(r"0x[0-9a-f]+|\d+", "#", message)
