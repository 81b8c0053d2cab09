"""``lr-tuner list``: the studies of a database, how far they are, and the best of each."""

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
        "List the studies of Optuna's database: how far each is, and its best trial.",
        {
            "list": "the studies of this folder",
            "list --storage postgresql://tuner@db/optuna": "those of a server",
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
    from rich.markup import escape
    from rich.table import Table

    from tuner.console import printable
    from tuner.storage.inventory import listed_studies

    storage = storage_url(options.storage)
    studies = listed_studies(storage)
    if not studies:
        print(f"no study in {without_password(storage)}")  # noqa: T201
        return 0
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("study", "state", "trials", "best", "value"):
        table.add_column(column, overflow="fold", no_wrap=column in ("trials", "value"))
    for study in studies:
        trials = str(study.finished) if study.asked is None else f"{study.finished}/{study.asked}"
        best, value = study.best or ("", None)
        row = (study.name, study.state, trials, best, format_metric(value))
        table.add_row(*(escape(printable(cell)) for cell in row))
    Console().print(table, highlight=False)
    return 0


if __name__ == "__main__":
    leave(main())
