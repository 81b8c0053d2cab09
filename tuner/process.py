"""The current process: module search path, environment, garbage collection during imports, exit, crashes for tests."""

import atexit
import contextlib
import gc
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NoReturn

from tuner import timings
from tuner.interrupts import ignore_interrupts

__all__ = [
    "CrashPoint",
    "HousekeepingPoint",
    "add_study_folder",
    "changed_environment",
    "crash_point",
    "gc_paused",
    "leave",
    "own_command",
    "study_folder",
    "user_module_folders",
]

_added: list[str] = []


def add_study_folder(folder: str | Path | None) -> None:
    """Append the folder of a study to the module search path, in place of the previous study's folder.

    Args:
        folder: The folder of the study file, which may contain networks and data modules; None for none.
    """
    while _added:
        if (before := _added.pop()) in sys.path:
            del sys.path[-1 - sys.path[::-1].index(before)]  # the last entry; an earlier one is not ours
    path = "" if folder is None else str(Path(folder).resolve())
    if path and path not in sys.path:
        sys.path.append(path)
        _added.append(path)


def study_folder() -> str | None:
    """Return the folder of the study, for processes that do not inherit the module search path."""
    return next(iter(_added), None)


@contextmanager
def changed_environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Change environment variables in the block, for what reads them there and processes that are started there."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def user_module_folders() -> list[str]:
    """Return the folders of the module search path, except those of the Python installation."""
    installed = tuple({f"{sys.prefix}/", f"{sys.base_prefix}/"})
    places = dict.fromkeys(str(Path(place).absolute()) for place in sys.path if not place.endswith(".zip"))
    return [place for place in places if not f"{place}/".startswith(installed)]


@contextmanager
def gc_paused() -> Iterator[None]:
    """Disable garbage collection during imports, then freeze the imported objects so later collections skip them.

    The libraries create a million permanent objects, and each full collection of them would take a third of a second.
    Undo with ``gc.unfreeze``.
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
"""A point between two records of a study, where a crash could do most harm: the tests kill the process at each."""

HousekeepingPoint = Literal["runs deleted", "folder emptied", "deleted in Optuna", "folder moved", "experiment renamed"]
"""The same for a study that is deleted or renamed."""


def crash_point(name: CrashPoint | HousekeepingPoint) -> None:
    """Kill this process if the environment variable TUNER_CRASH_AT names this point."""
    if os.environ.get("TUNER_CRASH_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)


def own_command() -> str:
    """Return how the user can call ``lr-tuner`` here: by its name if that is on the path, else by its place."""
    script = Path(sys.executable).with_name("lr-tuner")
    if shutil.which("lr-tuner") == str(script):
        return "lr-tuner"
    if script.exists():
        here = Path.cwd()
        return shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))
    return f"{shlex.quote(sys.executable)} -m tuner"


def leave(code: int) -> NoReturn:
    """Exit without the interpreter's own cleanup, which takes seconds with so many packages imported."""
    ignore_interrupts()  # the command is over
    atexit._run_exitfuncs()
    timings.print_phases()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
