"""Imports a study's own modules as its training processes will import them.

A long-lived process, such as a notebook, may have imported modules of the same names for another study, or the same
modules before they were edited. Training runs in new processes, which import the current files.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

from tuner.config.sources import own_files

__all__ = ["expect_changes", "import_own"]

_current: set[str] = set()
_digests: dict[str, tuple[Path, str]] = {}  # digests of the own modules when they were imported


def expect_changes() -> None:
    """Check each module for changes when it is imported next; called when a study is loaded."""
    _current.clear()


def import_own(name: str) -> ModuleType:
    """Import a module, again if it was imported from another file or has changed since then.

    Raises:
        Exception: Whatever the module raises.
    """
    if name not in _current:
        found = {each.module: (each.path, each.digest) for each in own_files([name])}
        stale = [module for module, (path, _) in found.items() if not _is_from(module, path)]
        stale += [module for module in found if module in _digests and _digests[module] != found[module]]
        if stale:
            _forget({module.partition(".")[0] for module in found})
        _digests.update(found)
        _current.add(name)
    return importlib.import_module(name)


def _is_from(module: str, path: Path) -> bool:
    """Return whether a module is not imported yet, or from this file."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or Path(file).absolute() == path


def _forget(packages: set[str]) -> None:
    """Forget modules, and everything in them if they are packages, so that they can be imported again."""
    for module in list(sys.modules):
        if module.partition(".")[0] in packages:
            del sys.modules[module]
    importlib.invalidate_caches()
