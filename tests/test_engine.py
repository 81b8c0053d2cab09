"""The local engine: messages from the process of a training, and whether the process is alive."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from multiprocessing import Pipe, forkserver
from pathlib import Path
from typing import Any

import pytest

from tests.networks import IRIS, holding, release, with_network
from tests.processes import is_alive, slots_of
from tests.studies import StudyFolder
from tuner.config.loader import load_study
from tuner.config.search_space import corners
from tuner.config.study import Objective
from tuner.config.trial import TrialConfig
from tuner.engines.fork_server import ForkedCall, PreparedProcess, call_in_fork
from tuner.engines.local import LocalEngine
from tuner.engines.pipe import CorruptPipeError, Mailbox, PipeChannel
from tuner.engines.stalls import StallDetector, processor_seconds
from tuner.errors import StudyFailedError
from tuner.protocol import (
    Assignment,
    ChannelClosedError,
    Decision,
    EpochReport,
    Group,
    Slot,
    StepReport,
    TrainingGroup,
    TrialResult,
)

RESULT = TrialResult("complete", points=[("lr", step, 0.1) for step in range(1000)])

# -- the pipe ----------------------------------------------------------------------------------------------------------


def test_a_message_is_read_when_it_is_complete_and_never_waited_for():
    ours, theirs = Pipe()
    written, read = Pipe()
    PipeChannel(written).note("first")
    PipeChannel(written).done([RESULT])
    content = os.read(read.fileno(), 1 << 20)
    mailbox = Mailbox(ours)
    messages = []
    for byte in (content[start : start + 1000] for start in range(0, len(content), 1000)):
        os.write(theirs.fileno(), byte)
        messages += mailbox.messages()
        assert list(mailbox.messages()) == []
    assert messages == [("note", "first"), ("done", [RESULT])]
    theirs.close()
    with pytest.raises(EOFError):
        list(mailbox.messages())


@pytest.mark.parametrize("garbage", [b"\0\0\xff\xff", b"printed\n", b"lr-tuner"])
def test_bytes_that_are_not_a_message_are_detected_at_the_next_message(garbage: bytes):
    ours, theirs = Pipe()
    mailbox = Mailbox(ours)
    os.write(theirs.fileno(), garbage)
    assert list(mailbox.messages()) == []
    PipeChannel(theirs).note("after it")
    with pytest.raises(CorruptPipeError):
        list(mailbox.messages())


def test_a_dead_coordinator_is_not_an_error_of_the_user_s_code():
    ours, theirs = Pipe()
    ours.close()
    with pytest.raises(ChannelClosedError):
        PipeChannel(theirs).note("to nobody")


SPOILING = """\
import signal, stat, subprocess
if not Path("spoilt").exists():
    Path("spoilt").write_text(str(os.getpid()))
    for number in range(3, 100):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                os.write(number, bytes([0, 0, 255, 255]))
        except OSError:
            pass
elif not Path("helper").exists() and Path("spoilt").read_text() != str(os.getpid()):  # the next process
    pids = [
        subprocess.Popen(["sleep", "1000"], close_fds=False, stdout=subprocess.DEVNULL, start_new_session=each).pid
        for each in (False, True)
    ]
    Path("helper").write_text(f"{pids[0]} {pids[1]}")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_trial_continues_whatever_its_training_did_to_the_pipe(folder: StudyFolder):
    """One trial writes into the pipe; another dies while a program that it has started keeps the pipe open."""
    option = with_network(folder, SPOILING)
    output = folder.run("--per-device", "1", "--trials", "1", "--set", option, study=IRIS)
    assert "trial #0 wrote into the pipe to the coordinator and was killed; it resumes from its last" in output
    assert "trial #0 was killed by SIGKILL" in output
    assert folder.optuna("select state from trials") == [("COMPLETE",)]
    helpers = (folder.path / "helper").read_text().split()
    assert [is_alive(int(pid)) for pid in helpers] == [False, False], "they ended with their training"


# -- hangs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def leader(request: pytest.FixtureRequest) -> Iterator[int]:
    """Return a process that leads a session and runs the given code."""
    process = subprocess.Popen([sys.executable, "-c", request.param], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def lost_after(detector: StallDetector, seconds: int) -> list[bool]:
    return [detector.hangs_after(1.0) for _ in range(seconds)]


@pytest.mark.parametrize(
    "leader",
    [
        "import threading; lock = threading.Lock(); lock.acquire(); print(flush=True); lock.acquire()",
        "import os, signal; print(flush=True); os.kill(os.getpid(), signal.SIGSTOP)",
    ],
    ids=["deadlocked", "stopped"],
    indirect=True,
)
def test_a_process_that_is_deadlocked_or_stopped_hangs(leader: int):
    before = processor_seconds([leader])
    while (now := processor_seconds([leader])) > before:  # until it waits
        before = now
        time.sleep(0.05)
    detector = StallDetector([leader], 100.0)
    assert lost_after(detector, 100) == [False] * 99 + [True]
    detector = StallDetector([leader], 100.0)
    lost_after(detector, 99)
    detector.message_came()
    assert lost_after(detector, 100) == [False] * 99 + [True], "a message is a sign of life"


@pytest.mark.parametrize(
    "leader",
    [
        "print(flush=True)\nwhile True: pass",
        "import subprocess, sys; print(flush=True); subprocess.run([sys.executable, '-c', 'while True: pass'])",
    ],
    ids=["alone", "by another process"],
    indirect=True,
)
def test_a_silent_process_that_computes_does_not_count_as_hung(leader: int):
    detector = StallDetector([leader], 100.0)
    for _ in range(2):
        lost_after(detector, 51)
        before = processor_seconds([leader])
        while processor_seconds([leader]) < before + 0.1:
            time.sleep(0.01)
        assert not any(lost_after(detector, 49))


def test_a_training_of_two_processes_hangs_when_one_of_them_is_stopped(folder: StudyFolder):
    """The other rank waits for it in threads that poll all the time."""
    options = ("--devices-per-trial", "2", "--trials", "1", "--stall-timeout", "6s")
    even = ("--set", "trial.data.batch_size=10", "--set", "trial.data.train_size=80")
    process = folder.start(*options, *even, *holding(folder))
    folder.wait_for(folder.has_checkpoint, process)
    os.kill(slots_of(process.pid)[-1], signal.SIGSTOP)
    release(folder)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert output.count("trial #0 showed no activity for 6 s and was killed; it resumes from its last check") == 1


class SlowHandler:
    """A handler that trains trials, and is slow to answer the first report."""

    def __init__(self, configs: Sequence[TrialConfig], folder: Path, seconds: float) -> None:
        self.results: list[TrialResult] = []
        self.deaths: list[str] = []
        self._groups = [
            TrainingGroup((Assignment(number, config, Objective(), folder / str(number)),))
            for number, config in enumerate(configs)
        ]
        self._seconds = seconds

    def next_group(self, slot: Slot) -> Group | None:
        return self._groups.pop() if self._groups else None

    def report(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        time.sleep(self._seconds)
        self._seconds = 0.0
        return dict.fromkeys(reports, "continue")

    def progress(self, number: int, report: StepReport) -> None:
        pass

    def fuse_at_most(self, count: int, reason: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def done(self, group: Group, results: Sequence[TrialResult]) -> None:
        self.results += results

    def died(self, group: Group, reason: str) -> None:
        self.deaths.append(reason)

    def returned(self, group: Group) -> None:
        pass

    def tick(self) -> bool:
        return True


def test_trainings_that_wait_for_the_coordinator_do_not_hang(tmp_path: Path):
    """The coordinator may wait for a database that is away, for longer than the stall timeout."""
    timeout = 4.0
    config = TrialConfig.from_values(corners(load_study(str(IRIS)).trial)[0])
    handler = SlowHandler([config] * 3, tmp_path, 1.5 * timeout)
    engine = LocalEngine([Slot(index, (), 1) for index in range(3)], timeout)
    engine.run(handler)
    engine.close()
    assert handler.deaths == []
    assert [result.state for result in handler.results] == ["complete"] * 3


# -- other processes ---------------------------------------------------------------------------------------------------


def test_a_short_lived_process_returns_a_result_or_an_error():
    assert call_in_fork(len, "four") == 4
    assert call_in_fork(os.getpid) != os.getpid()
    with pytest.raises(StudyFailedError, match="ZeroDivisionError: "):
        call_in_fork(divmod, 1, 0)
    with pytest.raises(StudyFailedError, match="a process of _exit ended with status 3 and no result"):
        call_in_fork(os._exit, 3)


def test_a_call_uses_the_process_that_was_prepared_if_it_still_runs():
    prepared = PreparedProcess("wave")
    number = prepared._process.pid
    assert ForkedCall(os.getpid, process=prepared).result() == number
    prepared = PreparedProcess("wave")
    prepared.kill()
    assert ForkedCall(os.getpid, process=prepared).result() != number
    prepared = PreparedProcess("no_such_module")  # which the call may not need
    assert ForkedCall(os.getpid, process=prepared).result() == prepared._process.pid


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="no limits of other processes")
def test_a_fork_server_that_dies_while_it_starts_a_process_is_named_with_its_exit_status():
    assert call_in_fork(len, "four") == 4
    server = forkserver._forkserver._forkserver_pid
    resource.prlimit(server, resource.RLIMIT_NOFILE, (3, 3))  # so that it cannot accept a connection
    with pytest.raises(StudyFailedError) as caught:
        PreparedProcess()
    assert re.fullmatch(
        r"no process can be started: the fork server ended with status \d and no result", str(caught.value)
    )
    assert call_in_fork(len, "four") == 4, "a new server is started"


CLOSING = """\
import gc, os, time
from multiprocessing.connection import Connection
from pathlib import Path
for each in gc.get_objects():
    if isinstance(each, Connection):
        each.close()
Path("closed").touch()
while not Path("go").exists():
    time.sleep(0.01)
os._exit(7)
"""


class Sent:
    """An argument that says when it is sent."""

    def __reduce__(self) -> tuple[Any, ...]:
        Path("go").touch()
        return (Sent, ())


def test_a_process_that_dies_before_it_gets_its_call_is_named_with_its_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("closing.py").write_text(CLOSING)
    prepared = PreparedProcess("closing")
    while not Path("closed").exists():
        assert prepared.is_running
    with pytest.raises(StudyFailedError, match="a process of repr ended with status 7 and no result"):
        ForkedCall(repr, Sent(), process=prepared)


def test_a_working_folder_that_is_gone_is_named_by_the_process_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "gone")
    with pytest.raises(StudyFailedError, match=r"FileNotFoundError: .*gone"):
        call_in_fork(len, "four")


def test_a_process_looks_for_modules_in_the_present_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend("")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in_the_working_folder.py").touch()
    spec = call_in_fork(find_spec, "in_the_working_folder")
    assert spec.origin == str(tmp_path / "in_the_working_folder.py")
    assert sys.path[0] == ""
