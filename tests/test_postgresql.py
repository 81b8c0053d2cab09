"""Studies in a real PostgreSQL server, which is stopped and started while they run."""

import contextlib
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException

from tests.networks import holding, release
from tests.servers import Firewall, PostgreSQLServer
from tests.studies import EPOCHS, STEPS, StudyFolder
from tuner import postgresql
from tuner.errors import BadInputError, StudyFailedError, StudyRunningError
from tuner.storage.database import Database
from tuner.tracking.store import open_client
from tuner.tracking.store_errors import can_pass


@pytest.fixture
def on_server(folder: StudyFolder, server: PostgreSQLServer) -> StudyFolder:
    """Return a folder whose studies are in PostgreSQL."""
    folder.storage, folder.tracking = server.new_database(), server.new_mlflow_database()
    return folder


def test_a_study_in_postgresql_survives_its_restart_and_equals_one_in_sqlite(
    on_server: StudyFolder, server: PostgreSQLServer, undisturbed: StudyFolder
):
    process = on_server.start("--per-device", "2", *holding(on_server))
    on_server.wait_for(on_server.has_checkpoint, process)
    server.stop()
    release(on_server)
    lines = iter(process.stdout or ())
    assert any("the database does not answer" in line for line in lines)
    server.start()
    output = "".join(lines)
    assert process.wait(60) == 0, output
    assert "the database is answering again" in output
    on_server.check(trials=4, epochs=EPOCHS, steps=STEPS)
    assert on_server.values() == undisturbed.values()
    assert on_server.curves() == undisturbed.curves()


def test_a_second_coordinator_on_another_machine_is_refused_until_the_first_is_gone(
    on_server: StudyFolder, tmp_path: Path
):
    """It has its own folder, so only the lock in the server excludes it."""
    own = holding(on_server)
    process = on_server.start("--per-device", "2", "--trials", "2", *own)
    on_server.wait_for(on_server.has_checkpoint, process)
    (tmp_path / "elsewhere").mkdir()
    elsewhere = StudyFolder(tmp_path / "elsewhere", on_server.storage, on_server.tracking)
    shutil.copy(on_server.path / "own.py", elsewhere.path)
    assert f'study "tiny" is already being run by pid {process.pid} on host' in elsewhere.call(*own, expect=75)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert "has all its 2 trials" in elsewhere.call("--trials", "2", *own)


def test_a_coordinator_that_lost_its_lock_while_the_server_was_away_ends(server: PostgreSQLServer, tmp_path: Path):
    url, notes = server.new_database(), []
    first, second = Database(url, "one", notes.append), Database(url, "one", notes.append)
    with pytest.MonkeyPatch.context() as patch, first.hold():
        server.stop()
        server.start()
        patch.chdir(tmp_path)
        with second.hold(), pytest.raises(StudyRunningError, match=f"pid {os.getpid()} on host"):
            first.retry_while_unavailable(lambda: None)
    with second.hold():
        assert second.retry_while_unavailable(lambda: 1) == 1


def test_a_coordinator_whose_connection_was_cut_on_its_side_takes_its_lock_again(
    server: PostgreSQLServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The server still has the session and its lock."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    url, notes = server.new_database(), []
    firewall = Firewall(server)
    first = Database(firewall.url(url), "one", notes.append)
    second = Database(url, "one", notes.append)
    with first.hold():
        for _ in range(2):
            firewall.cut()
            assert first.retry_while_unavailable(first.storage.get_all_studies) == []
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pytest.raises(StudyRunningError, match=rf"by pid {os.getpid()} on host \S+\. Wait"), second.hold():
            pass
    assert [note.partition(" (")[0] for note in notes] == [
        "the database does not answer",
        "the database is answering again",
    ] * 2
    with second.hold():
        pass
    firewall.close()


@pytest.mark.parametrize("where", ["postgresql", "sqlite"])
def test_studies_that_begin_at_once_find_each_other_s_tables(server: PostgreSQLServer, where: str, folder: StudyFolder):
    """Optuna and MLflow create their tables at the first start, which only one process can do at a time."""
    folder.has_databases = False
    if where == "postgresql":
        folder.storage, folder.tracking = server.new_database(), server.new_database()
    options = ["--engine", "inline", "--trials", "1", "--set", "trial.trainer.max_epochs=1"]
    studies = [folder.start(*options, "--set", f"name=study{number}") for number in range(2)]
    for study in studies:
        output, _ = study.communicate(timeout=240)
        assert study.returncode == 0, output
    assert folder.optuna("select state from trials") == [("COMPLETE",)] * 2
    assert folder.mlflow("select status from runs") == [("FINISHED",)] * 4


# The command, killed when MLflow has made its first tables, and not those of later versions.
KILLED_AMONG_TABLES = """\
import os, runpy, signal
from mlflow.store.db import utils

utils._upgrade_db = lambda engine: os.kill(os.getpid(), signal.SIGKILL)
runpy.run_module("tuner.study", run_name="__main__", alter_sys=True)
"""


def test_a_study_that_is_killed_while_mlflow_makes_its_tables_on_a_server_can_begin_again(
    folder: StudyFolder, server: PostgreSQLServer
):
    folder.tracking = server.new_database()
    (folder.path / "killed.py").write_text(KILLED_AMONG_TABLES)
    process = folder.start("--trials", "1", module="killed")
    process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL
    engine = sqlalchemy.create_engine(folder.tracking, poolclass=sqlalchemy.NullPool)
    assert set(sqlalchemy.inspect(engine).get_table_names()) == {"experiments", "runs", "metrics", "params", "tags"}
    folder.call("--trials", "1")
    folder.check(trials=1, epochs=EPOCHS, steps=STEPS)
    with engine.begin() as connection:  # as a database of MLflow's oldest version would be
        names = sqlalchemy.inspect(engine).get_table_names()
        kept = ("experiments", "runs", "metrics", "params", "tags")
        for name in names:
            if name not in kept:
                connection.exec_driver_sql(f"drop table {name} cascade")
    assert "was written by an older MLflow" in folder.call("--trials", "2", expect=2)


def test_other_studies_of_a_server_are_not_locked(server: PostgreSQLServer):
    url = server.new_database()
    with Database(url, "one", print).hold(), Database(url, "two", print).hold():
        pass


@pytest.mark.parametrize("how", ["late", "given up"])
def test_a_database_that_stays_away_ends_the_study_and_says_where_it_was(
    server: PostgreSQLServer, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Database, "RETRY_SECONDS", 0.5 if how == "late" else 600.0)
    notes: list[str] = []
    database = Database(server.new_database(), "one", notes.append)
    with database.hold():
        server.stop()
        if how == "given up":
            threading.Timer(0.5, database.stop_retrying).start()
        started = time.monotonic()
        try:
            with pytest.raises(StudyFailedError, match=r"the database postgresql://\S+ is unreachable: .* failed"):
                database.retry_while_unavailable(database.storage.get_all_studies)
        finally:
            server.start()
    assert time.monotonic() - started < 60
    assert len(notes) == 1


def test_a_server_that_hangs_is_noticed_and_waited_for(
    server: PostgreSQLServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(postgresql, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(postgresql, "CONNECT_SECONDS", 1)
    with contextlib.ExitStack() as until_noticed:
        notes: list[str] = []
        database = Database(server.new_database(), "one", lambda note: (notes.append(note), until_noticed.close()))
        with database.hold():
            until_noticed.enter_context(server.frozen())
            assert database.retry_while_unavailable(database.storage.get_all_studies) == []
    assert notes == [
        "the database does not answer (the server sent nothing for 0.5 seconds); retrying for ten minutes",
        "the database is answering again",
    ]


# The command, which waits for a shorter time.
HURRIED = """\
import runpy
from tuner import interrupts

interrupts.HURRIED_SECONDS = 1
runpy.run_module("tuner.study", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("store", ["Optuna", "MLflow"])
def test_an_interrupt_ends_a_study_whose_server_hangs_and_nothing_is_lost(
    folder: StudyFolder, server: PostgreSQLServer, store: str
):
    if store == "Optuna":
        folder.storage = server.new_database()
    else:
        folder.tracking = server.new_mlflow_database()
    own = holding(folder)
    (folder.path / "hurried.py").write_text(HURRIED)
    process = folder.start("--per-device", "2", *own, module="hurried")
    folder.wait_for(folder.has_checkpoint, process)
    with server.frozen():
        release(folder)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    if store == "Optuna":
        assert process.returncode == 1, output
        silence = "(connection timeout expired|the server sent nothing for 1 seconds)"
        assert re.search(f"the database {re.escape(folder.storage)} is unreachable: {silence}", output)
    else:
        assert process.returncode == 128 + signal.SIGINT, output
        assert "Some records did not reach MLflow; run the same command again when it is up" in output
    folder.call(*own)
    folder.check(trials=4, epochs=EPOCHS, steps=STEPS)


def test_a_server_that_hangs_accepts_no_records_of_mlflow(server: PostgreSQLServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(postgresql, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(postgresql, "CONNECT_SECONDS", 1)
    client = open_client(server.new_mlflow_database())
    assert client.get_experiment_by_name("Default")
    with server.frozen(), pytest.raises(MlflowException, match=r"connection timeout expired|sent nothing") as caught:
        client.get_experiment_by_name("Default")
    assert can_pass(caught.value)
    assert client.get_experiment_by_name("Default")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "postgresql://tuner@127.0.0.1:9/x",
            r"storage: cannot reach postgresql://tuner@127.0.0.1:9/x: connection .* failed: Connection refused",
        ),
        ("postgresql://tuner:secret@127.0.0.1:9/x", r"storage: cannot reach postgresql://tuner@127.0.0.1:9/x: "),
        (
            "mysql://tuner@127.0.0.1:9/x",
            r"storage: mysql://\S+ cannot be used: it is neither SQLite nor PostgreSQL; write",
        ),
        ("optuna.db", r"storage: optuna.db cannot be used: it is neither SQLite nor PostgreSQL; write sqlite:///"),
        ("postgresql+nothing://x/y", r"storage: postgresql\+nothing://x/y cannot be used: "),
    ],
)
def test_a_database_that_cannot_be_used_is_reported_before_anything_starts(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=message) as caught, Database.open_readonly(url):
        pass
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("option", ["--storage", "--tracking-uri"])
def test_a_password_on_the_command_line_is_refused(folder: StudyFolder, option: str):
    output = folder.call(option, "postgresql://tuner:secret@127.0.0.1:9/x", expect=2)
    assert f"{option}: every user of this machine can read a password there" in output
    assert "secret" not in output
