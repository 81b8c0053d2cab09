"""Signals that end a study, and processes that must not outlive it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from tests.networks import IRIS, with_network
from tests.processes import children, is_alive, standard_error_of
from tests.studies import StudyFolder
from tuner.interrupts import INTERRUPTS, on_interrupt
from tuner.reporting.review import LOG_FILE

WAITING = """\
import sys, time
from tuner.interrupts import exit_at_once, on_interrupt, temporary_folder
with on_interrupt(exit_at_once), temporary_folder() as folder:
    (folder / "file").touch()
    print(folder, flush=True)
    while True:  # a signal just before a sleep does not end it
        time.sleep(0.1)
"""


@pytest.mark.parametrize("number", INTERRUPTS)
def test_a_command_that_is_ended_at_once_leaves_no_temporary_folder(number: signal.Signals):
    process = subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert (folder / "file").exists()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert not folder.exists()


def test_a_closed_terminal_ends_nothing_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with on_interrupt(lambda number, frame: pytest.fail("it is heard")):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_forks_get_signals_as_without_the_handlers_of_a_study():
    heard: list[int] = []
    with on_interrupt(lambda number, frame: heard.append(number)):
        os.kill(os.getpid(), signal.SIGTERM)
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
        process.start()
        process.terminate()
        process.join()
    assert heard == [signal.SIGTERM]
    assert process.exitcode == -signal.SIGTERM


FORKING = """\
import os, threading, time
from tuner.interrupts import forks_die_with_this_process

def fork():
    pid = os.fork()
    if pid == 0:
        time.sleep(1000)
    print(pid, flush=True)

forks_die_with_this_process()
fork()
thread = threading.Thread(target=fork)
thread.start()
thread.join()
time.sleep(0.2)
print("later", flush=True)
time.sleep(1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of the end of its parent")
def test_forks_of_a_killed_training_process_die_with_it_but_not_with_a_thread():
    process = subprocess.Popen([sys.executable, "-c", FORKING], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline().strip() for _ in range(3)]
    worker, of_a_thread = map(int, lines[:2])
    try:
        assert lines[2] == "later"
        assert is_alive(worker)
        assert is_alive(of_a_thread)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while is_alive(worker) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_alive(worker)
    finally:
        os.kill(of_a_thread, signal.SIGKILL)
        process.stdout.close()


# Terminates what it starts in four ways, at once and by each signal, and writes down how these ended.
TERMINATING = """\
import multiprocessing, signal, subprocess, time
ends = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    program = subprocess.Popen(["sleep", "1000"])
    program.send_signal(number)
    ends.append(program.wait())
fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
fork.start()
fork.terminate()
fork.join()
Path("ends").write_text(str([*ends, fork.exitcode]))
"""


def test_processes_that_the_user_s_code_starts_can_be_terminated_by_it(folder: StudyFolder):
    option = with_network(folder, TERMINATING)
    folder.run("--trials", "1", "--set", "trial.trainer.max_epochs=1", "--set", option, study=IRIS)
    expected = [-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGTERM]
    assert (folder.path / "ends").read_text() == str(expected)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_while_the_stores_are_made_ends_the_study_in_order_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    (tmp_path / "study").mkdir()
    folder = StudyFolder(tmp_path / "study", has_databases=False)
    process = folder.start(study=IRIS)
    folder.wait_for(lambda: list(folder.path.glob("mlflow.db.*.tmp")), process)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=240)
    folder.close()
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    assert list(temporary.iterdir()) == []
    assert folder.optuna("select count(*) from trials") == [(0,)]
    assert folder.mlflow("select status from runs") == [("KILLED",)]
    assert [path.name for path in folder.path.glob("mlflow.db*")] == ["mlflow.db"]


def test_the_next_command_removes_the_temporary_folder_of_a_killed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = StudyFolder(tmp_path, is_new=True)
    study = ("--per-device", "1", "--set", "trial.trainer.max_epochs=20000")
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:  # in a folder with a long path, it would not be used
        monkeypatch.setenv("TMPDIR", temporary)

        def folders() -> list[Path]:
            return list(Path(temporary).glob("tuner-*/lr-tuner.lock"))

        killed = folder.start(*study, study=IRIS)
        folder.wait_for(folders, killed)
        other = folder.start(*study, "--set", "name=other", study=IRIS)
        folder.wait_for(lambda: len(folders()) == 2, other)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate(timeout=240)
        third = folder.start("--trials", "1", "--set", "name=third", study=IRIS)
        assert third.communicate(timeout=240)[0].count("complete") >= 1
        assert len(folders()) == 1, "that of the running study"
        os.killpg(other.pid, signal.SIGTERM)
        other.communicate(timeout=240)
        assert not list(Path(temporary).glob("tuner-*"))


def reviews_of(pid: int) -> list[int]:
    """Return the processes that update plots, report and model of a study."""
    return [child for child in children(pid) if standard_error_of(child).name == LOG_FILE]


def test_the_review_of_a_study_ends_with_its_coordinator(folder: StudyFolder):
    process = folder.start("--review", "--trials", "1", study=IRIS)
    folder.wait_for(lambda: reviews_of(process.pid), process)
    (review,) = reviews_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=240)
    deadline = time.monotonic() + 60
    while is_alive(review):
        assert time.monotonic() < deadline, "it outlived its coordinator"
        time.sleep(0.05)


def test_a_review_that_is_killed_is_reported_and_the_next_run_makes_it(folder: StudyFolder):
    def kill_the_review() -> None:
        while not (reviewing := reviews_of(os.getpid())):
            time.sleep(0.02)
        os.kill(reviewing[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_the_review)
    killer.start()
    output = folder.call("--review", "--trials", "1", study=IRIS)
    killer.join()
    assert "note: the plots and the report in MLflow are incomplete: " in output
    assert "killed by SIGKILL" in output
    assert folder.optuna("select state from trials") == [("COMPLETE",)]
    assert "incomplete" not in folder.call("--review", "--trials", "1", study=IRIS)
    assert folder.mlflow("select version from model_versions") == [(1,)]
