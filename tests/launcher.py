"""Commands started as `python -m` starts them, from a process that has imported their libraries.

Those imports take longer than all else that the commands of the tests do. Commands are forks of that process, and so is
the fork server of a command that trains in processes.
"""

import atexit
import fcntl
import functools
import importlib
import multiprocessing.util
import os
import pickle
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = ["tuner.runner.coordinator", "tuner.training.run", "mlflow.store.tracking.sqlalchemy_store"]
LONGEST_REQUEST = 1 << 17
NUMBER = struct.Struct("q")
FORK_SERVER = "from multiprocessing.forkserver import main"


class Command:
    """A command that runs in a new session, with the interface of a `subprocess.Popen`.

    Args:
        module: Its module.
        arguments: What follows the module.
        folder: Where it runs.
        environment: Its environment variables.
        output: File descriptor that its output goes to; None for `stdout`, which is read here.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        output: int | None = None,
    ) -> None:
        request = pickle.dumps((module, [str(each) for each in arguments], folder, dict(environment)))
        here, of_command = os.pipe()
        self._states, of_parent = socket.socketpair()
        socket.send_fds(_server(), [request], [of_command if output is None else output, of_parent.fileno()])
        os.close(of_command)
        of_parent.close()
        self.stdout = os.fdopen(here)
        self.pid = self._next_number()
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._states], [], [], 0)[0]:
            self.returncode = self._next_number()
            self._states.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            select.select([self._states], [], [], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait for its end and return the output that was not read yet."""
        read: list[str] = []
        reader = threading.Thread(target=lambda: read.append(self.stdout.read()), daemon=True)
        reader.start()
        reader.join(timeout)
        if reader.is_alive():
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        self.stdout.close()
        self.wait(timeout)
        return "".join(read), None

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def _next_number(self) -> int:
        """Return the process id at first, and then the exit code."""
        message = self._states.recv(NUMBER.size, socket.MSG_WAITALL)
        assert len(message) == NUMBER.size, "the process that starts commands was killed"
        number: int = NUMBER.unpack(message)[0]
        return number


Started = subprocess.Popen[str] | Command


def output_of(code: str, folder: Path, *arguments: str, **environment: str) -> str:
    """Run code as a program with the libraries imported, and return its output."""
    (folder / "program.py").write_text(code)
    process = Command("program", arguments, folder, {**os.environ, **environment})
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


@functools.cache
def _server() -> socket.socket:
    """Start the process that has imported the libraries, and return the socket on which it takes requests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = subprocess.Popen(
        [sys.executable, "-c", f"from tests.launcher import serve; serve({theirs.fileno()})"],
        cwd=Path(__file__).parents[1],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    theirs.close()
    atexit.register(server.wait)
    atexit.register(ours.close)  # which ends it: the last one that was registered runs first
    return ours


def serve(descriptor: int) -> None:
    """Fork a process for each requested command, until the tests end."""
    for library in LIBRARIES:
        importlib.import_module(library)
    assert threading.active_count() == 1, "a process with threads cannot be forked safely"
    requests = socket.socket(fileno=descriptor)
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, LONGEST_REQUEST, 2)
        if not request:
            return
        _reap()
        if os.fork() == 0:
            requests.close()
            _start(*descriptors, *pickle.loads(request))
            return
        for each in descriptors:
            os.close(each)


def _reap() -> None:
    """Remove the processes that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _start(output: int, states: int, *command: Any) -> None:
    """Run a command in a fork of this process, and send its process id and its exit code."""
    pid = os.fork()
    if pid == 0:
        os.close(states)
        _run(output, *command)
        return
    os.close(output)
    os.write(states, NUMBER.pack(pid))
    _, status = os.waitpid(pid, 0)
    os.write(states, NUMBER.pack(os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _run(output: int, module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # which it looks up once
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.path[0] = str(folder)
    sys.argv[1:] = arguments
    _fork_the_server()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _fork_the_server() -> None:
    """Fork the process that becomes the first fork server of this one, before there are threads and open files."""
    from tuner.interrupts import interrupts_blocked

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with interrupts_blocked():
        pid = os.fork()
        if pid == 0:
            ours.close()
            _become_server(theirs)
    theirs.close()
    execute = multiprocessing.util.spawnv_passfds

    def start(path: str, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
        if ours.fileno() < 0 or not arguments[-1].startswith(FORK_SERVER):
            return execute(path, arguments, descriptors)
        with ours:
            request = pickle.dumps((arguments[-1], list(descriptors), dict(os.environ)))
            socket.send_fds(ours, [request], descriptors)
        return pid

    multiprocessing.util.spawnv_passfds = start


def _become_server(requests: socket.socket) -> NoReturn:
    try:
        request, descriptors, _, _ = socket.recv_fds(requests, LONGEST_REQUEST, 2)
        requests.close()
        if request:
            command, numbers, environment = pickle.loads(request)
            os.environ.clear()
            os.environ.update(environment)
            copies = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 100) for each in descriptors]
            for copy, number in zip(copies, numbers, strict=True):
                os.dup2(copy, number, inheritable=False)
            for each in {*descriptors, *copies} - set(numbers):
                os.close(each)
            Path("/proc/self/comm").write_text("forkserver")
            exec(command, {})
    finally:
        os._exit(0)
