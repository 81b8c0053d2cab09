"""This very process: where it looks for modules, how it imports them, and where tests make it die."""

import atexit
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NoReturn

from tuner.interrupts import ignore_interrupts

__all__ = ["CrashPoint", "add_study_folder", "crash_point", "gc_paused", "leave", "study_folder", "user_module_folders"]

_added: list[str] = []


def add_study_folder(folder: str | Path | None) -> None:
    """Look for modules in the folder of a study as well, after all other places.

    Args:
        folder: The folder: networks and data modules may lie beside the study file that names them. None for no folder.
            That of another study is left out from then on.
    """
    while _added:
        if (before := _added.pop()) in sys.path:
            del sys.path[-1 - sys.path[::-1].index(before)]  # the last one; others may have put it before
    path = "" if folder is None else str(Path(folder).resolve())
    if path and path not in sys.path:
        sys.path.append(path)
        _added.append(path)


def study_folder() -> str | None:
    """Return the folder of the study, for processes that do not inherit the places where this one looks."""
    return next(iter(_added), None)


def user_module_folders() -> list[str]:
    """Return the folders where modules are looked for, apart from those of the installation."""
    installed = tuple({f"{sys.prefix}/", f"{sys.base_prefix}/"})
    places = dict.fromkeys(str(Path(place).absolute()) for place in sys.path if not place.endswith(".zip"))
    return [place for place in places if not f"{place}/".startswith(installed)]


@contextmanager
def gc_paused() -> Iterator[None]:
    """Look for no garbage meanwhile, nor later on in what is there by then, until ``gc.unfreeze``.

    The libraries make a million objects that stay: each time that all are looked through takes a third of a second.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


CrashPoint = Literal[
    "asked",
    "run created",
    "checkpoint saved",
    "result written",
    "before recorded",
    "recorded",
    "run described",
    "tested",
    "test recorded",
]
"""A place between two records, where a crash would hurt most: the tests make the process die in each of them."""


def crash_point(place: CrashPoint) -> None:
    """Die here, at once, if the environment variable TUNER_CRASH_AT says so."""
    if os.environ.get("TUNER_CRASH_AT") == place:
        os.kill(os.getpid(), signal.SIGKILL)


def leave(code: int) -> NoReturn:
    """End this process, with an exit code.

    With so many packages imported, the interpreter takes seconds to take itself apart; nothing is gained by it.
    """
    ignore_interrupts()  # it is over
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
