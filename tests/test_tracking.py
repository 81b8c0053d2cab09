"""Records in MLflow, in a real database: a failing record affects only itself, and missing ones are sent next time."""

import base64
import contextlib
import dataclasses
import json
import math
import re
import shutil
import sqlite3
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from tests.studies import TINY, StudyFolder
from tuner.analysis.record import TestResult
from tuner.config.loader import load_study
from tuner.config.study import StudyConfig
from tuner.config.trial import TrialConfig
from tuner.errors import BadInputError
from tuner.protocol import Points, TrialResult
from tuner.storage.reader import config_of
from tuner.tracking import record_writer as records
from tuner.tracking import trial_points, trial_records
from tuner.tracking.housekeeping import check_rename
from tuner.tracking.reader import MlflowStudy, pages_of
from tuner.tracking.record_writer import Record, RecordWriter
from tuner.tracking.store import tracking_uri
from tuner.tracking.tracker import Tracker
from tuner.tracking.transactions import Transactions, _Part
from tuner.tracking.trial_records import Entries
from tuner.tracking.view import view_tag

STUDY_ID = "0123456789abcdef" * 2
CONFIG = load_study(str(TINY), [])
PARAMETERS = {
    "optimizer.initial_lr": 0.01,
    "schedule.name": "cosine_restarts",
    "schedule.cosine_restarts.restart_period": 40,
}
VALUES = config_of(CONFIG, PARAMETERS)


class Study:
    """A study in MLflow, in a folder, which a test writes record by record."""

    def __init__(self, folder: StudyFolder, study_id: str = STUDY_ID, config: StudyConfig = CONFIG) -> None:
        self._study_id, self._config = study_id, config
        self.folder, self.notes, self.is_open = folder, [], False
        self.tracker: Tracker

    def open(self) -> Tracker:
        uri = tracking_uri(self.folder.tracking or None, study="tiny")
        self.is_open = True
        self.tracker = Tracker(
            self._config, uri, self._study_id, self.notes.append, {"hardware": "a test"}, {"mnist_5k": "0" * 64}
        )
        return self.tracker

    def train(self, number: int, points: Points = (), *, read: bool = True, **result: Any) -> None:
        """Record a trial from start to end, with its points in two reports."""
        self.tracker.start_trial(number, VALUES)
        self.tracker.log_points(number, points[: len(points) // 2])
        self.end(number, points, read=read, **result)

    def end(self, number: int, points: Points = (), *, read: bool = True, **result: Any) -> None:
        whole = TrialResult(**{"state": "complete", "value": 0.5, "epochs": 1, "points": points} | result)
        self.tracker.finish_trial(number, VALUES, whole, (lambda: whole) if read else None)

    def close(self) -> bool:
        self.is_open = False
        return self.tracker.close("FINISHED", patience=5)

    def again(self, trials: Sequence[int], points: Points = ()) -> bool:
        """Open the study again, send the missing records of its trials, and close it."""
        self.notes.clear()
        self.open()
        for number in self.tracker.unfinished(trials):
            self.train(number, points)
        return self.close()

    def points(self, number: int = 0) -> dict[str, list[tuple[int, float]]]:
        return {key: list(curve) for key, curve in MlflowStudy(self.tracker.uri, self._study_id).points(number).items()}

    def tags(self, number: int | None = 0) -> dict[str, str]:
        tracked = MlflowStudy(self.tracker.uri, self._study_id)
        run = tracked.parent if number is None else tracked.children[number]
        return dict(run.data.tags)

    def runs(self) -> list[tuple[str, str]]:
        """Return trial and status of every run of a trial that was not deleted."""
        return sorted(
            self.folder.mlflow(
                "select value, status from runs join tags using (run_uuid) where key = 'tuner.trial' "
                "and lifecycle_stage = 'active'"
            )
        )


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "PAUSES", (0.05,))
    monkeypatch.setattr(records, "LAST_PAUSE", 0.05)


@pytest.fixture
def study(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    folder.prepare()
    monkeypatch.chdir(folder.path)
    study = Study(folder)
    study.open()
    yield study
    if study.is_open:
        study.close()


def test_records_without_entries_do_not_count_as_taken_by_the_store(study: Study):
    study.tracker.start_trial(0, VALUES)
    recorder, trials = study.tracker._recorder, study.tracker._trials
    assert recorder.runs.settle(30)
    taken = recorder.runs._taken
    empty, other = (trials._records.log_record(0, "points", lambda run: Entries([], [], [])) for _ in range(2))
    assert empty.join is not None
    assert empty.join({0: [empty, other]}) == {}
    for record in (empty, other):
        recorder.put(0, record)
    assert recorder.runs.settle(30)
    assert recorder.runs._taken == taken


@pytest.fixture(params=["sqlite", "postgresql"])
def anywhere(request: pytest.FixtureRequest, folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    """Return a study in each kind of database."""
    if request.param == "postgresql":
        folder.tracking = request.getfixturevalue("server").new_mlflow_database()
    folder.prepare()
    monkeypatch.chdir(folder.path)
    study = Study(folder)
    study.open()
    yield study
    if study.is_open:
        study.close()


# -- metrics -----------------------------------------------------------------------------------------------------------

ODD_NAMES = [
    "val/AR@100",
    "val/AR_100",
    "a//b",
    "a/_/b",
    "../x",
    "/x",
    "x/",
    "lr ",
    "",
    ".",
    "val/\U0001f600",
    "\n",
    "x" * 300,
    "caf\udce9",
    "a\0b",
]


def test_every_metric_is_stored_and_found_again_with_any_name(anywhere: Study):
    points = [(name, step, float(index)) for index, name in enumerate(ODD_NAMES) for step in (1, 2)]
    anywhere.train(0, [*points, ("val/acc", 1, 0.25)])
    assert anywhere.close()
    assert anywhere.tracker.missing == []
    found = anywhere.points()
    assert found.pop("val/acc") == [(1, 0.25)]
    expected = [[(1, float(index)), (2, float(index))] for index in range(len(ODD_NAMES))]
    assert sorted(found.values()) == expected
    storable = [name for name in ODD_NAMES if name.isprintable()]
    assert {name: found[name] for name in storable} == {name: expected[ODD_NAMES.index(name)] for name in storable}
    stored = {key for (key,) in anywhere.folder.mlflow("select distinct key from metrics")}
    assert {"val/AR_100", "val/acc", "lr "} <= stored
    told = [note for note in anywhere.notes if note.startswith("metric ")]
    assert len(told) == len([name for name in ODD_NAMES if name not in stored]), "each is reported once"
    assert any(note.startswith('metric "a//b" is stored as "a/_/b') for note in told)


def test_a_metric_keeps_its_name_in_the_next_trial_and_in_the_next_run_of_the_study(study: Study):
    study.train(0, [("a@b", 1, 1.0)])
    study.train(1, [("a_b", 1, 2.0), ("a@b", 1, 3.0)])
    assert study.close()
    assert study.again([0, 1, 2], [("a#b", 1, 4.0), ("a_b", 1, 5.0), ("a@b", 1, 6.0)])
    assert study.points(1) == {"a@b": [(1, 3.0)], "a_b": [(1, 2.0)]}
    assert study.points(2) == {"a@b": [(1, 6.0)], "a_b": [(1, 5.0)], "a#b": [(1, 4.0)]}
    assert not any('"a@b"' in note for note in study.notes), "it was told before"


def test_a_point_that_cannot_be_stored_is_lost_alone(anywhere: Study):
    good = [("lr", step, 0.1) for step in range(3000)] + [("val/acc", 10, 0.5)]
    anywhere.train(0, [*good[:1500], ("lr", 2**70, 0.1), *good[1500:], ("test/acc", -(2**50), 0.5)])
    anywhere.train(1, [("lr", 0, 0.1)], read=False)
    assert anywhere.close(), "what cannot be stored is not kept for another time"
    assert anywhere.points() == {"lr": [(step, 0.1) for step in range(3000)], "val/acc": [(10, 0.5)]}
    assert anywhere.runs() == [("0", "FINISHED"), ("1", "FINISHED")]
    assert len(anywhere.tracker.missing) == 2
    assert all("of trial #0" in text and "MLflow cannot store that" in text for text in anywhere.tracker.missing)
    assert "points of lr" in anywhere.tags()["tuner.refused"]
    assert anywhere.again([0, 1]), "nothing is sent again"
    assert any("points of lr" in text for text in anywhere.tracker.missing), "but it is still missing"


def test_values_that_are_not_finite_are_stored(anywhere: Study):
    anywhere.train(0, [("a", 1, math.nan), ("b", 1, math.inf), ("c", 1, -math.inf), ("d", 1, 1e-320)])
    assert anywhere.close()
    assert anywhere.tracker.missing == []
    points = anywhere.points()
    assert math.isnan(points["a"][0][1])
    assert points["b"][0][1] > 1e308
    assert points["c"][0][1] < -1e308
    assert points["d"] == [(1, 1e-320)]


def test_points_that_are_sent_twice_are_stored_once(study: Study):
    points = [(key, step, step / 7) for step in range(2500) for key in ("lr", "loss")]
    study.tracker.start_trial(0, VALUES)
    study.tracker.log_points(0, points[:3000])
    study.tracker.log_points(0, points)  # as the first report after a resume
    study.end(0, points)
    assert study.close()
    study.open()
    study.train(0, [(key, step, value * (1 + 1e-16)) for key, step, value in points])  # but for roundings
    assert study.close()
    stored = Counter(study.folder.mlflow("select key, step from metrics where key in ('lr', 'loss')"))
    assert stored == {(key, step): 1 for key, step, _ in points}


# -- texts -------------------------------------------------------------------------------------------------------------


def test_texts_of_user_code_are_stored_with_any_characters(anywhere: Study):
    text = "cannot decode caf\udce9.png and \0 and \U0001f600"
    anywhere.train(0, state="failed", message=text, traceback=f"Traceback: {text}", value=None)
    anywhere.train(1)
    assert anywhere.close()
    assert anywhere.tracker.missing == []
    assert anywhere.runs() == [("0", "FAILED"), ("1", "FINISHED")]
    assert anywhere.tags()["tuner.message"] == "cannot decode caf\\udce9.png and \\x00 and \U0001f600"
    (trace,) = anywhere.folder.path.glob("mlruns/*/*/artifacts/traceback.txt")
    assert trace.read_text() == "Traceback: cannot decode caf\\udce9.png and \\x00 and \U0001f600"


def test_a_parameter_that_is_too_long_is_cut(anywhere: Study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TrialConfig, "flat", lambda config: {"a": "x" * 10_000, "odd@name": "1", "b": "\0"})
    anywhere.train(0)
    assert anywhere.close()
    assert anywhere.tracker.missing == []
    params = dict(anywhere.folder.mlflow("select key, value from params"))
    assert params["a"].endswith("x ... (10000 characters)")
    assert len(params["a"]) == 6000
    assert params["odd_name"] == "1"
    assert params["b"] == "\\x00"


# -- artifacts ---------------------------------------------------------------------------------------------------------


def test_artifacts_that_cannot_be_written_delay_nothing_else_and_are_sent_by_the_next_run(study: Study):
    study.close()
    shutil.rmtree("mlruns")
    Path("mlruns").touch()
    study.tracker = Tracker(CONFIG, study.tracker.uri, STUDY_ID, study.notes.append)
    told = [note for note in study.notes if note.startswith("artifacts of the study cannot be written to ")]
    assert len(told) == 1, "before the first trial"
    assert told[0].endswith("Not a directory: '" + str(Path.cwd() / "mlruns") + "'") or "mlruns" in told[0]
    for number in range(3):
        study.train(number, [("lr", step, 0.1) for step in range(10)], traceback="here")
    assert not study.close()
    (sentence,) = study.tracker.missing
    assert re.match(r"artifacts of the study, trial #\d, trial #\d and 1 more cannot be written to ", sentence)
    assert sentence.endswith("; the next run of the study sends what is missing")
    assert study.runs() == [(str(number), "FINISHED") for number in range(3)]
    assert study.points() == {"lr": [(step, 0.1) for step in range(10)]}
    assert "artifacts" in study.tags()["tuner.missing"]
    assert "artifacts" in study.tags(None)["tuner.missing"]
    Path("mlruns").unlink()
    assert study.again([0, 1, 2], [("lr", step, 0.1) for step in range(10)])
    assert study.tracker.missing == []
    assert len(list(Path("mlruns").glob("*/*/artifacts/lr.csv"))) == 3
    assert "tuner.missing" not in {**study.tags(0), **study.tags(None)}
    assert study.again([0, 1, 2])
    assert study.tracker.unfinished([0, 1, 2]) == []


# -- a store that is away ----------------------------------------------------------------------------------------------


def test_while_mlflow_is_away_the_memory_is_bounded_and_in_the_end_it_has_every_point(
    study: Study, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trial_points, "MAX_WAITING_POINTS", 1000)
    assert study.tracker._recorder.runs.settle(30)
    points = [("lr", step, 0.1) for step in range(5000)]
    database = sqlite3.connect("mlflow.db", isolation_level=None)
    database.execute("begin exclusive")
    study.tracker.start_trial(0, VALUES)
    for start in range(0, len(points), 100):
        study.tracker.log_points(0, points[start : start + 100])
    assert study.tracker._trials._points._held <= 1000
    assert study.tracker.backlog < 30
    study.end(0, points)
    database.execute("rollback")
    database.close()
    assert study.close()
    assert study.points() == {"lr": [(step, 0.1) for step in range(5000)]}
    assert study.tracker._trials._points._held == 0


def test_records_that_mlflow_did_not_take_are_reported_and_sent_by_the_next_run(study: Study):
    study.train(0, [("lr", 1, 0.1)])
    assert study.tracker._recorder.runs.settle(30)
    database = sqlite3.connect("mlflow.db", isolation_level=None)
    database.execute("begin exclusive")
    study.train(1, [("lr", 1, 0.1)])
    study.is_open = False
    assert not study.tracker.close("FINISHED", patience=0.5)
    assert study.tracker.missing == ["Some records did not reach MLflow; run the same command again when it is up"]
    database.execute("rollback")
    database.close()
    study.tracker._recorder.runs._thread.join()  # it may be in the middle of a request, whose answer nobody waits for
    assert study.again([0, 1], [("lr", 1, 0.1)])
    assert study.runs() == [("0", "FINISHED"), ("1", "FINISHED")]


# -- several trials in one transaction ---------------------------------------------------------------------------------


@contextlib.contextmanager
def held(writer: RecordWriter) -> Iterator[None]:
    """Let records wait for each other, and then be written."""
    release = threading.Event()
    assert writer.settle(30)
    writer.put("held", Record(release.wait, lambda error: None))
    yield
    release.set()
    assert writer.settle(60)


def test_trials_that_wait_are_written_in_two_transactions(anywhere: Study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trial_records, "LONGEST_SECONDS", math.inf)
    commits: list[str] = []

    def count(connection: Connection) -> None:
        commits.append(threading.current_thread().name)

    recorder = anywhere.tracker._recorder
    anywhere.train(0)
    points = [(key, step, step / 7) for step in range(10) for key in ("lr", "val/acc")]
    with held(recorder.artifacts):
        with held(recorder.runs):
            for number in range(1, 21):
                anywhere.train(number, points)
            event.listen(Engine, "commit", count)
        event.remove(Engine, "commit", count)
    assert commits.count("tracking") == 2
    assert anywhere.close()
    assert anywhere.tracker.missing == []
    assert anywhere.runs() == sorted((str(number), "FINISHED") for number in range(21))
    study = MlflowStudy(anywhere.tracker.uri, STUDY_ID)
    for number in range(1, 21):
        run = study.children[number]
        assert run.data.params["optimizer.initial_lr"] == "0.01"
        assert run.data.tags["tuner.state"] == "complete"
        assert "tuner.missing" not in run.data.tags
        assert [each.dataset.name for each in run.inputs.dataset_inputs] == ["iris"]
        assert run.info.run_name == f"#{number} cosine_restarts 0.5000"
        lrs = [(step, step / 7) for step in range(10)]
        assert anywhere.points(number) == {"lr": lrs, "val/acc": lrs}
    assert len(list(Path("mlruns").glob("*/*/artifacts/lr.csv"))) == 20


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_a_trial_that_continues_is_written_among_new_ones(study: Study, order: Sequence[int]):
    study.train(0, [("lr", 1, 0.1)], state="interrupted", value=None)
    with held(study.tracker._recorder.runs):
        for number in order:
            study.train(number, [("lr", 1, 0.1), ("lr", 2, 0.2)])
    assert study.close()
    assert study.tracker.missing == []
    assert study.runs() == [(str(number), "FINISHED") for number in range(3)]
    assert all(study.points(number) == {"lr": [(1, 0.1), (2, 0.2)]} for number in range(3))
    assert study.tags()["tuner.state"] == "complete"


def test_what_is_refused_of_one_trial_is_lost_alone_when_several_are_written_at_once(anywhere: Study):
    anywhere.train(0)
    with held(anywhere.tracker._recorder.runs):
        for number in range(1, 5):
            anywhere.train(number, [("lr", step, 0.1) for step in (1, 2, 2**70 if number == 3 else 3)])
    assert anywhere.close()
    (missing,) = anywhere.tracker.missing
    assert "points of lr of trial #3" in missing
    assert anywhere.runs() == [(str(number), "FINISHED") for number in range(5)]
    for number in range(1, 5):
        assert anywhere.points(number) == {"lr": [(step, 0.1) for step in ((1, 2) if number == 3 else (1, 2, 3))]}


@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
def test_a_transaction_whose_commit_fails_or_whose_answer_is_lost_is_written_again(anywhere: Study, moment: str):
    failed: list[Session] = []

    def fail(session: Session) -> None:
        has_written = threading.current_thread().name == "tracking" and not isinstance(session, _Part)
        if has_written and not failed and len(anywhere.tracker._trials.by_number) > 1:
            failed.append(session)
            raise OperationalError("commit", {}, Exception("connection lost"))

    anywhere.train(0)
    with held(anywhere.tracker._recorder.runs):
        for number in range(1, 5):
            anywhere.train(number, [("lr", 1, 0.1)])
        event.listen(Session, moment, fail)
    event.remove(Session, moment, fail)
    assert failed
    assert anywhere.close()
    assert anywhere.tracker.missing == []
    assert anywhere.runs() == [(str(number), "FINISHED") for number in range(5)], "none is doubled"
    assert all(anywhere.points(number) == {"lr": [(1, 0.1)]} for number in range(1, 5))


def test_of_a_transaction_that_fails_nothing_is_stored(anywhere: Study):
    client, experiment = client_of(anywhere), anywhere.tracker.experiment_id
    points = [Metric("lr", 0.1, 1, 1)]
    with pytest.raises(MlflowException, match="part of a transaction"), Transactions.of(client).one():  # noqa: PT012
        run = client.create_run(experiment, run_name="new")
        client.log_batch(run.info.run_id, metrics=points)
        client.log_batch(run.info.run_id, metrics=points)  # MLflow would roll back, and insert the new ones
    assert not client.search_runs([experiment], "run_name = 'new'")
    with pytest.raises(MlflowException, match="earlier part"), Transactions.of(client).one():  # noqa: PT012
        run = client.create_run(experiment, run_name="new")
        client.log_batch(run.info.run_id, metrics=points)
        with contextlib.suppress(MlflowException):
            client.log_batch(run.info.run_id, metrics=points)
        client.create_run(experiment, run_name="new")
    assert not client.search_runs([experiment], "run_name = 'new'")
    with Transactions.of(client).one():
        run = client.create_run(experiment, run_name="new")
        client.log_batch(run.info.run_id, metrics=points)
        assert client.get_run(run.info.run_id).data.metrics == {"lr": 0.1}
    assert client.get_run(run.info.run_id).data.metrics == {"lr": 0.1}


# -- what others delete ------------------------------------------------------------------------------------------------


def client_of(study: Study) -> MlflowClient:
    return MlflowClient(study.tracker.uri)


def test_a_deleted_run_of_the_study_is_replaced_and_its_trials_runs_are_taken_over(anywhere: Study):
    for number in range(3):
        anywhere.train(number, [("a@b", 1, 0.1)])
    anywhere.tracker.log_standings([(1, 0.5, time.time())])
    assert anywhere.close()
    before = anywhere.tracker.parent_id
    client_of(anywhere).delete_run(before)
    assert anywhere.again([0, 1, 2])
    assert anywhere.notes == [
        "the run of this study in MLflow was deleted; creating a new one for the study and its trials"
    ]
    assert anywhere.tags(None)["tuner.replaces"] == before
    assert anywhere.runs() == [(str(number), "FINISHED") for number in range(3)], "none is doubled"
    assert set(MlflowStudy(anywhere.tracker.uri, STUDY_ID).children) == {0, 1, 2}
    assert anywhere.points(1) == {"a@b": [(1, 0.1)]}
    assert anywhere.again([0, 1, 2])
    assert anywhere.notes == [], "it is reported once"


def test_a_run_of_the_study_that_is_deleted_while_it_runs_is_replaced_at_once(study: Study):
    study.tracker.log_standings([(1, 0.5, time.time())])
    study.train(0, [("lr", 1, 0.1)])
    assert study.tracker._recorder.runs.settle(30)
    before = study.tracker.parent_id
    study.tracker.log_study([], None)
    assert study.tracker._recorder.runs.settle(30)
    client_of(study).delete_run(before)
    study.train(1, [("lr", 1, 0.1)])
    study.tracker.log_standings([(2, 0.6, time.time())])
    study.tracker.log_study([{"number": 0, "value": 0.5}], {"number": 0, "params": {}, "config": {"a": 1}})
    assert study.close()
    assert study.tracker.missing == []
    assert study.tags(None)["tuner.replaces"] == before
    assert study.runs() == [("0", "FINISHED"), ("1", "FINISHED")]
    assert set(MlflowStudy(study.tracker.uri, STUDY_ID).children) == {0, 1}
    now = study.tracker.parent_id
    views = study.folder.mlflow("select key from experiment_tags where key like '%ViewState%'")
    assert views == [(view_tag(now),)], "not that of the deleted run"
    stored = study.folder.mlflow(f"select key, step from metrics where run_uuid = '{now}' order by key, step")
    assert stored == [("best_value", 1), ("best_value", 2), ("trials_done", 1), ("trials_done", 2)]
    assert {path.name for path in Path("mlruns").glob(f"*/{now}/artifacts/*")} == {
        "study.yaml",
        "best.yaml",
        "trials.csv",
    }


def test_a_trial_s_run_that_is_deleted_while_it_trains_gets_another_with_every_point(study: Study):
    study.tracker.start_trial(0, VALUES)
    study.tracker.log_points(0, [("lr", 1, 0.1)])
    assert study.tracker._recorder.runs.settle(30)
    before = study.tracker._trials.by_number[0].run_id
    client_of(study).delete_run(before)
    study.tracker.log_points(0, [("lr", 2, 0.2)])
    study.end(0, [("lr", 1, 0.1), ("lr", 2, 0.2), ("lr", 3, 0.3)])
    assert study.close()
    assert study.tracker.missing == []
    assert study.points() == {"lr": [(1, 0.1), (2, 0.2), (3, 0.3)]}
    assert study.tags()["tuner.replaces"] == before
    assert study.runs() == [("0", "FINISHED")]


def test_a_trial_that_has_other_values_since_its_database_was_restored_gets_another_run(study: Study):
    study.train(0, [("lr", 1, 0.01)])
    assert study.close()
    ((before,),) = study.folder.mlflow("select run_uuid from tags where key = 'tuner.trial'")
    study.open()
    others = config_of(CONFIG, PARAMETERS | {"optimizer.initial_lr": 0.02})
    study.tracker.start_trial(0, others)
    study.tracker.finish_trial(0, others, TrialResult("complete", 0.25, 1, points=[("lr", 1, 0.02)]))
    assert study.close()
    assert study.tracker.missing == []
    assert "trial #0 now has different values from its MLflow run" in study.notes[-1]
    assert study.points() == {"lr": [(1, 0.02)]}
    assert study.tags()["tuner.replaces"] == before
    assert study.folder.mlflow("select value from params where key = 'optimizer.initial_lr' order by 1") == [
        ("0.01",),
        ("0.02",),
    ]
    assert study.runs() == [("0", "FINISHED")]


def test_an_experiment_that_is_deleted_while_the_study_runs_is_reported_and_nothing_is_lost(study: Study):
    study.train(0, [("lr", 1, 0.1)])
    assert study.tracker._recorder.runs.settle(30)
    client_of(study).delete_experiment(study.tracker.experiment_id)
    study.train(1, [("lr", 1, 0.1)])
    assert not study.close()
    assert any("must be in the 'active' state" in sentence for sentence in study.tracker.missing)
    with pytest.raises(
        BadInputError, match=r'the experiment "tiny" was deleted\. Restore it \(MLFLOW_TRACKING_URI=sqlite:'
    ):
        study.open()
    client_of(study).restore_experiment(study.tracker.experiment_id)
    assert study.again([0, 1], [("lr", 1, 0.1)])
    assert study.runs() == [("0", "FINISHED"), ("1", "FINISHED")]


def test_a_study_finds_its_runs_in_an_experiment_that_was_renamed(study: Study):
    study.train(0, [("lr", 1, 0.1)])
    assert study.close()
    experiment = study.tracker.experiment_id
    client_of(study).rename_experiment(experiment, "of last week")
    assert study.again([0, 1], [("lr", 1, 0.1)])
    assert study.notes == ['the runs of this study are in MLflow\'s experiment "of last week", and stay there']
    assert (study.tracker.experiment_id, study.tracker.is_new) == (experiment, False)
    assert study.runs() == [("0", "FINISHED"), ("1", "FINISHED")]
    page = f"/#/experiments/{experiment}/runs/{study.tracker.parent_id}?"
    assert pages_of(study.tracker.uri, "tiny")[0].startswith(page)
    client_of(study).create_experiment("tiny")  # the user's
    assert study.again([0, 1])
    assert study.tracker.experiment_id == experiment
    client_of(study).delete_experiment(experiment)
    with pytest.raises(
        BadInputError, match=r'the experiment "of last week" was deleted\. Restore it \(MLFLOW_TRACKING_URI='
    ):
        study.open()
    with pytest.raises(BadInputError, match=rf"experiments restore --experiment-id {experiment}\), or give the study"):
        check_rename(study.tracker.uri, "tiny", "other", STUDY_ID)


def test_a_confirmation_is_in_the_renamed_experiment_of_its_study(study: Study):
    study.train(0)
    assert study.close()
    client_of(study).rename_experiment(study.tracker.experiment_id, "of last week")
    config = dataclasses.replace(CONFIG, name="tiny-confirm", experiment="tiny", within=STUDY_ID)
    confirmation = Study(study.folder, "f" * 32, config)
    confirmation.open()
    assert confirmation.close()
    assert confirmation.tracker.experiment_id == study.tracker.experiment_id
    assert confirmation.tracker.is_new


# -- databases ---------------------------------------------------------------------------------------------------------


def test_a_process_that_outlives_its_removed_database_starts_a_new_one(study: Study):
    study.train(0)
    assert study.close()
    Path("mlflow.db").unlink()
    study.open()
    study.train(1)
    assert study.close()
    assert study.runs() == [("1", "FINISHED")]
    assert [path.name for path in Path().glob("mlflow.db*")] == ["mlflow.db"]
    assert not [each for each in threading.enumerate() if each.name in ("tracking", "artifacts")]


def test_a_database_that_is_removed_while_the_study_runs_is_reported_and_the_next_run_sends_everything(study: Study):
    study.train(0, [("lr", 1, 0.1)])
    assert study.tracker._recorder.runs.settle(30)
    Path("mlflow.db").unlink()
    study.train(1, [("lr", 1, 0.1)])
    assert not study.close()
    assert study.tracker.missing == ["MLflow's database was removed while the study ran; run the same command again"]
    assert study.again([0, 1], [("lr", 1, 0.1)])
    assert study.runs() == [("0", "FINISHED"), ("1", "FINISHED")]


def test_a_study_is_found_among_thousands_of_experiments(study: Study):
    study.train(0, [("lr", 1, 0.1)])
    assert study.close()
    with sqlite3.connect("mlflow.db") as database:
        database.executemany(
            "insert into experiments (name, artifact_location, lifecycle_stage, creation_time, last_update_time) "
            "values (?, 'mlruns/0', 'active', 9999999999999, 9999999999999)",
            [(f"other {number}",) for number in range(1500)],
        )
    database.close()
    assert study.points() == {"lr": [(1, 0.1)]}


def test_the_description_keeps_its_part_about_the_network_whichever_process_writes_it(study: Study):
    study.train(0)
    table = [{"number": 0, "value": 0.5}]
    best = {"number": 0, "params": {"optimizer.initial_lr": 0.01}, "config": {}}
    study.tracker.log_study(table, best, "#0 is the best")
    assert study.tracker._recorder.runs.settle(30)
    client_of(study).create_registered_model("tiny")
    MlflowStudy(study.tracker.uri, STUDY_ID).set_tag("tuner.champion", "0")
    study.train(1)
    study.tracker.log_study([*table, {"number": 1, "value": 0.6}], best | {"number": 1}, "#1 is the best")
    assert study.close()
    note = study.tags(None)["mlflow.note.content"]
    assert note.startswith("**\\#1 is the best**\n\n2 of 4 trials · ")
    assert note.count("load_model") == 1
    assert "The network of trial #0: " in note


def test_the_earlier_of_two_studies_of_one_name_says_so_until_it_is_used_again(study: Study):
    study.train(0)
    study.tracker.log_study([{"number": 0, "value": 0.5}], None, "#0 is the best")
    assert study.close()
    later = Study(study.folder, "f" * 32)
    later.open()
    assert later.close()
    names = (
        "select name from runs join tags using (run_uuid) where key = 'tuner.study_id' order by start_time, name desc"
    )
    (earlier,), (new,) = study.folder.mlflow(names)
    assert re.fullmatch(r"tiny, begun \d{4}-\d\d-\d\d \d\d:\d\d", earlier)
    assert new == "tiny"
    assert study.tags(None)["mlflow.note.content"].startswith("**An earlier study of this name, from another")
    assert len(pages_of(study.tracker.uri, "tiny")) == 1, "the page of the later one, which has no trials yet"
    study.open()
    assert study.close()
    assert study.folder.mlflow(names) == [("tiny",), ("tiny",)]


def test_a_study_saves_the_view_of_its_trials_with_its_columns_and_charts(study: Study):
    study.train(0, [("lr", 0, 0.1), ("val/acc", 1, 0.5)])
    study.tracker.log_test(TestResult(0, {"test/acc": 0.75}, 3, 1))
    study.tracker.log_study([{"number": 0, "value": 0.5}], None, "#0 is the best")
    assert study.close()
    (key, value), *others = study.folder.mlflow("select key, value from experiment_tags where key like '%ViewState%'")
    assert not others
    view = json.loads(value)
    assert view["name"] == "Trials of tiny"
    state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
    assert state["orderByKey"] == "metrics.`val/acc`"
    assert state["selectedColumns"][:3] == [
        "metrics.`val/acc`",
        "params.`optimizer.initial_lr`",
        "params.`schedule.name`",
    ]
    charts = {chart.get("metricKey"): chart for chart in state["compareRunCharts"]}
    assert charts["lr"]["scaleType"] == "log"
    assert charts["test/acc"]["deleted"], "it has one point"
    assert key.rpartition(".")[2] in study.tags(None)["mlflow.note.content"], "the study's page leads to it"
    assert f"viewStateShareKey={key.rpartition('.')[2]}" in pages_of(study.tracker.uri, "tiny")[1]


def test_an_objective_that_has_another_name_in_mlflow_is_found_again_under_its_own(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
):
    folder.prepare()
    monkeypatch.chdir(folder.path)
    objective = dataclasses.replace(CONFIG.objective, metric="val/AR@100")
    study = Study(folder, config=dataclasses.replace(CONFIG, objective=objective))
    study.open().log_study([], None, "no trial has ended")  # writes the view before any point
    study.train(0, [("val/AR@100", 1, 0.5)])
    assert study.close()
    assert study.again([0, 1], [("val/AR_100", 1, 0.25), ("val/AR@100", 1, 0.75)])
    assert study.points(0) == {"val/AR@100": [(1, 0.5)]}
    assert study.points(1) == {"val/AR_100": [(1, 0.25)], "val/AR@100": [(1, 0.75)]}


def test_the_test_of_the_best_trial_is_recorded_under_names_that_mlflow_takes(study: Study):
    study.train(0, [("val/acc@5", 3, 0.5)])
    study.tracker.log_test(TestResult(0, {"test/acc@5": 0.75}, 3, 1))
    assert study.close()
    stored = study.folder.mlflow("select key, step, value from metrics where key like 'test%' order by step")
    assert stored == [("test/acc_5", 1, 0.75), ("test/acc_5", 3, 0.75)]
