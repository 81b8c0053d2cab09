"""``lr-tuner league``: schedules, optimizers and averages compared under the same conditions."""

from collections.abc import Sequence

from tuner.cli import RUN_EXIT_CODES, Parser, add_options, add_synonyms, command, make_parser
from tuner.errors import BadInputError
from tuner.followup.league import LeagueOptions, run_leagues
from tuner.process import leave

__all__ = ["main", "parser"]


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "league",
        "Compare schedules, optimizers and averages, each at its best base lr, judged on fresh seeds.",
        {
            "league studies/league/": "every league in the folder",
            "league studies/league/ --dry-run": "the number of runs, and how long they will take",
            "league studies/league/ --set name=fashion --set trial.data.name=fashion_mnist": "",
            "league mine.yaml --shapes 1 --lrs 5 --seeds 20 --target 0.98": "",
        },
        RUN_EXIT_CODES,
        "Run the same command again to continue. The table is written to <name>-league.md, .csv and .png, every "
        "value to <name>-league-trainings.csv, and all of them to MLflow.",
    )
    add_options(made, LeagueOptions)
    add_synonyms(made, "--output", "--to")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run leagues and return the exit code."""
    options = LeagueOptions(**vars(parser().parse_args(arguments)))
    return command(lambda: _run(options), options, continues=True)


def _run(options: LeagueOptions) -> int:
    if not options.output.is_dir():
        raise BadInputError([f"--output: {options.output} is not a folder."])
    files = sorted(options.league.glob("*.yaml")) if options.league.is_dir() else [options.league]
    if not files:
        raise BadInputError([f"{options.league}: contains no study file (*.yaml)."])
    return run_leagues(files, options)


if __name__ == "__main__":
    leave(main())
