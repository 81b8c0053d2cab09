"""``lr-tuner dashboard``: start an MLflow server on this machine and open a study's page."""

import argparse
import sys
import webbrowser
from collections.abc import Sequence

from tuner.cli import Parser, command, make_parser
from tuner.errors import BadInputError
from tuner.process import leave
from tuner.tracking.local_server import PORT, serve
from tuner.urls import refuse_passwords, without_password

__all__ = ["main", "parser"]


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "dashboard",
        "Show studies in MLflow, on this machine only. Press Ctrl-C to stop.",
        {
            "dashboard quickstart": "opens the page of the study in a browser",
            "dashboard --no-open --port 5001": "prints the address of all studies, for example over ssh",
        },
        {0: "stopped by Ctrl-C", 1: "MLflow's server failed", 2: "bad input"},
    )
    made.add_argument("name", nargs="?", metavar="NAME", help="name of a study (default: all studies)")
    made.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow's store (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)"
    )
    made.add_argument(
        "--port", type=int, metavar="N", help=f"port to listen on (default: {PORT}, or a free one if that is taken)"
    )
    made.add_argument("--open", action=argparse.BooleanOptionalAction, default=True, help="open a browser")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run MLflow's server until Ctrl-C, and return the exit code."""
    options = parser().parse_args(arguments)
    return command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> int:
    refuse_passwords({"--tracking-uri": options.tracking_uri})
    if not options.quiet:
        print("loading MLflow, which takes a while ...", file=sys.stderr, flush=True)  # noqa: T201
    from tuner.tracking.reader import pages_of
    from tuner.tracking.store import tracking_uri
    from tuner.tracking.store_uri import file_of, folder_of, resolved

    uri = resolved(options.tracking_uri)
    file = file_of(uri)
    if options.name and file is not None and not file.exists():
        raise BadInputError([f'no study "{options.name}": {uri} does not exist.'])
    uri = tracking_uri(uri, must_exist=True)
    pages = pages_of(uri, options.name)
    if uri.startswith(("http://", "https://")):  # a server is already running
        _show(without_password(uri).rstrip("/"), pages, options.open)
        return 0

    def on_start(address: str) -> None:
        _show(address, pages, options.open)
        print("Press Ctrl-C to stop.", flush=True)  # noqa: T201

    serve(uri, folder_of(uri), options.port, on_start)
    return 0


def _show(address: str, pages: Sequence[str], in_browser: bool) -> None:
    """Print the addresses of the pages, and open the first."""
    print(f"{address}{pages[0]}", flush=True)  # noqa: T201
    for page in pages[1:]:
        print(f"its trials: {address}{page}", flush=True)  # noqa: T201
    if in_browser:
        webbrowser.open(f"{address}{pages[0]}")


if __name__ == "__main__":
    leave(main())
