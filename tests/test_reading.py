"""A study in Optuna as a plain record."""

import math

import optuna
import pytest
from optuna.trial import TrialState

from tuner.storage.attributes import ENDED, TRIALS
from tuner.storage.reader import BEST, record_of

ATTRIBUTES = {"objective.metric": "val/loss", "trial.schedule.name": "cosine"}


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    made = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=0))
    made.set_user_attr("identity", ATTRIBUTES)
    return made


def add(study: optuna.Study, count: int, *, conditional: bool = True) -> None:
    """Add trials whose value depends on the lr alone; a parameter of only one schedule has no effect."""
    for number in range(count):
        trial = study.ask()
        lr = trial.suggest_float("optimizer.initial_lr", 1e-4, 1e-1, log=True)
        if conditional and trial.suggest_categorical("schedule.name", ["constant", "exponential"]) == "exponential":
            trial.suggest_float("schedule.exponential.decay_rate", 0.1, 0.9)
        trial.report(1.0, 1)
        trial.report(abs(math.log10(lr) + 2), 2)
        trial.set_user_attr("state", "complete")
        trial.set_user_attr("seconds", 1.0 + number)
        study.tell(trial, abs(math.log10(lr) + 2))


def curves(number: int, metrics: list[str]) -> dict:
    return {metric: [(0, float(number))] for metric in metrics}


def test_a_trial_has_its_schedule_its_value_and_its_time(study: optuna.Study):
    add(study, 3)
    record = record_of(study, curves)
    assert (record.metric, record.direction) == ("val/loss", "minimize")
    for told, trial in zip(record.trials, study.trials, strict=True):
        assert (told.number, told.value, told.params) == (trial.number, trial.value, trial.params)
        assert told.family == trial.params["schedule.name"]
        assert told.seconds == 1.0 + told.number
        assert told.curves["lr"] == [(0, float(told.number))]
    assert record.searched["optimizer.initial_lr"]
    assert not record.searched.get("schedule.exponential.decay_rate", False)


def test_the_study_began_with_the_first_part_of_a_continued_trial(study: optuna.Study):
    add(study, 1)
    began = study.trials[0].datetime_complete.timestamp() - 100
    study.add_trial(
        optuna.trial.create_trial(
            value=0.5,
            user_attrs={"state": "complete", "seconds": 12.0, "parts": {"3": [began, began + 10.0]}},
        )
    )
    record = record_of(study, curves)
    first, last = record.trials[1].spans
    assert first == (0.0, 10.0)
    assert last[1] - last[0] == pytest.approx(2.0)
    assert record.trials[0].ended == pytest.approx(100.0)
    assert record.ended >= 100.0


def test_where_the_schedule_is_not_searched_it_is_that_of_the_study(study: optuna.Study):
    add(study, 1, conditional=False)
    assert record_of(study, curves).families == ["cosine"]


def test_only_finished_trials_are_listed_and_a_pruned_one_has_its_last_value(study: optuna.Study):
    add(study, 1)
    pruned, _running = study.ask(), study.ask()
    pruned.report(3.0, 1)
    pruned.report(2.5, 2)
    study.tell(pruned, state=TrialState.PRUNED)
    failed = study.ask()
    study.tell(failed, state=TrialState.FAIL)
    record = record_of(study, curves)
    assert [(trial.number, trial.state) for trial in record.trials] == [(0, "complete"), (1, "pruned"), (3, "failed")]
    assert record.trials[1].value == 2.5
    assert math.isnan(record.trials[2].value)


def test_a_pruned_trial_with_a_better_value_is_not_the_best(study: optuna.Study):
    add(study, 2)
    pruned = study.ask()
    pruned.report(-1.0, 1)
    study.tell(pruned, state=TrialState.PRUNED)
    best = min(study.trials[:2], key=lambda trial: trial.value)
    study.set_user_attr("test", {"trial": best.number, "metrics": {"test/loss": 0.5}, "step": 9, "finished": 2})
    assert record_of(study, curves).test == {"test/loss": 0.5}


def test_all_curves_are_asked_of_the_best_trials_only(study: optuna.Study):
    add(study, 30)
    record = record_of(study, curves)
    whole = [trial.number for trial in record.trials if len(trial.curves) > 1]
    best_of_schedules = {trial.family: trial.number for trial in reversed(record.ranking)}
    assert set(whole) == {trial.number for trial in record.ranking[:BEST]} | set(best_of_schedules.values())
    assert all("lr" in trial.curves for trial in record.trials)


def test_importance_finds_the_parameter_that_matters_among_conditional_ones(study: optuna.Study):
    add(study, 60)
    shares = record_of(study, curves).importances
    assert max(shares, key=shares.get) == "optimizer.initial_lr"
    assert shares["schedule.exponential.decay_rate"] < 0.2
    assert sum(shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("asked", "ended", "so_far"),
    [(6, 0, "2 of 6 trials"), (0, 0, "2 trials"), (6, 2, ""), (0, 2, ""), (2, 0, ""), (None, None, "")],
)
def test_a_study_knows_how_far_it_is_until_it_is_over(study: optuna.Study, asked, ended, so_far: str):
    add(study, 2)
    for key, value in {TRIALS: asked, ENDED: ended}.items():
        if value is not None:
            study.set_user_attr(key, value)
    assert record_of(study, curves).so_far == so_far


@pytest.mark.parametrize("count", [0, 1, 7])
def test_few_trials_have_no_importances(study: optuna.Study, count: int):
    add(study, count)
    assert record_of(study, curves).importances == {}


def test_trials_of_equal_values_have_no_importances_without_an_error(study: optuna.Study):
    for _ in range(12):
        trial = study.ask()
        trial.suggest_float("optimizer.initial_lr", 1e-4, 1e-1, log=True)
        study.tell(trial, 0.5)
    assert set(record_of(study, curves).importances.values()) <= {1.0}
