"""Commands started as `python -m` starts them, from a process that has imported their libraries.

Those imports take longer than all else that the commands of the tests do. Commands are forks of that process, and so is
the fork server of a command that trains in processes.
"""

import atexit
import errno
import fcntl
import functools
import gc
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
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
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
        socket.send_fds(command_server(), [request], [of_command if output is None else output, of_parent.fileno()])
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
def command_server() -> socket.socket:
    """Connect to the process that has imported the libraries, one for all processes of pytest-xdist; start it first."""
    name = f"\0lr-tuner-tests-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
    ours, listening = (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2))
    try:
        listening.bind(name)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:  # another process has started it
            raise
    else:
        listening.listen()
        process = subprocess.Popen(
            [sys.executable, "-c", f"from tests.launcher import serve; serve({listening.fileno()})"],
            cwd=Path(__file__).parents[1],
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(process.wait)
    listening.close()
    while True:
        try:
            ours.connect(name)
            break
        except ConnectionRefusedError:  # the process that has the name does not listen yet
            time.sleep(0.01)
    atexit.register(ours.close)  # the last of these ends it; what was registered last runs first
    return ours


@functools.cache
def save_time() -> None:
    """Let libraries read only once what they read whenever a store is opened or a Trainer made.

    Optuna and MLflow read the scripts of their schemas, and Lightning the entry points of all installed packages.
    Without a GPU, two things are left out that have no effect there: Lightning moves everything that a logged metric
    consists of to the device that it is on, at each step, which takes a fifth of a small training; and torch keeps the
    stack of each call that sets a seed, for an error of a GPU's.
    """
    import torch
    from lightning_fabric.utilities import registry
    from mlflow.store.db import utils
    from optuna.storages import RDBStorage

    storage = RDBStorage("sqlite://")
    versions, head, revision = storage._version_manager, storage.get_head_version(), utils._get_latest_schema_revision()
    storage.engine.dispose()
    type(versions).get_head_version = lambda self: head  # type: ignore[method-assign]
    utils._get_latest_schema_revision = lambda: revision
    registry.entry_points = functools.cache(registry.entry_points)  # type: ignore[attr-defined]
    registry._load_external_callbacks("pytorch_lightning.callbacks_factory")
    if torch.cuda.device_count() == 0:
        from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultMetric

        _ResultMetric.to = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
        for device in (torch.cuda, torch.mtia, torch.xpu):
            device.traceback = SimpleNamespace(format_stack=list)  # type: ignore[attr-defined]


def serve(descriptor: int) -> None:
    """Fork a process for each requested command, until the tests end."""
    from tuner.process import gc_paused

    with gc_paused():  # or each process forked here would take seconds to exit
        for library in LIBRARIES:
            importlib.import_module(library)
    save_time()
    assert threading.active_count() == 1, "a process with threads cannot be forked safely"
    listening = socket.socket(fileno=descriptor)
    clients = [listening.accept()[0]]
    while clients:
        for each in select.select([listening, *clients], [], [])[0]:
            if each is listening:
                clients.append(listening.accept()[0])
                continue
            request, descriptors, _, _ = socket.recv_fds(each, LONGEST_REQUEST, 2)
            if not request:
                clients.remove(each)
                each.close()
                continue
            _reap()
            if os.fork() == 0:
                for opened in (listening, *clients):
                    opened.close()
                _start(*descriptors, *pickle.loads(request))
                return
            for sent in descriptors:
                os.close(sent)
    listening.close()


def _reap() -> None:
    """Remove the processes that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _start(output: int, states: int, *command: Any) -> None:
    """Run a command in a fork of this process; its process id and its exit code are sent."""
    pid = os.fork()
    if pid == 0:
        os.setsid()  # before anybody can signal its group
        os.write(states, NUMBER.pack(os.getpid()))
        os.close(states)
        _run(output, *command)
        return
    os.close(output)
    _, status = os.waitpid(pid, 0)
    os.write(states, NUMBER.pack(os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _run(output: int, module: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    from tuner.process import leave

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
    fork_servers(2)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    threading._shutdown()  # type: ignore[attr-defined]  # wait for its threads, as the interpreter does
    leave(0)


def fork_servers(count: int) -> None:
    """Fork the processes that become the first fork servers of this one, before there are threads and open files."""
    from tuner.interrupts import interrupts_blocked

    waiting: list[tuple[int, socket.socket]] = []
    for _ in range(count):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with interrupts_blocked():
            pid = os.fork()
            if pid == 0:
                for each in (ours, *(other for _, other in waiting)):
                    each.close()
                _become_server(theirs)
        theirs.close()
        atexit.register(ours.close)
        waiting.append((pid, ours))
    execute = multiprocessing.util.spawnv_passfds

    def start(path: str, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
        if not waiting or not arguments[-1].startswith(FORK_SERVER):
            return execute(path, arguments, descriptors)
        pid, ours = waiting.pop(0)
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
            gc.enable()  # a process of pytest is forked while its own is disabled
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
