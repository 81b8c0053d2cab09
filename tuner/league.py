"""``python -m tuner.league``: families of schedules compared under the same conditions."""

import argparse
from collections.abc import Sequence

from tuner.cli import EXIT_CODES, add_options, check_counts, command
from tuner.errors import BadInputError
from tuner.followup.league import League, LeagueOptions
from tuner.process import leave

__all__ = ["main"]

EPILOG = f"""\
examples:
  python -m tuner.league studies/league/                 every league in the folder
  python -m tuner.league studies/league/ --set name=fashion --set trial.data.name=fashion_mnist
  python -m tuner.league mine.yaml --seeds 20 --target 0.98

Run the same command again to continue. The table is written to <name>.md, <name>.csv and <name>.png, and to MLflow.

{EXIT_CODES}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run leagues and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tuner.league",
        description="Compare families of schedules under the same conditions, the best of each with fresh seeds.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, LeagueOptions)
    options = LeagueOptions(**vars(parser.parse_args(arguments)))
    return command(lambda: _run(options))


def _run(options: LeagueOptions) -> int:
    check_counts({"--seeds": options.seeds})
    if not options.to.is_dir():
        raise BadInputError([f"--to: {options.to} is no folder."])
    files = sorted(options.league.glob("*.yaml")) if options.league.is_dir() else [options.league]
    if not files:
        raise BadInputError([f"{options.league}: has no study file (*.yaml)."])
    for file in files:
        if code := League(file, options).run():
            return code
    return 0


if __name__ == "__main__":
    leave(main())
