"""Runs a study, for the command line and for `tuner.Study`: one path from the options to what the stores hold."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from tuner.errors import BadInputError
from tuner.urls import refuse_passwords, storage_url
from tuner.wording import counted

if TYPE_CHECKING:
    from tuner.config import StudyConfig
    from tuner.storage import StudyStore

__all__ = ["INTERRUPTS", "Ending", "Options", "run"]

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a study is run; ``python -m tuner.study --help`` explains each.

    Args:
        study: Study file, or the name of a shipped study.
        trials: Trials in all; None for what the study says.
        timeout: No trial is started after this time; None for what the study says.
        devices: "auto", "cpu", or GPUs such as "0,1".
        per_device: Trials at a time on each GPU, or on the CPU.
        devices_per_trial: GPUs, or processes on the CPU, that train one trial together.
        stall_timeout: Without a sign of life for this time, a training is taken for hung.
        fuse: Trials that a slot trains as one model: a number as text, "off" or "auto".
        engine: Where trials are trained.
        address: Address of the Ray cluster.
        storage: URL of Optuna's database; None for OPTUNA_STORAGE, or a file in this folder.
        tracking_uri: MLflow's store; None for MLFLOW_TRACKING_URI, or a file in this folder.
        set: ``dotted.path=value`` each, put over what the study file says.
        review: Whether plots, report and the best model are put into MLflow.
        system_metrics: Whether it is recorded how busy the machine is.
        dry_run: Whether everything is checked and nothing trained.
        quiet: Whether nothing is printed.
    """

    study: str = "quickstart"
    trials: int | None = None
    timeout: str | None = None
    devices: str = "auto"
    per_device: int | None = None
    devices_per_trial: int = 1
    stall_timeout: str = "30m"
    fuse: str = "auto"
    engine: Literal["local", "ray", "inline"] = "local"
    address: str = "auto"
    storage: str | None = None
    tracking_uri: str | None = None
    set: Sequence[str] = ()
    review: bool = True
    system_metrics: bool = False
    dry_run: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Ending:
    """How a run of a study ended.

    Args:
        name: Name of the study.
        storage: URL of Optuna's database.
        tracking_uri: MLflow's store.
        interrupted: The signal that ended it; 0 if it came to its own end.
        best: The values of the best trial and the file of its weights; None if there is none.
    """

    name: str
    storage: str
    tracking_uri: str
    interrupted: int = 0
    best: tuple[Mapping[str, Any], Path] | None = None

    @property
    def exit_code(self) -> int:
        """Return the exit code of a command that ended so."""
        return 128 + self.interrupted if self.interrupted else 0


@contextmanager
def _interrupted_by(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Have signals ask for an orderly end, and yield those that came. Only the main thread can get any."""
    caught: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        stop()

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, interrupt) for number in INTERRUPTS}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(options: Options) -> Ending:
    """Run a study to its end, or as far as time and signals allow.

    Raises:
        TunerError: If the input is bad, the study is already running, or it failed.
    """
    refuse_passwords({"--storage": options.storage, "--tracking-uri": options.tracking_uri})
    overrides = list(options.set)
    if options.trials is not None:
        overrides.append(f"budget.trials={options.trials}")
    if options.timeout is not None:
        overrides.append(f"budget.timeout={options.timeout}")

    # Imported here: --help and a wrong option should not wait for torch. The engine's server imports at the same time.
    from tuner.durations import parse_duration
    from tuner.engines.slots import make_engine

    try:
        stall_timeout = parse_duration(options.stall_timeout)
    except ValueError as error:
        raise BadInputError([f"--stall-timeout: {error}."]) from None
    engine = make_engine(
        options.engine, options.devices, options.per_device, options.devices_per_trial, stall_timeout, options.address
    )
    try:
        return _with_engine(options, overrides, engine)
    finally:
        engine.close()


def _status(console: "Console", text: str) -> AbstractContextManager[Any]:
    """Say what is being done; a notebook would need another package for it."""
    return nullcontext() if console.is_jupyter else console.status(text)


def _with_engine(options: Options, overrides: Sequence[str], engine: Any) -> Ending:
    from rich.console import Console

    console, storage = Console(quiet=options.quiet), storage_url(options.storage)
    with _status(console, f"checking {options.study}"):
        from tuner.config import load_study
        from tuner.coordinator import Coordinator
        from tuner.environment import environment
        from tuner.grouping import check_divisible, group_size
        from tuner.progress import Display
        from tuner.review import Review
        from tuner.search_space import corners
        from tuner.storage import StudyStore, check_continued
        from tuner.summary import print_plan, print_summary
        from tuner.system_metrics import SystemMetrics, check_packages
        from tuner.tracking import Tracker, tracking_uri
        from tuner.training import MODEL_FILE

        config = load_study(options.study, overrides)
        devices = [slot.device for slot in engine.slots]
        if options.system_metrics:
            check_packages(devices)
        fuse = group_size(options.fuse, engine.slots, config.trials)
        if fuse > 1 and not config.can_fuse:
            fuse = 1
        check_divisible((data.get("batch_size", 0) for data in corners(config.trial["data"])), engine.slots)
        uri = tracking_uri(options.tracking_uri)
        digests, validation_images = _check_data(config)
        identity = {**config.identity, "data digest": " ".join(dict.fromkeys(digest for _, digest in digests))}
        check_continued(config, storage, identity)
    if options.dry_run:
        print_plan(console, config, engine.slots, fuse, storage, uri)
        return Ending(config.name, storage, uri)

    display = Display(config, console)
    with StudyStore.open(config, storage, identity, display.note) as store:
        store.set_validation_images(validation_images)
        tags = environment(engine.slots)
        with store.database.alone():  # MLflow may create its tables as well
            tracker = Tracker(config, uri, store.identifier, display.note, tags, dict(digests), options.review)
        review = Review(storage, config.name, uri, store.directory) if options.review else None
        refresh = review.refresh if review else lambda: None
        coordinator = Coordinator(config, store, tracker, display, refresh, fuse)

        print_plan(console, config, engine.slots, fuse, storage, uri)
        finished = False
        readings = SystemMetrics(tracker.log_system, display.note) if options.system_metrics else nullcontext()
        with _interrupted_by(coordinator.stop) as caught:
            try:
                with display, readings:
                    coordinator.run(engine)
                finished = coordinator.is_done
            finally:
                delivered = tracker.close("FINISHED" if finished else "KILLED")
                if review:
                    review.close()
        state = _state(store)
        if review and delivered and not caught and state != tracker.reviewed:
            with _status(console, "drawing the plots, writing the report, registering the best model"):
                notes = review.finish(_winner(store), state)
            for note in notes:
                display.note(note)
        print_summary(console, config, store, tracker, delivered)
        winner = _winner(store)
    best = (winner["config"], Path(winner["directory"]) / MODEL_FILE) if winner else None
    return Ending(config.name, storage, uri, caught[0] if caught else 0, best)


def _winner(store: "StudyStore") -> dict[str, Any] | None:
    """Return number, values and directory of the best trial."""
    best = store.best
    if best is None:
        return None
    directory = str(store.trial_directory(best.number))
    return {"number": best.number, "config": store.config_of(best).values(), "directory": directory}


def _state(store: "StudyStore") -> str:
    """Return what a study has come to, for comparison with what it had come to."""
    tested = store.tested()
    return f"{counted(len(store.finished()), 'trial')}, " + (f"#{tested[0]} tested" if tested else "none tested")


def _check_data(config: "StudyConfig") -> tuple[list[tuple[str, str]], int | None]:
    """Fetch and load the data before anything is created, and return names and digests, and the validation images."""
    from tuner.search_space import corners

    facts = [(values["name"], config.meter.data(values)) for values in corners(config.trial["data"])]
    validation_images = [fact.validation_images for _, fact in facts if fact.validation_images is not None]
    return [(name, fact.digest) for name, fact in facts], min(validation_images, default=None)
