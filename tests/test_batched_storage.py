"""A study in memory whose changes are written together: plain Optuna reads what plain Optuna would have written."""

import contextlib
import math
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

from tests.servers import PostgreSQLServer
from tests.studies import TINY
from tuner.config.loader import load_study
from tuner.errors import StudyFailedError
from tuner.storage import batched_storage
from tuner.storage.batched_storage import BatchedStorage
from tuner.storage.connection import open_storage
from tuner.storage.reader import open_study
from tuner.storage.study_store import StudyStore
from tuner.storage.trial_rows import Change, write_changes

CONFIG = load_study(str(TINY), ["sampler={name: tpe, n_startup_trials: 4}", "pruner={name: median}"])
TIMES = ("datetime_start", "datetime_complete")
VALUES = (0.25, -1.5, math.inf, -math.inf)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """Return a function that returns the URL of an empty database."""
    if request.param == "postgresql":
        server: PostgreSQLServer = request.getfixturevalue("server")
        return lambda name: server.new_database()
    return lambda name: f"sqlite:///{tmp_path}/{name}.db"


def suggested(trial: optuna.Trial) -> None:
    trial.suggest_float("lr", 1e-5, 1.0, log=True)
    if trial.suggest_categorical("family", ["a", "b", None]) == "a":
        trial.suggest_int("layers", 1, 9, log=True)
    trial.suggest_float("step", 0.0, 1.0, step=0.25)


def do_something(study: optuna.Study, storage: Any, chance: random.Random) -> None:
    """Change trials in every way that the coordinator or a sampler does."""
    if chance.random() < 0.5:
        study.enqueue_trial({"family": chance.choice(["a", "b", None])}, user_attrs={"queued": chance.random()})
    study.sampler = optuna.samplers.TPESampler(seed=chance.randrange(99), n_startup_trials=3)
    trial = study.ask()
    if chance.random() < 0.9:
        suggested(trial)
    for epoch in range(1, chance.randrange(5)):
        storage.set_trial_intermediate_value(trial._trial_id, epoch, chance.choice([*VALUES, math.nan]))
    for _ in range(2):
        trial.set_user_attr("note", chance.choice([[1, {"deep": None}], "ünï ✓", 0.1, True]))
    match chance.randrange(5):
        case 0:
            storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        case 1:
            study.tell(trial, state=TrialState.PRUNED)
        case 2:
            study.tell(trial, state=TrialState.FAIL)
        case 3:
            study.tell(trial, chance.choice(VALUES))


def tables(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of trials in all tables, without the times; a trial is named by its number."""
    engine = sqlalchemy.create_engine(url)
    rows = {}
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text("select trial_id, number from trials"))
        numbers = {row[0]: row[1] for row in found}
        for table in models.BaseModel.metadata.sorted_tables:
            if "trial_id" in table.c:
                own = [column for column in table.c if column.name not in TIMES and not column.primary_key]
                found = connection.execute(sqlalchemy.select(table.c.trial_id, *own).order_by(*table.primary_key))
                rows[table.name] = sorted(
                    [(numbers[row[0]], *row[1:]) for row in found]
                    if table.name == "trials"
                    else [(numbers[row[0]], *row[2:]) for row in found],
                    key=repr,
                )
    engine.dispose()
    return rows


def without_times(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    ignored = {"_trial_id", "_datetime_start", "datetime_complete", "datetime_start"}
    found = []
    for trial in trials:
        assert (trial.datetime_complete is not None) == trial.state.is_finished()
        contents = {key: value for key, value in vars(trial).items() if key not in ignored}
        params = {"params": list(trial.params)}  # their order counts
        found.append(
            {key: repr(sorted(each.items()) if isinstance(each, dict) else each) for key, each in contents.items()}
            | params
        )
    return found


def test_plain_optuna_reads_what_plain_optuna_would_have_written(new_url: Callable[[str], str]):
    urls = new_url("plain"), new_url("batched")
    with open_storage(urls[0], RDBStorage) as storage:
        plain = optuna.create_study(storage=storage, study_name="compared", direction="maximize")
        chance = random.Random(0)
        for _ in range(40):
            do_something(plain, storage, chance)
        expected = plain.get_trials()
    with open_storage(urls[1], RDBStorage) as storage:
        optuna.create_study(storage=storage, study_name="compared", direction="maximize")
        batched = BatchedStorage(storage, storage.get_study_id_from_name("compared"))
        study = optuna.load_study(study_name="compared", storage=batched)
        chance = random.Random(0)
        for size in (1, 2, 4, 32, 1):  # 40 in all
            batched.together(lambda size=size: [do_something(study, batched, chance) for _ in range(size)])
        ours = study.get_trials()
    assert tables(urls[0]) == tables(urls[1])
    with open_study(urls[1], "compared") as study:
        read = study.get_trials()
    assert without_times(read) == without_times(expected)
    assert without_times(read) == without_times(ours)
    for trial, stored in zip(ours, read, strict=True):
        assert (trial.datetime_start, trial.datetime_complete) == (stored.datetime_start, stored.datetime_complete)


def play(store: StudyStore) -> list[FrozenTrial]:
    """Run a study of three groups, in the way of the coordinator, and return its trials."""
    for _ in range(3):
        numbers = store.together(lambda: [store.ask()[0] for _ in range(4)])
        for epoch in (1, 2):
            decisions = store.together(
                lambda epoch=epoch, numbers=numbers: [
                    store.report(number, epoch, random.Random(number + 100 * epoch).random(), may_prune=True)
                    for number in numbers
                ]
            )
        ends = zip(numbers, decisions, strict=True)
        store.together(
            lambda ends=tuple(ends): [
                store.finish(number, TrialState.COMPLETE, random.Random(number).random(), {"state": decision})
                for number, decision in ends
            ]
        )
    return store.trials()


@pytest.mark.parametrize("is_lost", [False, True], ids=["nothing is written", "the answer is lost"])
def test_a_group_is_asked_reported_and_told_once_if_the_database_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lost: bool
):
    with StudyStore.open(CONFIG, f"sqlite:///{tmp_path}/calm.db", CONFIG.identity, pytest.fail) as store:
        calm = play(store)
    notes: list[str] = []
    url = f"sqlite:///{tmp_path}/storm.db"
    with StudyStore.open(CONFIG, url, CONFIG.identity, notes.append) as store:
        dialect = store.database.storage.engine.dialect
        commit = dialect.do_commit

        def fail_now_and_then(connection: Any) -> None:
            # Reading begins no transaction in SQLite.
            fails = connection.in_transaction and len(notes) % 2 == 0
            if is_lost or not fails:
                commit(connection)
            if fails:
                raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(dialect, "do_commit", fail_now_and_then)
            stormy = play(store)
    assert len(notes) == 24, "each transaction failed once"
    assert without_times(stormy) == without_times(calm)
    with open_study(url, "tiny") as study:
        assert without_times(study.get_trials()) == without_times(calm)


def test_a_database_that_goes_away_while_the_study_is_first_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read, notes = RDBStorage.get_all_trials, []

    def fail_once(storage: RDBStorage, *args: Any, **options: Any) -> list[FrozenTrial]:
        if not notes:
            cause = sqlite3.OperationalError("disk I/O error")
            raise optuna.exceptions.StorageInternalError from sqlalchemy.exc.OperationalError("", {}, cause)
        return read(storage, *args, **options)

    class Store(StudyStore):
        def __init__(self, *args: Any) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(RDBStorage, "get_all_trials", fail_once)
                super().__init__(*args)

    with Store.open(CONFIG, f"sqlite:///{tmp_path}/optuna.db", CONFIG.identity, notes.append) as store:
        assert store.trials() == []
    assert len(notes) == 2
    assert "the database does not answer" in notes[0]


def test_a_study_of_which_a_trial_is_missing_is_refused_with_a_sentence(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    with StudyStore.open(CONFIG, url, CONFIG.identity, pytest.fail) as store:
        for _ in range(3):
            store.finish(store.ask()[0], TrialState.FAIL, None, {})
    with contextlib.closing(sqlite3.connect(tmp_path / "optuna.db")) as database:
        database.execute("delete from trials where number = 1")
        database.commit()
    with (
        pytest.raises(StudyFailedError, match="the next one after 1 trial has the number 2 instead of 1"),
        StudyStore.open(CONFIG, url, CONFIG.identity, pytest.fail),
    ):
        pass


def test_no_other_program_ends_a_trial_between_the_check_and_the_commit(
    new_url: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
):
    url, refusals = new_url("locked"), []
    other = sqlalchemy.create_engine(url, connect_args={"timeout": 0} if url.startswith("sqlite") else {})
    lock = "update trials set state = state" if url.startswith("sqlite") else "select * from trials for update nowait"

    def write(connection: sqlalchemy.Connection, changes: list[Change]) -> None:
        with pytest.raises(sqlalchemy.exc.OperationalError) as refusal, other.connect() as connected:
            connected.execute(sqlalchemy.text(lock))
        refusals.append(refusal)
        write_changes(connection, changes)

    with StudyStore.open(CONFIG, url, CONFIG.identity, pytest.fail) as store:
        number, _ = store.ask()
        monkeypatch.setattr(batched_storage, "write_changes", write)
        store.report(number, 1, 0.5, may_prune=False)
    other.dispose()
    assert len(refusals) == 1


def test_what_changed_while_the_lock_was_lost_is_read(
    server: PostgreSQLServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    url, notes = server.new_database(), []
    with StudyStore.open(CONFIG, url, {}, notes.append) as store:
        number, _ = store.ask()
        with sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).connect() as connection:
            locks = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"
            connection.execute(sqlalchemy.text(locks))
        with open_storage(url, RDBStorage) as other:
            (trial,) = other.get_all_trials(other.get_study_id_from_name("tiny"))
            other.set_trial_intermediate_value(trial._trial_id, 1, 0.5)
        store.report(number, 2, 0.25, may_prune=False)
        assert store.trial(number).intermediate_values == {1: 0.5, 2: 0.25}
    assert len(notes) == 2


def test_trials_that_another_program_adds_in_between_get_other_numbers(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    with StudyStore.open(CONFIG, url, CONFIG.identity, pytest.fail) as store:
        other = optuna.load_study(study_name="tiny", storage=url)
        added: list[int] = []

        def ask() -> list[int]:
            numbers = [store.ask()[0] for _ in range(3)]
            if not added:
                asked = other.get_trials()[0]
                other.add_trial(
                    optuna.trial.create_trial(value=0.5, params=asked.params, distributions=asked.distributions)
                )
                added.append(1)
            return numbers

        first, _ = store.ask()
        assert store.together(ask) == [2, 3, 4]
        assert store.count == 1
        assert store.best_value == 0.5
        store.finish(first, TrialState.COMPLETE, 0.75, {})
        assert (store.count, store.best_value) == (2, 0.75)
    assert [trial.number for trial in other.get_trials()] == [0, 1, 2, 3, 4]
