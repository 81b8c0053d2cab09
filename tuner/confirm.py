"""``python -m tuner.confirm``: the best trials of a study, trained again with fresh seeds."""

import argparse
from collections.abc import Sequence

from tuner.cli import EXIT_CODES, add_options, check_counts, command
from tuner.followup.confirmation import ConfirmationOptions, confirm
from tuner.process import leave

__all__ = ["main"]

EPILOG = f"""\
examples:
  python -m tuner.confirm quickstart                     the five best trials, with ten seeds each
  python -m tuner.confirm quickstart --seeds 20          ten seeds more
  python -m tuner.confirm studies/mine.yaml --top 3      a study by its file

Run the same command again to continue, and to see the result again.

{EXIT_CODES}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Confirm a study and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tuner.confirm",
        description="Train the best trials of a study again with fresh seeds, and say which is really better.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, ConfirmationOptions)
    options = ConfirmationOptions(**vars(parser.parse_args(arguments)))
    return command(lambda: _run(options))


def _run(options: ConfirmationOptions) -> int:
    check_counts({"--top": options.top, "--seeds": options.seeds})
    return confirm(options)


if __name__ == "__main__":
    leave(main())
