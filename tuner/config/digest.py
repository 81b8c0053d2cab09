"""Digests of objects that are sent by value: they change with whatever such an object brings to a training process.

A function counts by its code, its defaults, its enclosed values and the globals that it reads; a class by its bases and
its attributes, which include its methods; a function or class that can be imported by its name and, if it is the
user's, by the source files of its module. Numbers, text and containers count by their content, arrays and tensors by
their bytes and by whether they require gradients, and any other object by its attributes or what else pickle would
keep of it. What cannot be pickled counts by its type alone.

A digest is the same in every process with the same version of Python, wherever the code was typed: names of files, line
numbers and comments do not count.
"""

import copyreg
import dis
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from types import CellType, CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any

import torch

from tuner.config.sources import has_file, own_sources

__all__ = ["content_digest"]

NOT_CONTENT = {
    "__annotations__",
    "__annotations_cache__",
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__module__",
    "__static_attributes__",
    "__weakref__",
}
"""Attributes of classes that do not change what they do."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented))


def content_digest(target: Any) -> str:
    """Return the digest of an object's content.

    Args:
        target: Any object, such as a class or a function of a notebook.
    """
    digest = hashlib.sha256()
    files = functools.cache(_files)  # read each module once, even if the object has many of its functions
    numbers: dict[int, int] = {}
    kept = []  # an id is unique only while its object exists
    waiting = [target]
    while waiting:
        value = waiting.pop()
        if type(value) in PLAIN:  # an instance of a subclass can have attributes
            text = hashlib.sha256(value).hexdigest() if type(value) is bytes else repr(value)
            digest.update(f"{type(value).__name__} {text}\n".encode(errors="surrogatepass"))
            continue
        if id(value) in numbers:
            digest.update(f"again {numbers[id(value)]}\n".encode())
            continue
        if not isinstance(value, tuple | frozenset | CodeType):  # equal constants can be one object or several
            numbers[id(value)] = len(numbers)
            kept.append(value)
        title, parts = _described(value, files)
        kept.append(parts)
        digest.update(f"{title} {len(parts)}\n".encode(errors="surrogatepass"))
        waiting += reversed(parts)
    return digest.hexdigest()[:16]


def _described(value: Any, files: Callable[[str], list[Any]]) -> tuple[str, Sequence[Any]]:
    """Return what an object is, and the objects that it consists of.

    Args:
        value: The object.
        files: Returns the source files of a module, by their names.
    """
    kind = type(value)
    if kind in (list, tuple):
        return kind.__name__, value
    if kind in (dict, MappingProxyType):
        return kind.__name__, [part for item in value.items() for part in item]
    if kind in (set, frozenset):
        return kind.__name__, sorted(value, key=_order)
    if isinstance(value, ModuleType):
        return f"module {value.__name__}", files(value.__name__)
    if isinstance(value, FunctionType | type):
        name = f"{value.__module__}.{value.__qualname__}"
        if _can_be_imported(value):
            return name, files(value.__module__)
        return value.__qualname__, _function(value) if isinstance(value, FunctionType) else _class(value)
    if kind is CodeType:
        return "code", [value.co_code, value.co_names, value.co_varnames, value.co_freevars, *value.co_consts]
    if kind is CellType:
        return "cell", _cell(value)
    if isinstance(value, staticmethod | classmethod):
        return kind.__name__, [value.__func__]
    if isinstance(value, property):
        return kind.__name__, [value.fget, value.fset, value.fdel]
    if isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type != "meta":
        numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        content = hashlib.sha256(numbers.data).hexdigest()
        return kind.__name__, [str(value.dtype), tuple(value.shape), content, value.requires_grad, vars(value)]
    if isinstance(value, torch.jit.ScriptModule):
        return "script module", [value.original_name, value.training, dict(value.state_dict(keep_vars=True))]
    return "object", [kind, *_reduced(value)]


def _order(value: Any) -> str:
    """Return a text by which the elements of a set can be sorted in every process."""
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_order, value))})"
    return f"{type(value).__qualname__} {getattr(value, '__qualname__', getattr(value, 'name', ''))}"


def _can_be_imported(value: Any) -> bool:
    return value.__module__ not in ("__main__", "__mp_main__") and (
        "<locals>" not in value.__qualname__ and has_file(str(value.__module__))
    )


def _files(module: str) -> list[Any]:
    return sorted(own_sources([module]).items()) if module not in ("__main__", "__mp_main__") else []


def _function(value: FunctionType) -> list[Any]:
    names = sorted(set(_globals_read(value.__code__)) & value.__globals__.keys())
    values = [part for name in names for part in (name, value.__globals__[name])]
    return [value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__, vars(value), *values]


def _globals_read(code: CodeType) -> Iterator[str]:
    """Yield the names of the globals that code reads, in nested functions and classes as well."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_read(constant)


def _class(value: type) -> list[Any]:
    attributes = {name: each for name, each in vars(value).items() if name not in NOT_CONTENT}
    return [type(value), value.__bases__, *(part for item in attributes.items() for part in item)]


def _cell(value: CellType) -> list[Any]:
    try:
        return [value.cell_contents]
    except ValueError:  # the cell is empty
        return []


def _reduced(value: Any) -> list[Any]:
    """Return what pickle keeps of an object; nothing if it cannot be pickled."""
    try:
        if isinstance(value, memoryview):
            return [value.format, value.shape, value.tobytes()]
        reducer = copyreg.dispatch_table.get(type(value))
        reduced: Any = reducer(value) if reducer else value.__reduce_ex__(4)
    except Exception:  # from __reduce__ and __getstate__ of any class
        return []
    if isinstance(reduced, str):
        return [reduced, getattr(value, "__wrapped__", None)]
    return [list(part) if hasattr(part, "__next__") else part for part in reduced]
