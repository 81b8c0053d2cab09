"""Real studies for the tests: started by their commands, and checked in the stores that they write."""

import atexit
import contextlib
import fcntl
import functools
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import optuna
import pytest
import sqlalchemy
import torch
import yaml
from mlflow import MlflowClient

from tests.launcher import Command, Started
from tests.study_texts import USERS_OWN
from tuner.confirm import main as confirm
from tuner.study import main

if TYPE_CHECKING:
    from types import FunctionType

    from tests.servers import PostgreSQLServer

TINY = Path(__file__).parent / "tiny.yaml"
EVERY_CHECKPOINT = ("--checkpoint-every", "0s")
INLINE = ("--engine", "inline", "--per-device", "2")
EPOCHS, STEPS = 3, 27  # of the tiny study: 90 rows in batches of 10
DIGITS = Path(__file__).parent / "digits.yaml"
DIGITS_STEPS = 120  # 4,000 images in batches of 100
OF_DIGITS = ("--set", "name=tiny", "--set", "trial.trainer.precision=32-true")


def with_defaults(arguments: Sequence[str]) -> list[str]:
    """Return arguments that ask for every checkpoint, and for nothing that takes seconds, unless they ask for it.

    These are the plots, the registered model and the rehearsal.
    """
    slow = [f"--no-{each}" for each in ("review", "rehearse") if f"--{each}" not in arguments]
    return [*slow, *EVERY_CHECKPOINT, *arguments]


@functools.cache
def empty_databases() -> Path:
    """Return a folder with both databases before their first study: their tables take longer than a training."""
    folder = Path(tempfile.mkdtemp(prefix="empty-databases-"))
    atexit.register(shutil.rmtree, folder)
    optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db").engine.dispose()
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder


@contextlib.contextmanager
def modules_forgotten(folder: Path) -> Iterator[None]:
    """Forget the modules of a folder that are imported meanwhile, as a process does that ends."""
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in sys.modules.keys() - before:
            file = vars(sys.modules[name]).get("__file__") if sys.modules[name] else None  # without a lazy import
            if file and file.startswith(f"{folder}/"):
                del sys.modules[name]


LIGHTNING_ARGUMENTS = (
    "--trainer.accelerator=cpu",
    "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_checkpointing=false",
)


def fit_by_lightning_cli(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a configuration of Lightning into best.yaml in the working folder, and train by it."""
    from lightning_modules.__main__ import main as lightning_cli

    Path("best.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr("sys.argv", ["lightning_modules"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    lightning_cli(["fit", "--config", "best.yaml", *LIGHTNING_ARGUMENTS])


@contextlib.contextmanager
def as_a_process(folder: Path) -> Iterator[io.StringIO]:
    """Yield the output of a command that is called in this process, as `python -m` would run it in a folder."""
    output = io.StringIO()
    sys.path.insert(0, str(folder))
    try:
        with (
            modules_forgotten(folder),
            contextlib.chdir(folder),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            yield output
    finally:
        sys.path.remove(str(folder))


@dataclass
class StudyFolder:
    """A folder that `python -m tuner.study` is run in.

    Args:
        path: The folder.
        storage: URL of Optuna's database, if it does not lie in the folder.
        tracking: URL of MLflow's, which does so too, or of a server whose database does.
        is_new: Whether its studies are started without a process that has imported the libraries.
        has_databases: Whether the databases are there, empty, before the first study.
    """

    path: Path
    storage: str = ""
    tracking: str = ""
    is_new: bool = False
    has_databases: bool = True
    started: list[Started] = field(default_factory=list)

    def prepare(self) -> None:
        """Put empty databases into the folder, where the study would create them."""
        names = ("optuna.db", "mlflow.db")
        if self.has_databases and not self.storage and not any((self.path / name).exists() for name in names):
            shutil.copytree(empty_databases(), self.path, dirs_exist_ok=True)

    def start(
        self, *arguments: str, study: str | Path = TINY, module: str = "tuner.study", output: int | None = None
    ) -> Started:
        """Start a study, or another command, in a new session, so that all of its processes can be signaled.

        Args:
            arguments: Its options.
            study: The study file.
            module: The module of the command.
            output: File descriptor that its output goes to, unless the command is new; None for `stdout`.
        """
        self.prepare()
        runs_study = module == "tuner.study" or not module.startswith("tuner.")  # or a module of a test that runs it
        options = [str(study), *(with_defaults(arguments) if runs_study else arguments)]
        places = {"OPTUNA_STORAGE": self.storage, "MLFLOW_TRACKING_URI": self.tracking}
        environment = os.environ | {name: url for name, url in places.items() if url}
        if self.is_new:
            process: Started = subprocess.Popen(
                [sys.executable, "-m", module, *options],
                cwd=self.path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        else:
            process = Command(module, options, self.path, environment, output)
        self.started.append(process)
        return process

    def run(self, *arguments: str, study: str | Path = TINY, expect: int = 0) -> str:
        """Run a study to its end and return its output."""
        process = self.start(*arguments, study=study)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == expect, output
        return output

    def call(self, *arguments: str, study: str | Path = TINY, expect: int = 0) -> str:
        """Run a study in this process, which has the imports already, and return its output."""
        if expect != 2 and "--dry-run" not in arguments:
            self.prepare()
        places = {"--storage": self.storage, "--tracking-uri": self.tracking}
        elsewhere = [part for place in places.items() if place[1] for part in place]
        with as_a_process(self.path) as output:
            code = main([str(study), *INLINE, *elsewhere, *with_defaults(arguments)])
        assert code == expect, output.getvalue()
        return output.getvalue()

    def command(self, command: Callable[[list[str]], int], *arguments: str, expect: int = 0) -> str:
        """Run another command in this process, in the folder, and return its output."""
        stores = ["--storage", f"sqlite:///{self.path}/optuna.db", "--tracking-uri", f"sqlite:///{self.path}/mlflow.db"]
        with as_a_process(self.path) as output:
            code = command([*arguments, *stores])
        assert code == expect, output.getvalue()
        return output.getvalue()

    def directory(self, name: str = "tiny") -> Path:
        return self.path / ".tuner" / name

    def optuna(self, query: str) -> list[tuple]:
        return self._query(self.storage or f"sqlite:///file:{self.path}/optuna.db?mode=ro&uri=true", query)

    def mlflow(self, query: str) -> list[tuple]:
        elsewhere = "" if self.tracking.startswith("http") else self.tracking
        return self._query(elsewhere or f"sqlite:///file:{self.path}/mlflow.db?mode=ro&uri=true", query)

    def _query(self, url: str, query: str) -> list[tuple]:
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sqlalchemy.text(query))]

    def values(self) -> list[tuple]:
        """Return the final value and parameters of every trial."""
        return self.optuna(
            "select number, value from trials join trial_values using (trial_id) order by number"
        ) + self.optuna(
            "select number, param_name, param_value from trials join trial_params using (trial_id) order by 1, 2"
        )

    def curves(self) -> list[tuple]:
        """Return every point of every trial's run."""
        return self.mlflow(
            "select tags.value, metrics.key, step, metrics.value from metrics join tags using (run_uuid) "
            "where tags.key = 'tuner.trial' order by cast(tags.value as int), metrics.key, step, metrics.value"
        )

    def described(self) -> list[tuple]:
        """Return parameters and data of every trial's run."""
        return self.mlflow(
            "select tags.value, params.key, params.value from params join tags using (run_uuid) "
            "where tags.key = 'tuner.trial' order by 1, 2"
        ) + self.mlflow(
            "select tags.value, datasets.name, datasets.digest from inputs join tags on destination_id = run_uuid "
            "join datasets on source_id = dataset_uuid where tags.key = 'tuner.trial' order by 1, 2"
        )

    def standing(self) -> list[tuple]:
        """Return every point of the study's run."""
        return self.mlflow(
            "select metrics.key, step, metrics.value from metrics join tags using (run_uuid) "
            "where tags.key = 'tuner.study_id' order by metrics.key, step"
        )

    def weights(self) -> bytes:
        """Return the bytes of the winner's weights."""
        (path,) = self.path.glob(".tuner/*/trials-*/*/model.ckpt")
        state = torch.load(path, weights_only=True)["state_dict"]
        return b"".join(tensor.numpy().tobytes() for tensor in state.values())

    def check(self, trials: int, epochs: int, steps: int) -> None:
        """Check the invariants of every finished study, however often it was disturbed."""
        numbers = [number for (number,) in self.optuna("select number from trials order by number")]
        assert numbers == list(range(trials)), "exactly the requested trials"
        assert {state for (state,) in self.optuna("select state from trials")} == {"COMPLETE"}
        runs = self.mlflow("select value, status from runs join tags using (run_uuid) where key = 'tuner.trial'")
        assert sorted(runs) == sorted((str(number), "FINISHED") for number in numbers), "one run a trial, all closed"
        assert self.mlflow("select status from runs join tags using (run_uuid) where key = 'tuner.study_id'") == [
            ("FINISHED",)
        ]
        points = Counter((trial, key) for trial, key, _, _ in self.curves())
        unique = Counter((trial, key) for trial, key, _ in {point[:3] for point in self.curves()})
        assert points == unique, "one point a run, metric and step"
        of_study = [point[:2] for point in self.standing()]
        assert len(of_study) == len(set(of_study)), "one point a metric and step of the study's run"
        assert [step for key, step, _ in self.standing() if key == "trials_done"] == list(range(1, trials + 1))
        for number in numbers:
            assert points[str(number), "lr"] == steps
            for key in ("train/acc", "train/loss", "val/acc", "val/loss"):
                assert points[str(number), key] == epochs

    def wait_for(self, what: Callable[[], object], process: Started, seconds: float = 180) -> None:
        """Wait until something is true while a study runs."""
        deadline = time.monotonic() + seconds
        while not what():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    def has_checkpoint(self) -> bool:
        return any(self.path.glob(".tuner/*/trials-*/*/epoch-*.ckpt"))

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.stdout:
                process.stdout.close()


@pytest.fixture(autouse=True)
def _process_restored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Restore the state of the process that a test changed: its modules, environment variables, working directory.

    Each begins with one thread, whatever number a study had that was trained in this process before.
    """
    torch.set_num_threads(1)
    places, here, variables = list(sys.path), Path.cwd(), dict(os.environ)
    with modules_forgotten(tmp_path_factory.getbasetemp()):
        yield
    sys.path[:] = places
    os.chdir(here)
    for name in os.environ.keys() - variables.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update(variables)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StudyFolder]:
    """Return an empty folder to run studies in."""
    folder = StudyFolder(tmp_path)
    yield folder
    folder.close()


Build = Callable[[StudyFolder], str]


@contextlib.contextmanager
def built_once(name: str, build: Build, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFolder]:
    """Yield a folder in which studies were run once for all processes of pytest-xdist; `output` is what they printed.

    Each process has a copy of its own.

    Raises:
        ValueError: If something else was built under the same name.
    """
    code = cast("FunctionType", build).__code__
    origin = f"{code.co_filename}:{code.co_firstlineno}\n"
    here = tmp_path_factory.getbasetemp()
    common = here.parent if "PYTEST_XDIST_WORKER" in os.environ else here
    place, output = common / f"built-{name}", common / f"built-{name}.txt"
    with (common / f"built-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not output.exists():  # it is written last
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            with contextlib.closing(StudyFolder(place)) as folder:
                output.write_text(origin + build(folder))
        other, _, printed = output.read_text().partition("\n")
        if f"{other}\n" != origin:
            raise ValueError(f"{name} is the name of what {other} has built")
    copy = StudyFolder(shutil.copytree(place, here / name, symlinks=True))
    copy.output = printed  # type: ignore[attr-defined]
    with contextlib.closing(copy):
        yield copy


@pytest.fixture(scope="session")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFolder]:
    """Return a folder in which a study of images, named tiny, was run with plots, report and registered model."""
    options = ("--review", "--per-device", "2", *OF_DIGITS)
    with built_once("reviewed", lambda folder: folder.run(*options, study=DIGITS), tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFolder]:
    """Return a folder in which the tiny study was run without a disturbance."""
    with built_once("undisturbed", lambda folder: folder.run("--per-device", "2"), tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFolder]:
    """Return a folder in which two trials of the tiny study were run from beginning to end."""
    with built_once("two", lambda folder: folder.call("--trials", "2"), tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="session")
def server() -> Iterator["PostgreSQLServer"]:
    """Return a PostgreSQL server; who stops it starts it again."""
    from tests.servers import PostgreSQLServer  # which imports this module

    server = PostgreSQLServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFolder]:
    """Return a folder in which a study of three short trials was run."""
    values = (
        "name=short",
        "trial.trainer.max_epochs=2",
        "trial.trainer.precision=64-true",
        "trial.data.train_size=80",
        "trial.model.dropout=0.2",
    )
    options = ("--trials", "3", *(part for each in values for part in ("--set", each)))
    with built_once("short", lambda folder: folder.call(*options), tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="session")
def confirmed(short: StudyFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyFolder]:
    """Return a copy of `short` in which its best trial was confirmed with two seeds."""

    def build(folder: StudyFolder) -> str:
        shutil.copytree(short.path, folder.path, dirs_exist_ok=True)
        return folder.command(confirm, "short", "--top", "1", "--seeds", "2", *INLINE)

    with built_once("confirmed", build, tmp_path_factory) as folder:
        yield folder


@pytest.fixture
def folder_of_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder with the files that the texts of `study_texts` name, and work in it."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "users_classes.py").write_text(USERS_OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
