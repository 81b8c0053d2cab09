"""Search spaces of finitely many configurations: no trial repeats one as long as others are left."""

from collections.abc import Hashable, Sequence
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.studies import TINY
from tuner.config.loader import load_study
from tuner.config.opening_notes import opening_notes
from tuner.config.sampler_options import SAMPLERS
from tuner.config.study import StudyConfig, key_of
from tuner.storage.study_store import StudyStore

SPACE = (
    "search_space={optimizer.initial_lr: {choices: [0.001, 0.01]}, schedule: {one_of: {cosine: {}, exponential: "
    "{decay_rate: {low: 0.5, high: 0.7, step: 0.1}, decay_steps: {choices: [4, 5]}}}}}"
)
CONFIGURATIONS = 2 * (1 + 3 * 2)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


def load(*overrides: str, sampler: str = "random", space: str = SPACE) -> StudyConfig:
    return load_study(str(TINY), [f"sampler={{name: {sampler}, seed: 2}}", space, *overrides])


def run(config: StudyConfig, url: str, trials: int, together: int = 1, failed: Sequence[int] = ()) -> list[Hashable]:
    """Ask for trials, so many at once, and end them, in a run of its own; return the configurations of all."""
    with StudyStore.open(config, url, dict(config.identity), pytest.fail) as store:
        store.suspend_running()
        while store.count < trials:
            numbers = [store.ask()[0] for _ in range(min(together, trials - store.count))]
            for number in numbers:
                value = 0.5 + 0.01 * (number % 5)
                store.report(number, 3, value, may_prune=False)
                state = TrialState.FAIL if number in failed else TrialState.COMPLETE
                store.finish(number, state, value, {"state": state.name.lower(), "epochs": 3, "seconds": 1.0})
        return [key_of(trial.params) for trial in store.trials()]


@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - {"grid"}))
def test_no_configuration_is_repeated_while_others_are_left(sampler: str, url: str):
    config = load(sampler=sampler)
    run(config, url, 6)
    found = run(config, url, CONFIGURATIONS, together=3)
    assert len(set(found)) == CONFIGURATIONS
    assert set(run(config, url, CONFIGURATIONS + 2)[-2:]) <= set(found), "then they are repeated"


def test_the_plan_says_that_trials_will_be_repeated():
    space = "search_space={optimizer.initial_lr: {choices: [0.001, 0.01]}}"
    notes = [
        opening_notes(load("trial.schedule={name: constant}", f"budget={{trials: {n}}}", space=space)) for n in (2, 3)
    ]
    assert notes == [[], ["the search space has only 2 configurations: with 3 trials, some are repeated"]]


def test_an_interruption_changes_nothing(url: str, tmp_path: Path):
    config = load(sampler="tpe")
    whole = run(config, url, CONFIGURATIONS, together=2)
    other = f"sqlite:///{tmp_path}/other.db"
    run(config, other, 4, together=2)
    with StudyStore.open(config, other, dict(config.identity), pytest.fail) as store:
        assert [store.ask()[0] for _ in range(2)] == [4, 5]  # and this run is killed
    assert run(config, other, CONFIGURATIONS, together=2) == whole


def test_a_failed_configuration_may_be_tried_again(url: str):
    space = "search_space={optimizer.initial_lr: {choices: [0.001, 0.01]}}"
    schedule = "trial.schedule={name: constant}"
    found = run(load(schedule, space=space), url, 3, failed=[0, 1])
    assert len(set(found)) == 2
    assert run(load(schedule, space=space), url, 4)[3] != found[2]


def test_constraints_and_priors_leave_the_others(url: str):
    space = "search_space={model.neurons: {low: 2, high: 9, prior: {center: 4, width: 0.5}}, seed: {choices: [1, 2]}}"
    config = load("trial.schedule={name: constant}", "constraints=[model.neurons != 5]", space=space)
    assert len(set(run(config, url, 14))) == 14


def test_the_values_that_a_trial_is_given_leave_the_others_to_the_first_trials_after_it(url: str):
    space = (
        "search_space={optimizer.initial_lr: {choices: [0.001, 0.01]}, schedule: {one_of: {cosine: {}, constant: {}}}}"
    )
    queue = "enqueue=[{schedule.name: constant}, {schedule.name: constant, optimizer.initial_lr: 0.001}]"
    config = load("trial.schedule={name: cosine}", queue, space=space)
    assert len(set(run(config, url, 4))) == 4


def test_where_only_some_configurations_have_real_numbers_the_others_are_not_repeated(url: str):
    space = "search_space={schedule: {one_of: {constant: {}, cosine: {min_factor: {low: 0.0, high: 0.5}}}}}"
    found = run(load("trial.schedule={name: constant}", space=space), url, 30)
    assert len(set(found)) == 30


def test_studies_with_a_real_number_in_every_configuration_have_nothing_to_look_up():
    assert not load(space="search_space={optimizer.initial_lr: {low: 0.001, high: 0.1}}").can_repeat
    assert not load_study(str(TINY)).can_repeat
    assert not load("budget={trials: 2}", sampler="grid", space="search_space={seed: {choices: [1, 2]}}").can_repeat
