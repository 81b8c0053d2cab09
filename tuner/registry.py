"""Names to classes: the only place where a name in a study file becomes code.

Wherever a short name is accepted, ``package.module:Name`` is too. Importing it runs that module, by design, so such
names come from the study file that the user gave and from nowhere else.
"""

import difflib
import importlib
import inspect
import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from lightning_modules import DATASETS, MODELS, OPTIMIZERS, SCHEDULES, Plateau, Schedule

__all__ = [
    "KINDS",
    "Argument",
    "arguments_of",
    "build",
    "check_value",
    "did_you_mean",
    "is_schedule",
    "resolve",
    "signature_of",
]

KINDS: dict[str, Mapping[str, type]] = {
    "data": DATASETS,
    "model": MODELS,
    "optimizer": OPTIMIZERS,
    "schedule": {**SCHEDULES, "plateau": Plateau},
}


@dataclass(frozen=True)
class Argument:
    """An argument of a registered class.

    Args:
        hint: Its type annotation; Any where there is none.
        required: Whether it has no default.
    """

    hint: Any
    required: bool


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" if a known name is near, else nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def resolve(kind: str, name: str) -> type:
    """Return the class that a name stands for.

    Raises:
        ValueError: If the name is unknown or cannot be imported.
    """
    known = KINDS[kind]
    if name in known:
        return known[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(
            f'unknown {kind} "{name}". Known: {", ".join(sorted(known))}, or package.module:Name.'
            + did_you_mean(name, known)
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f'cannot import "{name}": {type(error).__name__}: {error}') from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise ValueError(f'"{module_name}" has no class "{attribute}".{did_you_mean(attribute, dir(module))}')
    return typing.cast(type, found)


@lru_cache
def arguments_of(kind: str, name: str) -> dict[str, Argument] | None:
    """Return the arguments that a study file may give to a name, or None if it takes any."""
    target = resolve(kind, name)
    arguments = signature_of(target)
    if arguments is None:
        return None
    if kind == "data":
        arguments.pop("seed", None)  # trial.seed is the one seed of a trial
    if _is_torch_optimizer(target):
        arguments.pop("params")
        arguments["initial_lr"] = arguments.pop("lr")
    return arguments


def signature_of(target: Any) -> dict[str, Argument] | None:
    """Return the named arguments of a class or function, or None if it takes any."""
    parameters = list(inspect.signature(target).parameters.values())
    try:
        hints = typing.get_type_hints(target.__init__ if isinstance(target, type) else target)  # type: ignore[misc]
    except Exception:  # a name that only a type checker can resolve: the arguments are still known, their types are not
        hints = {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {
        parameter.name: Argument(hints.get(parameter.name, Any), parameter.default is parameter.empty)
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _is_torch_optimizer(target: Any) -> bool:
    return isinstance(target, type) and issubclass(target, torch.optim.Optimizer)


def is_schedule(hint: Any) -> bool:
    """Tell whether an argument of this type is itself a schedule, given in a study file as ``{name: ...}``."""
    types = typing.get_args(hint) or (hint,)
    return any(isinstance(each, type) and issubclass(each, Schedule) for each in types)


@lru_cache
def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(hint)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return None


def check_value(hint: Any, value: Any) -> str | None:
    """Return what is wrong with a value of a study file for this type, or None."""
    adapter = _adapter(hint)
    if adapter is None:
        return None
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].replace("Input should be", "must be").replace("Input should", "must")
        return f"{message[0].lower()}{message[1:]} (got {json.dumps(value)})"
    return None


def build(kind: str, name: str, arguments: Mapping[str, Any], **extra: Any) -> Any:
    """Build the object that a name and its checked arguments stand for.

    Args:
        kind: A key of `KINDS`.
        name: Registered name or ``package.module:Name``.
        arguments: Values from a study file.
        extra: Further arguments, passed on if the class takes them.

    Raises:
        ValueError: If an argument breaks a rule of the class.
    """
    target = resolve(kind, name)
    known = arguments_of(kind, name)
    values: dict[str, Any] = {}
    for key, value in arguments.items():
        hint = known[key].hint if known and key in known else Any
        if is_schedule(hint) or (known is None and isinstance(value, Mapping) and "name" in value):
            nested = dict(value)
            value = build("schedule", nested.pop("name"), nested)
        elif isinstance(value, list) and (adapter := _adapter(hint)) is not None:
            value = adapter.validate_json(json.dumps(value))  # a list becomes the tuple that the class asks for
        values[key] = value
    accepted = inspect.signature(target).parameters
    values |= {key: value for key, value in extra.items() if key in accepted}
    if _is_torch_optimizer(target):
        return partial(target, lr=values.pop("initial_lr"), **values)
    return target(**values)
