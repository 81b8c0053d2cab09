"""Errors that the user sees, and texts about errors of other code.

::

    TunerError                  shown as one message, without a traceback; in Python, raised
    ├── BadInputError           exit 2: the study file, an option or the environment is wrong; every fault is listed
    ├── StudyRunningError       exit 75: another process runs this study
    └── StudyFailedError        exit 1: the study cannot continue (the same error repeatedly, no storage)
"""

import linecache
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
    "needs_extra",
    "place_of",
    "reason_of",
]

LONGEST_SOURCE = 100
WITHOUT_FILE = ("<dynamic-code>", "<ipython-input", "<stdin>")
"""The names shown for the file of user code that was pickled by value (by cloudpickle) or typed."""

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
        """Return the message, with control characters escaped."""
        return printable(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows: the message, without the places in the tuner that it came through."""
        return [f"{type(self).__name__}: {self}"]


class BadInputError(TunerError):
    """The input is wrong.

    Args:
        faults: One message for each fault: where it is, what is wrong, what to write.
    """

    exit_code = 2

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)

    def __reduce__(self) -> tuple[type["BadInputError"], tuple[tuple[str, ...]]]:
        """Return how to make an equal error in another process."""
        return type(self), (self.faults,)


class StudyRunningError(TunerError):
    """Another process holds the lock of the study."""

    exit_code = 75


class StudyFailedError(TunerError):
    """The study cannot continue."""


def needs_extra(name: str) -> str:
    """Return the command that installs an extra of this package, for messages.

    >>> needs_extra("ray")
    'pip install "lr-tuner[ray]"'
    """
    return f'pip install "lr-tuner[{name}]"'


def in_a_line(error: BaseException) -> str:
    """Return the class of an error and the most informative line of its text, on one line."""
    lines = [line for line in _text_of(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[1].startswith("Original Traceback"):  # from a data loader's worker
        return " ".join(lines[-1].split())
    return " ".join(f"{type(error).__name__}: {lines[0] if lines else ''}".split()).removesuffix(":")


def reason_of(error: BaseException) -> str:
    """Return the reason in an error of other code: the text of a ValueError; of other errors, class and text."""
    text = " ".join(_text_of(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # user code defines the class, and its __str__ can raise anything
        return "(its text cannot be shown)"


def as_exception(error: BaseException) -> Exception:
    """Return an Exception with the name, the arguments and the traceback of an error that something would act on.

    Such errors are a StopIteration, which ends loops, and a SystemExit or KeyboardInterrupt, which end the process.
    """
    named: type[Exception] = type(type(error).__name__, (Exception,), {})
    return named(*error.args).with_traceback(error.__traceback__)


def is_of_user(file: str) -> bool:
    """Return whether a Python file is user code: neither installed nor part of the tuner."""
    if file.startswith(WITHOUT_FILE):
        return True
    return not file.startswith(("<", *_LIBRARIES, *_OWN)) and "/site-packages/" not in file


def place_of(error: BaseException) -> str:
    """Return the last frame of user code in an error, with its line, in parentheses after a space.

    It is empty if no user code raised the error.
    """
    frames = [(frame.filename, str(frame.lineno), frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    frames += _FRAME_OF_WORKER.findall(_text_of(error))
    own = [frame for frame in frames if is_of_user(frame[0])]
    if not own:
        return ""
    file, line, function = own[-1]
    if file.startswith(WITHOUT_FILE):
        return f" (your code, line {line}, in {function})"
    path = Path(file)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    source = " ".join(linecache.getline(file, int(line)).split())
    code = f": {source if len(source) <= LONGEST_SOURCE else source[:LONGEST_SOURCE] + ' ...'}" if source else ""
    return f" ({shown}, line {line}, in {function}{code})"
