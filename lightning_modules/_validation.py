"""Validation of arguments: one form of error message, and checks of types."""

import operator
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache, reduce
from typing import Any

__all__ = ["check_types", "of_python", "require"]

_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    int | float: ((int, float), "a number"),
}


def require(settings: object, field: str, holds: bool, rule: str) -> None:
    """Raise ValueError with the rule and the received value, unless the rule holds.

    >>> from types import SimpleNamespace
    >>> require(SimpleNamespace(decay_steps=0), "decay_steps", False, "decay_steps > 0")
    Traceback (most recent call last):
    ValueError: decay_steps > 0 must hold, but got decay_steps=0
    """
    if not holds:
        raise ValueError(f"{rule} must hold, but got {field}={getattr(settings, field)!r}")


def check_types(settings: object) -> None:
    """Check the flags, numbers and sequences of numbers of a frozen dataclass; sequences become tuples.

    Numbers and arrays of NumPy and torch are converted to Python's own, so that settings can be compared, hashed and
    stored, and compute in double precision. Defaults and arguments of other types are not changed.

    Raises:
        ValueError: If a value does not have the annotated type, or an integer is too large for a float.
    """
    kind_of_settings: Any = type(settings)
    for field, (default, annotated) in _annotated(kind_of_settings).items():
        value = getattr(settings, field, default)
        words, hint = _without_words(annotated)
        if value is default or (isinstance(value, str) and value in words):
            continue
        items = typing.get_args(hint) if typing.get_origin(hint) is tuple else ()
        kind = items[0] if len(items) == 2 and items[1] is ... else hint
        if kind not in _KINDS:
            continue
        types, name = _KINDS[kind]
        value = of_python(value)
        if items:
            require(settings, field, isinstance(value, Sequence) and not isinstance(value, str), f"a list as {field}")
            value = tuple(map(of_python, value))
        for each in value if items else (value,):
            is_typed = isinstance(each, types) and (kind is bool or not isinstance(each, bool))
            require(settings, field, is_typed, f"{name} as {field}")
            is_huge = isinstance(each, int) and abs(each) > sys.float_info.max
            require(settings, field, not is_huge, f"{field} below 1.8e308")
        object.__setattr__(settings, field, value)


@cache
def _annotated(kind: Any) -> dict[str, tuple[Any, Any]]:
    """Return the default and the type of each field of a dataclass."""
    try:
        hints = typing.get_type_hints(kind)
    except Exception:  # a name that only type checkers can resolve
        return {}
    known = fields(kind) if is_dataclass(kind) else ()
    return {field.name: (field.default, _without_none(hints[field.name])) for field in known}


def _without_none(hint: Any) -> Any:
    """Return a type without the None that an optional argument accepts besides."""
    parts = [part for part in typing.get_args(hint) if part is not types.NoneType]
    is_optional = typing.get_origin(hint) in (typing.Union, types.UnionType) and types.NoneType in typing.get_args(hint)
    return reduce(operator.or_, parts) if is_optional else hint


def _without_words(hint: Any) -> tuple[Sequence[Any], Any]:
    """Return the words that a type accepts besides other values, and the type without them."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()
    literals = [part for part in parts if typing.get_origin(part) is typing.Literal]
    if not literals:
        return (), hint
    others = reduce(operator.or_, [part for part in parts if part not in literals])
    return [word for literal in literals for word in typing.get_args(literal)], others


def of_python(value: Any) -> Any:
    """Return a number or array of NumPy or torch as Python's own, without importing either library."""
    return value.tolist() if hasattr(value, "tolist") else value
