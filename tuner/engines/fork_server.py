"""The server that forks the processes of a study: it has imported torch, Lightning and the tuner.

Each process starts in milliseconds with its own memory, and imports are paid once. A process dies with the server and
with the coordinator.
"""

import contextlib
import fcntl
import functools
import importlib
import multiprocessing
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, forkserver, resource_tracker, util
from pathlib import Path
from typing import Any, Generic, TypeVar

from tuner.errors import BadInputError, StudyFailedError, TunerError, in_a_line
from tuner.interrupts import die_with_parent, interrupts_blocked, remove_at_exit
from tuner.process import changed_environment

__all__ = [
    "ForkedCall",
    "PreparedProcess",
    "call_in_fork",
    "die_with_the_coordinator",
    "ensure_server",
    "folder_of_sockets",
    "for_new_processes",
    "how_it_ended",
    "why_not_started",
]

Result = TypeVar("Result")

PARENT = "TUNER_SERVER_PARENT"  # environment variable that holds the id of the process with which the server dies
OWNED = "lr-tuner.lock"  # the file that a process locks in its folder
LONGEST_FOLDER = 56  # bytes of the path of a temporary folder; sockets in it add 47
MALLOC_TUNABLES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {"mmap_max": 0, "trim_threshold": 1 << 62, "top_pad": 64 << 20, "hugetlb": 1}.items()
)
"""Settings of glibc's malloc that reuse memory for large tensors, in huge pages.

Without them, the gradients of the reference CNN return to the system at every step and come back page by page, zeroed:
a quarter of a step's time on a CPU.
"""


class ForkedCall(Generic[Result]):
    """A function call in a process forked like training processes, with this one's working folder and environment.

    Use it for work that must not hold up the coordinator, or that needs a GPU: the coordinator never opens one, because
    some GPUs admit one process only.

    Args:
        function: A picklable function.
        arguments: Its arguments, also picklable.
        process: The process, if one was prepared; it is used if it still runs.

    Raises:
        StudyFailedError: If no process can be started, or the prepared one has died.
    """

    def __init__(
        self, function: Callable[..., Result], *arguments: Any, process: "PreparedProcess | None" = None
    ) -> None:
        self._name = function.__name__
        # Read before the process starts, because the folder may be gone.
        request = Path.cwd(), dict(os.environ), function, arguments
        self._process = PreparedProcess() if process is None or not process.is_running else process
        try:
            self._process.pipe.send(request)
        except ConnectionError:
            raise self._died() from None
        except BaseException:
            self._process.kill()
            raise

    @property
    def is_running(self) -> bool:
        """Whether its process is still running."""
        return self._process.is_running

    def result(self) -> Result:
        """Wait for its end and return what the function returned.

        Raises:
            StudyFailedError: If it raised an exception, or its process died.
        """
        try:
            answer, error = self._process.pipe.recv()
        except (EOFError, ConnectionError):
            raise self._died() from None
        finally:
            self._process.pipe.close()
        self._process.join()
        if error:
            raise StudyFailedError(error)
        result: Result = answer
        return result

    def kill(self) -> None:
        """Kill its process if it still runs."""
        self._process.kill()

    def _died(self) -> StudyFailedError:
        """Wait for the end of its process, and return the error about it."""
        self._process.pipe.close()
        return StudyFailedError(f"a process of {self._name} {self._process.join()}")


class PreparedProcess:
    """A process, forked like training processes, that imports modules and waits for a `ForkedCall`.

    Args:
        modules: Names of the modules.

    Attributes:
        pipe: Takes the call, and gives the answer.

    Raises:
        StudyFailedError: If no process can be started.
    """

    def __init__(self, *modules: str) -> None:
        context = multiprocessing.get_context("forkserver")
        with contextlib.ExitStack() as if_it_fails:
            try:
                ensure_server()
                self.pipe, theirs = context.Pipe()
                if_it_fails.callback(self.pipe.close)
                self._process = context.Process(target=_answer, args=(theirs, modules))
                with for_new_processes(), contextlib.closing(theirs):
                    self._process.start()
            except (EOFError, OSError) as error:
                raise StudyFailedError(f"no process can be started: {why_not_started(error)}") from error
            if_it_fails.pop_all()

    @property
    def is_running(self) -> bool:
        """Whether it is still running."""
        return self._process.is_alive()

    def join(self) -> str:
        """Wait for its end, and return how it ended."""
        self._process.join()
        return how_it_ended(self._process.exitcode)

    def kill(self) -> None:
        """Kill it if it still runs."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self.pipe.close()


def call_in_fork(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a new process and return its result.

    Raises:
        StudyFailedError: If it raises an exception, or its process dies.
    """
    return ForkedCall(function, *arguments).result()


def _answer(pipe: "connection.Connection[Any, Any]", modules: Sequence[str]) -> None:
    die_with_the_coordinator()
    for name in modules:
        with contextlib.suppress(Exception):  # the call imports it again, if it needs it
            importlib.import_module(name)
    try:
        folder, environment, function, arguments = pipe.recv()
    except EOFError:  # it is not needed, or the process that needs it has died
        return
    try:
        os.chdir(folder)
        os.environ.update(environment)
        answer = function(*arguments), ""
    except TunerError as error:
        answer = None, str(error)
    except Exception as error:
        answer = None, in_a_line(error)
    pipe.send(answer)


@functools.cache
def folder_of_sockets() -> Path:
    """Return this process's folder for sockets, whose paths are limited to about a hundred characters.

    Folders of processes that were killed are removed. A process locks a file in its folder for as long as it lives.

    Raises:
        BadInputError: If it cannot be created.
    """
    where = tempfile.gettempdir()
    if len(os.fsencode(where)) > LONGEST_FOLDER:
        where = "/tmp"
    for other in Path(where).glob(f"tuner-????????/{OWNED}"):
        with contextlib.suppress(OSError):  # it is of another user, or of a living process
            _remove_unlocked(other)
    try:
        folder = tempfile.mkdtemp(prefix="tuner-", dir=where)
    except OSError as error:
        raise BadInputError([f"TMPDIR: cannot create a folder in {where}: {error.strerror}."]) from error
    remove_at_exit(folder)
    new = Path(folder, f"{OWNED}.new")
    with contextlib.suppress(OSError):  # such as a file system without locks
        fcntl.flock(os.open(new, os.O_CREAT | os.O_RDONLY, 0o600), fcntl.LOCK_EX)  # it stays open until the end
        new.rename(new.with_suffix(""))  # other processes see it only once it is locked
    util.Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)  # after multiprocessing has cleaned up
    return Path(folder)


def _remove_unlocked(file: Path) -> None:
    """Remove a folder by the file in it that its process, if it lives, has locked.

    Raises:
        OSError: If it is locked, or not a file of this user.
    """
    lock = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        found = os.fstat(lock)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(file.parent)
    finally:
        os.close(lock)


@contextlib.contextmanager
def for_new_processes() -> Iterator[None]:
    """Let new processes import what this one would import, without running the main script again.

    multiprocessing would replace "" in the module search path by the folder in which it was imported itself. Processes
    need nothing from the script: they import what the study file names.
    """
    main, places = sys.modules["__main__"], list(sys.path)
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.path[:] = [place or str(Path.cwd()) for place in places]
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        sys.path[:] = places


def ensure_server() -> None:
    """Start the fork server if it is not running.

    The signals that end a study are for the coordinator, which stops the other processes cleanly. They are blocked
    while the server starts; from then on the server ignores them.

    Raises:
        BadInputError: If this process may not start others.
    """
    if multiprocessing.current_process().daemon:
        which = "a daemonic process, such as a worker of multiprocessing.Pool"
        raise BadInputError([f"{which}, may not start the processes of a study; run it in another process."])
    forkserver.set_forkserver_preload(["tuner.engines.preload"])
    resource_tracker.ensure_running()  # outside of the block, because it unblocks the signals when it starts
    tunables = os.environ.get("GLIBC_TUNABLES")
    changes = {"GLIBC_TUNABLES": ":".join(filter(None, (MALLOC_TUNABLES, tunables)))}  # the last value takes effect
    if threading.current_thread() is threading.main_thread():  # PR_SET_PDEATHSIG fires when the starting thread ends
        changes[PARENT] = str(os.getpid())
    with interrupts_blocked(), changed_environment(changes), _sockets_in(folder_of_sockets()):
        forkserver.ensure_running()


@contextlib.contextmanager
def _sockets_in(folder: Path) -> Iterator[None]:
    """Make multiprocessing create its folder for sockets in the given one instead of TMPDIR, if it has none yet."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        util.get_temp_dir()
        yield
    finally:
        tempfile.tempdir = before


def die_with_the_coordinator() -> None:
    """Make this process die with the coordinator and with the server that forked it."""
    die_with_parent(os.getppid())  # the parent is the server
    coordinator = multiprocessing.parent_process()
    if coordinator is None:
        return

    def watch() -> None:
        connection.wait([coordinator.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def why_not_started(error: EOFError | OSError) -> str:
    """Return why the server has started no process.

    Args:
        error: The error of the start. If the server ended meanwhile, the pipe to it ended or broke.
    """
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    if not isinstance(error, (EOFError, BrokenPipeError, ConnectionResetError)) or server is None:
        return in_a_line(error)
    if not hasattr(os, "waitid"):  # macOS, for example, does not have it
        return "the fork server has ended"
    # WNOWAIT leaves the process for multiprocessing to reap.
    ended = os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)
    status = ended.si_status if ended else 0
    return f"the fork server {how_it_ended(status if ended and ended.si_code == os.CLD_EXITED else -status)}"


def how_it_ended(exit_code: int | None) -> str:
    """Return the predicate of a sentence about a process that ended without a result."""
    if exit_code is None:
        return "closed the pipe to the coordinator and was killed"
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (often out of memory: see dmesg)" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"ended with status {exit_code} and no result"
