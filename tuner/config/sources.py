"""The source files of a study's own modules, and their changes since a trial.

A study's own modules are the modules that its file names, and the modules that these import from the same folders;
installed packages do not count. Imports are read from the source, wherever they are in it, so the result does not
depend on what has been imported.
"""

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tuner.errors import is_of_user
from tuner.text import join_names

__all__ = [
    "OwnFile",
    "Sources",
    "changed_between",
    "changed_files",
    "changes_since",
    "has_file",
    "own_files",
    "own_sources",
    "sources_of",
    "versions_of",
    "with_sources",
]

MOST_KEPT = 50
MOST_NAMED = 5


@dataclass(frozen=True)
class Sources:
    """The source code of a study's trials, from one trial on.

    Args:
        trial: The first trial.
        commit: Commit of the working folder; empty if there is none.
        files: Digests of the files of its own modules, by their paths relative to the folders of their packages.
        unfinished: Earlier trials that it trains as well: they were queued, interrupted, or are retried.
        begun: Those of them that were interrupted, so their first epochs are from an earlier source.
    """

    trial: int
    commit: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    unfinished: frozenset[int] = frozenset()
    begun: frozenset[int] = frozenset()

    def changed(self, now: "Sources") -> list[str]:
        """Return the differences from the current source, each as a clause."""
        names = changed_files([self, now])
        clauses = [f"{join_names(names, MOST_NAMED)} changed"] if names else []
        if self.commit and now.commit and self.commit != now.commit:
            clauses.append(f"the commit is {now.commit}, and was {self.commit}")
        return clauses

    def changed_files(self, now: "Sources") -> list[str]:
        """Return the files that differ from those of another study's source, of the files that both have."""
        return sorted(name for name in self.files.keys() & now.files.keys() if self.files[name] != now.files[name])


def sources_of(history: Any, number: int) -> Sources | None:
    """Return the source code that finished a trial; None if it was not recorded.

    Args:
        history: The history that `with_sources` returned.
        number: The trial.
    """
    return _of(_read(history), number)


def changes_since(history: Any, number: int, now: Sources) -> list[str]:
    """Return the changes since a trial, as a clause; since its first epochs, if it continued with other sources.

    Args:
        history: The history that `with_sources` returned.
        number: The trial.
        now: The present source.
    """
    names = {name for each in _all_of(_read(history), number) for name in changed_files([each, now])}
    return [f"{join_names(sorted(names), MOST_NAMED)} changed"] if names else []


def versions_of(history: Any, numbers: Iterable[int]) -> list[tuple[Sources, list[int]]]:
    """Return the different versions of the files, and the numbers of the trials of each, in the order of the trials.

    Args:
        history: The history that `with_sources` returned.
        numbers: Numbers of trials; one whose source was not recorded is left out.
    """
    known, versions = _read(history), list[tuple[Sources, list[int]]]()
    for number in sorted(numbers):
        source = _of(known, number)
        if source is not None:
            same = next((found for version, found in versions if version.files == source.files), None)
            if same is None:
                versions.append((source, same := []))
            same.append(number)
    return versions


def changed_between(before: Sources | None, history: Any, numbers: Iterable[int]) -> list[str]:
    """Return the files that changed between a source and those of another study's trials; empty if it is unknown.

    Args:
        before: The source.
        history: The history of the other study that `with_sources` returned.
        numbers: Numbers of its trials.
    """
    versions = versions_of(history, numbers) if before else []
    return sorted({file for now, _ in versions for file in (before.changed_files(now) if before else ())})


def changed_files(versions: Sequence[Sources]) -> list[str]:
    """Return the files in which versions of a study's source differ."""
    names = {name for version in versions for name in version.files}
    return sorted(name for name in names if len({version.files.get(name) for version in versions}) > 1)


def with_sources(history: Any, now: Sources) -> tuple[list[dict[str, Any]], str]:
    """Return the updated history of a study's sources, and a note for the user about changes; empty if there is none.

    Args:
        history: The history so far.
        now: The source from now on.
    """
    known = _read(history)
    while known and known[-1].trial >= now.trial and now.unfinished >= known[-1].unfinished:
        known.pop()  # no trial was finished with it
    changes = known[-1].changed(now) if known else []
    if not known or changes:
        known.append(now)
    else:
        last = known[-1]
        begun = last.begun | (now.begun - last.unfinished)  # others began with an earlier source
        known[-1] = replace(last, unfinished=last.unfinished | now.unfinished, begun=begun)
    note = ""
    if changes and now.trial:
        note = f"since trial #{now.trial - 1} {', and '.join(changes)}: later trials may differ for this reason"
    kept = known[-MOST_KEPT:]
    return [{**asdict(each), "unfinished": sorted(each.unfinished), "begun": sorted(each.begun)} for each in kept], note


def _of(known: Sequence[Sources], number: int) -> Sources | None:
    """Return the source code that finished a trial, from those of a study in their order; None if it is unknown."""
    return next(_all_of(known, number), None)


def _all_of(known: Sequence[Sources], number: int) -> Iterator[Sources]:
    """Yield the source code of a trial, the last first: several if it was interrupted, and continued with others."""
    for each in reversed(known):
        if each.trial <= number or number in each.unfinished:
            yield each
            if each.trial <= number or number not in each.begun:
                return


def _read(history: Any) -> list[Sources]:
    try:
        return [
            Sources(
                int(each["trial"]),
                str(each["commit"]),
                dict(each["files"]),
                frozenset(each.get("unfinished", ())),
                frozenset(each.get("begun", ())),
            )
            for each in history or ()
        ]
    except (KeyError, TypeError, ValueError):  # not written by the tuner
        return []


@dataclass(frozen=True)
class OwnFile:
    """A file of a study's own source.

    Args:
        module: Full name of the module that it is.
        path: Its path.
        name: Its path in the folder that the module is imported from.
    """

    module: str
    path: Path
    name: str

    @property
    def digest(self) -> str:
        """A digest of its content."""
        return hashlib.sha256(_content(self.path)).hexdigest()[:16]


def own_sources(modules: Iterable[str]) -> dict[str, str]:
    """Return the files of modules, and of the modules that they import from the same folders, with their digests.

    Args:
        modules: Full names of modules that can be imported.
    """
    return {file.name: file.digest for file in own_files(modules)}


def own_files(modules: Iterable[str]) -> list[OwnFile]:
    """Return the files of modules, and of what they import from the same folders; without importing any of them.

    Args:
        modules: Full names of modules that can be imported.
    """
    found: dict[Path, Path] = {}  # each file, and the folder from which it is imported
    waiting = [(file, root) for module in modules for file, root in _beginning(module)]
    while waiting:
        file, root = waiting.pop()
        if file not in found and is_of_user(str(file)):
            found[file] = root
            waiting += [(each, root) for name in _imports(file, root) for each in _files(name, root)]
    return [_own_file(file, root) for file, root in sorted(found.items())]


def has_file(module: str) -> bool:
    """Return whether a fresh process would find a module."""
    return _origin(module) is not None


def _own_file(path: Path, root: Path) -> OwnFile:
    name = path.relative_to(root)
    parts = name.parent.parts if name.name == "__init__.py" else name.with_suffix("").parts
    return OwnFile(".".join(parts), path, name.as_posix())


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # deleted or not readable; modules that are already imported still work
        return b""


def _beginning(module: str) -> Iterator[tuple[Path, Path]]:
    """Yield the files of a module and of its packages, each with the folder from which it is imported."""
    origin = _origin(module)
    if origin is None or not origin.endswith(".py"):
        return
    file = Path(origin).absolute()
    depth = module.count(".") + (1 if file.name == "__init__.py" else 0)
    root = file.parents[depth]
    for each in _files(module, root):
        yield each, root


def _origin(module: str) -> str | None:
    """Return the file that a fresh process would import; None if there is none."""
    spec, parts = None, module.split(".")
    if not all(parts):
        return None
    for count in range(1, len(parts) + 1):
        places = spec.submodule_search_locations if spec else None
        if count > 1 and places is None:
            return None
        name = ".".join(parts[:count])
        specs = (finder.find_spec(name, places) for finder in sys.meta_path)
        spec = next((each for each in specs if each is not None), None)
    return spec.origin if spec else None


def _files(module: str, root: Path) -> Iterator[Path]:
    """Yield the files that are executed when a module is imported from a folder: its packages' files, and its own."""
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:count])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                yield file
                break


def _imports(file: Path, root: Path) -> Sequence[str]:
    """Return the full names that a file imports; names that it imports from a module count as modules as well."""
    try:
        tree = ast.parse(_content(file))
    except (SyntaxError, ValueError):  # it cannot be imported
        return []
    package = file.relative_to(root).parent.parts
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            outer = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*outer, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}".removeprefix(".") for alias in node.names]
    return names
