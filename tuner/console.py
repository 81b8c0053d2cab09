"""Output to a terminal: text without control characters, on streams that may be closed, full or gone."""

import contextlib
import itertools
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["lenient_streams", "open_missing_streams", "print_line", "printable", "wrapped"]


def printable(text: str) -> str:
    r"""Return a text with all unprintable characters except line breaks escaped.

    >>> printable("a\x1b[31mb\u202e\n")
    'a\\x1b[31mb\\u202e\n'
    """
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def print_line(console: "Console", markup: str, *, whole: bool = False) -> None:
    """Print rich markup, with control characters escaped: wrapped at words on a terminal, unwrapped elsewhere.

    Args:
        console: Prints it.
        markup: The markup.
        whole: Whether to leave it unwrapped on a terminal as well: a command, for example, is copied from there.
    """
    from rich.text import Text

    text = Text.from_markup(printable(markup), emoji=False)
    if console.is_terminal and not whole:
        lines = (piece for line in text.split("\n", allow_blank=True) for piece in _pieces(line, console.width))
        text = Text("\n").join(lines)
    console.print(text, highlight=False, soft_wrap=True)


def _pieces(line: "Text", width: int) -> "Iterator[Text]":
    """Yield a line in pieces that fit into a width, with its indentation."""
    from rich.text import Text

    indent = _indent(line.plain)
    for piece in line.divide(_breaks(line.plain, width)):
        piece.rstrip()
        yield piece if piece.plain.startswith(indent) else Text(indent).append_text(piece)


def wrapped(text: str, width: int) -> str:
    r"""Return a text with its lines broken at words to fit into a width; their indentation is kept.

    A longer word, such as a path, stays whole.

    >>> wrapped("  one two three\nfour", 9)
    '  one two\n  three\nfour'
    """
    lines = []
    for line in text.split("\n"):
        bounds = [0, *_breaks(line, width), len(line)]
        pieces = [line[begin:end].rstrip() for begin, end in itertools.pairwise(bounds)]
        lines += [pieces[0], *(_indent(line) + piece for piece in pieces[1:])]
    return "\n".join(lines)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _breaks(line: str, width: int) -> list[int]:
    """Return where to break a line so that its pieces, each with its indentation, fit into a width."""
    from rich.cells import cell_len

    indent = len(_indent(line))
    breaks: list[int] = []
    for word in re.finditer(r"\S+", line):
        begin = breaks[-1] if breaks else indent
        if word.start() > begin and indent + cell_len(line[begin : word.end()]) > width:
            breaks.append(word.start())
    return breaks


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
