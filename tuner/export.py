"""``lr-tuner export``: write a trial as a folder: configuration, weights, lr table, script, model card.

Only a study's best trial has stored weights; any other trial is retrained, as `tuner.replay` does.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tuner.cli import Parser, add_stores, add_synonyms, command, existing_store, make_parser
from tuner.process import leave
from tuner.runner.open_study import status
from tuner.urls import refuse_passwords, storage_url

__all__ = ["main", "parser"]


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "export",
        "Write a trial as a folder: configuration, weights, lr table, training script, model card.",
        {
            "export quickstart": "its best trial, into a folder such as quickstart-0",
            "export quickstart --trial 2 --output my_network": "another one, retrained for its weights",
        },
        {0: "done", 1: "the trial cannot be exported", 2: "bad input"},
    )
    made.add_argument("study", metavar="NAME", help="name of a study that was run, or its study file")
    made.add_argument("--trial", type=int, metavar="N", help="number of the trial (default: the best)")
    made.add_argument("--output", type=Path, metavar="FOLDER", help="folder to create (default: <study>-<N>)")
    add_synonyms(made, "--output", "--to")
    add_stores(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder and return the exit code."""
    options = parser().parse_args(arguments)
    return command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> int:
    refuse_passwords({"--storage": options.storage, "--tracking-uri": options.tracking_uri})

    # Imported here: --help and a wrong option should not wait for torch.
    from rich.console import Console
    from rich.markup import escape

    from tuner.console import print_line
    from tuner.followup.exporting import export

    console = Console(stderr=True, quiet=options.quiet)
    uri = existing_store(options.tracking_uri, storage_url(options.storage), [options.study])
    with status(console, f"exporting a trial of {options.study}"):
        to, notes = export(options.study, storage_url(options.storage), uri, options.trial, options.output)
    for note in notes:
        print_line(console, f"[yellow]note:[/yellow] {escape(note)}")
    print(to)  # noqa: T201
    return 0


if __name__ == "__main__":
    leave(main())
