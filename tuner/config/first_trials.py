"""The first trials of a study: the `trial` of the study file, then one trial for each family.

With every sampler, a study starts with its baseline, if that is a point of the search space. Then each option of every
`one_of`, including nested ones, has a trial, whose other values the sampler suggests. Options of independent choices,
such as optimizers and schedules, share trials, so that small budgets reach all of them; the options of the baseline are
last. These trials depend only on the study file and on their numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.config.annotations import parse_length
from tuner.config.search_space import Choices, OneOf, Range, Template, described, searched, turns
from tuner.text import shown

__all__ = ["FirstTrials", "first_trials"]

Default = Callable[[str, str, str], Any]
"""Takes path and name of a component and an argument; returns its default value or raises KeyError."""

STEP_TOLERANCE = 1e-8  # Optuna's


@dataclass(frozen=True)
class FirstTrials:
    """The fixed values of the first trials of a study.

    Args:
        params: Fixed values of each trial, by their names in Optuna.
        outside: Why `trial` is not one of them; empty if it is, or if nothing is searched.
    """

    params: Sequence[Mapping[str, Any]] = ()
    outside: str = ""


def first_trials(template: Template, trial: Mapping[str, Any], default: Default) -> FirstTrials:
    """Return the first trials of a study.

    Args:
        template: The template of its trials.
        trial: The `trial` of the study file.
        default: Returns the default values of arguments that are not in `trial`.
    """
    if next(searched(template), None) is None:
        return FirstTrials()
    try:
        baseline = dict(_entries(template, trial, "", "", "", default))
    except _OutsideError as error:
        return FirstTrials(turns(template, {}), str(error))
    return FirstTrials([baseline, *(turn for turn in turns(template, baseline) if turn != baseline)])


class _OutsideError(Exception):
    """A value is not in the search space."""


def _drawn(template: Template, value: Any, place: str, path: str, default: Default) -> Iterator[tuple[str, Any]]:
    """Yield the suggestions that give a trial a value, by their names in Optuna.

    Args:
        template: The template of the value.
        value: The value.
        place: Path of the value in `trial`.
        path: The same path with the names of families, as in Optuna.
        default: As in `first_trials`.

    Raises:
        _OutsideError: If the value is not in the search space.
    """
    match template:
        case Range():
            yield template.name(path), _in_range(template, value, place)
        case Choices(values=values):
            found = [each for each in values if each == value and isinstance(each, bool) == isinstance(value, bool)]
            if not found:
                raise _OutsideError(f"{place} is {shown(value)}, not one of {described(template)}")
            yield path, found[0]
        case OneOf(options=options):
            name = _mapping(value, place).get("name")
            if name is None:
                raise _OutsideError(f"{place} is not given")
            if name not in options:
                raise _OutsideError(f"{place} is {name}, not one of {', '.join(options)}")
            yield f"{path}.name", name
            yield from _entries(options[name], value, name, place, f"{path}.{name}", default)
        case Mapping():
            yield from _entries(template, _mapping(value, place), template.get("name", ""), place, path, default)
        case list():
            if not isinstance(value, list | tuple) or len(value) != len(template):
                raise _OutsideError(f"{place} is {shown(value)}, in search_space it has {len(template)} items")
            for index, (inner, item) in enumerate(zip(template, value, strict=True)):
                yield from _drawn(inner, item, f"{place}.{index}", f"{path}.{index}", default)
        case _ if value != template:
            raise _OutsideError(f"{place} is {shown(value)}, in search_space {shown(template)}")


def _entries(
    template: Mapping[str, Any], values: Mapping[str, Any], name: str, place: str, path: str, default: Default
) -> Iterator[tuple[str, Any]]:
    for key, inner in template.items():
        inner_place, inner_path = (f"{before}.{key}" if before else key for before in (place, path))
        try:
            value = values[key] if key in values else default(place, name, key)
        except KeyError:
            raise _OutsideError(f"{inner_place} is not given") from None
        yield from _drawn(inner, value, inner_place, inner_path, default)


def _mapping(value: Any, place: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise _OutsideError(f"{place} is not given" if value is None else f"{place} is {shown(value)}")


def _in_range(spec: Range, value: Any, place: str) -> float:
    number = value
    if spec.unit:
        length = parse_length(value)
        number = length[0] if length and length[1] == spec.unit else None
    is_number = isinstance(number, int if spec.integer else int | float) and not isinstance(number, bool)
    if is_number and spec.low <= number <= spec.high:
        steps = (number - spec.low) / spec.step if spec.step else 0.0
        if abs(steps - round(steps)) < STEP_TOLERANCE:
            return int(number) if spec.integer else float(number)
    unit = f" {spec.unit}" if spec.unit else ""
    raise _OutsideError(f"{place} is {shown(value)}, not in {described(spec)}{unit}")
