"""The attributes that networks and losses keep from one call to the next, such as a counter."""

import copy
import pickle
import random
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["attributes", "changed", "has_identity", "is_equal"]


def attributes(value: Any, *, buffers: bool) -> dict[str, Any]:
    """Return copies of the attributes of a callable and of the objects in them, by their paths.

    The variables that a function closes over count as its attributes, as do the class attributes of a module, and the
    states of generators of random numbers. Global variables, and anything else outside the ``__dict__`` of an object,
    are not found. A value that cannot be copied, such as an iterator, equals nothing.

    Args:
        value: A module, a function or another callable.
        buffers: Whether the buffers of modules count; their parameters never do.
    """
    found: dict[str, Any] = {}
    _collect(value, "", found, set(), buffers)
    return found


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the path of an attribute that differs; empty if there is none."""
    for path in {**before, **after}:
        if not (path in before and path in after and is_equal(before[path], after[path])):
            return path
    return ""


def is_equal(one: Any, other: Any) -> bool:
    """Return whether two values are equal, as far as they can be compared."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    try:
        return one is other or bool(one == other)
    except Exception:  # an array, for example, is neither true nor false
        return False


def has_identity(value: Any) -> bool:
    """Return whether a value compares by identity, as functions and most objects do."""
    return cast(object, type(value).__eq__) is object.__eq__


def _collect(value: Any, path: str, found: dict[str, Any], seen: set[int], buffers: bool) -> None:
    parts = _parts(value, buffers)
    if parts is None:
        found[path] = _copied(value)
    elif id(value) not in seen:
        seen.add(id(value))
        for key, part in parts:
            _collect(part, f"{path}.{key}" if path else str(key), found, seen, buffers)


def _parts(value: Any, buffers: bool) -> Iterable[tuple[Any, Any]] | None:
    """Return the parts of a value by their names; None if it is compared as a whole."""
    match value:
        case nn.Module():
            own = {key: part for key, part in vars(value).items() if key not in ("_modules", "_parameters", "_buffers")}
            own = {**_class_attributes(type(value)), **own}
            return {**own, **value._modules, **(value._buffers if buffers else {})}.items()
        case random.Random():
            return [("state", _pickled(value))]
        case torch.Generator():
            return [("state", value.get_state())]
        case MethodType():
            return _parts(value.__self__, buffers) or ()
        case partial():
            return [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
        case FunctionType():
            cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
            return [*vars(value).items(), *((name, _content(cell)) for name, cell in cells)]
        case dict():
            return value.items()
        case list() | tuple():
            return enumerate(value)
        case type() | ModuleType():
            return None
    if type(value).__module__.startswith("numpy.random."):
        return [("state", _pickled(value))]
    return vars(value).items() if has_identity(value) and hasattr(value, "__dict__") else None


def _class_attributes(kind: type) -> dict[str, Any]:
    """Return the values among the attributes of a module's classes, other than torch's."""
    return {
        key: value
        for each in reversed(kind.__mro__)
        if each.__module__.partition(".")[0] not in ("builtins", "torch")
        for key, value in vars(each).items()
        if not (key.startswith("__") or callable(value) or hasattr(value, "__get__"))
    }


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the closure cell is empty
        return None


def _pickled(value: Any) -> Any:
    try:
        return pickle.dumps(value)
    except Exception:  # such as that the system's generator has no state
        return object()


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Iterator):
        return object()
    if has_identity(value) or isinstance(value, type | ModuleType):
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # a user's class can raise anything
        return object()
