"""Hostile content of files, stores and checkpoints: refused or shown literally, and never executed."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.studies import StudyFolder
from tuner.reporting import review
from tuner.training.results import MODEL_FILE

ONE = ("--trials", "1", "--set", "trial.trainer.max_epochs=1")
ANSI = "\x1b]0;taken\x07\x1b[2J[/bold][red]{0.__class__}%s\u202e"
VISIBLE = r"\x1b]0;taken\x07\x1b[2J[/bold][red]{0.__class__}%s\u202e"


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


# -- the study file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trial: !!python/object/apply:os.mkdir [ran]\n", "YAML tags (tag:yaml.org,2002:python/object/apply:os.mkdir)"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "YAML aliases (*a) are not allowed"),
        (f"trial: {'[' * 5000}\n", "nested more than 20 levels"),
        (f"trial: [{'0, ' * 1_000_000}]\n", "is larger than 1 MB, the limit for a study file"),
        ("name: x\x1b[2J\n", "the character U+001B is not allowed"),
    ],
    ids=["tag", "aliases", "depth", "size", "escape"],
)
def test_a_malicious_study_file_is_refused_and_nothing_is_created(folder: StudyFolder, text: str, message: str):
    (folder.path / "evil.yaml").write_text(text)
    assert message in folder.call(study="evil.yaml", expect=2)
    assert [path.name for path in folder.path.iterdir()] == ["evil.yaml"]


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "a/b", "..", ".hidden", "Großmutter", "x" * 65, "a\u202eb", "''"]
)
def test_a_name_that_could_lead_elsewhere_is_refused(folder: StudyFolder, name: str):
    output = folder.call("--set", f"name={name}", expect=2)
    assert "is not a valid name. Use a-z, 0-9, '.', '_', '-', at most 64 characters" in output
    assert "\u202e" not in output
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("budget.trials=1000000000000", "must be a whole number from 1 to 1000000 (got 1000000000000)"),
        ("trial.trainer.max_epochs=1000000000", "must be a whole number from 1 to 1000000 (got 1000000000)"),
        (f"trial.seed={'9' * 400}", "must be finite (got 9999"),
        (f"trial.schedule={{name: step, decay_rate: 0.5, decay_steps: {2**63}}}", "must be less than 2**63"),
        (f"search_space.seed={{choices: {list(range(10_000))}}}", "has 10000 values; the limit is 1000"),
    ],
)
def test_a_huge_value_is_refused(folder: StudyFolder, assignment: str, message: str):
    assert message in folder.call("--set", assignment, expect=2)
    assert list(folder.path.iterdir()) == []


def test_a_study_does_not_write_through_a_symbolic_link(folder: StudyFolder, tmp_path_factory: pytest.TempPathFactory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    folder.directory().parent.mkdir()
    folder.directory().symlink_to(elsewhere)
    assert ".tuner/tiny: is a symbolic link" in folder.call(*ONE, expect=2)
    assert list(elsewhere.iterdir()) == []


# -- the stores --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFolder]:
    """Return a folder in which a small study was run."""
    folder = StudyFolder(tmp_path_factory.mktemp("finished"))
    folder.call(*ONE)
    yield folder
    folder.close()


@pytest.fixture
def copied(finished: StudyFolder, tmp_path: Path) -> StudyFolder:
    """Return a copy of the study, for hostile content."""
    shutil.copytree(finished.path, tmp_path / "copy")
    return StudyFolder(tmp_path / "copy")


def put(folder: StudyFolder, statement: str, *values: str, store: str = "optuna.db") -> None:
    with sqlite3.connect(folder.path / store) as database:
        database.execute(statement, values)
    database.close()


def test_content_of_a_store_is_shown_literally_in_the_terminal(copied: StudyFolder):
    tested = json.dumps({"trial": 0, "metrics": {ANSI: 0.5, "x" * 1_000_000: 0.5}, "step": 40, "finished": 1})
    put(copied, "update study_user_attributes set value_json = ? where key = 'test'", tested)
    put(copied, "update trial_params set param_name = ? where param_name = 'optimizer.initial_lr'", f"{ANSI}.{ANSI}")
    assert "the database contains a trial without optimizer.initial_lr" in copied.call(*ONE, expect=1)
    put(
        copied,
        "insert into trial_params (trial_id, param_name, param_value, distribution_json) "
        "select trial_id, 'optimizer.initial_lr', param_value, distribution_json from trial_params "
        "where param_name = ?",
        f"{ANSI}.{ANSI}",
    )
    output = copied.call(*ONE)
    assert output.count(r"%s\u202e") >= 2, "parameter and metric"
    assert not {"\x1b", "\x07", "\u202e"} & set(output)
    assert len(output) < 10_000


def test_a_hostile_identity_is_shown_literally(copied: StudyFolder):
    put(copied, "update study_user_attributes set value_json = ? where key = 'identity'", json.dumps({ANSI: ANSI}))
    output = copied.call(*ONE, expect=2)
    assert f"{VISIBLE}: was " in output
    assert not {"\x1b", "\x07", "\u202e"} & set(output)


@pytest.mark.parametrize("identifier", ["../../..", "' or 1=1", 7, None, ["a"]])
def test_an_invalid_stored_identifier_is_not_used_in_a_path_or_query(copied: StudyFolder, identifier: object):
    content = json.dumps(identifier)
    put(copied, "update study_user_attributes set value_json = ? where key = 'identifier'", content)
    before = sorted(copied.path.rglob("*"))
    assert 'the identifier of study "tiny" in the database was changed' in copied.call(*ONE, expect=1)
    assert sorted(copied.path.rglob("*")) == before


@pytest.mark.parametrize("test", [{"trial": 0, "metrics": {}}, ["a"], "a"])
def test_an_invalid_stored_test_result_is_refused(copied: StudyFolder, test: object):
    put(copied, "update study_user_attributes set value_json = ? where key = 'test'", json.dumps(test))
    assert 'the test result of study "tiny" in the database was changed' in copied.call(*ONE, expect=1)


@pytest.mark.parametrize("state", ["COMPLETE", "WAITING"])
def test_a_stored_choice_is_never_imported_as_a_class(copied: StudyFolder, state: str):
    """Only a study file may name classes to import; names in a database are compared with it."""
    choices = json.dumps(
        {"name": "CategoricalDistribution", "attributes": {"choices": ["os:abort", "cosine_restarts", "plateau"]}}
    )
    put(
        copied,
        "update trial_params set distribution_json = ?, param_value = 0 where param_name = 'schedule.name'",
        choices,
    )
    put(copied, "update trials set state = ?", state)
    for result in copied.directory().glob("trials-*/0/result.json"):
        result.unlink()
    output = copied.call(*ONE, expect=1)
    assert "the database" in output
    assert "Traceback" not in output


def test_runs_of_other_programs_are_not_changed(copied: StudyFolder):
    put(copied, "update tags set value = ? where key = 'tuner.trial'", f"../{ANSI}", store="mlflow.db")
    output = copied.call(*ONE)
    assert not {"\x1b", "\x07", "\u202e"} & set(output)
    assert sorted(copied.mlflow("select value from tags where key = 'tuner.trial'")) == [(f"../{ANSI}",), ("0",)]


# -- pickles -----------------------------------------------------------------------------------------------------------


def test_weights_that_would_run_code_are_not_tested(copied: StudyFolder):
    (weights,) = copied.directory().glob(f"trials-*/0/{MODEL_FILE}")
    torch.save({"state_dict": Malicious(copied.path / "ran")}, weights)
    put(copied, "delete from study_user_attributes where key = 'test'")
    output = copied.call(*ONE)
    assert "note: trial #0 cannot be tested: UnsafeCheckpointError: " in output
    assert not (copied.path / "ran").exists()


@pytest.mark.parametrize("name", [MODEL_FILE, "test.pt"])
def test_weights_that_would_run_code_do_not_get_into_mlflow(
    copied: StudyFolder, name: str, monkeypatch: pytest.MonkeyPatch
):
    (file,) = copied.directory().glob(f"trials-*/0/{name}")
    torch.save({"state_dict": Malicious(copied.path / "ran")}, file)
    monkeypatch.chdir(copied.path)
    uri = f"sqlite:///{copied.path / 'mlflow.db'}"
    best = {"number": 0, "config": {}, "directory": str(file.parent)}
    request = {"storage": "sqlite:///optuna.db", "study": "tiny", "uri": uri, "objects": "objects.pkl", "best": best}
    (note,) = review.update(request)
    assert note.startswith(f"the model is not in MLflow: {file}: ")
    assert not (copied.path / "ran").exists()
    assert not list(copied.path.rglob("best/*.ckpt"))
