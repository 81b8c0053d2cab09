"""``python -m tuner.study``: run a study.

Reads the arguments and returns the exit code; the study itself is run by `tuner.runner.run`. Nobody imports it.
"""

import argparse
from collections.abc import Sequence

from tuner.cli import EXIT_CODES, add_options, command
from tuner.process import leave
from tuner.runner.options import StudyOptions
from tuner.runner.run import run

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
    parser = argparse.ArgumentParser(
        prog="python -m tuner.study",
        description="Search learning-rate schedules: Optuna proposes, Lightning trains, MLflow records.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, StudyOptions)
    options = StudyOptions(**vars(parser.parse_args(arguments)))
    return command(lambda: run(options).exit_code)


if __name__ == "__main__":
    leave(main())
