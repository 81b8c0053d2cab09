"""Studies that log to a real MLflow server: one that is killed meanwhile, and one with a login."""

import itertools
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.launcher import Started
from tests.networks import OWN_NETWORK, holding, release
from tests.processes import children, command_of
from tests.servers import MLflowServer, Proxy
from tests.studies import EPOCHS, STEPS, StudyFolder
from tests.test_tracking import ODD_NAMES, Study
from tuner.followup.replaying import LARGEST
from tuner.tracking import record_writer as records

Through = Callable[[Callable[[str, bytes], int | None]], Study]

USER, PASSWORD = "ada", "lovelace-wrote-the-first-one"


@pytest.fixture
def server(folder: StudyFolder) -> Iterator[MLflowServer]:
    server = MLflowServer(folder)
    yield server
    server.kill()


# The command, with less patience at its end.
IMPATIENT = """\
import functools, runpy
from tuner.tracking.tracker import Tracker

Tracker.close = functools.partialmethod(Tracker.close, patience=3.0)
runpy.run_module("tuner.study", run_name="__main__", alter_sys=True)
"""


def kill_in_the_middle(folder: StudyFolder, server: MLflowServer, module: str = "tuner.study") -> Started:
    process = folder.start("--per-device", "2", *holding(folder), module=module)
    folder.wait_for(folder.has_checkpoint, process)
    server.kill()
    release(folder)
    assert any("MLflow is not accepting records" in line for line in process.stdout or ())
    return process


def test_a_restarted_mlflow_server_gets_the_missing_records(
    folder: StudyFolder, server: MLflowServer, undisturbed: StudyFolder
):
    process = kill_in_the_middle(folder, server)
    os.kill(process.pid, signal.SIGSTOP)  # or it may come to its end before the server is up
    server.start()
    os.kill(process.pid, signal.SIGCONT)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert folder.curves() == undisturbed.curves()


@pytest.mark.slow
def test_without_its_mlflow_server_a_study_ends_and_the_next_run_delivers(
    folder: StudyFolder, server: MLflowServer, undisturbed: StudyFolder
):
    (folder.path / "impatient.py").write_text(IMPATIENT)
    process = kill_in_the_middle(folder, server, module="impatient")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output
    assert "Some records did not reach MLflow; run the same command again when it is up" in output
    assert output.count("MLflow is not accepting records") == 0, "it was told once, before"
    server.start()
    folder.call("--set", OWN_NETWORK)
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert [point for point in folder.curves() if "test" not in point[1]] == [
        point for point in undisturbed.curves() if "test" not in point[1]
    ]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFolder]:
    """Return a folder with a server that requires a login."""
    folder = StudyFolder(tmp_path_factory.mktemp("guarded"))
    server = MLflowServer(folder, (USER, PASSWORD))
    yield folder
    server.kill()
    folder.close()


@pytest.mark.parametrize("password", [None, "wrong"])
def test_a_login_that_the_server_refuses_is_reported_before_anything_is_created(
    guarded: StudyFolder, monkeypatch: pytest.MonkeyPatch, password: str | None
):
    if password:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    before = sorted(guarded.path.iterdir())
    message = guarded.call(expect=2)
    assert message == (
        f"tracking uri: {guarded.tracking} refuses the login. "
        "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user that it knows.\n"
    )
    assert sorted(guarded.path.iterdir()) == before


@pytest.mark.slow
def test_a_study_logs_to_a_server_with_a_login_without_showing_the_password(
    guarded: StudyFolder, undisturbed: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    guarded.is_new = True  # for what its command line shows
    process = guarded.start("--review", "--per-device", "2", *holding(guarded))
    guarded.wait_for(guarded.has_checkpoint, process)
    commands = [command_of(pid) for pid in [process.pid, *children(process.pid)]]
    release(guarded)
    assert any(b"tuner.study" in command for command in commands)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    guarded.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert guarded.curves() == undisturbed.curves()
    assert guarded.mlflow("select alias from registered_model_aliases") == [("champion",)]
    files = [path.read_bytes() for path in guarded.path.rglob("*") if path.is_file()]
    assert sum(b"val/acc" in content for content in files) > 2, "logs, databases and artifacts"
    for content in (output.encode(), *commands, *files):
        assert PASSWORD.encode() not in content


# -- servers that take some records and not others ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def sturdy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    """Return a server without artifact proxying, whose clients cannot write to its artifact location."""
    folder = StudyFolder(tmp_path_factory.mktemp("server"))
    (folder.path / "file").touch()
    server = MLflowServer(folder, options=("--no-serve-artifacts", "--default-artifact-root", f"{folder.path}/file/x"))
    server.folder = folder  # type: ignore[attr-defined]
    yield server
    server.kill()


@pytest.fixture
def through(sturdy: MLflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Through]:
    """Return a function that starts a study whose server answers some requests with an error."""
    monkeypatch.setattr(records, "PAUSES", (0.05,))
    monkeypatch.setattr(records, "LAST_PAUSE", 0.05)
    monkeypatch.chdir(tmp_path)
    opened: list[tuple[Study, Proxy]] = []

    def begin(status: Callable[[str, bytes], int | None]) -> Study:
        folder: StudyFolder = sturdy.folder  # type: ignore[attr-defined]
        proxy = Proxy(folder.tracking, status)
        study = Study(
            StudyFolder(folder.path, tracking=proxy.address), f"{len(opened)}{tmp_path.name}".encode().hex()[-32:]
        )
        opened.append((study, proxy))
        study.open()
        return study

    yield begin
    for study, proxy in opened:
        if study.is_open:
            study.close()
        proxy.close()


def test_an_artifact_location_that_cannot_be_written_is_reported_before_the_first_trial(
    through: Through, sturdy: MLflowServer
):
    study = through(lambda path, body: None)
    (told,) = [note for note in study.notes if "artifacts" in note]
    assert told.startswith("artifacts of the study cannot be written to ")
    assert "/file/x/1: [Errno 20] Not a directory: " in told
    for number in range(3):
        study.train(number, [("lr", 1, 0.1)])
    assert not study.close()
    assert len([note for note in study.notes if "artifacts" in note]) == 1, "it is reported once"
    assert study.tracker.missing[0].startswith(
        "artifacts of the study, trial #0, trial #1 and 1 more cannot be written to"
    )
    for number in range(3):
        assert study.points(number) == {"lr": [(1, 0.1)]}
        assert study.tags(number)["tuner.state"] == "complete"


def test_odd_names_and_values_arrive_through_a_server(through: Through):
    study = through(lambda path, body: None)
    points = [(name, 1, value) for name, value in zip(ODD_NAMES, itertools.cycle((1.0, math.inf, -0.5)), strict=False)]
    study.train(0, [*points, ("nan", 1, math.nan), ("lr", 2**70, 0.1)], message="caf\udce9 \0")
    study.close()
    found = study.points()
    assert math.isnan(found.pop("nan")[0][1])
    assert sorted(value for ((_, value),) in found.values()) == sorted(min(value, LARGEST) for _, _, value in points)
    (text,) = [text for text in study.tracker.missing if "points" in text]
    assert "points of lr of trial #0" in text
    assert study.tags()["tuner.message"] == "caf\\udce9 \\x00"


def test_a_value_for_which_a_server_answers_500_is_lost_alone_and_sent_again_by_the_next_run(
    through: Through,
):
    is_mended: list[bool] = []
    study = through(lambda path, body: 500 if b"0.123456" in body and not is_mended else None)
    points = [("lr", step, 0.1) for step in range(300)] + [("lr", 300, 0.123456), ("val/acc", 300, 0.5)]
    study.train(0, points)
    study.train(1, [("lr", 1, 0.1)])
    assert not study.close()
    assert study.points() == {"lr": [(step, 0.1) for step in range(300)], "val/acc": [(300, 0.5)]}
    assert study.points(1) == {"lr": [(1, 0.1)]}
    assert any(text.startswith("MLflow did not store points of lr of trial #0: ") for text in study.tracker.missing)
    assert "MLflow is not accepting records" not in "".join(study.notes), "it was never away"
    is_mended.append(True)
    study.again([0, 1], points)
    assert study.points()["lr"][-1] == (300, 0.123456)
    assert "points" not in study.tags().get("tuner.missing", "")


def test_a_server_that_answers_500_to_one_kind_of_record_gets_the_others(
    through: Through,
):
    study = through(lambda path, body: 500 if path.endswith("runs/log-inputs") else None)
    for number in range(2):
        study.train(number, [("lr", step, 0.1) for step in range(100)])
    assert not study.close()
    assert len(study.points()["lr"]) == len(study.points(1)["lr"]) == 100
    assert study.tags(1)["tuner.state"] == "complete"
    assert any("the data set of trial #0 and trial #1" in text for text in study.tracker.missing)
    assert any("it answered 500 Internal Server Error" in text for text in study.tracker.missing)


def test_an_artifact_store_that_answers_500_is_not_reported_as_a_server_that_is_down(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "PAUSES", (0.05,))
    monkeypatch.setattr(records, "LAST_PAUSE", 0.05)
    folder.prepare()
    monkeypatch.chdir(folder.path)
    proxy = Proxy("", lambda path, body: 500)
    place = f"{proxy.address}/artifacts"
    try:
        MlflowClient(f"sqlite:///{folder.path}/mlflow.db").create_experiment("tiny", artifact_location=place)
        study = Study(folder)
        study.open()
        study.train(0, [("lr", 1, 0.1)])
        assert not study.close()
    finally:
        proxy.close()
    why = "it answered 500 Internal Server Error"
    assert f"artifacts cannot currently be written to {place} ({why}); they are kept and sent later" in study.notes
    assert study.tracker.missing == [
        f"Some artifacts could not be written to {place} ({why}); run the same command again when that is solved"
    ]
    assert study.points() == {"lr": [(1, 0.1)]}


def test_a_server_that_takes_no_metrics_at_all_is_not_asked_for_each_point(
    through: Through,
):
    asked: list[str] = []

    def status(path: str, body: bytes) -> int | None:
        if path.endswith("runs/log-batch") and b'"metrics"' in body:
            asked.append(path)
            return 500
        return None

    study = through(status)
    study.train(0, [(f"metric {number}", step, 0.1) for step in range(200) for number in range(3)])
    assert not study.close()
    assert study.tags()["tuner.state"] == "complete"
    assert len(asked) < 60, "of two reports with 600 points"
    assert len(study.notes) < 10


def test_a_permission_error_is_reported_with_the_server_s_text_and_not_retried(
    through: Through,
):
    study = through(lambda path, body: 403 if path.endswith("runs/log-batch") and b'"metrics"' in body else None)
    study.train(0, [("lr", 1, 0.1)])
    assert not study.close()
    assert any("this one I cannot" in text and "sends what is missing" in text for text in study.tracker.missing)
    assert study.points() == {}
