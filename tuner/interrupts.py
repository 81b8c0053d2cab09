"""The signals that end a study, and how each of its processes handles them.

The coordinator records a signal and stops cleanly. The processes that it starts ignore it, because Ctrl-C and Slurm
signal all of them, and the coordinator stops them cleanly. They die with the coordinator, even if it is killed.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

__all__ = [
    "HURRIED_SECONDS",
    "INTERRUPTED",
    "INTERRUPTS",
    "die_with_parent",
    "exit_at_once",
    "forks_die_with_this_process",
    "ignore_interrupts",
    "interrupts_blocked",
    "on_interrupt",
    "remove_at_exit",
    "restore_handlers_in_forks",
    "temporary_folder",
]

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = b"interrupted\n"
TO_CONTINUE = b"interrupted; run the same command again to continue\n"
HURRIED_SECONDS = 5
"""How long to wait for a server that does not answer, once the user has ended the command."""

SHOW_CURSOR = b"\x1b[?25h\n"  # the status line hides it

Handler = Callable[[int, FrameType | None], Any]

_EXIT = os._exit  # `tuner.config.user_code` replaces it while code of the user runs

_installed: dict[signal.Signals, tuple[Any, Any]] = {}  # our handler of each signal, and the one for forks
_of_thread = threading.local()
_folders: dict[str, int] = {}  # folders to remove at exit, and the process that does it
_forks_die_with: set[int] = set()  # processes whose forks die with them: this one, or none


@contextlib.contextmanager
def on_interrupt(handler: Handler) -> Iterator[None]:
    """Install a handler for the signals, in the main thread only.

    SIGHUP stays ignored if it is, as under nohup. Forks of this process get the previous handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _numbers()}
    outer = dict(_installed)
    for number, old in before.items():
        _installed[number] = handler, outer[number][1] if number in outer else old
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
        _installed.clear()
        _installed.update(outer)


def exit_at_once(number: int, frame: FrameType | None = None, text: bytes = TO_CONTINUE) -> NoReturn:
    """Exit as a signal would, but remove temporary folders, restore the cursor, and say so.

    Use this handler while no state can be lost. An exception would not do: some libraries catch all exceptions while
    they are imported.

    Args:
        number: The signal.
        frame: The frame that it interrupted.
        text: What to say.
    """
    for folder, owner in list(_folders.items()):
        if owner == os.getpid():
            shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)
    with contextlib.suppress(OSError):
        os.write(2, text)
    _EXIT(128 + number)


def remove_at_exit(folder: str) -> None:
    """Register a folder that `exit_at_once` removes."""
    _folders[folder] = os.getpid()


@contextlib.contextmanager
def temporary_folder(within: Path | None = None, prefix: str = "tuner-") -> Iterator[Path]:
    """Create a folder that is removed afterwards, also by `exit_at_once`.

    Args:
        within: Parent folder; None for the system's folder for temporary files.
        prefix: Prefix of its name.

    Raises:
        OSError: If it cannot be created.
    """
    with interrupts_blocked():
        folder = tempfile.mkdtemp(prefix=prefix, dir=within)
        remove_at_exit(folder)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        del _folders[folder]


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block the signals, so that a process that is started in the block can install its handlers first."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_interrupts() -> None:
    """Ignore the signals in this process and its forks, and unblock them.

    Uses a handler that does nothing instead of SIG_IGN, which executed programs would inherit.
    """
    for number in _numbers():
        signal.signal(number, _do_nothing)
        signal.siginterrupt(number, False)  # restart system calls of libraries
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)


def restore_handlers_in_forks() -> None:
    """Give forks of this process Python's default handlers, so that they can be terminated."""
    for number in _numbers():
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        _installed[number] = signal.getsignal(number), default


def die_with_parent(parent: int) -> None:
    """Make this process die when its parent ends.

    Args:
        parent: Process id of the parent; if that has already ended, this process dies at once.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def forks_die_with_this_process() -> None:
    """Make later forks of this process die when it ends, such as the workers of a data loader. Linux only.

    It applies to those that the main thread starts: elsewhere, a fork would die when the thread that started it ends.
    """
    if sys.platform == "linux":
        _forks_die_with.add(os.getpid())


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _numbers() -> Iterator[signal.Signals]:
    """Return the signals to handle: all but SIGHUP under nohup."""
    return (
        number for number in INTERRUPTS if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    )


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


# Signals are blocked during a fork: one that arrived in the child before our handlers are removed would be lost.


def _before_fork() -> None:
    dies = os.getpid() in _forks_die_with and threading.current_thread() is threading.main_thread()
    _of_thread.parent = os.getpid() if dies else None
    if _installed:
        _of_thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)


def _after_fork() -> None:
    mask = _of_thread.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    for number, (ours, for_forks) in _installed.items():
        if signal.getsignal(number) is ours:  # not a handler that user code has installed
            signal.signal(number, signal.SIG_DFL if for_forks is None else for_forks)
    _installed.clear()
    _after_fork()
    if _of_thread.parent is not None:
        die_with_parent(_of_thread.parent)


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
