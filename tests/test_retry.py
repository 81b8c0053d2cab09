"""Failed trials are trained again under the same numbers, once the cause is fixed."""

import re
import shlex

import pytest
import yaml

from tests import toys
from tests.studies import StudyFolder
from tuner.retry import RetryOptions, parser

STUDY = {
    "objective": {"metric": "val_acc"},
    "budget": {"trials": 4},
    "sampler": {"name": "random", "seed": 1},
    "pruner": {"name": "none"},
    "trial": {
        "data": {"name": "tests.toys:ToyData", "batch_size": 16},
        "model": {"name": "tests.toys:Broken"},
        "optimizer": {"name": "adam", "initial_lr": 0.01},
        "trainer": {"max_epochs": 3, "precision": "64-true"},
    },
    "search_space": {"optimizer.initial_lr": {"low": 1e-3, "high": 3e-2, "log": True}},
}


class Broken(toys.Base):
    """Fails in the second epoch of two trials."""

    broken = True

    def on_train_epoch_start(self) -> None:
        if self.broken and self.current_epoch == 1 and self.optimizers().param_groups[0]["lr"] > 0.011:
            raise ValueError("not yet mended")


@pytest.fixture
def failed(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    """Return a folder with a study in which some trials have failed."""
    monkeypatch.setattr(toys, "Broken", Broken, raising=False)
    (folder.path / "s.yaml").write_text(yaml.safe_dump(STUDY))
    folder.output = folder.call(study="s.yaml")  # type: ignore[attr-defined]
    assert [state for (state,) in folder.optuna("select state from trials")].count("FAIL") == 2
    return folder


def test_the_end_says_where_the_tracebacks_are_and_how_to_try_again(failed: StudyFolder):
    one, other = sorted(failed.directory("s").glob("trials-*/*/traceback.txt"))
    output = failed.output  # type: ignore[attr-defined]
    assert f"2 trials failed; their tracebacks: {one}, {other}\n" in output
    assert re.search(r"^to retry them once the cause is fixed: \S+ retry s$", output, re.MULTILINE)
    assert "ValueError: not yet mended" in one.read_text()


def test_the_printed_command_retries_the_trials_in_the_stores_of_the_study(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(toys, "Broken", Broken, raising=False)
    (folder.path / "s.yaml").write_text(yaml.safe_dump(STUDY))
    stores = ("--storage", "sqlite:///other.db", "--tracking-uri", "sqlite:///runs.db")
    output = folder.call(*stores, study="s.yaml")
    (printed,) = re.findall(r"^to retry them once the cause is fixed: \S+ retry (.*)$", output, re.MULTILINE)
    assert shlex.split(printed) == ["s", *stores]
    assert RetryOptions(**vars(parser().parse_args(shlex.split(printed)))).storage == "sqlite:///other.db"


def test_the_command_is_printed_once_also_if_all_trials_failed(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(toys, "Broken", Broken, raising=False)
    first = STUDY | {"budget": {"trials": 1}}
    first["trial"] = STUDY["trial"] | {"optimizer": {"name": "adam", "initial_lr": 0.03}}
    (folder.path / "s.yaml").write_text(yaml.safe_dump(first))
    output = folder.call(study="s.yaml", expect=1)
    assert "No trial ran to completion." in output
    assert output.count(" retry s") == 1


def test_failed_trials_are_trained_again_under_their_numbers(
    failed: StudyFolder, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Broken, "broken", False)
    assert "2 failed" in failed.call(study="s.yaml"), "not by themselves"
    failed.call("--retry-failed", study="s.yaml")
    healthy = StudyFolder(tmp_path_factory.mktemp("healthy"))
    (healthy.path / "s.yaml").write_text(yaml.safe_dump(STUDY))
    healthy.call(study="s.yaml")
    assert failed.values() == healthy.values()
    assert failed.optuna("select number, state from trials") == [(number, "COMPLETE") for number in range(4)]
    reports = "select number, step, intermediate_value from trial_intermediate_values join trials using (trial_id)"
    assert sorted(failed.optuna(reports)) == sorted(healthy.optuna(reports))
    trained = [[point for point in each.curves() if point[1] != "test_loss"] for each in (failed, healthy)]
    assert trained[0] == trained[1]
    states = failed.mlflow("select status, count(*) from runs where name like '#%' group by status")
    assert sorted(states) == [("FAILED", 2), ("FINISHED", 4)], "the runs of what failed stay"
    dead = "select name from runs where run_uuid in (select run_uuid from tags where key = 'tuner.failed_trial')"
    assert all(name.endswith(", failed attempt 1") for (name,) in failed.mlflow(dead))


def test_trials_that_fail_again_can_be_tried_again(failed: StudyFolder):
    for attempt in (1, 2):
        assert "2 failed" in failed.call("--retry-failed", study="s.yaml")
        attempts = failed.optuna("select value_json from trial_user_attributes where key = 'attempt'")
        assert attempts == [(str(attempt),)] * 2


def test_records_of_a_module_are_in_the_run_of_its_trial(folder: StudyFolder):
    study = {
        **STUDY,
        "budget": {"trials": 1},
        "trial": {**STUDY["trial"], "model": {"name": "tests.toys:RecordsItself"}},
    }
    (folder.path / "s.yaml").write_text(yaml.safe_dump(study))
    folder.call(study="s.yaml")
    (run,) = folder.path.glob("mlruns/*/*/artifacts/notes")
    assert (run / "epoch.txt").read_text() == "epoch 2"
    assert len(list(run.parent.glob("images/noise/*.png"))) == 3
    assert folder.mlflow("select value from params where key = 'own.layers'") == [("2",)]
    assert folder.mlflow("select value from tags where key = 'own.phase'") == [("late",)]
    assert folder.mlflow("select step, value from metrics where key = 'own' order by step") == [
        (i, 0.5) for i in range(3)
    ]
