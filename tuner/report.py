"""``lr-tuner report``: write studies as one self-contained HTML file, to read or to send."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tuner.cli import Parser, add_stores, command, existing_store, make_parser
from tuner.process import leave
from tuner.urls import refuse_passwords, storage_url

__all__ = ["main", "parser"]


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "report",
        "Write studies as one HTML file: what won, by how much, and why, with all plots.",
        {
            "report quickstart": "into report.html",
            "report first second --output both.html": "two studies, compared",
        },
        {0: "done", 1: "a store cannot be read", 2: "bad input"},
    )
    made.add_argument("names", nargs="+", metavar="NAME", help="name of a study; several are compared")
    add_stores(made)
    made.add_argument("--output", type=Path, metavar="FILE", help="the file to write (default: report.html)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a report and return the exit code."""
    options = parser().parse_args(arguments)
    return command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> int:
    from tuner.reporting.page import write_report

    refuse_passwords({"--storage": options.storage, "--tracking-uri": options.tracking_uri})
    storage = storage_url(options.storage)
    uri = existing_store(options.tracking_uri, storage, options.names)
    path: Path = options.output or Path("report.html")
    write_report(options.names, storage, uri, path)
    print(path)  # noqa: T201
    return 0


if __name__ == "__main__":
    leave(main())
