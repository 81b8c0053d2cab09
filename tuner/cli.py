"""What the commands that train have in common: options, exit codes, and what Ctrl-C does before and after."""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping

from tuner.console import lenient_streams, open_missing_streams
from tuner.errors import BadInputError, TunerError
from tuner.interrupts import end_at_once, on_interrupt
from tuner.runner.run import Place
from tuner.urls import DEFAULT_STORAGE

__all__ = ["EXIT_CODES", "add_engine_options", "add_stores", "check_counts", "command", "place_of"]

MOST = 1000

EXIT_CODES = """\
exit codes:
  0 done     1 the study failed, none of its trials was trained to its end, or MLflow lacks records
  2 bad input     75 the study is already running     129, 130, 143 interrupted
"""


def command(run: Callable[[], int]) -> int:
    """Run a command and return its exit code."""
    open_missing_streams()
    with lenient_streams(), on_interrupt(end_at_once):  # before and after the trials nothing is at stake
        try:
            return run()
        except TunerError as error:
            print(error, file=sys.stderr)  # noqa: T201
            return error.exit_code


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where and how trials are trained."""
    parser.add_argument(
        "--devices",
        default="auto",
        metavar="D",
        help="auto (all GPUs, else the CPU), cpu, or GPUs such as 0,1 (default: %(default)s)",
    )
    parser.add_argument(
        "--per-device",
        type=int,
        metavar="K",
        help="trials at a time on each GPU (default: 1), or on the CPU (default: one for each core)",
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
        help="a training that reports and computes nothing for this time hangs: it is killed, and its trial continues "
        "from its last checkpoint (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint-every",
        default="30s",
        metavar="T",
        help="save a training at the end of an epoch when this time has passed since its last checkpoint; 0s: after "
        "every epoch (default: %(default)s)",
    )
    parser.add_argument(
        "--fuse",
        default="auto",
        metavar="K",
        help="trials that each slot trains at once, as one model: a number, off, or auto (on GPUs the fastest number, "
        "which is measured first; on the CPU off) (default: %(default)s)",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray", "inline"),
        default="local",
        help="local: processes of this machine; ray: all machines of a Ray cluster; inline: this process, for "
        "debugging (default: %(default)s)",
    )
    parser.add_argument(
        "--address",
        default="auto",
        metavar="A",
        help="address of the Ray cluster (default: the one that this machine belongs to, else a new one here)",
    )


def add_stores(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where studies are recorded."""
    parser.add_argument(
        "--storage",
        metavar="URL",
        help=f"Optuna's database, SQLite or PostgreSQL (default: OPTUNA_STORAGE, else {DEFAULT_STORAGE})",
    )
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow's store (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)"
    )


def check_counts(counts: Mapping[str, int]) -> None:
    """Refuse numbers that no study can have.

    Args:
        counts: What options ask for, by option.

    Raises:
        BadInputError: If one is not from 1 to `MOST`.
    """
    wrong = {option: count for option, count in counts.items() if not 1 <= count <= MOST}
    if wrong:
        raise BadInputError([f"{option}: must be from 1 to {MOST} (got {count})." for option, count in wrong.items()])


def place_of(options: argparse.Namespace) -> Place:
    """Return what the options of `add_engine_options` and `add_stores` say."""
    names = {each.name for each in dataclasses.fields(Place)}
    return Place(**{name: value for name, value in vars(options).items() if name in names})
