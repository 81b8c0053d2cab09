"""Output to a terminal: text without control characters, on streams that may be closed, full or gone."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

__all__ = ["lenient_streams", "open_missing_streams", "printable"]


def printable(text: str) -> str:
    r"""Return a text with all unprintable characters except line breaks escaped.

    >>> printable("a\x1b[31mb\u202e\n")
    'a\\x1b[31mb\\u202e\n'
    """
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def open_missing_streams() -> None:
    """Open closed standard streams on /dev/null; some daemons start processes without them.

    Otherwise the next opened file, such as a database, would get the descriptor of a closed stream, and its output.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


@contextlib.contextmanager
def lenient_streams() -> Iterator[None]:
    """Ignore errors of standard output and error in the block: a closed pipe, a full disk, a terminal that is gone."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Lenient(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Lenient:
    """A text stream that drops what it cannot write, and writes characters that it cannot encode as escapes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError as error:
            return self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except (OSError, ValueError):  # ValueError: the stream was closed
            return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
