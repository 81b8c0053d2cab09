"""An MLflow server on this machine, on the loopback interface only, which runs no jobs and unpickles no models."""

import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import cast

from tuner.errors import BadInputError, StudyFailedError
from tuner.interrupts import on_interrupt

__all__ = ["PORT", "serve"]

HOST, PORT = "127.0.0.1", 5000
ATTEMPTS = 5
HEADER = "tuner-server"
"""Header of a server's answers, by which it is recognized: another one may have taken the port in the meantime."""
ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


class _PortTakenError(Exception):
    """Another program listens on the port."""


def serve(uri: str, folder: Path | None, port: int | None, on_start: Callable[[str], None]) -> None:
    """Run a server until Ctrl-C.

    Args:
        uri: URI of its store, a database or a folder.
        folder: The folder that artifact locations in the store are relative to; None for the working folder.
        port: Port to listen on; None for `PORT`, or a free one if that is taken.
        on_start: Called with the server's address as soon as it answers.

    Raises:
        BadInputError: If the port cannot be used.
        StudyFailedError: If the server ends on its own.
    """
    for _ in range(ATTEMPTS):
        with contextlib.suppress(_PortTakenError):  # if the port was given, it is not free now, which is an error
            _serve(uri, folder, _free_port(port), on_start)
            return
    raise StudyFailedError("other programs took each free port before MLflow's server could listen on it.")


def _serve(uri: str, folder: Path | None, port: int, on_start: Callable[[str], None]) -> None:
    """Run a server on a free port until Ctrl-C; see `serve`.

    Raises:
        _PortTakenError: If another program takes the port before the server listens on it, which takes seconds.
        StudyFailedError: If the server ends on its own.
    """
    address, token = f"http://{HOST}:{port}", secrets.token_hex()
    options = ["--host", HOST, "--port", str(port), "--workers", "1", "--uvicorn-opts", f"--header {HEADER}:{token}"]
    command = [sys.executable, "-m", "mlflow", "server", *options]
    with subprocess.Popen(
        [sys.executable, "-m", "tuner.supervisor", *command],  # kills the server when this process ends
        stdin=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, **ENVIRONMENT, "MLFLOW_BACKEND_STORE_URI": uri},  # not an argument: `ps` would show it
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # one process group, to end all of its processes together
    ) as server:
        try:
            with on_interrupt(signal.default_int_handler):  # `kill` and a closed terminal end it as Ctrl-C does
                _wait_for(address, token, server)
                on_start(address)
                server.wait()
        except KeyboardInterrupt:
            return
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended on its own
                os.killpg(server.pid, signal.SIGTERM)
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


def _wait_for(address: str, token: str, server: "subprocess.Popen[bytes]") -> None:
    """Wait until the server answers.

    Args:
        address: Its address.
        token: The value of the header `HEADER` in its answers.
        server: Its process.

    Raises:
        _PortTakenError: If another server answers at this address.
        StudyFailedError: If it ends instead.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):  # nothing answers yet, or not in HTTP
            if _token(direct, f"{address}/health") == token:
                return
            raise _PortTakenError
        try:
            server.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        raise StudyFailedError(f"mlflow server ended with status {server.returncode}")


def _token(opener: urllib.request.OpenerDirector, url: str) -> str | None:
    """Return the token in a server's answer; None if it has none.

    Raises:
        OSError: If nothing answers.
    """
    try:
        with opener.open(url, timeout=5) as answer:
            return cast("str | None", answer.headers[HEADER])
    except urllib.error.HTTPError as error:
        with error:
            return cast("str | None", error.headers[HEADER])
