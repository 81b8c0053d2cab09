"""Runs a study, for the commands and for `tuner.Study`: one path from the options to what the stores hold."""

import dataclasses
import gc
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tuner.errors import BadInputError
from tuner.interrupts import end_at_once, on_interrupt
from tuner.process import importing
from tuner.text import counted
from tuner.urls import refuse_passwords, storage_url

if TYPE_CHECKING:
    from rich.console import Console

    from tuner.config.study import StudyConfig
    from tuner.engines import Engine
    from tuner.runner.group_size import GroupSize
    from tuner.storage.study_store import StudyStore
    from tuner.tracking.tracker import Tracker

__all__ = [
    "Ending",
    "Options",
    "Outcome",
    "Place",
    "Plan",
    "carry_out",
    "checked",
    "checking",
    "opened_engine",
    "run",
    "status",
]

Store = TypeVar("Store", bound="StudyStore")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how trials are trained and recorded; ``python -m tuner.study --help`` explains each.

    Args:
        devices: "auto", "cpu", or GPUs such as "0,1".
        per_device: Trials at a time on each GPU, or on the CPU.
        devices_per_trial: GPUs, or processes on the CPU, that train one trial together.
        stall_timeout: Without a sign of life for this time, a training is taken for hung.
        checkpoint_every: A training goes on for this time without a checkpoint.
        fuse: Trials that a slot trains as one model: a number as text, "off" or "auto".
        engine: Where trials are trained.
        address: Address of the Ray cluster.
        storage: URL of Optuna's database; None for OPTUNA_STORAGE, or a file in this folder.
        tracking_uri: MLflow's store; None for MLFLOW_TRACKING_URI, or a file in this folder.
        quiet: Whether nothing is printed.
    """

    devices: str = "auto"
    per_device: int | None = None
    devices_per_trial: int = 1
    stall_timeout: str = "30m"
    checkpoint_every: str = "30s"
    fuse: str = "auto"
    engine: Literal["local", "ray", "inline"] = "local"
    address: str = "auto"
    storage: str | None = None
    tracking_uri: str | None = None
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Options(Place):
    """How a study is run; ``python -m tuner.study --help`` explains each.

    Args:
        study: Study file, or the name of a shipped study.
        trials: Trials in all; None for what the study says.
        timeout: No trial is started after this time; None for what the study says.
        set: ``dotted.path=value`` each, put over what the study file says.
        review: Whether plots, report and the best model are put into MLflow.
        system_metrics: Whether it is recorded how busy the machine is.
        retry_failed: Whether trials that failed are trained again.
        rehearse: Whether each network takes a few steps before the first trial, to find out what is wrong with it.
        dry_run: Whether everything is checked and nothing trained.
    """

    study: str = "quickstart"
    trials: int | None = None
    timeout: str | None = None
    set: Sequence[str] = ()
    review: bool = True
    system_metrics: bool = False
    retry_failed: bool = False
    rehearse: bool = True
    dry_run: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run of a study ended.

    Args:
        interrupted: The signal that ended it; 0 if it came to its own end.
        has_result: Whether a trial was trained to its end, in this run or before.
        delivered: Whether MLflow has all records.
    """

    interrupted: int = 0
    has_result: bool = True
    delivered: bool = True

    @property
    def exit_code(self) -> int:
        """Return the exit code of a command that ended so."""
        return 128 + self.interrupted if self.interrupted else int(not (self.has_result and self.delivered))


@dataclass(frozen=True)
class Ending:
    """What a run of a study has come to.

    Args:
        name: Name of the study.
        storage: URL of Optuna's database.
        tracking_uri: MLflow's store.
        outcome: How it ended.
        best: The values of the best trial and the file of its weights; None if there is none.
    """

    name: str
    storage: str
    tracking_uri: str
    outcome: Outcome = Outcome()
    best: tuple[Mapping[str, Any], Path] | None = None


class _Interruption:
    """Notes the signals that ask for an orderly end. Until there is a coordinator to do it, the first one waits.

    Args:
        signals: Those that came. The second one asks for haste; one more than that ends at once.
    """

    def __init__(self) -> None:
        self.signals: list[int] = []
        self._stop: Callable[[], None] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note a signal, and nothing else: it may have come in the middle of anything."""
        if number == signal.SIGHUP and self.signals:  # a shell sends it again when its terminal is closed
            return
        self.signals.append(number)
        if len(self.signals) > (1 if self._stop is None else 2):
            end_at_once(self.signals[0])
        if self._stop is not None:
            self._stop()

    def stops(self, stop: Callable[[], None]) -> None:
        """Say what ends the study in order; it is done at once if a signal came before."""
        self._stop = stop
        for _ in self.signals:
            stop()


def run(options: Options) -> Ending:
    """Run a study to its end, or as far as time and signals allow.

    Raises:
        TunerError: If the input is bad, the study is already running, or it failed.
    """
    overrides = list(options.set)
    if options.trials is not None:
        overrides.append(f"budget.trials={options.trials}")
    if options.timeout is not None:
        overrides.append(f"budget.timeout={options.timeout}")
    with opened_engine(options) as engine:
        return _with_engine(options, overrides, engine)


def _with_engine(options: Options, overrides: Sequence[str], engine: "Engine") -> Ending:
    from rich.console import Console

    console = Console(quiet=options.quiet)
    with checking(console, options.study):
        from tuner.config.loader import load_study
        from tuner.runner.rehearsal import rehearse
        from tuner.runner.summary import print_line, print_plan, print_summary
        from tuner.storage.study_store import StudyStore
        from tuner.tracking.system_metrics import check_packages
        from tuner.training.run import MODEL_FILE

        config = load_study(options.study, overrides)
        plan = dataclasses.replace(
            checked(config, engine, options),
            review=options.review,
            system_metrics=options.system_metrics,
            retry_failed=options.retry_failed,
        )
        if plan.system_metrics:
            check_packages([slot.device for slot in engine.slots])
        remarks: list[str] = []
        is_needed = options.dry_run or (options.rehearse and not plan.begun)
        rehearsal = rehearse(config, engine, plan.storage, remarks.append) if is_needed else None

    def show_plan() -> None:
        print_plan(console, config, engine.slots, plan.fuse, plan.storage, plan.uri, remarks)

    if options.dry_run and rehearsal:
        show_plan()
        if rehearsal.faults:
            raise BadInputError(rehearsal.faults)
        print_line(console, f"nothing wrong: {rehearsal.described(config, len(engine.slots))}")
        return Ending(config.name, plan.storage, plan.uri)
    best: list[tuple[Mapping[str, Any], Path]] = []

    def conclude(store: "StudyStore", tracker: "Tracker", delivered: bool) -> None:
        print_summary(console, config, store, tracker, delivered)
        if winner := _winner(store):
            best.append((winner["config"], Path(winner["directory"]) / MODEL_FILE))

    outcome = carry_out(plan, engine, console, StudyStore, show_plan, conclude)
    return Ending(config.name, plan.storage, plan.uri, outcome, best[0] if best else None)


@contextmanager
def opened_engine(options: Place) -> Iterator["Engine"]:
    """Make the engine that the options ask for.

    Raises:
        BadInputError: If it cannot be had.
    """
    refuse_passwords({"--storage": options.storage, "--tracking-uri": options.tracking_uri})

    # Imported here: --help and a wrong option should not wait for torch. The engine's server imports at the same time.
    with importing():
        from tuner.engines.slots import make_engine

        stall_timeout = _seconds("--stall-timeout", options.stall_timeout)
        _checkpoint_every(options)  # before anything starts
        places = options.devices, options.per_device, options.devices_per_trial
        engine = make_engine(options.engine, *places, stall_timeout, options.address)
    try:
        yield engine
    finally:
        engine.close()
        gc.unfreeze()  # what was there when `importing` ended


def _checkpoint_every(options: Place) -> float:
    return _seconds("--checkpoint-every", options.checkpoint_every, may_be_zero=True)


def _seconds(option: str, value: str, may_be_zero: bool = False) -> float:
    from tuner.text import parse_duration

    try:
        return parse_duration(value, may_be_zero)
    except ValueError as error:
        raise BadInputError([f"{option}: {error}."]) from None


@dataclass(frozen=True)
class Plan:
    """A study that can be begun or continued, and what it runs with.

    Args:
        config: The study.
        storage: URL of Optuna's database.
        uri: MLflow's tracking URI.
        fuse: How many trials a slot trains at a time.
        checkpoint_every: Seconds that a training goes on without a checkpoint.
        digests: Names and digests of the data sets.
        validation_images: How many images decide, if that is known.
        review: Whether plots, report and the best model go to MLflow.
        begun: How many trials there are already.
        retry_failed: Whether those that failed are trained again.
        system_metrics: Whether it is recorded how busy the machine is.
    """

    config: "StudyConfig"
    storage: str
    uri: str
    fuse: "GroupSize"
    checkpoint_every: float
    digests: Sequence[tuple[str, str]]
    validation_images: int | None
    begun: int
    review: bool = False
    system_metrics: bool = False
    retry_failed: bool = False

    @property
    def identity(self) -> Mapping[str, Any]:
        """Return what may not change when the study is continued."""
        return self.config.identity_with(self.digests)


def checked(config: "StudyConfig", engine: "Engine", options: Place) -> Plan:
    """Find out, before anything is created, whether a study can be run.

    Raises:
        TunerError: If it cannot.
    """
    from tuner.config.search_space import corners
    from tuner.runner.group_size import ONE_BY_ONE, check_divisible, group_size
    from tuner.storage.study_store import check_continued
    from tuner.tracking.store import tracking_uri

    fuse = group_size(options.fuse, engine.slots, config.trials)
    if fuse.most > 1 and not config.can_fuse:
        if options.fuse != "auto":
            raise BadInputError(
                ["--fuse: LightningModules of one's own, and trials whose best epoch counts, are trained one by one."]
            )
        fuse = ONE_BY_ONE
    check_divisible((data.get("batch_size", 0) for data in corners(config.trial["data"])), engine.slots)
    storage = storage_url(options.storage)
    uri = tracking_uri(options.tracking_uri, study=config.experiment or config.name, storage=storage)
    digests, validation_images = config.measure_data()
    every = _checkpoint_every(options)
    begun = check_continued(config, storage, config.identity_with(digests))
    return Plan(config, storage, uri, fuse, every, digests, validation_images, begun)


def carry_out(
    plan: Plan,
    engine: "Engine",
    console: "Console",
    kind: "type[Store]",
    begin: Callable[[], None],
    conclude: Callable[["Store", "Tracker", bool], None],
) -> Outcome:
    """Run a study and return how that ended.

    Args:
        plan: The study.
        engine: Where its trials are trained; it can be used once.
        console: Where what happens is shown.
        kind: The class of the study in Optuna.
        begin: Called when the stores are open, before the first trial.
        conclude: Called at the end, with the study in Optuna and in MLflow, and whether MLflow has taken all records.

    Raises:
        TunerError: If it cannot go on.
    """
    from tuner.config.sources import own_sources
    from tuner.reporting.review import Review
    from tuner.runner.coordinator import Coordinator
    from tuner.runner.display import Display
    from tuner.runner.environment import CHANGES, environment
    from tuner.tracking.system_metrics import SystemMetrics
    from tuner.tracking.tracker import Tracker

    config = plan.config
    display = Display(config, console)
    interruption = _Interruption()
    with kind.open(config, plan.storage, plan.identity, display.note, plan.retry_failed) as store:
        store.keep_definition()
        store.set_validation_images(plan.validation_images)
        tags = environment(engine.slots)
        commit = tags.get("commit", "").removesuffix(CHANGES)
        if change := store.set_sources(commit, own_sources(config.own_modules)):
            display.note(change)
        with on_interrupt(interruption):
            with store.database.alone(), importing():  # MLflow may create its tables as well
                tracker = Tracker(
                    config, plan.uri, store.identifier, display.note, tags, dict(plan.digests), plan.review
                )
            review = Review(plan.storage, config.name, plan.uri, store.directory) if plan.review else None
            refresh = review.refresh if review else lambda: None
            coordinator = Coordinator(config, store, tracker, display, refresh, plan.fuse, plan.checkpoint_every)
            interruption.stops(coordinator.stop)
            readings = SystemMetrics(tracker.log_system, display.note) if plan.system_metrics else nullcontext()
            finished = False
            begin()
            try:
                with display, readings:
                    coordinator.run(engine)
                finished = coordinator.is_done
            finally:
                delivered = tracker.close("FINISHED" if finished else "KILLED")
                if review:
                    review.close()
        state = _state(store)
        if review and delivered and not interruption.signals and state != tracker.reviewed:
            with status(console, "drawing the plots, writing the report, registering the best model"):
                notes = review.finish(_winner(store), state)
            for note in notes:
                display.note(note)
        conclude(store, tracker, delivered)
        return Outcome(interruption.signals[0] if interruption.signals else 0, store.has_result, not tracker.missing)


@contextmanager
def checking(console: "Console", study: str) -> Iterator[None]:
    """Say that a study is being checked, and have the libraries imported for that."""
    with status(console, f"checking {study}"), importing():
        yield


def status(console: "Console", text: str) -> AbstractContextManager[Any]:
    """Say what is being done; a notebook would need another package for it."""
    from rich.markup import escape

    return nullcontext() if console.is_jupyter else console.status(escape(text))


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
    return f"{counted(len(store.finished()), 'trial')}, " + (f"#{tested.trial} tested" if tested else "none tested")
