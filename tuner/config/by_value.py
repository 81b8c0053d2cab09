"""Classes, functions and objects that runs cannot import, for example from a notebook: they are sent by value.

A study names its classes, and a training process imports them by their names. An object that cannot be imported is held
here under its name. `Component` carries it to the training process, pickled by cloudpickle, and the folder of the study
keeps it for later runs.
"""

import copy
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cloudpickle

from tuner.config.digest import content_digest
from tuner.errors import in_a_line, place_of
from tuner.text import join_names

__all__ = ["Copies", "Held", "digests", "find", "hold", "note", "pack", "receive", "select", "unpack"]

MUCH = 10_000_000
"""Size in bytes above which the note to the user states how much is sent by value."""


@dataclass(frozen=True)
class Held:
    """An object that is sent by value.

    Args:
        content: The object, pickled by cloudpickle.
        digest: Digest of its code, and of the values that it refers to (see `content_digest`).
    """

    content: bytes
    digest: str


class Copies:
    """Makes copies of an object, such as a network whose weights every trial begins with.

    Args:
        original: The object.
    """

    def __init__(self, original: Any) -> None:
        self._original = original
        self.__name__ = self.__qualname__ = f"{type(original).__name__}()"
        self.__module__ = type(original).__module__

    @property
    def original(self) -> Any:
        """Return the object itself."""
        return self._original

    def __call__(self) -> Any:
        """Return a copy."""
        return copy.deepcopy(self._original)


_held: dict[str, Held] = {}
_found: dict[str, Any] = {}


def hold(name: str, target: Any) -> Held:
    """Hold an object under a name, in place of an earlier one.

    Raises:
        ValueError: If it cannot be pickled.
    """
    try:
        content = cloudpickle.dumps(target)
    except Exception as error:  # from methods such as __reduce__ of the user's classes
        raise ValueError(f"{name} cannot be sent to a training run: {in_a_line(error)}{place_of(error)}.") from error
    original = target.original if isinstance(target, Copies) else target
    _held[name], _found[name] = Held(content, content_digest(original)), target
    return _held[name]


def find(name: str) -> Any:
    """Return the object that is held under a name; None if there is none.

    Raises:
        ValueError: If it cannot be unpickled here.
    """
    if name not in _found and name in _held:
        try:
            _found[name] = cloudpickle.loads(_held[name].content)
        except Exception as error:  # the modules that it needs can raise anything
            raise ValueError(f"{name} cannot be built from its pickle: {in_a_line(error)}.") from error
    return _found.get(name)


def select(names: Iterable[str]) -> dict[str, Held]:
    """Return the names that hold an object by value, with the objects."""
    return {name: _held[name] for name in names if name in _held}


def receive(held: Mapping[str, Held]) -> None:
    """Hold objects that another process has sent, or that an earlier one has kept."""
    for name, each in held.items():
        if _held.get(name) != each:
            _held[name] = each
            _found.pop(name, None)


def pack(held: Mapping[str, Held]) -> bytes:
    """Return objects as the content of a file."""
    return pickle.dumps(dict(held))


def unpack(content: bytes) -> None:
    """Hold the objects in the content of a file, which must be the user's own: reading it can run any code."""
    receive(pickle.loads(content))


def digests(names: Iterable[str]) -> dict[str, str]:
    """Return the digests of the objects that are held under some of the names."""
    return {name: each.digest for name, each in select(names).items()}


def note(names: Iterable[str]) -> str:
    """Return a note for the user about objects that are sent by value; empty if there are none."""
    held = select(names)
    sent = [name.partition(":")[2] for name in held]
    if not sent:
        return ""
    it, them = ("it", "it") if len(sent) == 1 else ("they", "them")
    text = (
        f"{join_names(sent)} cannot be imported from a module, so each training process gets a copy of {them}, which "
        "is kept in the study's folder"
    )
    size = sum(len(each.content) for each in held.values())
    if size < MUCH:
        return text
    return f"{text}; with the objects that {it} refer{'s' * (len(sent) == 1)} to, {size / 1e6:.0f} MB for each run"
