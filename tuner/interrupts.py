"""The signals that end a study, and what each of its processes does about them.

The coordinator notes a signal and ends in order. The processes that it starts ignore it: Ctrl-C and Slurm signal all of
them, and it is the coordinator that ends the others. They end with it, however it ends.
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
    "INTERRUPTS",
    "die_with_parent",
    "exit_at_once",
    "ignore_interrupts",
    "interrupts_blocked",
    "on_interrupt",
    "remove_at_exit",
    "restore_handlers_in_forks",
    "temporary_folder",
]

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHOW_CURSOR = b"\x1b[?25h\n"  # the status line hides it

Handler = Callable[[int, FrameType | None], Any]

_installed: dict[signal.Signals, tuple[Any, Any]] = {}  # our handler of each signal, and the one that forks get
_of_thread = threading.local()
_folders: dict[str, int] = {}  # what is removed at the end, and the process that does it


@contextlib.contextmanager
def on_interrupt(handler: Handler) -> Iterator[None]:
    """Have a handler called when one of the signals comes; only the main thread of a process can have that.

    A hang-up that is ignored, as under nohup, stays so. Processes that are forked meanwhile handle the signals as this
    one did before.
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


def exit_at_once(number: int, frame: FrameType | None = None) -> NoReturn:
    """End this process as a signal does, but leave no temporary files and no hidden cursor.

    It is a handler for the time in which nothing is at stake. An exception could be lost, since some libraries catch
    all of them while they are imported.
    """
    for folder, owner in list(_folders.items()):
        if owner == os.getpid():
            shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        if os.isatty(1):
            os.write(1, SHOW_CURSOR)
    os._exit(128 + number)


def remove_at_exit(folder: str) -> None:
    """Have `exit_at_once` remove a folder of this process."""
    _folders[folder] = os.getpid()


@contextlib.contextmanager
def temporary_folder(within: Path | None = None, prefix: str = "tuner-") -> Iterator[Path]:
    """Make a folder that is removed afterwards, also by `exit_at_once`.

    Args:
        within: Where; None for the system's place for temporary files.
        prefix: What its name begins with.

    Raises:
        OSError: If it cannot be made.
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
    """Let the signals wait, so that a process that is started meanwhile can prepare for them before it gets any."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_interrupts() -> None:
    """Let the signals do nothing in this process and in its forks, whether they were blocked or not.

    A handler that does nothing is better than SIG_IGN here: a program that is executed does not inherit it.
    """
    for number in _numbers():
        signal.signal(number, _do_nothing)
        signal.siginterrupt(number, False)  # system calls of libraries go on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)


def restore_handlers_in_forks() -> None:
    """Let forks of this process handle the signals as Python does, so that they can be terminated."""
    for number in _numbers():
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        _installed[number] = signal.getsignal(number), default


def die_with_parent(parent: int) -> None:
    """Have this process killed when the one that started it ends.

    Args:
        parent: Process id of the one that started it; if that is another by now, this process ends at once.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _numbers() -> Iterator[signal.Signals]:
    """Return the signals that are handled: not a hang-up under nohup."""
    return (
        number for number in INTERRUPTS if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    )


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


# A signal that comes to a fork before our handlers are taken out of it has to wait, or it would be lost.


def _before_fork() -> None:
    if _installed:
        _of_thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)


def _after_fork() -> None:
    mask = _of_thread.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_fork_in_child() -> None:
    for number, (ours, for_forks) in _installed.items():
        if signal.getsignal(number) is ours:  # and not the user's
            signal.signal(number, signal.SIG_DFL if for_forks is None else for_forks)
    _installed.clear()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
