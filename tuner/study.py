"""``python -m tuner.study``: run a study.

Reads the arguments and returns the exit code; the study itself is run by `tuner.running`. Nobody imports it.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from tuner.errors import TunerError
from tuner.running import INTERRUPTS, Options, run
from tuner.urls import DEFAULT_STORAGE

__all__ = ["main"]

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
        return run(options).exit_code
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


def _parse(arguments: Sequence[str] | None) -> Options:
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
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.exit(code)
