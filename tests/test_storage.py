"""The study in Optuna as the coordinator sees it: its cache equals the database."""

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.studies import TINY
from tuner.config.loader import load_study
from tuner.storage.reader import open_study
from tuner.storage.study_store import StudyStore

CONFIG = load_study(str(TINY), ["sampler={name: tpe, n_startup_trials: 4}", "pruner={name: median}"])
Open = Callable[[], AbstractContextManager[StudyStore]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


@pytest.fixture
def reopen(url: str) -> Open:
    """Return a function that opens a study with the TPE sampler."""
    return partial(StudyStore.open, CONFIG, url, dict(CONFIG.identity), pytest.fail)


def stored(url: str) -> list[FrozenTrial]:
    """Return all trials, without the cache, in which they have other ids."""
    with open_study(url, "tiny") as study:
        trials = study.get_trials()
    for trial in trials:
        trial._trial_id = trial.number
    return trials


def finish(store: StudyStore, number: int, value: float, state: TrialState = TrialState.COMPLETE) -> None:
    store.finish(number, state, value, {"state": state.name.lower(), "epochs": 3, "seconds": 1.0})


def test_the_cached_trials_always_equal_the_stored_ones(reopen: Open, url: str):
    rng = random.Random(0)
    for _ in range(2):
        with reopen() as store:
            running: dict[int, int] = {}  # the epochs of each
            for _ in range(15):
                what = rng.choice(["ask", "report", "report", "finish", "suspend", "note"]) if running else "ask"
                number = rng.choice(list(running)) if running else 0
                match what:
                    case "ask":
                        number, _ = store.ask()
                        running[number] = len(store.trial(number).intermediate_values)
                    case "report":
                        running[number] += 1
                        store.report(number, running[number], rng.random(), may_prune=True)
                    case "finish":
                        finish(store, number, rng.random(), rng.choice([TrialState.COMPLETE, TrialState.PRUNED]))
                        del running[number]
                    case "suspend":
                        store.suspend(number)
                        del running[number]
                    case "note":
                        store.set_attribute(number, "crashes", {"epoch": 0, "count": rng.randrange(9)})
                trials = stored(url)
                assert store.trials() == trials
                assert store.count == len(store.finished()) == sum(trial.state.is_finished() for trial in trials)
                assert store.best == next(iter(store.ranking()), None)
            for number in running:
                store.suspend(number)


def test_of_equal_trials_the_earlier_is_the_best(reopen: Open):
    with reopen() as store:
        numbers = [store.ask()[0] for _ in range(3)]
        for number, value in zip(reversed(numbers), (0.5, 0.7, 0.7), strict=True):
            finish(store, number, value)
        assert store.best is not None
        assert store.best.number == numbers[0]


def test_weights_are_kept_for_a_trial_that_may_become_the_best(reopen: Open):
    with reopen() as store:
        numbers = [store.ask()[0] for _ in range(4)]
        assert store.may_keep_weights({numbers[0]: 0.1}) == {numbers[0]}
        finish(store, numbers[1], 0.5)
        assert store.may_keep_weights({numbers[2]: 0.4}) == set()
        assert store.may_keep_weights({numbers[2]: 0.6}) == {numbers[2]}
        assert [len(store.may_keep_weights({number: 0.5})) for number in numbers] == [1, 0, 0, 0]
        assert store.may_keep_weights({numbers[2]: 0.6, numbers[3]: 0.7}) == {numbers[3]}, "one of a group"
        assert store.may_keep_weights({}) == set()


def test_of_repeated_epochs_only_the_last_asks_the_pruner(reopen: Open, url: str):
    with reopen() as store:
        for _ in range(6):
            number, _ = store.ask()
            for epoch in (1, 2, 3):
                store.report(number, epoch, 0.9, may_prune=False)
            finish(store, number, 0.9)
        number, _ = store.ask()
        assert {store.report(number, epoch, 0.1 * epoch, may_prune=False) for epoch in (1, 2)} == {"continue"}
        store.suspend(number)
    with reopen() as store:
        assert store.ask()[0] == number
        assert [store.report(number, epoch, 0.5, may_prune=True) for epoch in (1, 2)] == ["continue", "prune"]
    assert stored(url)[number].intermediate_values == {1: 0.1, 2: 0.2}


def test_the_history_has_the_best_value_at_each_end(reopen: Open):
    with reopen() as store:
        numbers = [store.ask()[0] for _ in range(4)]
        ends = [(2, TrialState.PRUNED, 0.9), (3, TrialState.COMPLETE, 0.5), (0, TrialState.COMPLETE, 0.4)]
        for number, state, value in [*ends, (1, TrialState.COMPLETE, 0.6)]:
            finish(store, numbers[number], value, state)
        assert [value for _, value in store.history()] == [None, 0.5, 0.5, 0.6]


def test_tpe_samples_the_same_with_and_without_its_cached_search_space(reopen: Open, tmp_path: Path):
    def value(number: int) -> float:
        return random.Random(number).random()

    with reopen() as store:
        for _ in range(10):
            number, _ = store.ask()
            finish(store, number, value(number))
        at_once = [trial.params for trial in store.trials()]
    for _ in range(10):
        with StudyStore.open(CONFIG, f"sqlite:///{tmp_path}/again.db", CONFIG.identity, pytest.fail) as store:
            number, _ = store.ask()
            finish(store, number, value(number))
            opened_again = [trial.params for trial in store.trials()]
    assert at_once == opened_again


@pytest.mark.parametrize(
    "sampler", ["random", "tpe", "tpe, multivariate: true, group: true", "curve, n_startup_trials: 4"]
)
def test_a_trial_whose_process_died_while_sampling_gets_the_same_values(tmp_path: Path, sampler: str):
    config = load_study(str(TINY), [f"sampler={{name: {sampler}, seed: 1}}"])
    with StudyStore.open(config, f"sqlite:///{tmp_path}/optuna.db", dict(config.identity), pytest.fail) as store:
        number, drawn = 0, {}
        while number < 12 or len(drawn) < 3:
            if drawn:
                finish(store, number, random.Random(number).random())
            number, _ = store.ask()
            drawn = store.trial(number).params
    last = "select max(trial_id) from trials"
    for kept in (0, 1, 2):
        file = tmp_path / f"{kept}.db"
        shutil.copy(tmp_path / "optuna.db", file)
        with sqlite3.connect(file) as database:
            ids = f"select param_id from trial_params where trial_id = ({last}) order by param_id limit {kept}"
            database.execute(f"delete from trial_params where trial_id = ({last}) and param_id not in ({ids})")
        database.close()
        with StudyStore.open(config, f"sqlite:///{file}", dict(config.identity), pytest.fail) as store:
            assert store.ask()[0] == number
            assert store.trial(number).params == drawn, f"{kept} were kept"


def test_parameters_of_only_some_trials_are_sampled_independently_by_qmc(tmp_path: Path):
    config = load_study(str(TINY), ["sampler={name: qmc}"])
    with StudyStore.open(config, f"sqlite:///{tmp_path}/optuna.db", dict(config.identity), pytest.fail) as store:
        for _ in range(12):
            number, _ = store.ask()
            finish(store, number, random.Random(number).random())
        periods = [trial.params.get("schedule.cosine_restarts.restart_period") for trial in store.trials()]
    drawn = [period for period in periods if period is not None]
    assert len(set(drawn)) > len(drawn) / 2 > 1
