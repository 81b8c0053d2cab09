"""``lr-tuner study``: run a study.

Reads the arguments and returns the exit code; the study itself is run by `tuner.runner.run`. No module imports it.
"""

from collections.abc import Sequence

from tuner.cli import RUN_EXIT_CODES, Parser, add_options, command, make_parser
from tuner.process import leave
from tuner.runner.options import StudyOptions
from tuner.runner.run import run

__all__ = ["main", "parser"]


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "study",
        "Search learning-rate schedules: Optuna proposes, Lightning trains, MLflow records.",
        {
            "study": "the quickstart: seven schedules on MNIST-5k, two to nine minutes",
            "study studies/mine.yaml": "your own study",
            "study --set budget.epochs=400": "the same study, continued to 400 epochs in total",
            "study --set trial.data.batch_size=100 --set name=batches": "",
            "study studies/mine.yaml --dry-run": "checks everything, trains each network for a few steps only",
        },
        RUN_EXIT_CODES,
        "Run the same command again to continue a study that was interrupted or killed.\n"
        "Press Ctrl-C once to stop after the current epochs and keep them, twice to stop immediately.",
    )
    add_options(made, StudyOptions)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study and return the exit code."""
    options = StudyOptions(**vars(parser().parse_args(arguments)))
    return command(lambda: run(options).exit_code, options, continues=True)


if __name__ == "__main__":
    leave(main())
