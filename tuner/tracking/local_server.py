"""An MLflow server on this machine, on the loopback interface only, which runs no jobs and unpickles no models."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tuner.errors import BadInputError, StudyFailedError
from tuner.interrupts import on_interrupt

__all__ = ["PORT", "serve"]

HOST, PORT = "127.0.0.1", 5000
ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


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
    port = _free_port(port)
    address = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
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
                _wait_for(address, server)
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
