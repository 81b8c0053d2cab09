"""``lr-tuner dashboard``: start an MLflow server on this machine and open a study's page.

The server listens on the loopback interface only, runs no jobs, and unpickles no models.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import traceback
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Sequence

from tuner.cli import Parser, make_parser
from tuner.console import lenient_streams, open_missing_streams
from tuner.errors import BadInputError, StudyFailedError, TunerError
from tuner.urls import refuse_passwords, without_password

__all__ = ["main", "parser"]

HOST, PORT = "127.0.0.1", 5000
ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "dashboard",
        "Show studies in MLflow, on this machine only. Press Ctrl-C to end.",
        {
            "dashboard quickstart": "opens the page of the study in a browser",
            "dashboard --no-open --port 5001": "prints the address of all studies, for example over ssh",
        },
        {0: "ended by Ctrl-C", 1: "MLflow's server failed", 2: "bad input"},
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
    open_missing_streams()
    with lenient_streams():
        try:
            return _run(options)
        except TunerError as error:
            if options.verbose:
                traceback.print_exc()
            print(error, file=sys.stderr)  # noqa: T201
            return error.exit_code
        except KeyboardInterrupt:
            return 128 + signal.SIGINT


def _run(options: argparse.Namespace) -> int:
    refuse_passwords({"--tracking-uri": options.tracking_uri})
    if not options.quiet:
        print("loading MLflow, which takes a while ...", file=sys.stderr, flush=True)  # noqa: T201
    from tuner.tracking.reader import page_of
    from tuner.tracking.store import tracking_uri
    from tuner.tracking.store_uri import folder_of

    uri = tracking_uri(options.tracking_uri, must_exist=True)
    page = page_of(uri, options.name)
    if uri.startswith(("http://", "https://")):  # a server is already running
        _show(f"{without_password(uri).rstrip('/')}{page}", options.open)
        return 0
    port = _free_port(options.port)
    address = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    with subprocess.Popen(
        [sys.executable, "-m", "tuner.supervisor", *command],  # kills the server when this process ends
        stdin=subprocess.PIPE,
        cwd=folder_of(uri),  # artifact locations are relative to it
        env={**os.environ, **ENVIRONMENT, "MLFLOW_BACKEND_STORE_URI": uri},  # not an argument: `ps` would show it
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # one process group, to end all of its processes together
    ) as server:
        # `kill` and a closed terminal end it as Ctrl-C does.
        before = {
            number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)
        }
        try:
            _wait_for(address, server)
            _show(f"{address}{page}", options.open)
            print("Press Ctrl-C to end.", flush=True)  # noqa: T201
            server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            for number, handler in before.items():
                signal.signal(number, handler)
    raise StudyFailedError(f"mlflow server ended with status {server.returncode}")


def _free_port(wanted: int | None) -> int:
    """Return a free port.

    Raises:
        BadInputError: If the wanted one cannot be used.
    """
    for port in (wanted,) if wanted is not None else (PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError):
                continue
            return int(probe.getsockname()[1])
    raise BadInputError([f"--port: cannot listen on {wanted}; omit the option for a free port."])


def _wait_for(address: str, server: "subprocess.Popen[bytes]") -> None:
    """Wait until the server answers.

    Raises:
        StudyFailedError: If it ends instead.
    """
    while True:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:
            pass
        try:
            server.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        raise StudyFailedError(f"mlflow server ended with status {server.returncode}")


def _show(url: str, in_browser: bool) -> None:
    print(url, flush=True)  # noqa: T201
    if in_browser:
        webbrowser.open(url)


if __name__ == "__main__":
    sys.exit(main())
