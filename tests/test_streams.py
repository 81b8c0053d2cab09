"""Standard streams that are closed, full or gone, and what else surrounds a study: its folder, TMPDIR, HOME."""

import io
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.networks import IRIS
from tests.studies import StudyFolder, with_defaults
from tuner.console import lenient_streams

SHORT = ("--trials", "1", "--set", "trial.trainer.max_epochs=1")
DATA = """\
from lightning_modules import IrisDataModule
from torch.utils.data import DataLoader


class Data(IrisDataModule):
    def train_dataloader(self):
        return DataLoader(list(super().train_dataloader()), batch_size=None, num_workers=1)
"""


def run(folder: StudyFolder, redirections: str, engine: str) -> int:
    """Run the study in a shell, and return its exit status."""
    folder.prepare()
    command = [sys.executable, "-m", "tuner.study", str(IRIS), *with_defaults([*SHORT, "--engine", engine])]
    shell = ["bash", "-c", f'"$@" {redirections}', "bash", *command]
    return subprocess.run(shell, cwd=folder.path, check=False).returncode


@pytest.mark.parametrize(
    ("redirections", "engine"),
    [
        pytest.param("<&- >&- 2>&-", "local", marks=pytest.mark.slow),
        pytest.param("> /dev/full 2> /dev/full", "local", marks=pytest.mark.slow),
        pytest.param("2> /dev/full | true; exit ${PIPESTATUS[0]}", "local", marks=pytest.mark.slow),
        pytest.param("<&- 2>&- | true; exit ${PIPESTATUS[0]}", "inline", marks=pytest.mark.slow),
    ],
)
def test_streams_that_are_closed_full_or_gone_neither_end_a_study_nor_change_its_status(
    folder: StudyFolder, redirections: str, engine: str
):
    assert run(folder, redirections, engine) == 0
    check_ended_well(folder)


# A command whose input and errors are closed when it begins, for which Python has no streams then.
CLOSED = """\
import os, runpy, sys

for descriptor in (0, 2):
    os.close(descriptor)
sys.stdin = sys.stderr = None
runpy.run_module("tuner.study", run_name="__main__", alter_sys=True)
"""


def test_a_study_whose_reader_is_gone_and_whose_other_streams_are_closed_ends_with_its_status(folder: StudyFolder):
    (folder.path / "closed.py").write_text(CLOSED)
    reader, output = os.pipe()
    os.close(reader)
    process = folder.start(*SHORT, "--engine", "inline", module="closed", study=IRIS, output=output)
    os.close(output)
    assert process.wait(240) == 0
    check_ended_well(folder)


def check_ended_well(folder: StudyFolder) -> None:
    assert folder.optuna("select state from trials") == [("COMPLETE",)]
    assert folder.optuna("pragma integrity_check") == [("ok",)], "nothing was printed into it"
    assert folder.optuna("select count(*) from study_user_attributes where key = 'test'") == [(1,)]
    assert folder.mlflow("select status from runs") == [("FINISHED",)] * 2


def test_a_study_ends_in_order_when_its_terminal_is_closed(folder: StudyFolder):
    """The study gets SIGHUP, and every later write fails."""
    terminal, its_end = pty.openpty()
    process = folder.start("--trials", "1000", "--engine", "inline", study=IRIS, output=its_end)
    os.close(its_end)
    shown = b""
    while b"complete" not in shown:
        shown += os.read(terminal, 1 << 16)
    os.close(terminal)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGHUP
    assert folder.optuna("select count(*) from trials where state = 'RUNNING'") == [(0,)]
    assert folder.mlflow("select count(*) from runs where status = 'RUNNING'") == [(0,)]


@pytest.mark.parametrize("is_new", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_study_runs_with_a_long_tmpdir_without_a_home_and_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
):
    """The sockets of its processes and data loaders get short paths, and nothing is left in the folder."""
    temporary = tmp_path / ("x" * 120)
    temporary.mkdir()
    path = tmp_path / "[red] 100 [" / "bold] &;"
    path.mkdir(parents=True)
    (path / "own.py").write_text(DATA)
    folder = StudyFolder(path, is_new=is_new)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("HOME", "")
    shown = folder.run(*SHORT, "--set", "trial.data={name: 'own:Data', batch_size: 20}", study=IRIS)
    assert f"its weights: {path}/.tuner/iris/trials-" in shown
    assert folder.optuna("select state from trials") == [("COMPLETE",)]
    assert not [left.name for left in temporary.iterdir() if left.name.startswith(("tuner-", "pymp-"))]


def test_a_line_that_cannot_be_shown_is_dropped_or_escaped(monkeypatch: pytest.MonkeyPatch):
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"), encoding="utf-8")
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", full)
    monkeypatch.setattr(sys, "stderr", plain)
    with lenient_streams():
        print("lost", flush=True)
        print("caf\xe9 \u2713", file=sys.stderr, flush=True)
        assert sys.stderr.encoding == "ascii"
    assert sys.stdout is full
    assert plain.buffer.getvalue() == b"caf\\xe9 \\u2713\n"
    full.close()
    plain.close()
    monkeypatch.setattr(sys, "stdout", plain)
    with lenient_streams():
        print("to a closed one")
