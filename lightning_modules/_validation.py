"""Validation of arguments: one form of error message, and checks of types."""

import operator
import sys
import types
import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache, reduce
from typing import Any

__all__ = ["check_types", "of_python", "require", "require_to"]

IN_STEPS = " (here, lengths are in steps: epochs and percentages work in studies only)"

_KINDS: dict[Any, tuple[tuple[type, ...], str, str]] = {
    bool: ((bool,), "True or False", "True and False"),
    int: ((int,), "a whole number", "whole numbers"),
    float: ((int, float), "a number", "numbers"),
    int | float: ((int, float), "a number", "numbers"),
}


def require(settings: object, field: str, holds: bool, rule: str) -> None:
    """Raise ValueError with a condition and the received value, unless the condition holds.

    >>> from types import SimpleNamespace
    >>> require(SimpleNamespace(decay_steps=0), "decay_steps", False, "decay_steps > 0")
    Traceback (most recent call last):
    ValueError: decay_steps > 0 must hold, but got decay_steps=0
    """
    if not holds:
        raise ValueError(f"{rule} must hold, but got {field}={getattr(settings, field)!r}")


def require_to(settings: object, field: str, holds: bool, rule: str) -> None:
    """Raise ValueError with what a field must do and the received value, unless it does so.

    >>> from types import SimpleNamespace
    >>> require_to(SimpleNamespace(starts=(3, 1)), "starts", False, "be increasing")
    Traceback (most recent call last):
    ValueError: starts must be increasing, but got starts=(3, 1)
    """
    if not holds:
        raise ValueError(f"{field} must {rule}, but got {field}={getattr(settings, field)!r}")


def check_types(settings: object) -> None:
    """Check the flags, numbers and sequences of numbers of a frozen dataclass; sequences become tuples.

    Numbers and arrays of NumPy and torch are converted to Python's own, so that settings can be compared, hashed and
    stored, and compute in double precision. Defaults and arguments of other types are not changed.

    Raises:
        ValueError: If a value does not have the annotated type, or an integer is too large for a float.
    """
    kind_of_settings: Any = type(settings)
    for field, (default, words, hint) in _annotated(kind_of_settings).items():
        value = getattr(settings, field, default)
        if value is default or (isinstance(value, str) and value in words):
            continue
        items = typing.get_args(hint) if typing.get_origin(hint) is tuple else ()
        kind = items[0] if len(items) == 2 and items[1] is ... else hint
        if kind not in _KINDS:
            continue
        types, one, several = _KINDS[kind]
        rule = f"be a list of {several}" if items else f"be {one}"
        value = of_python(value)
        if items:
            require_to(settings, field, isinstance(value, Sequence) and not isinstance(value, str), rule)
            value = tuple(map(of_python, value))
        for each in value if items else (value,):
            is_typed = isinstance(each, types) and (kind is bool or not isinstance(each, bool))
            is_length = isinstance(each, str) and each.rstrip().endswith(("%", "epoch", "epochs"))
            require_to(settings, field, is_typed, f"{rule}{IN_STEPS if is_length else ''}")
            is_huge = isinstance(each, int) and abs(each) > sys.float_info.max
            require_to(settings, field, not is_huge, "be below 1.8e308")
        object.__setattr__(settings, field, value)


@cache
def _annotated(kind: Any) -> dict[str, tuple[Any, Sequence[Any], Any]]:
    """Return the default of each field of a dataclass, the words that its type accepts, and its type without them."""
    try:
        hints = typing.get_type_hints(kind)
    except Exception:  # a name that only type checkers can resolve
        return {}
    known = fields(kind) if is_dataclass(kind) else ()
    return {field.name: (field.default, *_without_words(_without_none(hints[field.name]))) for field in known}


def _without_none(hint: Any) -> Any:
    """Return a type without the None that an optional argument also accepts."""
    parts = [part for part in typing.get_args(hint) if part is not types.NoneType]
    is_optional = typing.get_origin(hint) in (typing.Union, types.UnionType) and types.NoneType in typing.get_args(hint)
    return reduce(operator.or_, parts) if is_optional else hint


def _without_words(hint: Any) -> tuple[Sequence[Any], Any]:
    """Return the words that a type accepts in addition to other values, and the type without them."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()
    literals = [part for part in parts if typing.get_origin(part) is typing.Literal]
    if not literals:
        return (), hint
    others = reduce(operator.or_, [part for part in parts if part not in literals])
    return [word for literal in literals for word in typing.get_args(literal)], others


def of_python(value: Any) -> Any:
    """Return a number or array of NumPy or torch as Python's own, without importing either library."""
    return value.tolist() if hasattr(value, "tolist") else value
