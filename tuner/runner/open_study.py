"""A study that this process holds: checks its options, opens the engine and the stores, trains its trials."""

import gc
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tuner import timings
from tuner.errors import BadInputError
from tuner.interrupts import exit_at_once, on_interrupt
from tuner.process import gc_paused
from tuner.runner.options import ExecutionOptions
from tuner.text import pluralize
from tuner.urls import refuse_passwords, storage_url, without_password

if TYPE_CHECKING:
    from rich.console import Console

    from tuner.config.study import StudyConfig
    from tuner.protocol import Engine
    from tuner.reporting.review import Review
    from tuner.runner.coordinator import Coordinator
    from tuner.runner.display import Display, Part
    from tuner.runner.group_size import GroupSize
    from tuner.storage.study_store import StudyStore

__all__ = ["OpenStudy", "Outcome", "Plan", "checked", "checking", "opened", "opened_engine", "status"]

SECONDS_TO_CHECK = 60.0
"""How long a study is checked before a line says that it is; its data may hang."""

Store = TypeVar("Store", bound="StudyStore")


@dataclass(frozen=True)
class Outcome:
    """The end of a run of a study.

    Args:
        name: Name of the study.
        storage: URL of Optuna's database.
        tracking_uri: MLflow's store.
        interrupted: The signal that ended it; 0 if none did.
        is_over: Whether the budget allows no further trial.
        has_result: Whether a trial ran to completion, in this run or before.
        missing: Sentences on which records MLflow lacks, why, and what to do; empty if it has all.
        is_delivered: Whether MLflow has all records that it can store.
        runs_page: Page of the study's runs, relative to the address of an MLflow server.
        best: The values of the best trial and the file of its weights; None if there is none.
    """

    name: str
    storage: str
    tracking_uri: str
    interrupted: int = 0
    is_over: bool = True
    has_result: bool = True
    missing: Sequence[str] = ()
    is_delivered: bool = True
    runs_page: str = ""
    best: tuple[Mapping[str, Any], Path] | None = None

    @property
    def exit_code(self) -> int:
        """Return the exit code of the command."""
        return 128 + self.interrupted if self.interrupted else int(bool(self.missing) or not self.has_result)


class _Interruption:
    """A signal handler: the first signal stops the study cleanly, the second kills its trials, a third exits at once.

    A signal that arrives before the coordinator exists is kept for it.

    Attributes:
        signals: The signals that arrived.
    """

    def __init__(self) -> None:
        self.signals: list[int] = []
        self._stop: Callable[[], None] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Record a signal, and do little else: it may interrupt any statement."""
        if number == signal.SIGHUP and self.signals:  # a shell sends it again when its terminal is closed
            return
        self.signals.append(number)
        if len(self.signals) > (1 if self._stop is None else 2):
            exit_at_once(self.signals[0])
        if self._stop is not None:
            self._stop()

    def stops(self, stop: Callable[[], None]) -> None:
        """Set the function that stops the study cleanly. It is called at once for signals that arrived before."""
        self._stop = stop
        for _ in self.signals:
            stop()


@contextmanager
def opened_engine(options: ExecutionOptions) -> Iterator["Engine"]:
    """Create the engine that the options ask for, and close it afterwards.

    Raises:
        BadInputError: If it is not available.
    """
    refuse_passwords({"--storage": options.storage, "--tracking-uri": options.tracking_uri})

    # Imported here: --help and a wrong option should not wait for torch. The engine's server imports at the same time.
    with gc_paused():
        from tuner.engines import make_engine

        stall_timeout = _seconds("--stall-timeout", options.stall_timeout)
        _checkpoint_every(options)  # before anything starts
        places = options.devices, options.per_device, options.devices_per_trial
        engine = make_engine(options.engine, *places, stall_timeout, options.address)
    try:
        yield engine
    finally:
        engine.close()
        gc.unfreeze()  # what was there when `gc_paused` ended


def _checkpoint_every(options: ExecutionOptions) -> float:
    return _seconds("--checkpoint-every", options.checkpoint_every, may_be_zero=True)


def _seconds(option: str, value: str | float, may_be_zero: bool = False) -> float:
    from tuner.text import parse_duration

    try:
        return parse_duration(value, may_be_zero)
    except ValueError as error:
        raise BadInputError([f"{option}: {error}."]) from None


@dataclass(frozen=True)
class Plan:
    """A checked study, ready to be started or continued.

    Args:
        config: The study.
        storage: URL of Optuna's database.
        uri: MLflow's tracking URI.
        fuse: Number of trials that a slot trains at a time.
        checkpoint_every: Seconds between checkpoints.
        digests: Names and digests of the data sets.
        validation_images: Size of the validation set; None if unknown.
        review: Whether plots, report and the best model go to MLflow.
        begun: Number of trials that exist already.
        retry_failed: Whether failed trials are trained again.
        system_metrics: Whether MLflow records the load of the machine.
        verbose: Whether each epoch is printed.
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
    verbose: bool = False

    @property
    def identity(self) -> Mapping[str, Any]:
        """Return the settings that may not change when the study is continued."""
        return self.config.identity_with(self.digests)


def checked(config: "StudyConfig", engine: "Engine", options: ExecutionOptions) -> Plan:
    """Check, before anything is created, that a study can be run with the options.

    Raises:
        TunerError: If it cannot.
    """
    from tuner.runner.group_size import check_divisible, fuse_of
    from tuner.storage.continuation import as_begun, check_continued
    from tuner.storage.database import Database
    from tuner.tracking.store import tracking_uri

    storage = storage_url(options.storage)
    Database.check(storage, config.name)
    config = as_begun(config, storage)
    fuse = fuse_of(config, options.fuse, engine.slots, config.fewest_trials)
    check_divisible(config, engine.slots)
    uri = tracking_uri(options.tracking_uri, study=config.experiment or config.name, storage=storage)
    digests, validation_images = config.measure_data()
    every = _checkpoint_every(options)
    begun = check_continued(config, storage, config.identity_with(digests))
    return Plan(config, storage, uri, fuse, every, digests, validation_images, begun, verbose=options.verbose)


@contextmanager
def opened(
    plan: Plan, console: "Console", kind: "type[Store]", part: "Part | None" = None
) -> "Iterator[OpenStudy[Store]]":
    """Open a study in Optuna, or create it, for this process alone.

    Args:
        plan: The study.
        console: Shows its progress.
        kind: The class of the study in Optuna.
        part: The budget whose last part its trials are; None if they have their own.

    Raises:
        TunerError: If it is already running, or cannot be continued.
    """
    from tuner.runner.display import Display
    from tuner.storage.definition import save_definition

    display = Display(plan.config, console, plan.verbose, part)
    with kind.open(plan.config, plan.storage, plan.identity, display.note, plan.retry_failed) as store:
        save_definition(plan.config, store.directory)
        store.attributes.set_validation_images(plan.validation_images)
        store.attributes.set_trials()
        store.attributes.set_ended(False)
        yield OpenStudy(plan, store, display, console)


class OpenStudy(Generic[Store]):
    """A study that this process holds.

    Args:
        plan: The study.
        store: The study in Optuna.
        display: Shows its progress.
        console: The display's.

    Attributes:
        inner: The study of its final runs, while they are trained.
    """

    def __init__(self, plan: Plan, store: Store, display: "Display", console: "Console") -> None:
        self.store = store
        self.inner: OpenStudy[Any] | None = None
        self._plan, self._display, self._console = plan, display, console
        self._coordinator: Coordinator | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Stop cleanly: start nothing more, and let running trials finish their epoch; called while it trains."""
        if self.inner is not None:
            self.inner.stop()
        elif self._coordinator is not None and not self._is_stopped:
            self._is_stopped = True
            self._coordinator.stop()

    def train(
        self,
        engine: "Engine",
        on_trial: "Callable[[OpenStudy[Store], int], None] | None" = None,
        afterwards: "Callable[[OpenStudy[Store]], Outcome | None] | None" = None,
    ) -> Outcome:
        """Train its trials and record them, as far as time and signals allow.

        Args:
            engine: Trains the trials; it can be used once.
            on_trial: Called with this study and the number of a trial when the trial is finished and recorded.
            afterwards: Called with this study when it has all its trials, to train further; returns how that ended.

        Raises:
            TunerError: If it cannot go on.
        """
        from tuner.reporting.review import Review

        plan = self._plan
        if not plan.review:
            return self._train(engine, None, on_trial, afterwards)
        with closing(Review(plan.storage, plan.config.name, plan.uri, self.store.directory)) as review:
            return self._train(engine, review, on_trial, afterwards)

    def _train(
        self,
        engine: "Engine",
        review: "Review | None",
        on_trial: "Callable[[OpenStudy[Store], int], None] | None",
        afterwards: "Callable[[OpenStudy[Store]], Outcome | None] | None",
    ) -> Outcome:
        from tuner.reporting.review import state_of
        from tuner.runner.coordinator import Coordinator
        from tuner.runner.environment import CHANGES, environment
        from tuner.tracking.pages import runs_page
        from tuner.tracking.system_metrics import SystemMetrics
        from tuner.tracking.tracker import Tracker

        plan, store, display, config = self._plan, self.store, self._display, self._plan.config
        tags = environment(engine.slots)
        commit = tags.get("commit", "").removesuffix(CHANGES)
        if change := store.attributes.set_sources(commit, config.sources):
            display.note(change)
        timings.phase("MLflow's store")
        interruption = _Interruption()
        with on_interrupt(interruption):
            with (
                status(self._console, "opening MLflow's store"),
                store.database.initialization_lock(),  # MLflow may create its tables as well
                gc_paused(),
            ):
                tracker = Tracker(
                    config, plan.uri, store.identifier, display.note, tags, dict(plan.digests), plan.review
                )
            if plan.begun and tracker.is_new:
                where = without_password(plan.uri)
                display.note(f"{where} has no run of this study; its earlier trials will be recorded there as well")
            if review:
                display.ending = lambda: review.seconds

            def finished(number: int) -> None:
                if review:
                    review.refresh()
                if on_trial:
                    on_trial(self, number)

            is_finished, further = False, None
            try:
                coordinator = Coordinator(config, store, tracker, display, finished, plan.fuse, plan.checkpoint_every)
                self._coordinator = coordinator
                interruption.stops(coordinator.stop)
                if review and not coordinator.is_done:
                    review.prepare(config.trials)
                readings = SystemMetrics(tracker.log_system, display.note) if plan.system_metrics else nullcontext()
                with display, readings:
                    timings.phase("first step")
                    coordinator.run(engine)
                is_finished = coordinator.is_done
                store.attributes.set_ended(is_finished)
                if afterwards and is_finished and not interruption.signals:
                    further = afterwards(self)
                    coordinator.publish()
            finally:
                timings.phase("records for MLflow")
                with status(self._console, f"sending the last {pluralize(tracker.backlog, 'record')} to MLflow"):
                    ending = "FINISHED" if is_finished else "KILLED"
                    is_delivered = tracker.close(ending, is_hurried=lambda: bool(interruption.signals))
                if review:
                    review.end_update()
        timings.phase("plots, report and model")
        winner = _winner(store)
        signals = [*interruption.signals, *([further.interrupted] if further and further.interrupted else [])]
        if review and is_delivered and not signals:
            state = state_of(store.record(), store.comparisons())
            if state != tracker.reviewed:
                with status(self._console, "drawing the plots, writing the report, registering the best model"):
                    notes = review.finish(winner if config.kind.trains else None, state)
                for note in notes:
                    display.note(note)
        return Outcome(
            config.name,
            plan.storage,
            plan.uri,
            interrupted=signals[0] if signals else 0,
            is_over=is_finished,
            has_result=store.has_result,
            missing=[*tracker.missing, *(further.missing if further else ())],
            is_delivered=is_delivered,
            runs_page=runs_page(tracker.experiment_id, tracker.parent_id),
            best=(winner["config"], _weights(winner)) if winner else None,
        )


@contextmanager
def checking(console: "Console", study: str) -> Iterator[None]:
    """Show that a study is being checked, and print a line if it takes a minute."""
    from rich.markup import escape

    from tuner.console import print_line

    text = f"[yellow]note:[/yellow] still checking {escape(str(study))}, for which its data are loaded"
    reminder = threading.Timer(SECONDS_TO_CHECK, print_line, (console, text))
    reminder.daemon = True
    reminder.start()
    try:
        with status(console, f"checking {study}"), gc_paused():
            import lightning_modules  # noqa: F401 -- and Lightning

            yield
    finally:
        reminder.cancel()


def status(console: "Console", text: str) -> AbstractContextManager[Any]:
    """Show a text while something is done; not in a notebook, where rich needs another package for it."""
    from rich.markup import escape

    return nullcontext() if console.is_jupyter else console.status(escape(text))


def _winner(store: "StudyStore") -> dict[str, Any] | None:
    """Return number, values and directory of the best trial."""
    best = store.best
    if best is None:
        return None
    directory = str(store.trial_directory(best.number))
    return {"number": best.number, "config": store.config_of(best).values(), "directory": directory}


def _weights(winner: Mapping[str, Any]) -> Path:
    from tuner.training.results import MODEL_FILE

    return Path(winner["directory"]) / MODEL_FILE
