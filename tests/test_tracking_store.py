"""MLflow's store: refused with one sentence before anything is created, and found again in a moved folder."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient

from tests.launcher import output_of
from tests.servers import OddServer, PostgreSQLServer
from tests.studies import StudyFolder, empty_databases
from tests.test_tracking import STUDY_ID, Study
from tuner.errors import BadInputError
from tuner.tracking import store as tracking_store
from tuner.tracking.reader import MlflowStudy
from tuner.tracking.store import tracking_uri
from tuner.tracking.store_errors import can_pass


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def refused(uri: str | None, **options: object) -> str:
    """Return the message that refuses a URI, after checking that nothing was created and no password is shown."""
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(BadInputError) as caught:
        tracking_uri(uri, study="tiny", **options)
    (sentence,) = caught.value.faults
    assert sorted(Path.cwd().rglob("*")) == before
    assert sentence.startswith(("tracking uri: ", "MLflow: "))
    assert "SECRET" not in sentence
    assert "\n" not in sentence
    assert len(sentence) < 600
    return sentence


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (
            "mysql://ada:SECRET1@h/db",
            "mysql://ada@h/db needs a package that is not installed (No module named 'MySQLdb')",
        ),
        (
            "foo://x",
            "foo://x cannot be used: MLflow does not support stores of the kind foo; write sqlite:///mlflow.db",
        ),
        ("s3://ada:SECRET1@bucket", "MLflow does not support stores of the kind s3"),
        ("databricks", "databricks "),  # cannot be used or, on a busy machine, did not answer
        ("databricks-uc", "databricks-uc cannot be used: "),
        ("mlflow.db", "mlflow.db: MLflow no longer writes file stores; use sqlite:///mlflow.db"),
        ("file:///tmp/x", "MLflow no longer writes file stores"),
        ("sqlite://", "a database in memory is gone with its process"),
        ("sqlite:///:memory:", "a database in memory is gone with its process"),
        ("postgresql+nothing://x/y", "Can't load plugin: sqlalchemy.dialects:postgresql.nothing"),
        ("postgresql://ada:SECRET1@127.0.0.1:9/x", 'connection to server at "127.0.0.1", port 9 failed'),
        ("http://[::1", "http://[::1 is not an address"),
        ("http://h:abc", "http://h:abc is not an address"),
        ("http://a b", "http://a b is not an address"),
        ("http://", "http:// is not an address"),
        ("http://ada:SEC/RET1@127.0.0.1:9", "http://127.0.0.1:9 is not an address"),
        ("http://ada:SECRET1@127.0.0.1:9", "no MLflow server answers at http://127.0.0.1:9 (Connection refused)"),
    ],
)
def test_an_invalid_uri_is_refused(here: Path, uri: str, said: str):
    if "SEC/RET1" in uri:
        assert "RET1" not in refused(uri)
    else:
        assert said in refused(uri)


def answer(status: int, body: bytes = b"", header: str = "X: y") -> bytes:
    return (
        f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{header}\r\nConnection: close\r\n\r\n".encode() + body
    )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "no MLflow server answers at {address} (timed out)"),
        (answer(200, b"<html>\n<body>Hello</body></html>" * 100), "not in a valid JSON format"),
        (answer(404, b"<html>nothing here</html>"), "not a usable MLflow server"),
        (answer(404, b'{"detail": "Not Found"}'), "not a usable MLflow server: "),
        (answer(200, b'{"hello": 1}'), "the server at {address} is not a usable MLflow server"),
        (answer(200, b"[1]"), "not in a valid JSON format"),
        (answer(200, b""), "the server at {address} is not a usable MLflow server"),
        (answer(500, b"oh"), "the server at {address} cannot answer now: it answered 500 Internal Server Error"),
        (
            answer(503, b"oh", "Retry-After: 120"),
            "cannot answer now: it answered 503 Service Unavailable. Try again later",
        ),
        (answer(429, b"oh", "Retry-After: 120"), "cannot answer now: it answered 429 Too Many Requests"),
        (answer(302, b"", "Location: http://127.0.0.1:{port}/x"), "Exceeded 30 redirects"),
        (answer(401, b"<html>who?</html>"), "{address} refuses the login. Set MLFLOW_TRACKING_USERNAME and"),
        (answer(403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}'), "does not let this user do that"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no MLflow server answers at {address} (SSH-2.0-OpenSSH_9.2)"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"a":', "IncompleteRead"),
        (b"", "no MLflow server answers at {address} ("),
    ],
)
def test_a_server_that_is_not_mlflow_is_refused(
    here: Path, answer: bytes | None, said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(tracking_store.QUICK, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1" if answer is None else "10")
    server = OddServer(answer)
    address = f"http://127.0.0.1:{server.port}"
    try:
        assert said.format(address=address) in refused(f"http://ada:SECRET1@127.0.0.1:{server.port}")
    finally:
        server.close()
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_a_database_server_that_never_answers_is_given_up(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking_store, "CHECK_SECONDS", 0.5)
    server = OddServer(None)
    try:
        said = refused(f"postgresql://ada:SECRET1@127.0.0.1:{server.port}/x")
    finally:
        server.close()
    assert f"postgresql://ada@127.0.0.1:{server.port}/x did not answer within" in said


def put(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def test_a_file_that_is_not_a_database_of_mlflow_is_refused_and_left_alone(here: Path):
    Path("folder.db").mkdir()
    Path("text.db").write_text("no database " * 1000)
    os.mkfifo("pipe.db")
    Path("file").touch()
    put(here / "other.db", "create table customers (name text)")
    shutil.copy(empty_databases() / "optuna.db", "optuna.db")
    shutil.copy(empty_databases() / "mlflow.db", "newer.db")
    put(here / "newer.db", "update alembic_version set version_num = '97727af70f4d'")
    shutil.copy(empty_databases() / "mlflow.db", "older.db")
    put(here / "older.db", "drop table logged_model_tags")
    shutil.copy(empty_databases() / "mlflow.db", "cut.db")
    os.truncate("cut.db", 200_000)
    for name, said in {
        "folder.db": "is not a file",
        "text.db": "file is not a database",
        "pipe.db": "is not a file",
        "file/mlflow.db": f"{here}/file is not a folder",
        "other.db": "is the database of another program (it has customers); give MLflow its own",
        "optuna.db": "it is Optuna's database, and MLflow needs its own",
        "newer.db": "Detected out-of-date database schema",
        "older.db": "was written by an older MLflow. Make a copy of it, then run: mlflow db upgrade sqlite:///",
        "cut.db": "malformed",
    }.items():
        assert said in refused(f"sqlite:///{name}", storage="sqlite:///optuna.db"), name
    put(here / "optuna.db", "create table experiments (name text)")
    assert "is the database of another program" in refused("sqlite:///optuna.db", storage="sqlite:///other.db")


def test_a_locked_database_and_one_that_may_only_be_read_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracking_store, "LOCK_SECONDS", 0.2)
    shutil.copy(empty_databases() / "mlflow.db", here)
    database = sqlite3.connect("mlflow.db", isolation_level=None)
    database.execute("begin exclusive")
    assert "cannot be used: database is locked" in refused(None)
    database.execute("rollback")
    database.close()
    assert tracking_uri(None, study="tiny") == f"sqlite:///{here}/mlflow.db"
    only_read = f"sqlite:///file:{here}/mlflow.db?mode=ro&uri=true"
    assert "cannot be used: attempt to write a readonly database" in refused(only_read)
    assert tracking_uri(only_read, must_exist=True) == only_read, "it can be looked at"


def test_a_user_who_may_not_write_is_reported_before_anything_starts(here: Path):
    """Root may write everywhere, so this runs as the user nobody."""
    shutil.copy(empty_databases() / "mlflow.db", here)
    Path("mlruns").mkdir()
    for folder in (here, *here.parents[:-1]):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import os\n"
        "from tuner.tracking.store import tracking_uri\n"
        "from tuner.errors import BadInputError\n"
        "tracking_uri('sqlite:///mlflow.db', study='tiny')\n"  # imports what it needs
        "os.setgid(65534)\n"
        "os.setuid(65534)\n"
        "for uri in ('sqlite:///mlflow.db', 'sqlite:///new.db'):\n"
        "    try: print(tracking_uri(uri, study='tiny'))\n"
        "    except BadInputError as error: print(error)\n"
    )
    if os.getuid() == 0:
        output = output_of(code, here)
        assert output.count(f"tracking uri: {here} cannot be written: permission denied.") == 2, output


def test_the_artifact_location_is_checked_before_anything_starts(here: Path):
    Path("mlruns").touch()
    assert refused(None) == f"tracking uri: {here}/mlruns cannot be written: {here}/mlruns is not a folder."
    shutil.copy(empty_databases() / "mlflow.db", here)
    assert "is not a folder" in refused(None)
    MlflowClient(f"sqlite:///{here}/mlflow.db").create_experiment("tiny", artifact_location=f"{here}/mlruns/x")
    assert "is not a folder" in refused(None)


def test_one_postgresql_database_for_optuna_and_mlflow_is_refused(here: Path, server: PostgreSQLServer):
    url = server.new_database()
    assert "it is Optuna's database" in refused(url, storage=url)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table studies (name text)")
    assert "is the database of another program (it has studies)" in refused(url)


def test_a_postgresql_user_without_rights_is_reported(here: Path, server: PostgreSQLServer):
    url = server.new_database()
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("drop role if exists reader")
        connection.exec_driver_sql("create role reader login")
        connection.exec_driver_sql("revoke create on schema public from public")
    reader = url.replace("postgres@", "reader@")
    assert "the user reader may not create its tables" in refused(reader)
    MlflowClient(url).search_experiments()
    with engine.begin() as connection:
        connection.exec_driver_sql("grant select on all tables in schema public to reader")
    assert "the user reader may not write to its tables" in refused(reader)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"alter database {engine.url.database} set default_transaction_read_only = on")
    assert "it is read-only" in refused(url)
    assert "does not exist" in refused(url.replace("database", "nothing"))


def test_a_dry_run_refuses_the_same_as_a_run(folder: StudyFolder):
    (folder.path / "mlflow.db").write_text("no database " * 1000)
    for options in ((), ("--dry-run",)):
        output = folder.call(*options, expect=2)
        assert output == f"tracking uri: sqlite:///{folder.path}/mlflow.db cannot be used: file is not a database.\n"
    assert [path.name for path in folder.path.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ConnectionRefusedError(111, "Connection refused"), True),
        (TimeoutError("timed out"), True),
        (OSError(28, "No space left on device"), True),
        (PermissionError(13, "Permission denied"), False),
        (ModuleNotFoundError("No module named 'boto3'"), False),
        (UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"), False),
        (type("EndpointConnectionError", (Exception,), {})(), True),
        (type("ClientError", (Exception,), {"response": {"ResponseMetadata": {"HTTPStatusCode": 503}}})(), True),
        (type("ClientError", (Exception,), {"response": {"ResponseMetadata": {"HTTPStatusCode": 403}}})(), False),
    ],
)
def test_only_temporary_errors_are_retried(error: Exception, passes: bool):
    assert can_pass(error) is passes


# -- folders -----------------------------------------------------------------------------------------------------------


def write_study(folder: Path, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...], is_old: bool = False) -> Study:
    """Record trials of a study in a folder, before the folder is renamed."""
    monkeypatch.chdir(folder)
    study = Study(StudyFolder(folder))
    study.open()
    for number in numbers:
        study.train(number, [("lr", 1, 0.1), ("lr", 2, 0.2)])
    assert study.close()
    return study


def places(folder: Path) -> set[str]:
    study = StudyFolder(folder)
    columns = ("artifact_uri from runs", "artifact_location from experiments where name = 'tiny'")
    return {place for column in columns for (place,) in study.mlflow(f"select {column}")}


def make_old(folder: Path) -> None:
    """Give a study the absolute paths that earlier versions stored."""
    put(
        folder / "mlflow.db",
        f"update experiments set artifact_location = '{folder}/' || artifact_location where name = 'tiny'",
        f"update runs set artifact_uri = '{folder}/' || artifact_uri",
    )


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("how", ["moved", "copied"])
def test_in_a_folder_that_was_moved_or_copied_artifacts_stay_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, is_old: bool
):
    before, now = tmp_path / "a", tmp_path / "b"
    before.mkdir()
    shutil.copy(empty_databases() / "mlflow.db", before)
    write_study(before, monkeypatch, (0,))
    if is_old:
        make_old(before)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(before, now)
    if how == "moved":
        shutil.rmtree(before)
    files = sorted(before.rglob("*"))
    study = write_study(now, monkeypatch, (1,))
    assert sorted(before.rglob("*")) == files, "nothing is written to the old place"
    assert len(list(now.glob("mlruns/*/*/artifacts/lr.csv"))) == 2
    assert all(place.startswith("mlruns/") for place in places(now))
    assert [note for note in study.notes if "was moved or copied from" in note] == (
        [f"the folder of this study was moved or copied from {before}; its artifacts are in {now}/mlruns/1"]
        if is_old
        else []
    )
    tracked = MlflowStudy(study.tracker.uri, "0123456789abcdef" * 2)
    assert tracked.read("study.yaml")
    assert dict(tracked.curves(0, ["lr"])["lr"]) == {1: 0.1, 2: 0.2}
    client = MlflowClient(study.tracker.uri)
    assert [each.path for each in client.list_artifacts(tracked.children[0].info.run_id)] == ["lr.csv"]


def test_runs_of_the_user_keep_their_place_when_a_study_joins_their_experiment(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(empty_databases() / "mlflow.db", here)
    client = MlflowClient(f"sqlite:///{here}/mlflow.db")
    place = here / "elsewhere" / "mlruns" / "1"
    identifier = client.create_experiment("tiny", artifact_location=str(place))
    run = client.create_run(identifier).info
    study = write_study(here, monkeypatch, (0,))
    assert study.notes == []
    assert client.get_run(run.run_id).info.artifact_uri == run.artifact_uri
    assert len(list(place.glob("*/artifacts/lr.csv"))) == 1


def test_a_study_of_earlier_versions_that_was_moved_can_be_read_without_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before, now = tmp_path / "a", tmp_path / "b"
    before.mkdir()
    shutil.copy(empty_databases() / "mlflow.db", before)
    write_study(before, monkeypatch, (0,))
    make_old(before)
    before.rename(now)
    monkeypatch.chdir(tmp_path)
    content = (now / "mlflow.db").read_bytes()
    tracked = MlflowStudy(f"sqlite:///{now}/mlflow.db", "0123456789abcdef" * 2)
    assert tracked.read("study.yaml")
    assert (now / "mlflow.db").read_bytes() == content


def test_a_study_can_be_continued_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place, elsewhere = tmp_path / "a", tmp_path / "b"
    place.mkdir()
    elsewhere.mkdir()
    shutil.copy(empty_databases() / "mlflow.db", place)
    write_study(place, monkeypatch, (0,))
    monkeypatch.chdir(elsewhere)
    study = Study(StudyFolder(place))
    study.folder.tracking = f"sqlite:///{place}/mlflow.db"
    study.open()
    study.train(1, [("lr", 1, 0.1)])
    assert study.close()
    assert list(elsewhere.iterdir()) == []
    assert len(list(place.glob("mlruns/*/*/artifacts/lr.csv"))) == 2


@pytest.mark.parametrize(
    "name",
    [
        "100%20 a#b;c [ä?] %",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("100%20", "a b", "a#b;c", "%", "ä?", "[b]")),
    ],
)
def test_a_folder_with_special_characters_in_its_name_gets_no_sibling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    folder = tmp_path / name
    folder.mkdir()
    study = write_study(folder, monkeypatch, (0,))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(path.name for path in folder.iterdir()) == ["mlflow.db", "mlruns"]
    assert len(list(folder.glob("mlruns/*/*/artifacts/lr.csv"))) == 1
    assert study.points() == {"lr": [(1, 0.1), (2, 0.2)]}
    assert MlflowStudy(tracking_uri(None), STUDY_ID).champion("tiny") is None  # reads the registry
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_whose_name_is_not_utf_8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)  # noqa: PTH102
    monkeypatch.chdir(os.fsdecode(folder))
    assert "the name of its folder is not UTF-8, which MLflow cannot store" in refused(None)


def test_artifacts_of_a_postgresql_database_are_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: PostgreSQLServer
):
    folder = tmp_path / "100%20"
    folder.mkdir()
    monkeypatch.chdir(folder)
    study = Study(StudyFolder(folder, tracking=server.new_mlflow_database()))
    study.open()
    study.train(0, [("lr", 1, 0.1)])
    assert study.close()
    assert len(list(folder.glob("mlruns/**/lr.csv"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["100%20"]


def test_a_path_that_is_too_long_for_a_database_server_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: PostgreSQLServer
):
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert "characters too long for artifact locations in postgresql://" in refused(server.new_database())
    study = write_study(folder, monkeypatch, (0,))
    assert study.tracker.missing == [], "in a file it is relative, however long"


def test_artifacts_of_a_database_in_a_folder_inside_are_found_after_a_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before, now = tmp_path / "a", tmp_path / "b"
    before.mkdir()
    study = Study(StudyFolder(before))
    for place, number in ((before, 0), (now, 1)):
        monkeypatch.chdir(place)
        study.folder.tracking = "sqlite:///inside/mlflow.db"
        study.open()
        study.train(number, [("lr", 1, 0.1)])
        assert study.close()
        if place is before:
            monkeypatch.chdir(tmp_path)
            before.rename(now)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert len(list(now.glob("mlruns/*/*/artifacts/lr.csv"))) == 2


def test_a_study_says_that_another_store_gets_its_earlier_trials(folder: StudyFolder):
    told = "has no run of this study; its earlier trials will be recorded there as well"
    options = ("--set", "trial.trainer.max_epochs=1")
    assert told not in " ".join(folder.call("--trials", "1", *options).split())
    assert told not in " ".join(folder.call("--trials", "1", *options).split())
    (folder.path / "mlflow.db").rename(folder.path / "before.db")
    assert told in " ".join(folder.call("--trials", "2", *options).split())
    assert folder.mlflow("select value from tags where key = 'tuner.trial' order by 1") == [("0",), ("1",)]
