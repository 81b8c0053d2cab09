"""``lr-tuner list``: the studies of a database, their progress, and the best of each."""

import argparse
from collections.abc import Sequence

from tuner.cli import Parser, add_storage, command, make_parser
from tuner.process import leave
from tuner.text import format_metric
from tuner.urls import refuse_passwords, storage_url, without_password

__all__ = ["main", "parser"]


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "list",
        "List the studies of Optuna's database: the progress of each, and its best trial.",
        {
            "list": "the studies of this folder",
            "list --storage postgresql://tuner@db/optuna": "the studies on a server",
        },
        {0: "done, even if there is no study", 2: "bad input"},
    )
    add_storage(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the studies and return the exit code."""
    options = parser().parse_args(arguments)
    return command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> int:
    refuse_passwords({"--storage": options.storage})

    from rich.console import Console

    from tuner.runner.summary import print_table
    from tuner.storage.inventory import listed_studies

    storage = storage_url(options.storage)
    studies = listed_studies(storage)
    if not studies:
        print(f"no study in {without_password(storage)}")  # noqa: T201
        return 0
    counts = [str(each.finished) if each.asked is None else f"{each.finished}/{each.asked}" for each in studies]
    trials = [
        f"{count} + {each.begun} begun" if each.begun else count for count, each in zip(counts, studies, strict=True)
    ]
    best = [each.best or ("", None) for each in studies]
    print_table(
        Console(),
        ("study", 0, [each.name for each in studies]),
        ("state", 2, [each.state for each in studies]),
        ("trials", 1, trials),
        ("value", 0, [format_metric(value) for _, value in best]),
        ("best", 3, [name for name, _ in best]),
    )
    return 0


if __name__ == "__main__":
    leave(main())
