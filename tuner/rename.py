"""``lr-tuner rename``: give a study another name, in Optuna, in MLflow and on the disk."""

import argparse
from collections.abc import Sequence

from tuner.cli import Parser, add_stores, command, confirmed, make_parser
from tuner.process import leave
from tuner.urls import refuse_passwords, storage_url

__all__ = ["main", "parser"]


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "rename",
        "Give a study another name: in Optuna's database, in MLflow with its model, and its folder in .tuner.",
        {
            "rename quickstart first": "asks, and then renames; its confirmation becomes first-confirm",
            "rename quickstart first --yes": "renames without asking",
        },
        {0: "renamed", 1: "not renamed: the answer was no", 2: "bad input", 75: "the study is running"},
        "To continue the study, give its file the new name: lr-tuner study FILE --set name=NEW.\n"
        "If the command is killed, run it again; it finishes the rest.",
    )
    made.add_argument("name", metavar="NAME", help="name of the study")
    made.add_argument("new", metavar="NEW", help="its new name")
    made.add_argument("--yes", action="store_true", help="do not ask")
    add_stores(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Rename a study and return the exit code."""
    options = parser().parse_args(arguments)
    return command(lambda: _run(options), options, continues=True)


def _run(options: argparse.Namespace) -> int:
    refuse_passwords({"--storage": options.storage, "--tracking-uri": options.tracking_uri})

    from tuner.followup.housekeeping import Housekeeping

    stores = Housekeeping(storage_url(options.storage), options.tracking_uri)
    pairs = stores.renamed(options.name, options.new)
    if pairs and (warning := stores.without_records(pairs[-1][0])):
        print(f"note: {warning}")  # noqa: T201
    if pairs and not confirmed(f"Rename {options.name} to {options.new}?", options.yes):
        return 1
    for name, new in stores.rename(pairs):
        print(f"{name} is now {new}")  # noqa: T201
    print(f"To continue it: lr-tuner study FILE --set name={options.new}")  # noqa: T201
    return 0


if __name__ == "__main__":
    leave(main())
