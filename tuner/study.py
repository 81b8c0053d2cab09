"""``python -m tuner.study``: run a study.

Reads the arguments, loads and checks the study, opens its stores, coordinates, prints the result. Nobody imports it.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any

from tuner.errors import BadInputError, TunerError
from tuner.urls import DEFAULT_STORAGE, refuse_passwords, storage_url
from tuner.wording import counted

if TYPE_CHECKING:
    from tuner.config import StudyConfig
    from tuner.storage import StudyStore

__all__ = ["main"]

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = b"\x1b[?25h\n"  # the status line hides it

EPILOG = """\
examples:
  python -m tuner.study                          the quickstart: three schedules on MNIST-5k, about two minutes
  python -m tuner.study studies/mine.yaml        a study of your own
  python -m tuner.study --trials 50              the same study, continued to 50 trials in all
  python -m tuner.study --set trial.trainer.max_epochs=5 --set name=longer
  python -m tuner.study studies/mine.yaml --dry-run

Run the same command again to continue a study that was interrupted or killed; when it has all its trials it says so.
Ctrl-C once ends after the running epochs and keeps them, twice ends at once.

exit codes:
  0 done   1 the study failed   2 bad input   75 the study is already running   130, 143 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study and return the exit code."""
    options = _parse(arguments)
    before = {number: signal.signal(number, _leave) for number in INTERRUPTS}
    try:
        return _run(options)
    except TunerError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    """End at once, as is right before and after the trials: nothing is at stake, and the engine's server follows.

    An exception could be lost: some libraries catch all of them while they are imported.
    """
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), SHOW_CURSOR)
    os._exit(128 + number)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tuner.study",
        description="Search learning-rate schedules: Optuna proposes, Lightning trains, MLflow records.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "study",
        nargs="?",
        default="quickstart",
        help="study file, or the name of a shipped study (default: quickstart)",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="trials in all, those of earlier runs included")
    parser.add_argument("--timeout", metavar="T", help="start no trial after this time: 90s, 30m, 2h, 1h30m")
    parser.add_argument(
        "--devices", default="auto", metavar="D", help="auto (all GPUs, else the CPU), cpu, or GPUs such as 0,1"
    )
    parser.add_argument(
        "--per-device",
        type=int,
        metavar="K",
        help="trials at a time on each GPU (default 1), or on the CPU (a core each)",
    )
    parser.add_argument(
        "--devices-per-trial",
        type=int,
        default=1,
        metavar="N",
        help="GPUs, or processes on the CPU, that train one trial together and divide its batches (default: 1)",
    )
    parser.add_argument(
        "--stall-timeout",
        default="30m",
        metavar="T",
        help="take a training for hung that gives no sign of life for this time: it is killed, and its trial goes on "
        "from its last checkpoint (default: %(default)s)",
    )
    parser.add_argument(
        "--fuse",
        default="auto",
        metavar="K",
        help="trials that a slot trains at once, as one model: a number, off, or auto (on GPUs up to 32, else off)",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray", "inline"),
        default="local",
        help="local uses this machine (the default), ray all machines of a Ray cluster; inline trains in this very "
        "process, for debugging",
    )
    parser.add_argument(
        "--address",
        default="auto",
        metavar="A",
        help="address of the Ray cluster (default: the one that this machine belongs to, else a new one on it)",
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help=f"Optuna's database, SQLite or PostgreSQL (default: OPTUNA_STORAGE, else {DEFAULT_STORAGE})",
    )
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow's store (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="put a value over the study file's; repeatable"
    )
    parser.add_argument(
        "--review",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="plots, report and the best model in MLflow (default: yes)",
    )
    parser.add_argument(
        "--system-metrics",
        action="store_true",
        help="record in MLflow how busy CPU, memory, disk, network and GPUs are while the study runs",
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, train nothing")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> int:
    refuse_passwords({"--storage": options.storage, "--tracking-uri": options.tracking_uri})
    options.storage = storage_url(options.storage)
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


def _with_engine(options: argparse.Namespace, overrides: Sequence[str], engine: Any) -> int:
    from rich.console import Console

    console = Console()
    with console.status(f"checking {options.study}"):
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

        config = load_study(options.study, overrides)
        devices = [slot.device for slot in engine.slots]
        if options.system_metrics:
            check_packages(devices)
        fuse = group_size(options.fuse, engine.slots, config.trials)
        check_divisible((data.get("batch_size", 0) for data in corners(config.trial["data"])), engine.slots)
        uri = tracking_uri(options.tracking_uri)
        digests, validation_images = _check_data(config)
        identity = {**config.identity, "data digest": " ".join(dict.fromkeys(digest for _, digest in digests))}
        check_continued(config, options.storage, identity)
    if options.dry_run:
        print_plan(console, config, engine.slots, fuse, options.storage, uri)
        return 0

    caught: list[int] = []
    display = Display(config, console)
    with StudyStore.open(config, options.storage, identity, display.note) as store:
        store.set_validation_images(validation_images)
        tags = environment(engine.slots)
        with store.database.alone():  # MLflow may create its tables as well
            tracker = Tracker(config, uri, store.identifier, display.note, tags, dict(digests), options.review)
        review = Review(options.storage, config.name, uri, store.directory) if options.review else None
        refresh = review.refresh if review else lambda: None
        coordinator = Coordinator(config, store, tracker, display, refresh, fuse)

        def interrupt(number: int, frame: FrameType | None) -> None:
            caught.append(number)
            coordinator.stop()

        print_plan(console, config, engine.slots, fuse, options.storage, uri)
        for number in INTERRUPTS:
            signal.signal(number, interrupt)
        finished = False
        readings = SystemMetrics(tracker.log_system, display.note) if options.system_metrics else nullcontext()
        try:
            with display, readings:
                coordinator.run(engine)
            finished = coordinator.is_done
        finally:
            delivered = tracker.close("FINISHED" if finished else "KILLED")
            if review:
                review.close()
            for number in INTERRUPTS:
                signal.signal(number, _leave)
        state = _state(store)
        if review and delivered and not caught and state != tracker.reviewed:
            with console.status("drawing the plots, writing the report, registering the best model"):
                notes = review.finish(_winner(store), state)
            for note in notes:
                display.note(note)
        print_summary(console, config, store, tracker, delivered)
    return 128 + caught[0] if caught else 0


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


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.exit(code)
