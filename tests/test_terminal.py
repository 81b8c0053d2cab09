"""A study in a real terminal, as its user sees it; `test_progress.py` has the quick tests of each part."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from tests.conftest import StudyFolder, with_defaults
from tests.networks import IRIS

STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown_in_a_terminal(folder: StudyFolder, width: int, *options: str) -> list[str]:
    """Run a study in a terminal of this width, and return the lines that it prints."""
    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "tuner.study", str(IRIS), *with_defaults(options)]
    streams = {"stdin": its_end, "stdout": its_end, "stderr": its_end}
    process = subprocess.Popen(command, cwd=folder.path, env=environment | {"TERM": "xterm"}, **streams)
    os.close(its_end)
    written = b""
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # the end, on Linux
            part = b""
        if not part:
            break
        written += part
    os.close(terminal)
    assert process.wait(timeout=60) == 0, written
    return re.split(r"[\r\n]+", STYLES.sub("", written.decode()))


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 44])
def test_in_a_terminal_rows_fit_and_the_end_has_the_answer_and_the_next_commands(folder: StudyFolder, width: int):
    folder.prepare()
    lines = shown_in_a_terminal(folder, width, "--trials", "2", "--engine", "inline")
    rows = [line for line in lines if re.match(r"#\d .* complete ", line)]
    assert len(rows) == 2
    for line in rows:
        assert len(line) <= width
        assert re.search(r" 0\.\d{4}( |$)", line), "the digits that matter"
        assert ("lr " in line) == (width == 80)
    text = "\n".join(lines)
    assert re.search(r"^\S+: The best is #\d .*, val/acc 0\.\d{4}, (in a tie with|ahead of)", text, re.MULTILINE)
    assert re.search(r"\d/2 trials +\d:\d\d so far", text), "while it runs"
    (begin,) = [index for index, line in enumerate(lines) if line == "next:"]
    following = [line.split()[:3] for line in lines[begin + 1 :] if line.strip()]
    assert [each[1] for each in following] == ["dashboard", "confirm", "report"]
