"""Draw the picture of a terminal in which the quickstart has run, docs/terminal.svg.

Run ``python docs/make_terminal.py [FOLDER]`` in the repository; it trains the quickstart in the folder, or in a
temporary one, which takes two to nine minutes on two idle cores. The picture shows how it ends: with its answer. With
a folder, the report and the view in MLflow can be photographed there for the other two pictures of the README.
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
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 100, 40
ROOT = Path(__file__).parent.parent
COMMAND = (sys.executable, "-m", "tuner", "study", "quickstart")
PROMPT = "$ lr-tuner study quickstart"
STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


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


def answer_of(output: str) -> str:
    """Return the output of the terminal about the last trainings: the answer, the table, and the findings.

    Raises:
        SystemExit: If the study did not end.
    """
    lines = output.replace("\r", "\n").split("\n")
    plain = [STYLE.sub("", line) for line in lines]
    begin = next((index for index, line in enumerate(plain) if line.startswith("The answer is ")), None)
    end = next((index for index, line in enumerate(plain) if line.startswith("quickstart has ")), None)
    if begin is None or end is None:
        raise SystemExit(f"the quickstart did not run:\n{output[-2000:]}")
    shown = [line for line, text in zip(lines[begin:end], plain[begin:end], strict=True) if text.strip()]
    return "\n".join(shown)


def main() -> None:
    """Run the quickstart and write the picture."""
    with tempfile.TemporaryDirectory() as temporary:
        shown = answer_of(output_of(COMMAND, sys.argv[1] if len(sys.argv) > 1 else temporary))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(PROMPT, style="bold"))
    console.print(Text("...", style="dim"))
    console.print(Text.from_ansi(shown))
    (ROOT / "docs" / "terminal.svg").write_text(console.export_svg(title="lr-tuner"), encoding="utf-8")


if __name__ == "__main__":
    main()
