"""Studies that log to a real MLflow server, which is killed under them."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import EPOCHS, STEPS, StudyFolder
from tests.servers import MLflowServer


@pytest.fixture
def server(folder: StudyFolder) -> Iterator[MLflowServer]:
    server = MLflowServer(folder)
    yield server
    server.kill()


def kill_in_the_middle(folder: StudyFolder, server: MLflowServer) -> "subprocess.Popen[str]":
    process = folder.start("--per-device", "2")
    folder.wait_for(folder.has_checkpoint, process)
    server.kill()
    assert any("MLflow takes no records at present" in line for line in process.stdout or ())
    return process


def test_a_killed_mlflow_server_gets_what_it_missed_when_it_is_back(
    folder: StudyFolder, server: MLflowServer, undisturbed: StudyFolder
):
    process = kill_in_the_middle(folder, server)
    server.start()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.curves() == undisturbed.curves()


def test_without_its_mlflow_server_a_study_ends_and_the_next_run_delivers(
    folder: StudyFolder, server: MLflowServer, undisturbed: StudyFolder
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
