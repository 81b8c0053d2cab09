"""``python -m tuner.study``: run a study.

Reads the arguments and returns the exit code; the study itself is run by `tuner.runner.run`. Nobody imports it.
"""

import argparse
from collections.abc import Sequence

from tuner.cli import EXIT_CODES, add_engine_options, add_stores, command
from tuner.process import leave
from tuner.runner.run import Options, run

__all__ = ["main"]

EPILOG = f"""\
examples:
  python -m tuner.study                          the quickstart: four schedules on MNIST-5k, about two minutes
  python -m tuner.study studies/mine.yaml        a study of your own
  python -m tuner.study --trials 50              the same study, continued to 50 trials in all
  python -m tuner.study --set trial.trainer.max_epochs=5 --set name=longer
  python -m tuner.study studies/mine.yaml --dry-run

Run the same command again to continue a study that was interrupted or killed; when it has all its trials it says so.
Ctrl-C once ends after the running epochs and keeps them, twice ends at once.

{EXIT_CODES}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study and return the exit code."""
    options = _parse(arguments)
    return command(lambda: run(options).outcome.exit_code)


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
    add_engine_options(parser)
    add_stores(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="PATH=VALUE", help="replace a value of the study file; repeatable"
    )
    parser.add_argument(
        "--review",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="put plots, report and the best model into MLflow (default: yes)",
    )
    parser.add_argument(
        "--system-metrics",
        action="store_true",
        help="record in MLflow how busy CPU, memory, disk, network and GPUs are while the study runs",
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="train the trials again that failed, under the same numbers, once their cause is mended",
    )
    parser.add_argument(
        "--rehearse",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="before the first trial of a study, train each network for a few steps, to find mistakes early "
        "(default: yes)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, train each network for a few steps, and start no trial",
    )
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    leave(main())
