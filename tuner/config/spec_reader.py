"""Reads ranges and choices of a study file, and reports their errors."""

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from tuner.config.document import Keys
from tuner.config.search_space import Choices, Range, Scalar
from tuner.config.yaml_reader import quotes_advice
from tuner.text import shown

__all__ = ["MAX_CHOICES", "parse_spec"]

MAX_CHOICES = 1000
MAX_WHOLE = 2**53  # Optuna keeps whole numbers as floats
MAX_NUMBER = 1e300  # high - low must be a number too
RANGE_KEYS = ("low", "high", "log", "step", "prior")

Fault = Callable[[Keys, str], None]
"""Takes the path of an error inside a spec, and its message."""


def parse_spec(raw: Mapping[str, Any], integer: bool, fault: Fault) -> Range | Choices | None:
    """Read a range or a list of choices; if it has errors, report them and return None.

    Args:
        raw: The range or the choices in the study file.
        integer: Whether the place takes whole numbers.
        fault: Called for each error.
    """
    return _parse_choices(raw, fault) if "choices" in raw else _parse_range(raw, integer, fault)


def _parse_range(raw: Mapping[str, Any], integer: bool, fault: Fault) -> Range | None:
    faults = list(_form_faults(raw, integer)) or list(_order_faults(raw)) or list(_prior_faults(raw))
    for path, message in faults:
        fault(path, message)
    if faults:
        return None
    kind = int if integer else float
    step = kind(raw["step"]) if "step" in raw else None
    prior = (float(raw["prior"]["center"]), float(raw["prior"]["width"])) if "prior" in raw else None
    return Range(kind(raw["low"]), kind(raw["high"]), raw.get("log", False), step, integer, prior=prior)


def _form_faults(raw: Mapping[str, Any], integer: bool) -> Iterator[tuple[Keys, str]]:
    for key in raw:
        if key not in RANGE_KEYS:
            yield (key,), "unknown key; a range has low, high and, optionally, log, step and prior."
    for key in ("low", "high", "step"):
        if key in raw:
            if wrong := _number_fault(raw[key], integer):
                yield (key,), wrong
        elif key != "step":
            yield (key,), "required."
    if not isinstance(raw.get("log", False), bool):
        advice = quotes_advice(raw["log"], lambda plain: isinstance(plain, bool))
        yield ("log",), f"must be true or false (got {shown(raw['log'])}).{advice}"


def _prior_faults(raw: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Reject a prior that is not {center: ..., width: ...}, or lies outside its range."""
    if "prior" not in raw:
        return
    prior, low, high, log = raw["prior"], raw["low"], raw["high"], raw.get("log", False)
    if not isinstance(prior, Mapping) or prior.keys() != {"center", "width"}:
        yield ("prior",), f"must be {{center: ..., width: ...}} (got {shown(prior)})."
        return
    wrong = [(key, fault) for key in prior if (fault := _number_fault(prior[key], False))]
    yield from ((("prior", key), fault) for key, fault in wrong)
    if wrong:
        return
    if not low <= prior["center"] <= high:
        fault = f"must be within the range, {shown(low)} to {shown(high)} (got {shown(prior['center'])})."
        yield ("prior", "center"), fault
    if prior["width"] <= (1 if log else 0):
        rule = "a factor above 1 when log is true" if log else "above 0"
        yield ("prior", "width"), f"must be {rule} (got {shown(prior['width'])})."


def _number_fault(number: Any, integer: bool) -> str | None:
    if isinstance(number, bool) or not isinstance(number, int | float):
        advice = quotes_advice(number, lambda plain: _number_fault(plain, integer) is None)
        return f"must be a number (got {shown(number)}).{advice}"
    if integer and not isinstance(number, int):
        return f"must be a whole number here (got {shown(number)})."
    if abs(number) >= (MAX_WHOLE if integer else MAX_NUMBER):
        return f"must be less than {'2**53' if integer else '1e300'} (got {shown(number)})."
    return None


def _order_faults(raw: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    low, high, step, log = raw["low"], raw["high"], raw.get("step"), raw.get("log", False)
    if low >= high:
        yield (), f"low ({shown(low)}) must be below high ({shown(high)})."
    if log and low <= 0:
        yield ("low",), f"must be > 0 when log is true (got {shown(low)})."
    if step is None:
        return
    if log:
        yield ("step",), "cannot be used with log: true."
    elif step <= 0:
        yield ("step",), f"must be > 0 (got {shown(step)})."
    elif low < high:
        yield from _step_faults(*(Decimal(str(number)) for number in (low, high, step)))


def _step_faults(low: Decimal, high: Decimal, step: Decimal) -> Iterator[tuple[Keys, str]]:
    """Reject a step that does not lead from low to high: Optuna would only warn and lower high."""
    if step > high - low:
        yield ("step",), f"step ({step}) is larger than high - low ({high - low})."
    elif (high - low) / step > MAX_WHOLE:
        yield ("step",), f"step ({step}) is too small for high - low ({high - low})."
    elif rest := (high - low) % step:
        yield ("step",), f"steps of {step} from {low} do not reach {high}; write high: {high - rest}."


def _parse_choices(raw: Mapping[str, Any], fault: Fault) -> Choices | None:
    faults: list[tuple[Keys, str]] = [((key,), "unknown key next to choices.") for key in raw if key != "choices"]
    faults += _choice_faults(raw["choices"])
    for path, message in faults:
        fault(path, message)
    return None if faults else Choices(tuple(raw["choices"]))


def _choice_faults(values: Any) -> Iterator[tuple[Keys, str]]:
    if not isinstance(values, list):
        yield ("choices",), f"must be a list of values (got {shown(values)})."
        return
    if len(values) > MAX_CHOICES:
        yield ("choices",), f"has {len(values)} values; the limit is {MAX_CHOICES}."
        return
    first: dict[Scalar, int] = {}
    for index, value in enumerate(values):
        if isinstance(value, list | dict):
            instead = "items of a list are searched by their paths, such as model.channels.0"
            if isinstance(value, dict):
                instead = "to search a whole component, write {one_of: {name: {argument: range or value}, ...}}"
            yield (
                ("choices", index),
                f"must be a plain value, not a list or a mapping (got {shown(value)}); {instead}.",
            )
        elif first.setdefault(value, index) != index:  # Optuna treats 1, 1.0 and true as equal
            yield ("choices", index), f"{shown(value)} is the same as choices[{first[value]}]."
    if len(values) < 2:
        yield ("choices",), f"needs at least 2 different values (got {shown(values)})."
