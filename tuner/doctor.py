"""``lr-tuner doctor``: report what is installed and usable, to be pasted into a bug report."""

import argparse
from collections.abc import Sequence

from tuner.cli import Parser, add_stores, command, make_parser
from tuner.process import leave
from tuner.urls import refuse_passwords

__all__ = ["main", "parser"]


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "doctor",
        "Report which versions are installed, and which devices, stores and folders are usable.",
        {
            "doctor": "this folder",
            "doctor --storage postgresql://tuner@db/optuna": "with a database on a server",
        },
        {0: "everything is usable", 1: "something is not", 2: "bad input"},
        "It changes nothing and shows no passwords: paste its output into a bug report.",
    )
    add_stores(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the checks and return the exit code."""
    options = parser().parse_args(arguments)
    return command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> int:
    refuse_passwords({"--storage": options.storage, "--tracking-uri": options.tracking_uri})

    from tuner.runner.diagnosis import diagnose

    checks = diagnose(options.storage, options.tracking_uri)
    width = max(len(check.what) for check in checks)
    for check in checks:
        mark = "  " if check.is_fine else "! "
        print(f"{mark}{check.what:<{width}}  {check.found}")  # noqa: T201
    return int(not all(check.is_fine for check in checks))


if __name__ == "__main__":
    leave(main())
