"""``lr-tuner delete``: delete a study and its confirmations, from Optuna, MLflow and the disk."""

import argparse
from collections.abc import Sequence

from tuner.cli import Parser, add_stores, command, confirmed, make_parser
from tuner.process import leave
from tuner.text import join_names, pluralize
from tuner.urls import refuse_passwords, storage_url

__all__ = ["main", "parser"]


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "delete",
        "Delete a study and its confirmations: from Optuna's database, from MLflow, and its folder in .tuner.",
        {
            "delete quickstart": "asks, and then deletes",
            "delete quickstart --yes": "deletes without asking",
        },
        {0: "deleted", 1: "not deleted: the answer was no", 2: "bad input", 75: "the study is running"},
        "MLflow keeps deleted runs until mlflow gc. If the command is killed, run it again; it finishes the rest.",
    )
    made.add_argument("name", metavar="NAME", help="name of the study")
    made.add_argument("--yes", action="store_true", help="do not ask")
    add_stores(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Delete a study and return the exit code."""
    options = parser().parse_args(arguments)
    return command(lambda: _run(options), options, continues=True)


def _run(options: argparse.Namespace) -> int:
    refuse_passwords({"--storage": options.storage, "--tracking-uri": options.tracking_uri})

    from tuner.followup.housekeeping import Housekeeping

    stores = Housekeeping(storage_url(options.storage), options.tracking_uri)
    if not stores.delete_rest(options.name):
        studies = stores.study(options.name)
        texts = [f"{each.name} ({pluralize(each.finished + each.begun, 'trial')})" for each in reversed(studies)]
        if warning := stores.without_records(studies[-1]):
            print(f"note: {warning}")  # noqa: T201
        what = "weights" if warning else "weights and records in MLflow"
        if not confirmed(f"Delete {join_names(texts, 10)}, with {what}?", options.yes):
            return 1
        stores.delete(studies)
        if original := stores.original_of(studies[-1]):
            print(f"{original} shows its result in MLflow until {original} is run or confirmed again")  # noqa: T201
    print(f"{options.name} is deleted")  # noqa: T201
    return 0


if __name__ == "__main__":
    leave(main())
