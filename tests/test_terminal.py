"""Commands in a real terminal and in a pipe, as their user sees them; `test_progress.py` has the tests of each part."""

import fcntl
import os
import pty
import re
import shutil
import struct
import termios
from collections.abc import Sequence

import pytest

from tests.launcher import Command
from tests.networks import IRIS
from tests.studies import StudyFolder, with_defaults
from tests.test_league import CONTENDERS, MINI

STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PIPE = 0
WHOLE_LINE = 80
INLINE = ("--engine", "inline")


def shown(folder: StudyFolder, width: int, module: str, *arguments: str) -> list[str]:
    """Run a command in a terminal of this width, or in a pipe, and return the lines that it prints."""
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    if width == PIPE:
        output, _ = Command(module, arguments, folder.path, environment).communicate(240)
        assert not STYLES.search(output)
        return output.splitlines()
    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
    command = Command(module, arguments, folder.path, environment | {"TERM": "xterm"}, its_end)
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
    command.stdout.close()
    assert command.wait(60) == 0, written
    return re.split(r"[\r\n]+", STYLES.sub("", written.decode()))


def following(lines: Sequence[str]) -> list[str]:
    """Return the commands that are proposed at the end."""
    (begin,) = [index for index, line in enumerate(lines) if line == "next:"]
    return [line.split()[1] for line in lines[begin + 1 :] if re.match(r"  \S*lr-tuner ", line)]


def table(lines: Sequence[str], heading: str) -> list[str]:
    """Return the heading and the rows of the last table that begins with this line; a sentence follows it."""
    begin = max(index for index, line in enumerate(lines) if re.match(heading, line))
    after = (at for at, line in enumerate(lines[begin:], begin) if not line.strip() or re.match("[A-Z]|written", line))
    return list(lines[begin : next(after)])


def check_trainings(lines: Sequence[str], width: int, count: int) -> None:
    """Check that each training has a row that fits, with the digits that matter."""
    rows = [line for line in lines if re.match(r"(?!best so far|test of).*, seed \d/\d .*[01]\.\d{4}", line)]
    assert len(rows) == count
    for line in rows:
        assert re.search(r" [01]\.\d{4}( |$)", line), "the digits that matter"
        assert len(line.rstrip()) <= (width or WHOLE_LINE)
        assert ("val/acc" in line) == (width != 44)


@pytest.mark.parametrize("width", [80, 44])
def test_in_a_terminal_rows_fit_and_the_end_has_the_answer_and_the_next_commands(folder: StudyFolder, width: int):
    folder.prepare()
    lines = shown(folder, width, "tuner.study", str(IRIS), *with_defaults(["--trials", "2", *INLINE]))
    rows = [line for line in lines if re.match(r"#\d .* complete ", line)]
    assert len(rows) == 2
    for line in rows:
        assert len(line) <= width
        assert re.search(r" 0\.\d{4}( |$)", line), "the digits that matter"
        assert ("lr " in line) == (width == 80)
    text = "\n".join(lines)
    assert re.search(
        r"^\S+: The best is #\d \S+,\sval/acc\s0\.\d{4},\s(in\sa\stie\swith|ahead\sof)", text, re.MULTILINE
    )
    assert re.search(r"\d/2 trials +\d:\d\d so far", text), "while it runs"
    assert following(lines) == ["dashboard", "confirm", "report"]


@pytest.mark.parametrize("width", [pytest.param(80, marks=pytest.mark.slow), 44, PIPE])
def test_a_confirmation_says_who_won_in_rows_that_fit(short: StudyFolder, folder: StudyFolder, width: int):
    shutil.copytree(short.path, folder.path, dirs_exist_ok=True)
    lines = shown(folder, width, "tuner.confirm", "short", "--top", "1", "--seeds", "2", *INLINE)
    plan = next(line for line in lines if line.startswith("short-confirm: "))
    begin = lines.index(plan)
    whole = " ".join(line.strip() for line in lines[begin : begin + 4])
    count = re.match(r"short-confirm: \d configurations of study short, 2 fresh seeds each: (\d) runs; about ", whole)
    assert count, whole
    check_trainings(lines, width, int(count[1]))
    winner = next(index for index, line in enumerate(lines) if line.startswith("The answer is "))
    heading, *rows = table(lines[winner:], " +(seeds +)?mean")
    assert {"mean", "winner better"} <= set(re.split(r" {2,}", heading))
    assert ("95% interval" in heading) == (width != 44)
    assert width == PIPE or all(len(line.rstrip()) <= width for line in (heading, *rows))
    assert following(lines) == ["dashboard", "export", "report"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 44, PIPE])
def test_a_league_has_a_table_that_fits_a_terminal_and_a_page_in_a_pipe(folder: StudyFolder, width: int):
    folder.prepare()
    (folder.path / "mini.yaml").write_text(MINI + CONTENDERS)
    small = ("--shapes", "1", "--lrs", "2", "--search-seeds", "1", "--seeds", "2", *INLINE)
    lines = shown(folder, width, "tuner.league", "mini.yaml", *small)
    whole = " ".join(line.strip() for line in lines)
    assert "16 runs in total; at least " in whole, "before it starts"
    assert re.search(r"- The first is \w+: mean val/acc ", whole)
    page = (folder.path / "mini-league.md").read_text()
    if width == PIPE:
        assert page in "\n".join(lines)
    else:
        heading, *rows = table(lines, " +contender")
        assert [row.split()[0] for row in rows[:1]] == ["1"]
        assert {"contender", "mean val/acc", "verdict"} <= set(re.split(r" {2,}", heading.strip()))
        assert all(len(line.rstrip()) <= width for line in (heading, *rows))
        assert not any(line.startswith("| ") for line in lines)
    assert next(line for line in lines if line.startswith("written to ")).startswith("written to mini-league.md, ")
