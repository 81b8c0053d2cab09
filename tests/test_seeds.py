"""A study of given configurations with fresh seeds, in Optuna."""

import dataclasses
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.studies import TINY
from tuner.config.loader import load_study
from tuner.config.search_space import corners
from tuner.config.trial import TrialConfig
from tuner.storage.replicates import ReplicationStore, ReplicationStudy

SEEDS = (11, 12, 13)


class CountingStore(ReplicationStore):
    """Counts how often all trials are read."""

    listings = 0

    def trials(self, *states: TrialState) -> list[Any]:
        self.listings += 1
        return super().trials(*states)


def study(count: int) -> ReplicationStudy:
    """Return a study with a number of configurations."""
    config = load_study(str(TINY))
    one = TrialConfig.from_values(corners(config.trial)[0])
    candidates = {f"c{index}": dataclasses.replace(one, seed=index) for index in range(count)}
    return ReplicationStudy.of(config, "seeds", candidates, SEEDS, {})


def finish(store: ReplicationStore, value: float | None) -> int:
    number, _ = store.ask()
    state = TrialState.FAIL if value is None else TrialState.COMPLETE
    store.finish(number, state, value, {"state": state.name.lower(), "epochs": 1, "seconds": 1.0})
    return number


def test_the_best_is_that_of_the_best_mean_and_only_weights_of_the_first_seed_are_kept(tmp_path: Path):
    config, values = study(3), [[0.9, 0.5, 0.7], [0.1, 0.6, None], [0.1, 0.7, 0.9]]
    with ReplicationStore.open(config, f"sqlite:///{tmp_path}/optuna.db", config.identity, pytest.fail) as store:
        for index, value in enumerate(value for row in values for value in row):
            assert store.best is None
            assert store.may_keep_weights({index: 0.0}) == ({index} if index < 3 else set())
            assert store.kept_numbers() == set(range(min(index, 3)))
            finish(store, value)
        assert store.best is not None
        assert store.best.number == 1, "c0 has a mean of 0.37, c1 of 0.6, and c2 failed once"
        assert store.best_value == pytest.approx(0.6)
        assert store.kept_numbers() == {1}
        assert store.best_value == store.history()[-1][1]


def test_a_value_that_was_never_stored_is_not_compared(tmp_path: Path):
    config = study(2)
    with ReplicationStore.open(config, f"sqlite:///{tmp_path}/optuna.db", config.identity, pytest.fail) as store:

        def fail() -> None:
            finish(store, 0.9)
            assert dict(store.comparison().configurations[0].values) == {11: 0.9}
            raise InterruptedError

        with pytest.raises(InterruptedError):
            store.together(fail)
        finish(store, 0.5)
        assert dict(store.comparison().configurations[0].values) == {11: 0.5}


def test_the_start_of_a_long_confirmation_reads_all_trials_a_few_times_and_not_once_for_each(tmp_path: Path):
    listings = []
    for count in (4, 20):
        config, url = study(count), f"sqlite:///{tmp_path}/{count}.db"
        with ReplicationStore.open(config, url, config.identity, pytest.fail) as store:
            for _ in range(config.trials):
                finish(store, 0.5)
        with CountingStore.open(config, url, config.identity, pytest.fail) as store:
            finished = [trial.number for trial in store.finished()]
            store.history()
            assert [number in store.kept_numbers() for number in finished].count(True) == 1
            listings.append(store.listings)
    assert listings[0] == listings[1]


def test_the_resolution_of_an_accuracy_is_that_of_the_validation_images(tmp_path: Path):
    config = study(2)
    with ReplicationStore.open(config, f"sqlite:///{tmp_path}/optuna.db", config.identity, pytest.fail) as store:
        for _ in SEEDS:
            finish(store, 0.9)
            finish(store, 0.88)
        one, other = store.comparison().configurations
        assert store.comparison().difference(one, other).probability is None
    with ReplicationStore.open(config, f"sqlite:///{tmp_path}/optuna.db", config.identity, pytest.fail) as store:
        store.attributes.set_validation_images(50)
        assert 0.7 < store.comparison().difference(one, other).probability < 0.9


def test_trials_of_other_programs_are_not_configurations(tmp_path: Path):
    config, url = study(2), f"sqlite:///{tmp_path}/optuna.db"
    with ReplicationStore.open(config, url, config.identity, pytest.fail) as store:
        finish(store, 0.5)
        foreign = optuna.load_study(study_name="seeds", storage=url)
        foreign.add_trial(optuna.trial.create_trial(value=0.99))
    with ReplicationStore.open(config, url, config.identity, pytest.fail) as store:
        assert [dict(each.values) for each in store.comparison().configurations] == [{11: 0.5}, {}]
