"""Runs code of the user in the process that checks a study: whatever it raises, it cannot end the command."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from tuner.errors import as_exception

__all__ = ["contained"]

_EXIT, _ABORT = os._exit, os.abort


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Raise an Exception for what would end this process in the block: os._exit, os.abort, or a BaseException.

    It has the name, the arguments and the traceback of the original; os._exit and os.abort become SystemExit. A
    KeyboardInterrupt stays one where Python raises it at Ctrl-C: outside of the commands. The working folder, in which
    the study is stored, is the same after the block.
    """
    try:
        with _without_exit(), _in_this_folder():
            yield
    except Exception:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            raise
        raise as_exception(error) from None


@contextlib.contextmanager
def _in_this_folder() -> Iterator[None]:
    folder = Path.cwd()
    try:
        yield
    finally:
        os.chdir(folder)


@contextlib.contextmanager
def _without_exit() -> Iterator[None]:
    if os._exit is not _EXIT:  # this block is within another one
        yield
        return
    process = os.getpid()

    def leave(status: int) -> NoReturn:
        if os.getpid() != process:  # this process is a fork
            _EXIT(status)
        raise SystemExit(status)

    def abort() -> NoReturn:
        if os.getpid() != process:
            _ABORT()
        raise SystemExit(128 + signal.SIGABRT)

    os._exit, os.abort = leave, abort
    try:
        yield
    finally:
        os._exit, os.abort = _EXIT, _ABORT
