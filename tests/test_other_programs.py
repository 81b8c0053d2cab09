"""Other programs change a study in Optuna: they add trials, end them, change attributes, or delete the study."""

import math
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tests.networks import IRIS
from tests.studies import StudyFolder
from tuner.config.loader import load_study
from tuner.errors import StudyFailedError
from tuner.storage.inventory import listed_studies
from tuner.storage.study_store import StudyStore
from tuner.storage.trial_ends import end_of, setup_of

LR = "optimizer.initial_lr"
SPACE: dict[str, BaseDistribution] = {LR: FloatDistribution(1e-3, 3e-2, log=True)}
CONFIG = load_study(str(IRIS))


def added(value: float | None = None, state: TrialState = TrialState.COMPLETE, **more: Any) -> FrozenTrial:
    """Return a trial as another program adds it to the study of `IRIS`."""
    return create_trial(value=value, state=state, params={LR: 0.02}, distributions=SPACE, **more)


def opened(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="iris", storage=f"sqlite:///{folder}/optuna.db")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StudyStore]:
    """Return the study of `IRIS`, held by this process."""
    with StudyStore.open(CONFIG, f"sqlite:///{tmp_path}/optuna.db", CONFIG.identity, pytest.fail) as store:
        yield store


def test_known_results_that_another_program_adds_count_and_get_into_mlflow(folder: StudyFolder):
    folder.call("--trials", "1", study=IRIS)
    study = opened(folder.path)
    study.add_trial(added(0.99))
    study.add_trial(added(state=TrialState.PRUNED, intermediate_values={1: 0.5}))
    study.add_trial(added(state=TrialState.FAIL))
    output = folder.call("--trials", "5", study=IRIS)
    assert "iris has all its 5 trials (3 complete, 1 failed, 1 pruned)" in output
    assert "the weights of trial #1 are missing, so it cannot be tested" in output
    assert folder.mlflow(
        "select status from runs join tags using (run_uuid) where key = 'tuner.trial' order by value"
    ) == [(status,) for status in ("FINISHED", "FINISHED", "FINISHED", "FAILED", "FINISHED")]
    assert folder.mlflow("select value from tags where key = 'tuner.best_trial'") == [("1",)]


def test_a_direction_that_another_program_has_changed_is_an_error(folder: StudyFolder):
    folder.call("--trials", "1", study=IRIS)
    with sqlite3.connect(folder.path / "optuna.db") as database:
        database.execute("update study_directions set direction = 'MINIMIZE'")
    database.close()
    output = folder.call("--trials", "2", study=IRIS, expect=2)
    assert 'another program has set the direction of study "iris" to minimize' in output


def test_a_trial_of_another_search_space_is_named(folder: StudyFolder):
    folder.call("--trials", "1", study=IRIS)
    opened(folder.path).add_trial(
        create_trial(value=0.5, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)})
    )
    output = folder.call("--trials", "2", study=IRIS, expect=1)
    assert (
        f"trial #1 in the database does not belong to this study: the database contains a trial without {LR}" in output
    )


def test_a_result_that_is_added_while_the_study_runs_counts_as_well(store: StudyStore, tmp_path: Path):
    number, _ = store.ask()
    opened(tmp_path).add_trial(added(0.99))
    store.finish(number, TrialState.COMPLETE, 0.5, {})
    assert store.ask()[0] == 2
    assert store.count == 2
    assert store.best_value == 0.99


def test_an_infinite_value_that_another_program_adds_is_never_the_best(store: StudyStore, tmp_path: Path):
    number, _ = store.ask()
    opened(tmp_path).add_trial(added(math.inf))
    store.finish(number, TrialState.COMPLETE, 0.5, {})
    assert store.ask()[0] == 2
    assert (store.count, store.best_value) == (2, 0.5)
    assert [trial.number for trial in store.ranking()] == [number]
    assert [trial.state for trial in store.record().trials] == ["complete", "diverged"]
    (listed,) = listed_studies(f"sqlite:///{tmp_path}/optuna.db")
    assert listed.best == (f"#{number}", 0.5)


def test_a_trial_that_another_program_ends_keeps_that_end(store: StudyStore, tmp_path: Path):
    number, _ = store.ask()
    opened(tmp_path).tell(number, 0.75)
    assert store.report(number, 1, 0.5, may_prune=False) == "prune", "it is trained no further"
    store.suspend(number)
    store.finish(number, TrialState.PRUNED, None, {"state": "pruned"})
    assert store.trial(number).state is TrialState.COMPLETE
    assert store.best_value == 0.75


def test_a_trial_that_another_program_ends_while_it_waits_at_a_rung_waits_no_longer(store: StudyStore, tmp_path: Path):
    number, _ = store.ask()
    store.pause(number)
    opened(tmp_path).tell(number, 0.75)
    store.set_attribute(number, "crashes", {"epoch": 1, "count": 1})
    assert "crashes" not in store.trial(number).user_attrs
    assert store.ask()[0] == 1
    assert store.paused == set()
    assert (store.count, store.best_value) == (1, 0.75)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"state": [], "epochs": "1", "seconds": [], "message": 1, "setup": "a"}, {"state": "pruned", "epochs": None}],
)
def test_attributes_that_are_missing_or_of_another_type_are_not_used(attributes: Mapping[str, Any]):
    trial = added(0.5, intermediate_values={1: 0.25, 2: 0.5}, user_attrs=dict(attributes))
    end = end_of(trial)
    assert (end.state, end.value, end.epochs, end.seconds, end.message) == ("complete", 0.5, 2, 0.0, "")
    assert setup_of(trial) == {}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("deleted", 'study "iris" was deleted from sqlite:///optuna.db while it ran; run the command again'),
        ("removed", "was removed or replaced while the study ran; run the command again"),
    ],
)
def test_a_study_that_is_deleted_while_it_runs_ends_and_says_so(how: str, message: str, folder: StudyFolder):
    process = folder.start("--trials", "1000", "--per-device", "1", study=IRIS)
    folder.wait_for(lambda: folder.optuna("select 1 from trials where state = 'COMPLETE'"), process)
    if how == "deleted":
        optuna.delete_study(study_name="iris", storage=f"sqlite:///{folder.path}/optuna.db")
    else:
        (folder.path / "optuna.db").unlink()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output
    assert message in " ".join(output.split())
    assert "Traceback" not in output
    assert folder.mlflow("select count(*) from runs where status = 'RUNNING'") == [(0,)]
    of_study = "select status from runs join tags using (run_uuid) where key = 'tuner.study_id'"
    assert folder.mlflow(of_study) == [("KILLED",)]


def test_a_study_that_replaces_a_deleted_one_is_another(store: StudyStore, tmp_path: Path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    number, _ = store.ask()
    optuna.delete_study(study_name="iris", storage=url)
    optuna.create_study(study_name="iris", storage=url, direction="maximize")
    with pytest.raises(StudyFailedError, match='study "iris" was deleted'):
        store.report(number, 1, 0.5, may_prune=False)
    with pytest.raises(StudyFailedError, match='study "iris" was deleted'):
        store.ask()
    assert opened(tmp_path).trials == []


def test_a_trial_that_outlived_its_study_is_not_one_of_the_next_study(tmp_path: Path):
    """SQLite gives the number of a deleted study to the next one."""
    url = f"sqlite:///{tmp_path}/optuna.db"
    optuna.create_study(study_name="iris", storage=url, direction="maximize")
    optuna.delete_study(study_name="iris", storage=url)
    with closing(sqlite3.connect(tmp_path / "optuna.db")) as database:
        database.execute("insert into trials (number, study_id, state) values (0, 1, 'RUNNING')")
        database.execute("insert into trial_params (trial_id, param_name) values (1, 'x')")
        database.commit()
    with StudyStore.open(CONFIG, url, CONFIG.identity, pytest.fail) as store:
        assert store.trials() == []
        assert store.ask()[0] == 0


@pytest.mark.slow
def test_plots_and_report_are_made_again_when_a_restored_database_has_other_values(folder: StudyFolder):
    reviewed = "select value from tags where key = 'tuner.reviewed'"
    folder.call("--review", "--trials", "1", study=IRIS)
    before = folder.mlflow(reviewed)
    with closing(sqlite3.connect(folder.path / "optuna.db")) as database:
        database.execute("update trial_values set value = 0.25")
        database.commit()
    folder.call("--review", "--trials", "1", study=IRIS)
    assert folder.mlflow(reviewed) != before
