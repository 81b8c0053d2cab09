"""Studies that log to a real MLflow server: one that is killed under them, one that wants a login."""

from collections.abc import Iterator

import pytest

from tests.conftest import EPOCHS, STEPS, StudyFolder
from tests.launcher import Started
from tests.processes import children, command_of
from tests.servers import MLflowServer

USER, PASSWORD = "ada", "lovelace-wrote-the-first-one"


@pytest.fixture
def server(folder: StudyFolder) -> Iterator[MLflowServer]:
    server = MLflowServer(folder)
    yield server
    server.kill()


def kill_in_the_middle(folder: StudyFolder, server: MLflowServer) -> Started:
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
    folder.call()
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert [point for point in folder.curves() if "test" not in point[1]] == [
        point for point in undisturbed.curves() if "test" not in point[1]
    ]


@pytest.fixture
def guarded(folder: StudyFolder) -> Iterator[MLflowServer]:
    """Return a server that wants a login."""
    server = MLflowServer(folder, (USER, PASSWORD))
    yield server
    server.kill()


def test_a_server_with_login_gets_the_study_and_nobody_else_the_password(
    folder: StudyFolder, guarded: MLflowServer, undisturbed: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    folder.is_new = True  # for what its command line shows
    process = folder.start("--review", "--per-device", "2")
    folder.wait_for(folder.has_checkpoint, process)
    commands = [command_of(pid) for pid in [process.pid, *children(process.pid)]]
    assert any(b"tuner.study" in command for command in commands)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.curves() == undisturbed.curves()
    assert folder.mlflow("select alias from registered_model_aliases") == [("champion",)]
    files = [path.read_bytes() for path in folder.path.rglob("*") if path.is_file()]
    assert sum(b"val/acc" in content for content in files) > 2, "logs, databases and artifacts"
    for content in (output.encode(), *commands, *files):
        assert PASSWORD.encode() not in content


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_login_that_the_server_refuses_is_told_before_anything_is_created(
    folder: StudyFolder, guarded: MLflowServer, monkeypatch: pytest.MonkeyPatch, password: str | None
):
    if password:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    before = sorted(folder.path.iterdir())
    message = folder.call(expect=2)
    assert message == (
        f"tracking uri: {folder.tracking} refuses the login. "
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to one that it knows.\n"
    )
    assert sorted(folder.path.iterdir()) == before
