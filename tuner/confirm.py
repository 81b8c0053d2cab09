"""``lr-tuner confirm``: the best trials of a study, retrained with fresh seeds."""

from collections.abc import Sequence

from tuner.cli import RUN_EXIT_CODES, Parser, add_options, command, make_parser
from tuner.followup.confirmation import ConfirmationOptions, confirm
from tuner.process import leave

__all__ = ["main", "parser"]


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "confirm",
        "Retrain the best trials of a study with fresh seeds, and report which is really better.",
        {
            "confirm quickstart": "the five best trials, with ten seeds each",
            "confirm quickstart --seeds 20": "ten more seeds",
            "confirm quickstart --dry-run": "the number of runs, and how long they will take",
            "confirm studies/mine.yaml --top 3": "a study given by its file",
            "confirm quickstart --epochs 40 --lrs 0.5 1 2 --seeds 3": "its winners in longer runs, with other lrs",
        },
        RUN_EXIT_CODES,
        "Run the same command again to continue, or to see the result again.",
    )
    add_options(made, ConfirmationOptions)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Confirm a study and return the exit code."""
    options = ConfirmationOptions(**vars(parser().parse_args(arguments)))
    return command(lambda: confirm(options), options, continues=True)


if __name__ == "__main__":
    leave(main())
