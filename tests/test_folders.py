"""The folder of a study and its database: owner, permissions and locks."""

import fcntl
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.networks import IRIS
from tests.processes import is_alive
from tuner.config.loader import load_study
from tuner.errors import BadInputError, StudyFailedError, StudyRunningError
from tuner.storage.connection import sqlite_file
from tuner.storage.continuation import check_continued
from tuner.storage.database import Database, state_directory
from tuner.storage.folders import check_folder, check_writable
from tuner.storage.locks import _lock_byte, lock_in_file
from tuner.storage.stored_study import StoredStudy
from tuner.storage.study_store import StudyStore

ANYBODY = 65534  # the user nobody
CONFIG = load_study(str(IRIS))
URL = "sqlite:///optuna.db"


def check(url: str = URL) -> None:
    Database.check(url, CONFIG.name)
    check_continued(CONFIG, url, CONFIG.identity)


def begin(url: str = URL) -> None:
    with StudyStore.open(CONFIG, url, CONFIG.identity, pytest.fail):
        pass


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with space for a study."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Return a file of another user."""
    file = tmp_path / "victim"
    file.write_text("precious")
    return file


# -- the folder --------------------------------------------------------------------------------------------------------

IN_THE_WAY: dict[str, Callable[[Path, Path], object]] = {
    "file": lambda path, victim: path.write_text(""),
    "fifo": lambda path, victim: os.mkfifo(path),
    "link": lambda path, victim: path.symlink_to(victim.parent),
    "dangling": lambda path, victim: path.symlink_to(victim.parent / "nowhere"),
    "foreign": lambda path, victim: (path.mkdir(), os.chown(path, 1234, -1)),
    "open": lambda path, victim: (path.mkdir(), path.chmod(0o777)),
}
MESSAGES = {
    "file": "is not a folder; move it elsewhere.",
    "fifo": "is not a folder; move it elsewhere.",
    "link": "is a symbolic link; a study writes only into its own folder.",
    "dangling": "is a symbolic link; a study writes only into its own folder.",
    "foreign": r"belongs to another user \(uid 1234\); ",
    "open": "can be written by all users",
}


@pytest.mark.parametrize("kind", IN_THE_WAY)
@pytest.mark.parametrize("name", [".tuner", ".tuner/iris"])
def test_a_folder_of_another_user_is_refused_and_unchanged(here: Path, victim: Path, name: str, kind: str):
    if kind == "foreign" and os.geteuid():
        pytest.skip("only root can give a folder away")
    (here / name).parent.mkdir(exist_ok=True)
    IN_THE_WAY[kind](here / name, victim)
    before = files(here.parent)
    for attempt in (check, begin):
        with pytest.raises(BadInputError, match=f"^{here / name}: {MESSAGES[kind]}"):
            attempt()
    assert files(here.parent) == before


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "fifo", "folder"])
@pytest.mark.parametrize("name", [".lock", "iris/lock", "iris/study.yaml", "iris/review.log"])
def test_a_file_that_is_not_the_study_s_is_refused_and_unchanged(here: Path, victim: Path, name: str, kind: str):
    path = here / ".tuner" / name
    (here / ".tuner" / "iris").mkdir(parents=True)
    match kind:
        case "symbolic link":
            path.symlink_to(victim)
        case "hard link":
            path.hardlink_to(victim)
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
    for attempt in (check, begin):
        with pytest.raises(BadInputError, match=f"^{path}: is {'a link' if 'link' in kind else 'not a file'}"):
            attempt()
    assert victim.read_text() == "precious"


def test_a_folder_whose_name_is_not_utf_8_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(BadInputError) as caught:
        check()
    assert (
        str(caught.value)
        == rf"{tmp_path}/caf\udce9/.tuner/iris: the name of a folder is not UTF-8; rename it, or work in another one."
    )
    assert files(folder) == []


@contextmanager
def as_anybody() -> Iterator[None]:
    """Become a user without root's permissions, if the tests are run by root."""
    user = os.geteuid()
    os.seteuid(user or ANYBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def anybody_s() -> Iterator[Path]:
    """Return a folder of that user, which all users can reach."""
    with as_anybody():
        folder = Path(tempfile.mkdtemp(dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_a_study_that_may_only_be_read_is_loaded(anybody_s: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(anybody_s)
    url = f"sqlite:///{anybody_s}/optuna.db"
    with as_anybody():
        with StudyStore.open(CONFIG, url, CONFIG.identity_with(CONFIG.measure_data()[0]), pytest.fail):
            pass
        (anybody_s / "optuna.db").chmod(0o444)
        anybody_s.chmod(0o555)
        assert StoredStudy.load(str(IRIS), url).config.name == CONFIG.name
        with pytest.raises(BadInputError, match="no permission to write"):
            check(url)
        anybody_s.chmod(0o755)


@pytest.mark.parametrize("name", ["", ".tuner", ".tuner/iris"])
def test_a_folder_that_may_not_be_written_is_reported(anybody_s: Path, name: str):
    with as_anybody():
        (anybody_s / name).mkdir(parents=True, exist_ok=True)
        check_folder(anybody_s / ".tuner" / "iris")
        (anybody_s / name).chmod(0o555)
        place = re.escape(str(anybody_s))
        with pytest.raises(BadInputError, match=rf"^cannot write {place}/\.tuner/iris: no permission to write {place}"):
            check_folder(anybody_s / ".tuner" / "iris")
        (anybody_s / name).chmod(0o755)


def test_a_database_that_may_not_be_written_is_reported(anybody_s: Path):
    file = anybody_s / "optuna.db"
    with as_anybody():
        check_writable(file)
        file.touch()
        check_writable(file)
        file.chmod(0o444)
        with pytest.raises(BadInputError, match=f"^cannot write {file}: no permission to write {file}"):
            check_writable(file)
        with pytest.raises(BadInputError, match=rf"^cannot write {file}/x\.db: {file} is not a folder"):
            check_writable(file / "x.db")


# -- the database ------------------------------------------------------------------------------------------------------


def test_every_way_to_write_a_database_is_the_same_file(here: Path):
    (here / "link.db").symlink_to("optuna.db")
    (here.parent / "other way").symlink_to(here)
    for url in (
        URL,
        "sqlite:///./optuna.db",
        "sqlite:///link.db",
        f"sqlite:///{here}/optuna.db",
        "sqlite+pysqlite:///optuna.db?timeout=3",
        f"sqlite:///{here.parent}/other way/optuna.db",
        "sqlite:///file:optuna.db?uri=true",
        f"sqlite:///file:{here}/optuna.db?mode=rwc&uri=true",
        f"sqlite:///file://{here}/optuna.db?uri=true",
        f"sqlite:///file:{here.parent}/other%2520way/optuna.db?uri=true",
    ):
        assert sqlite_file(url) == here / "optuna.db", url
        assert state_directory(url, "iris") == here / ".tuner" / "iris"
    assert sqlite_file("postgresql://tuner@db/optuna") is None
    assert state_directory("postgresql://tuner@db/optuna", "iris") == here / ".tuner" / "iris"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "no other process can see a database in memory"),
        ("sqlite:///:memory:", "no other process can see a database in memory"),
        ("sqlite:///file:x?mode=memory&uri=true", "no other process can see a database in memory"),
        ("sqlite:///folder", "folder is not a file"),
        ("sqlite:///pipe", "pipe is not a file"),
        ("sqlite:///text", "file is not a database"),
        ("sqlite:///text/x.db", "cannot write .*/text/x.db: .*/text is not a folder"),
        ("sqlite:///file:empty?mode=ro&uri=true", "attempt to write a readonly database"),
        ("sqlite:///damaged", "database disk image is malformed"),
    ],
)
def test_a_database_that_cannot_be_used_is_reported_before_anything_is_created(here: Path, url: str, message: str):
    (here / "folder").mkdir()
    os.mkfifo(here / "pipe")
    (here / "text").write_text("this is no database" * 100)
    (here / "empty").touch()
    damage(here / "damaged")
    before = files(here)
    with pytest.raises(BadInputError, match=message):
        check(url)
    assert files(here) == before


def damage(file: Path) -> None:
    """Create a database in which the page of the table of studies is damaged."""
    optuna.create_study(storage=f"sqlite:///{file}", study_name="iris", direction="maximize")
    with closing(sqlite3.connect(file)) as database:
        query = "select rootpage from sqlite_master where name = 'studies'"
        (page,), (size,) = (database.execute(text).fetchone() for text in (query, "pragma page_size"))
    with file.open("r+b") as content:
        content.seek(size * (page - 1))
        content.write(b"\xff" * size)


def begin_on_a_full_disk(pipe: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
    try:
        begin()
    except BadInputError as error:
        pipe.send(str(error))


def test_a_full_disk_at_the_start_is_reported_and_the_next_run_begins(here: Path):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=begin_on_a_full_disk, args=(theirs,))
    process.start()
    theirs.close()
    assert ours.recv() == "storage: cannot reach sqlite:///optuna.db: disk I/O error."
    process.join()
    check()
    begin()


# -- studies of other programs -----------------------------------------------------------------------------------------


def optimize(study: optuna.Study) -> None:
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)


@pytest.mark.parametrize(
    ("directions", "do"),
    [
        (["maximize"], optimize),
        (["maximize"], lambda study: study.enqueue_trial({"x": 1.0})),
        (["maximize"], lambda study: study.set_user_attr("identifier", "0" * 32)),
        (["minimize"], lambda study: None),
        (["maximize", "minimize"], lambda study: None),
    ],
    ids=["finished trials", "a waiting trial", "a part of ours", "another direction", "several objectives"],
)
def test_a_study_of_another_program_is_refused_and_left_as_it_is(
    here: Path, directions: list[str], do: Callable[[optuna.Study], object]
):
    study = optuna.create_study(storage=URL, study_name="iris", directions=directions)
    do(study)
    before = (here / "optuna.db").read_bytes()
    message = (
        r'sqlite:///optuna\.db has a study "iris" that is not the tuner\'s\. Give this one another name \(--set name='
    )
    for attempt in (check, begin):
        with pytest.raises(BadInputError, match=message):
            attempt()
    assert (here / "optuna.db").read_bytes() == before


def test_a_study_without_trials_is_taken_over(here: Path):
    """A run that is killed just after it has created the study leaves such a study."""
    optuna.create_study(storage=URL, study_name="iris", direction="maximize")
    check()
    begin()
    check()


# -- one coordinator ---------------------------------------------------------------------------------------------------


def hold(url: str, pipe: Any) -> None:
    with Database(url, "iris", print).hold():
        pipe.send("it is held")
        time.sleep(1000)


@pytest.fixture
def other(here: Path) -> Iterator[int]:
    """Return another process, which has locked the study."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(URL, theirs))
    process.start()
    ours.recv()
    yield process.pid
    process.kill()
    process.join()


@pytest.mark.parametrize("way", ["removed folder", "hard link", "copied folder", "renamed folder"])
def test_a_second_coordinator_is_refused_by_any_path_and_after_the_folder_is_removed(other: int, here: Path, way: str):
    url = URL
    match way:
        case "removed folder":
            shutil.rmtree(here / ".tuner")
        case "hard link":
            (here / "elsewhere").mkdir()
            (here / "elsewhere" / "other.db").hardlink_to(here / "optuna.db")
            url = "sqlite:///elsewhere/other.db"
        case "copied folder":
            shutil.copytree(here / ".tuner", here / "copy")
            shutil.rmtree(here / ".tuner")
            (here / "copy").rename(here / ".tuner")
        case "renamed folder":
            (here / ".tuner").rename(here / "renamed")
    with pytest.raises(StudyRunningError, match='study "iris" is already being run by another process'), held(url):
        pass
    with Database(url, "another", pytest.fail).hold():
        pass


def held(url: str) -> AbstractContextManager[None]:
    return Database(url, "iris", pytest.fail).hold()


def test_the_first_coordinator_is_named_for_any_url_of_its_database(other: int, here: Path):
    (here.parent / "link").symlink_to(here)
    for url in (URL, f"sqlite:///{here}/optuna.db", "sqlite:///file:optuna.db?uri=true", "sqlite:///../link/optuna.db"):
        with pytest.raises(StudyRunningError, match=f"by pid {other} on host"), held(url):
            pass


def test_a_study_is_free_when_the_process_that_held_it_is_killed(other: int):
    os.kill(other, signal.SIGKILL)
    while is_alive(other):
        time.sleep(0.01)
    with held(URL):
        pass


def test_two_names_never_share_a_lock_in_the_database(here: Path):
    begin()
    with lock_in_file(here / "optuna.db", "plumless"), (here / "optuna.db").open("r+b") as again:
        _lock_byte(again.fileno(), "buckeroo", fcntl.F_WRLCK)  # of the same CRC-32
        with pytest.raises(BlockingIOError):
            _lock_byte(again.fileno(), "plumless", fcntl.F_WRLCK)


@pytest.mark.parametrize("what", [".tuner", ".tuner/iris/lock", "optuna.db"])
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_coordinator_whose_folder_or_database_is_taken_away_ends(here: Path, what: str, how: str):
    database = Database(URL, "iris", pytest.fail)
    with database.hold():
        assert database.retry_while_unavailable(database.storage.get_all_studies) == []
        (here / what).rename(here / "away")
        if how == "replaced":
            (shutil.copytree if (here / "away").is_dir() else shutil.copy)(here / "away", here / what)
        with pytest.raises(
            StudyFailedError, match="was removed or replaced while the study ran; run the command again"
        ):
            database.retry_while_unavailable(database.storage.get_all_studies)
