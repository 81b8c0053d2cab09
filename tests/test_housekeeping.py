"""`lr-tuner delete` and `lr-tuner rename`: in Optuna, MLflow and on the disk, also after a kill."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.studies import INLINE, StudyFolder
from tuner.confirm import main as confirm
from tuner.delete import main as delete
from tuner.rename import main as rename
from tuner.show import main as show
from tuner.storage.database import Database

NAMES = "select study_name from studies order by 1"
ACTIVE = "select count(*) from runs where lifecycle_stage = 'active'"
EXPERIMENTS = "select name from experiments where lifecycle_stage = 'active' and name != 'Default'"


@pytest.fixture
def own(confirmed: StudyFolder, tmp_path: Path) -> Iterator[StudyFolder]:
    """Return a copy of the folder with a confirmed study."""
    folder = StudyFolder(shutil.copytree(confirmed.path, tmp_path / "own", symlinks=True))
    yield folder
    folder.close()


def is_gone(folder: StudyFolder) -> bool:
    studies, active = folder.optuna(NAMES), folder.mlflow(ACTIVE)
    return (
        studies == []
        and active == [(0,)]
        and folder.mlflow(EXPERIMENTS) == []
        and not list(folder.path.glob(".tuner/*/"))
    )


def test_a_study_is_deleted_everywhere_with_its_confirmation_and_can_be_run_again(own: StudyFolder):
    assert '--yes: required if standard input is no terminal, as nobody can answer "Delete short' in own.command(
        delete, "short", expect=2
    )
    assert own.optuna(NAMES) == [("short",), ("short-confirm",)]
    assert "short is deleted" in own.command(delete, "short", "--yes")
    assert is_gone(own)
    assert 'no study "short"' in own.command(delete, "short", "--yes", expect=2)
    assert own.optuna("select count(*) from trials") == [(0,)]
    own.call("--trials", "1", "--set", "name=short")
    assert own.mlflow(EXPERIMENTS) == [("short",)]


def test_a_study_is_renamed_everywhere_with_its_confirmation_and_continues(own: StudyFolder):
    weights = [path.read_bytes() for path in own.directory("short").glob("trials-*/*/model.ckpt")]
    before = own.values()
    assert "short is now long" in own.command(rename, "short", "long", "--yes")
    assert own.optuna(NAMES) == [("long",), ("long-confirm",)]
    assert own.values() == before
    assert [path.read_bytes() for path in own.directory("long").glob("trials-*/*/model.ckpt")] == weights
    assert not own.directory("short").exists()
    assert own.mlflow(EXPERIMENTS) == [("long",)]
    assert own.mlflow("select count(*) from tags where value = 'short'") == [(0,)]
    assert "of study long" in own.command(confirm, "long", "--top", "1", "--seeds", "2", *INLINE)
    assert own.values() == before, "the confirmation had all of its trainings"
    for new, message in {"long-confirm": "already", "Long": "not a valid name", "Default": "not a valid name"}.items():
        assert message in own.command(rename, "long", new, "--yes", expect=2)


def test_the_registered_model_of_a_study_goes_with_it_and_that_of_another_program_stays(own: StudyFolder):
    client = MlflowClient(f"sqlite:///{own.path}/mlflow.db")
    ((run,),) = own.mlflow("select run_uuid from tags where key = 'tuner.trial' and value = '0' limit 1")
    for name, tags in (("short", {"tuner.trial": "0"}), ("other", {})):
        client.create_registered_model(name)
        client.create_model_version(name, client.get_run(run).info.artifact_uri, run, tags=tags)
    own.command(rename, "short", "other-study", "--yes")
    assert own.mlflow("select name from registered_models order by 1") == [("other",), ("other-study",)]
    message = own.command(rename, "other-study", "other", "--yes", expect=2)
    assert 'registry already has a model "other"' in message
    assert own.mlflow(EXPERIMENTS) == [("other-study",)]
    own.command(delete, "other-study", "--yes")
    assert own.mlflow("select name from registered_models") == [("other",)]


def test_a_running_study_is_neither_deleted_nor_renamed(own: StudyFolder):
    url = f"sqlite:///{own.path}/optuna.db"
    before = own.optuna("select * from trials"), own.mlflow("select run_uuid, lifecycle_stage from runs")
    with Database(url, "short", print).hold():
        for command, arguments in ((delete, ["short"]), (rename, ["short", "long"])):
            assert "already being run" in own.command(command, *arguments, "--yes", expect=75)
        assert "running" in own.command(show_all)
    assert (own.optuna("select * from trials"), own.mlflow("select run_uuid, lifecycle_stage from runs")) == before
    assert own.directory("short").is_dir()


def show_all(arguments: list[str]) -> int:
    from tuner.list import main

    return main(arguments[:2])


def test_deleting_a_confirmation_says_where_its_result_is_still_shown(own: StudyFolder):
    printed = own.command(delete, "short-confirm", "--yes").splitlines()
    assert printed == [
        "short shows its result in MLflow until short is run or confirmed again",
        "short-confirm is deleted",
    ]
    assert own.optuna(NAMES) == [("short",)]


def test_records_in_an_mlflow_store_that_was_not_named_are_mentioned_before_they_are_left_behind(own: StudyFolder):
    (own.path / "mlflow.db").rename(own.path / "elsewhere.db")
    for command, *names in ((rename, "short", "long"), (delete, "long")):
        note, *_ = own.command(command, *names, "--yes").splitlines()
        assert note.startswith(f"note: MLflow's store sqlite:///{own.path}/mlflow.db has no records of {names[0]}: ")
        assert note.endswith("unless --tracking-uri names that store")


@pytest.mark.parametrize("place", ["runs deleted", "folder emptied", "deleted in Optuna"])
def test_a_deletion_that_was_killed_can_be_repeated(own: StudyFolder, place: str, monkeypatch: pytest.MonkeyPatch):
    kill(own, place, "tuner.delete", "short", "--yes", monkeypatch=monkeypatch)
    assert not is_gone(own)
    if own.optuna("select 1 from studies where study_name = 'short-confirm'"):
        own.command(delete, "short", "--yes")
    else:  # the confirmation is deleted first, so this was killed at its end
        own.command(delete, "short-confirm", "--yes")
        own.command(delete, "short", "--yes")
    assert is_gone(own)


@pytest.mark.parametrize("place", ["folder moved", "experiment renamed"])
def test_a_renaming_that_was_killed_can_be_repeated(own: StudyFolder, place: str, monkeypatch: pytest.MonkeyPatch):
    before = own.values()
    kill(own, place, "tuner.rename", "short", "long", "--yes", monkeypatch=monkeypatch)
    own.command(rename, "short", "long", "--yes")
    assert own.optuna(NAMES) == [("long",), ("long-confirm",)]
    assert own.mlflow(EXPERIMENTS) == [("long",)]
    assert sorted(path.name for path in own.path.glob(".tuner/*/")) == ["long", "long-confirm"]
    assert own.values() == before
    assert "3 of 3 trials" in own.command(lambda arguments: show(arguments[:3]), "long")


def kill(folder: StudyFolder, place: str, module: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command that is killed at a crash point."""
    monkeypatch.setenv("TUNER_CRASH_AT", place)
    process = folder.start(*arguments[1:], study=arguments[0], module=module)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    monkeypatch.delenv("TUNER_CRASH_AT")
    assert "TUNER_CRASH_AT" not in os.environ
