"""The errors that a person meets.

::

    TunerError                  shown as one message, without a traceback
    ├── BadInputError           exit 2: the study file, an option or the environment is wrong; every fault is listed
    ├── StudyRunningError       exit 75: another process runs this study
    └── StudyFailedError        exit 1: the study cannot go on (the same error again and again, no storage)
"""

import contextlib
import re
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

from tuner.console import printable

__all__ = [
    "BadInputError",
    "StudyFailedError",
    "StudyRunningError",
    "TunerError",
    "in_a_line",
    "is_of_user",
    "place_of",
    "reason_of",
]

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})
_OWN = tuple(str(Path(__file__).parent.parent / package) + "/" for package in ("tuner", "lightning_modules"))
_FRAME_OF_WORKER = re.compile(r'File "(.+)", line (\d+), in (.+)')


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


def in_a_line(error: BaseException) -> str:
    """Return the class of an error of other code and the line of its text that tells most."""
    lines = [line for line in _text_of(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[1].startswith("Original Traceback"):  # of a process that loads data
        return " ".join(lines[-1].split())
    return " ".join(f"{type(error).__name__}: {lines[0] if lines else ''}".split()).removesuffix(":")


def reason_of(error: BaseException) -> str:
    """Return why other code refused something: the text of a ValueError, of others the class as well."""
    text = " ".join(_text_of(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # the class is the user's, and so is its text
        return "(its text cannot be shown)"


def is_of_user(file: str) -> bool:
    """Return whether a file of Python code is the user's: neither installed nor of the tuner."""
    return not file.startswith(("<", *_LIBRARIES, *_OWN)) and "/site-packages/" not in file


def place_of(error: BaseException) -> str:
    """Return where in the user's code an error was raised, in parentheses after a space; nothing if in none of it."""
    frames = [(frame.filename, str(frame.lineno), frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    with contextlib.suppress(Exception):  # its text is the user's as well
        frames += _FRAME_OF_WORKER.findall(str(error))
    own = [frame for frame in frames if is_of_user(frame[0])]
    if not own:
        return ""
    file, line, function = own[-1]
    path = Path(file)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f" ({shown}, line {line}, in {function})"
