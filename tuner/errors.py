"""The errors that a person meets.

::

    TunerError                  shown as one message, without a traceback
    ├── BadInputError           exit 2: the study file, an option or the environment is wrong; every fault is listed
    ├── StudyRunningError       exit 75: another process runs this study
    └── StudyFailedError        exit 1: the study cannot go on (the same error again and again, no storage)
"""

from collections.abc import Sequence

from tuner.terminal import printable

__all__ = ["BadInputError", "StudyFailedError", "StudyRunningError", "TunerError", "in_a_line"]


class TunerError(Exception):
    """Base of the errors that end the command with a message.

    Attributes:
        exit_code: Exit status of the command.
    """

    exit_code = 1

    def __str__(self) -> str:
        """Return the message, without characters that a terminal would obey."""
        return printable(super().__str__())


class BadInputError(TunerError):
    """What was asked cannot be done as written.

    Args:
        faults: One message for each fault: where it is, what is wrong, what to write.
    """

    exit_code = 2

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class StudyRunningError(TunerError):
    """Another process holds the lock of the study."""

    exit_code = 75


class StudyFailedError(TunerError):
    """The study cannot go on."""


def in_a_line(error: Exception) -> str:
    """Return the class of an error of other code and the first line of what it says."""
    return " ".join(f"{type(error).__name__}: {error}".split("\n", 1)[0].split())
