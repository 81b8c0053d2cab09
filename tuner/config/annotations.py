"""Checks of single values against type annotations, and messages about them.

The annotation of an argument alone defines its type. Pydantic checks values; this module writes the messages.
"""

import difflib
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import TypeAdapter, ValidationError

from lightning_modules.schedules import InSteps
from tuner.config.yaml_reader import quotes_advice
from tuner.text import shown

__all__ = [
    "check_value",
    "converted",
    "did_you_mean",
    "item_hint",
    "map_lengths",
    "members",
    "parse_length",
    "takes_steps",
]

_LENGTH = re.compile(r"([0-9]{1,9}(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,2})?) *(epochs?|%)")


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return " Did you mean ...?" if a known name is near, else nothing.

    Args:
        name: The unknown name.
        known: The known ones.
        cutoff: How similar they must be, from 0 to 1.

    >>> did_you_mean("cosin", ["constant", "cosine"]), did_you_mean("lr", ["initial_lr", "eps"]), did_you_mean("x", [])
    (' Did you mean cosine?', ' Did you mean initial_lr?', '')
    """
    lowered = {each.lower(): each for each in known}
    holding = [each for each in lowered if len(name) > 1 and name.lower() in each]
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=cutoff) or holding * (len(holding) == 1)
    return f" Did you mean {lowered[close[0]]}?" if close else ""


def members(hint: Any) -> tuple[Any, ...]:
    """Return the types that a type annotation allows.

    >>> members(int | None), members(Annotated[float, "a remark"])
    ((<class 'int'>, <class 'NoneType'>), (<class 'float'>,))
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(member for each in typing.get_args(hint) for member in members(each))
    return members(typing.get_args(hint)[0]) if origin is Annotated else (hint,)


def item_hint(hint: Any, index: int) -> Any:
    """Return the type of an item of a list for an argument, Any if it is not known.

    >>> item_hint(tuple[int, str], 1), item_hint(list[float] | None, 5), item_hint(float, 0)
    (<class 'str'>, <class 'float'>, typing.Any)
    """
    for each in members(hint):
        origin, items = typing.get_origin(each), typing.get_args(each)
        if origin is tuple and items[-1:] != (Ellipsis,):
            return items[index] if index < len(items) else Any
        if origin in _LISTS:
            return items[0]
    return Any


def takes_steps(hint: Any, only: bool = False) -> bool:
    """Return whether an argument of this type is a length in steps, which a study file can give in epochs or percent.

    Args:
        hint: The type.
        only: Whether a number must be a length, too: an argument of a formula can be any number.

    >>> takes_steps(Annotated[float, InSteps()] | None), takes_steps(float)
    (True, False)
    >>> takes_steps(Annotated[float, InSteps(only=False)], only=True)
    False
    """
    if typing.get_origin(hint) is Annotated:
        marks = [each for each in hint.__metadata__ if isinstance(each, InSteps) and (each.only or not only)]
        return bool(marks) or takes_steps(typing.get_args(hint)[0], only)
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()
    return any(takes_steps(part, only) for part in parts)


def parse_length(text: Any) -> tuple[float, str] | None:
    """Return the number and the unit of a length in epochs or in percent of the training, None for anything else.

    >>> parse_length("1.5 epochs"), parse_length("25%"), parse_length("5 steps"), parse_length(5)
    ((1.5, 'epochs'), (25.0, '%'), None, None)
    """
    found = _LENGTH.fullmatch(text) if isinstance(text, str) else None
    return (float(found[1]), "%" if found[2] == "%" else "epochs") if found else None


def map_lengths(hint: Any, value: Any, change: Callable[[str], Any]) -> Any:
    """Return a value of an argument with a function applied to each length in epochs or percent in it.

    >>> map_lengths(list[Annotated[float, InSteps()]], ["5%", 100], len)
    [2, 100]
    """
    if isinstance(value, list):
        return [map_lengths(item_hint(hint, index), item, change) for index, item in enumerate(value)]
    return change(value) if parse_length(value) and takes_steps(hint) else value


def check_value(hint: Any, value: Any, *, resolved: bool = False) -> str | None:
    """Return why a value of a study file does not fit this type, in sentences; None if it fits.

    Args:
        hint: The type.
        value: The value.
        resolved: Whether a length must be in steps, and not in epochs or percent.
    """

    def fits(other: Any) -> bool:
        return check_value(hint, other, resolved=resolved) is None

    try:
        _read(hint, value if resolved else map_lengths(hint, value, lambda length: 1))
    except ValidationError as error:
        return f"{_rule(hint, error)} (got {shown(value)}).{_near_choice(hint, value) or quotes_advice(value, fits)}"
    except Exception as error:  # checks of a user's type can raise anything
        return f"{type(error).__name__}: {error} (got {shown(value)})."
    return None


def converted(hint: Any, value: Any) -> Any:
    """Convert a value of a study file to an argument of this type: a list to a tuple, text to a path.

    Raises:
        ValueError: If it is not a value of this type.
    """
    try:
        read = _read(hint, value)
    except Exception:  # checks of a user's type can raise anything
        raise ValueError((check_value(hint, value, resolved=True) or "").removesuffix(".")) from None
    # 1 stays 1 where 1.0 would do, so that the logged value is the one in the study file.
    return value if read == value and not isinstance(read, Enum) else read


def _read(hint: Any, value: Any) -> Any:
    adapter = _adapter(hint)
    # As JSON in strict mode: 1 is a number, "1" and true are not.
    return value if adapter is None else adapter.validate_json(json.dumps(value), strict=True)


def _rule(hint: Any, error: ValidationError) -> str:
    if words := _words(hint):
        return f"must be {_either(words)}"
    first = error.errors()[0]
    message = (
        first["msg"]
        .replace("Input should", "must")
        .replace("an object", "a mapping")
        .replace("a valid array", "a list")
    )
    where = "".join(f" in {part}" for part in first["loc"])
    return f"{message[0].lower()}{message[1:]}{where}"


def _near_choice(hint: Any, value: Any) -> str:
    choices = [
        text
        for each in members(hint)
        for text in ([member.value for member in each] if _is_enum(each) else typing.get_args(each))
        if isinstance(text, str)
    ]
    return did_you_mean(value, choices) if isinstance(value, str) else ""


_LISTS = (tuple, list, Sequence)
_STEPS = 'a number of steps, or text such as "5 epochs" or "25%"'
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def _words(hint: Any) -> list[str] | None:
    """Return descriptions of the alternatives that a type accepts; None if there is none in plain words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        each = [_words(part) for part in parts if not (part is int and float in parts)]
        return None if None in each else [word for words in each for word in words or ()]
    if origin is Literal:
        return [_shown_choice(part) for part in parts]
    if origin is Annotated:
        if takes_steps(hint):
            return [_STEPS]
        return [f"{word}{_bounds(parts[1:])}" for word in _words(parts[0]) or ()] or None
    if origin in _LISTS:
        items = [part for part in parts if part is not Ellipsis]
        count = f"{len(items)} " if origin is tuple and Ellipsis not in parts else ""
        if items and all(takes_steps(item) for item in items):
            return [f"a list, each item {_STEPS}"]
        plurals = [plural for kind, plural in _PLURALS.items() if items and all(item is kind for item in items)]
        return [f"a list of {count}{plurals[0]}"] if plurals else None
    if _is_enum(hint):
        return [_shown_choice(each.value) for each in hint]
    return [_WORDS[hint]] if isinstance(hint, type) and hint in _WORDS else None


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _shown_choice(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _bounds(metadata: Sequence[Any]) -> str:
    limits: dict[str, Any] = {}
    for each in metadata:
        for limit in getattr(each, "metadata", ()):
            limits |= {key: getattr(limit, key) for key in ("ge", "gt", "le") if hasattr(limit, key)}
    lowest, highest, above = limits.get("ge"), limits.get("le"), limits.get("gt")
    if lowest is not None and highest is not None:
        return f" from {lowest} to {highest}"
    if above is not None and highest is not None:
        return f" above {above} and at most {highest}"
    return f" of at least {lowest}" if lowest is not None else f" above {above}" if above is not None else ""


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """Return the validator of a type; None for a type whose values only Python code can create."""
    try:
        hash(hint)
    except TypeError:  # metadata in Annotated[...] that is not hashable
        return _new_adapter(hint)
    return _cached_adapter(hint)


def _new_adapter(hint: Any) -> TypeAdapter[Any] | None:
    try:
        adapter = TypeAdapter(hint)
        adapter.rebuild()  # raises now if a name in the annotation cannot be found
    except Exception:  # pydantic can raise anything for a user's annotation
        return None
    return adapter


_cached_adapter = lru_cache(_new_adapter)
