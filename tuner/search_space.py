"""Ranges in, values out: what a study searches, its checks, and what a trial draws from it.

A *template* is the `trial` of a study file with every searched place filled by a `Range`, `Choices` or `OneOf`.
`suggest` walks it with an Optuna trial and returns plain values. The name of a parameter in Optuna is its dotted path,
with the family in it for what only one family has: ``schedule.exponential.decay_rate``.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = [
    "Choices",
    "Drawing",
    "OneOf",
    "Range",
    "Spec",
    "Template",
    "corners",
    "highest",
    "parse_spec",
    "searched",
    "suggest",
]

MAX_CHOICES = 1000
MAX_CORNERS = 256
RANGE_KEYS = frozenset({"low", "high", "log", "step"})

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False


@dataclass(frozen=True)
class Choices:
    """One of several plain values."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class OneOf:
    """One of several named components, each with arguments (values or specs) of its own."""

    options: Mapping[str, Mapping[str, Any]]


Spec = Range | Choices | OneOf
Template = Any
"""Plain values, mappings of templates, or a `Spec`."""


def parse_spec(raw: Any, integer: bool, fault: Callable[[str, str], None]) -> Range | Choices | None:
    """Read a range or a list of choices; report what is wrong to `fault` (key, message) and return None then.

    Args:
        raw: What the study file has in the place of a value.
        integer: Whether the place takes whole numbers.
        fault: Called once for each fault.
    """
    if "choices" in raw:
        for key in raw.keys() - {"choices"}:
            fault(key, "unknown key beside choices.")
        return _parse_choices(raw["choices"], fault)
    for key in raw.keys() - RANGE_KEYS:
        fault(key, "unknown key; a range has low, high and, if wanted, log and step.")
    for key in ("low", "high"):
        if key not in raw:
            fault(key, "required.")
    numbers = {key: raw[key] for key in ("low", "high", "step") if raw.get(key) is not None}
    sound = raw.keys() <= RANGE_KEYS and {"low", "high"} <= raw.keys()
    for key, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            fault(key, f"must be a number (got {number!r}).")
            sound = False
        elif integer and not isinstance(number, int):
            fault(key, f"must be a whole number here (got {number!r}).")
            sound = False
        elif abs(number) >= 2**53:
            fault(key, f"must be below 2**53 (got {number!r}).")
            sound = False
    log = raw.get("log", False)
    if not isinstance(log, bool):
        fault("log", f"must be true or false (got {log!r}).")
        sound = False
    if not sound or {"low", "high"} - numbers.keys():
        return None
    low, high, step = raw["low"], raw["high"], raw.get("step")
    if low >= high:
        fault("", f"low ({low}) must be below high ({high}).")
        sound = False
    if log and low <= 0:
        fault("low", f"must be > 0 when log is true (got {low}).")
        sound = False
    if step is not None:
        if log:
            fault("step", "cannot be used with log: true.")
            sound = False
        elif step <= 0:
            fault("step", f"must be > 0 (got {step}).")
            sound = False
        elif low < high < low + step:
            fault("step", f"step ({step}) is larger than high - low ({high - low}).")
            sound = False
    return Range(low, high, log, step, integer) if sound else None


def _parse_choices(values: Any, fault: Callable[[str, str], None]) -> Choices | None:
    if not isinstance(values, list):
        fault("choices", f"must be a list of values (got {values!r}).")
        return None
    if len(values) > MAX_CHOICES:
        fault("choices", f"has {len(values)} values; the limit is {MAX_CHOICES}.")
        return None
    sound = True
    for index, value in enumerate(values):
        if isinstance(value, list | dict):
            fault(f"choices[{index}]", "must be a plain value, not a list or a mapping.")
            sound = False
    if sound and len({(type(value), value) for value in values}) < max(2, len(values)):
        fault("choices", f"needs at least 2 values, all different (got {values}).")
        sound = False
    return Choices(tuple(values)) if sound else None


class Drawing(Protocol):
    """What draws values: an Optuna trial, or the record of one."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return a whole number."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return a number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""


def highest(template: Template) -> Any:
    """Return the largest number that a value or spec can be."""
    match template:
        case Range(high=high):
            return high
        case Choices(values=values):
            return max(value for value in values if isinstance(value, int | float))
        case _:
            return template


def suggest(trial: Drawing, template: Template, path: str = "") -> Any:
    """Return the template with every spec replaced by what the trial draws for it."""
    match template:
        case Range(low=low, high=high, log=log, step=step, integer=True):
            return trial.suggest_int(path, int(low), int(high), step=int(step or 1), log=log)
        case Range(low=low, high=high, log=log, step=step):
            return trial.suggest_float(path, low, high, step=step, log=log)
        case Choices(values=values):
            return trial.suggest_categorical(path, values)
        case OneOf(options=options):
            name = trial.suggest_categorical(f"{path}.name", list(options))
            return {"name": name, **suggest(trial, options[name], f"{path}.{name}")}
        case Mapping():
            return {key: suggest(trial, value, f"{path}.{key}" if path else key) for key, value in template.items()}
        case _:
            return template


def searched(template: Template, path: str = "") -> Iterator[tuple[str, Range | Choices]]:
    """Yield the Optuna name and the values of everything that is searched."""
    match template:
        case Range() | Choices():
            yield path, template
        case OneOf(options=options):
            yield f"{path}.name", Choices(tuple(options))
            for name, arguments in options.items():
                yield from searched(arguments, f"{path}.{name}")
        case Mapping():
            for key, value in template.items():
                yield from searched(value, f"{path}.{key}" if path else key)


def corners(template: Template) -> Iterator[Any]:
    """Yield the template's values at the corners of its search space, to be tried before a study starts.

    All combinations of extremes where they are few; else each extreme once, the others at their lowest.
    """
    extremes = _extremes(template)
    if math.prod(len(values) for values in extremes.values()) <= MAX_CORNERS:
        picks: Iterator[dict[int, Any]] = (
            dict(zip(extremes, combination, strict=True)) for combination in itertools.product(*extremes.values())
        )
    else:
        lowest = {key: values[0] for key, values in extremes.items()}
        picks = (lowest | {key: value} for key, values in extremes.items() for value in values)
    for pick in picks:
        yield _fill(template, pick)


def _extremes(template: Template) -> dict[int, list[Any]]:
    match template:
        case Range(low=low, high=high):
            return {id(template): [low, high]}
        case Choices(values=values):
            return {id(template): list(values)}
        case OneOf(options=options):
            return {
                id(template): [{"name": name, **values} for name, each in options.items() for values in corners(each)]
            }
        case Mapping():
            return {key: values for value in template.values() for key, values in _extremes(value).items()}
        case _:
            return {}


def _fill(template: Template, pick: Mapping[int, Any]) -> Any:
    if id(template) in pick:
        return pick[id(template)]
    if isinstance(template, Mapping):
        return {key: _fill(value, pick) for key, value in template.items()}
    return template
