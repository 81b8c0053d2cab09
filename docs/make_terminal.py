"""Draw the picture of a terminal in which the quickstart runs, docs/terminal.svg.

Run ``python docs/make_terminal.py`` in the repository; it trains the quickstart in a temporary folder, which takes two
minutes on two idle cores. The picture shows the terminal when about half of the trials have ended.
"""

import fcntl
import io
import os
import pty
import re
import struct
import sys
import tempfile
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 100, 40
ROOT = Path(__file__).parent.parent
COMMAND = (sys.executable, "-m", "tuner", "study", "quickstart")
PROMPT = "$ lr-tuner study quickstart"
CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


def output_of(command: Sequence[str], folder: str) -> str:
    """Return everything that a command writes to a terminal."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONPATH": str(ROOT)}
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    written = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the end, on Linux
            part = b""
        if not part:
            os.waitpid(process, 0)
            return written.decode("utf-8", "replace")
        written += part


def screens(output: str) -> Iterator[list[str]]:
    """Yield the lines of the terminal, with their colours, whenever the cursor is about to move up or at the end."""
    lines, row = [""], 0
    for numbers, kind, line_end, text in CONTROL.findall(output):
        if line_end == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif kind == "A":
            yield lines[:]
            row = max(0, row - int(numbers or 1))
        elif kind == "K":
            lines[row] = ""
        elif kind == "m":
            lines[row] += f"\x1b[{numbers}m"
        elif text:
            lines[row] += text
    yield lines


def is_half_done(lines: Sequence[str]) -> bool:
    """Return whether about half of the trials have ended, and others are running."""
    found = re.search(r"(\d+)/(\d+) trials", re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines)))
    return bool(found) and 2 * int(found[1]) >= int(found[2]) and "left" in "\n".join(lines)


def main() -> None:
    """Run the quickstart and write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        output = output_of(COMMAND, folder)
    found = [lines for lines in screens(output) if is_half_done(lines)]
    if not found:
        raise SystemExit(f"the quickstart did not run:\n{output[-2000:]}")
    shown = max(found, key=lambda lines: len(re.findall(r"epoch \d+/", "\n".join(lines))))  # all slots train
    while shown and not shown[-1].strip():
        shown.pop()
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(PROMPT, style="bold"))
    console.print(Text.from_ansi("\n".join(shown)))
    (ROOT / "docs" / "terminal.svg").write_text(console.export_svg(title="lr-tuner"), encoding="utf-8")


if __name__ == "__main__":
    main()
