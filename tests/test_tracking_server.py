"""Studies that log to a real MLflow server, which is killed under them."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.conftest import StudyFolder
from tests.test_study import EPOCHS, STEPS


class Server:
    """An MLflow server, with its database in a folder."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        folder.tracking = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self._port), "--workers", "1"]
        self._process = subprocess.Popen(
            [*command, "--backend-store-uri", "sqlite:///mlflow.db"],
            cwd=self._folder.path,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self._process.poll() is None, "the server does not start"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._folder.tracking}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture
def server(folder: StudyFolder) -> Iterator[Server]:
    server = Server(folder)
    yield server
    server.kill()


def kill_in_the_middle(folder: StudyFolder, server: Server) -> "subprocess.Popen[str]":
    process = folder.start("--per-device", "2")
    folder.wait_for(folder.has_checkpoint, process)
    server.kill()
    assert any("MLflow takes no records at present" in line for line in process.stdout or ())
    return process


def test_a_killed_mlflow_server_gets_what_it_missed_when_it_is_back(
    folder: StudyFolder, server: Server, undisturbed: StudyFolder
):
    process = kill_in_the_middle(folder, server)
    server.start()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.curves() == undisturbed.curves()


def test_without_its_mlflow_server_a_study_ends_and_the_next_run_delivers(
    folder: StudyFolder, server: Server, undisturbed: StudyFolder
):
    process = kill_in_the_middle(folder, server)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "MLflow did not take all records; run the same command again when it is up" in output
    server.start()
    folder.run("--per-device", "2")
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert [point for point in folder.curves() if "test" not in point[1]] == [
        point for point in undisturbed.curves() if "test" not in point[1]
    ]
