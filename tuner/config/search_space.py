"""Search spaces: ranges and choices, and the values that they allow.

A *template* is the `trial` of a study file with every searched place filled by a `Range`, `Choices` or `OneOf`.
`suggest` walks it with an Optuna trial and returns plain values. The name of a parameter in Optuna is its dotted path,
including the family for a parameter that only one family has: ``schedule.exponential.decay_rate``.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

__all__ = [
    "Choices",
    "OneOf",
    "Range",
    "Spec",
    "Suggester",
    "Template",
    "component_names",
    "corners",
    "described",
    "grid_point",
    "grid_size",
    "grid_values",
    "highest",
    "is_spec",
    "lowest",
    "searched",
    "snapped",
    "suggest",
    "turns",
]

MAX_CORNERS = 256

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, inclusive; with a `unit` ("epochs" or "%"), lengths in that unit.

    `is_guess` says that they are whole numbers only because `low` and `high` are: the argument takes any number, or its
    type is unknown.
    The first random trials are drawn from a normal distribution, or with `log` a log-normal one, around a `prior`, its
    center and its width: one standard deviation, or with `log` the factor of one.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False
    unit: str = ""
    prior: tuple[float, float] | None = None
    is_guess: bool = field(default=False, compare=False)

    def written(self, number: float) -> Any:
        """Return a number of the range as it is written in a study file."""
        return f"{number} {self.unit}" if self.unit else number

    def name(self, path: str) -> str:
        """Return its name in Optuna: the path, and the unit."""
        return f"{path} ({self.unit})" if self.unit else path


@dataclass(frozen=True)
class Choices:
    """One of several plain values."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class OneOf:
    """One of several named components, each with its own arguments (values or specs)."""

    options: Mapping[str, Mapping[str, Any]]


Spec = Range | Choices | OneOf
Template = Any
"""Plain values, mappings and lists of templates, or a `Spec`."""


def is_spec(raw: Any) -> bool:
    """Return whether a value of a study file is meant as a range or as choices."""
    return isinstance(raw, Mapping) and not raw.keys().isdisjoint({"low", "high", "choices"})


class Suggester(Protocol):
    """Suggests values: an Optuna trial, or the record of one."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return a whole number."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return a number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""


def described(spec: Range | Choices) -> str:
    """Return the description of a spec.

    >>> described(Range(1e-4, 1e-1, log=True)), described(Choices(("a", 2)))
    ('0.0001 to 0.1 (log)', 'a, 2')
    """
    if isinstance(spec, Choices):
        return ", ".join(str(value) for value in spec.values)
    steps = f", in steps of {spec.step:g}" if spec.step else ""
    prior = f", at first around {spec.prior[0]:g}" if spec.prior else ""
    return f"{spec.low:g} to {spec.high:g}{' (log)' if spec.log else ''}{steps}{prior}"


def highest(template: Template) -> Any:
    """Return the largest number that a value or spec can be."""
    match template:
        case Range(high=high):
            return high
        case Choices(values=values):
            return max(value for value in values if isinstance(value, int | float))
        case _:
            return template


def lowest(template: Template) -> Any:
    """Return the smallest number that a value or spec can be."""
    match template:
        case Range(low=low):
            return low
        case Choices(values=values):
            return min(value for value in values if isinstance(value, int | float))
        case _:
            return template


def suggest(trial: Suggester, template: Template, path: str = "") -> Any:
    """Return the template with every spec replaced by a suggested value."""
    match template:
        case Range(low=low, high=high, log=log, step=step, integer=True):
            return trial.suggest_int(path, int(low), int(high), step=int(step or 1), log=log)
        case Range(low=low, high=high, log=log, step=step):
            return template.written(trial.suggest_float(template.name(path), low, high, step=step, log=log))
        case Choices(values=values):
            return trial.suggest_categorical(path, values)
        case OneOf(options=options):
            name = trial.suggest_categorical(f"{path}.name", list(options))
            return {"name": name, **suggest(trial, options[name], f"{path}.{name}")}
        case Mapping():
            return {key: suggest(trial, value, _inside(path, key)) for key, value in template.items()}
        case list():
            return [suggest(trial, value, _inside(path, index)) for index, value in enumerate(template)]
        case _:
            return template


def searched(template: Template, path: str = "") -> Iterator[tuple[str, Range | Choices]]:
    """Yield name in Optuna and spec of everything that is searched."""
    match template:
        case Range():
            yield template.name(path), template
        case Choices():
            yield path, template
        case OneOf(options=options):
            yield f"{path}.name", Choices(tuple(options))
            for name, arguments in options.items():
                yield from searched(arguments, f"{path}.{name}")
        case Mapping() | list():
            for key, value in _entries(template):
                yield from searched(value, _inside(path, key))


def searched_in_runs(template: Template, path: str = "") -> Iterator[tuple[str, Range | Choices]]:
    """Yield name and spec of everything that is searched, under its name in a trial's values.

    A name that several choices of a `OneOf` have comes once for each of them.
    """
    match template:
        case Range() | Choices():
            yield path, template
        case OneOf(options=options):
            yield f"{path}.name", Choices(tuple(options))
            for arguments in options.values():
                yield from searched_in_runs(arguments, path)
        case Mapping() | list():
            for key, value in _entries(template):
                yield from searched_in_runs(value, _inside(path, key))


def component_names(template: Template) -> Iterator[str]:
    """Yield the names of all components that a template can have, nested ones included."""
    match template:
        case OneOf(options=options):
            yield from options
            for arguments in options.values():
                yield from component_names(arguments)
        case Mapping() | list():
            for key, value in _entries(template):
                if key == "name" and isinstance(value, str):
                    yield value
                yield from component_names(value)


def _entries(template: Mapping[str, Any] | list[Any]) -> Iterable[tuple[str | int, Any]]:
    return template.items() if isinstance(template, Mapping) else enumerate(template)


def _inside(path: str, key: str | int) -> str:
    return f"{path}.{key}" if path else str(key)


def grid_size(template: Template) -> int:
    """Return how many different configurations the grid of a template has, whose ranges all have a step.

    >>> grid_size({"a": OneOf({"x": {"b": Choices((1, 2))}, "y": {}}), "c": Range(0, 10, step=5, integer=True)})
    9
    """
    match template:
        case Range(low=low, high=high, step=step):
            return round((high - low) / (step or 1)) + 1
        case Choices(values=values):
            return len(values)
        case OneOf(options=options):
            return sum(grid_size(arguments) for arguments in options.values())
        case Mapping() | list():
            return math.prod(grid_size(each) for _, each in _entries(template))
        case _:
            return 1


def grid_point(template: Template, index: int, path: str = "") -> dict[str, Any]:
    """Return the values of a point of a grid, by their names in Optuna.

    Args:
        template: The template; all its ranges have a step.
        index: Which one, from 0 to `grid_size` - 1.
        path: Path of the template.

    >>> grid_point({"a": OneOf({"x": {"b": Choices((1, 2))}, "y": {}})}, 1)
    {'a.name': 'x', 'a.x.b': 2}
    """
    match template:
        case Range():
            return {template.name(path): _number(template, index)}
        case Choices(values=values):
            return {path: values[index]}
        case OneOf(options=options):
            for name, arguments in options.items():
                if index < (size := grid_size(arguments)):
                    return {f"{path}.name": name, **grid_point(arguments, index, f"{path}.{name}")}
                index -= size
            raise IndexError(path)
        case Mapping() | list():
            point: dict[str, Any] = {}
            for key, each in _entries(template):
                index, inner = divmod(index, grid_size(each))
                point |= grid_point(each, inner, _inside(path, key))
            return point
        case _:
            return {}


def grid_values(spec: Range | Choices) -> list[Any]:
    """Return the values of a range with a step, or the choices, as they are written in a study file.

    >>> grid_values(Range(0.1, 0.3, step=0.1)), grid_values(Range(1, 2, step=1, unit="epochs"))
    ([0.1, 0.2, 0.3], ['1.0 epochs', '2.0 epochs'])
    """
    if isinstance(spec, Choices):
        return list(spec.values)
    return [spec.written(_number(spec, index)) for index in range(grid_size(spec))]


def _number(spec: Range, index: int) -> float:
    number = Decimal(str(spec.low)) + index * Decimal(str(spec.step or 1))  # 0.3, and not 0.1 + 2 * 0.1
    return int(number) if spec.integer else float(number)


def snapped(spec: Range, number: float) -> float:
    """Return the number of a range that is nearest to another number.

    >>> snapped(Range(0, 1, step=0.1), 0.27), snapped(Range(2, 64, log=True, integer=True), 77.7)
    (0.3, 64)
    """
    number = min(max(number, spec.low), spec.high)
    if spec.step:
        return _number(spec, round((number - spec.low) / spec.step))
    return round(number) if spec.integer else number


def turns(template: Template, last: Mapping[str, Any], path: str = "") -> list[dict[str, Any]]:
    """Return fixed values for trials that have each option of every `OneOf` once, in as few trials as possible.

    Args:
        template: The template.
        last: Values that another trial already has, by the names in Optuna; their options come last.
        path: Path of the template.

    >>> options = OneOf({"x": {}, "y": {"c": OneOf({"v": {}, "w": {}})}})
    >>> turns({"a": options, "b": OneOf({"s": {}, "t": {}})}, {"a.name": "x"})  # doctest: +NORMALIZE_WHITESPACE
    [{'a.name': 'y', 'a.y.c.name': 'v', 'b.name': 's'}, {'a.name': 'y', 'a.y.c.name': 'w', 'b.name': 't'},
     {'a.name': 'x'}]
    """
    match template:
        case OneOf(options=options):
            names = sorted(options, key=lambda name: name == last.get(f"{path}.name"))
            return [
                {f"{path}.name": name, **inner}
                for name in names
                for inner in turns(options[name], last, f"{path}.{name}") or [{}]
            ]
        case Mapping() | list():
            parts = [turns(each, last, _inside(path, key)) for key, each in _entries(template)]
            rows = itertools.zip_longest(*parts, fillvalue={})
            return [{name: value for part in row for name, value in part.items()} for row in rows]
        case _:
            return []


def corners(template: Template) -> list[Any]:
    """Return the values at the corners of a search space, which are tried before a study starts.

    All combinations of extremes if they are few; otherwise each extreme once, with the others at their lowest.

    >>> corners({"a": Range(1, 2), "b": Choices(("x", "y")), "c": 3})[1:3]
    [{'a': 1, 'b': 'y', 'c': 3}, {'a': 2, 'b': 'x', 'c': 3}]
    """
    match template:
        case Range(low=low, high=high):
            return [template.written(low), template.written(high)]
        case Choices(values=values):
            return list(values)
        case OneOf(options=options):
            return [{"name": name, **values} for name, each in options.items() for values in corners(each)]
        case Mapping():
            return [dict(zip(template, values, strict=True)) for values in _combinations(template.values())]
        case list():
            return [list(values) for values in _combinations(template)]
        case _:
            return [template]


def _combinations(templates: Iterable[Template]) -> Iterator[tuple[Any, ...]]:
    axes = [corners(template) for template in templates]
    if math.prod(len(axis) for axis in axes) <= MAX_CORNERS:
        yield from itertools.product(*axes)
        return
    lowest = [axis[0] for axis in axes]
    yield tuple(lowest)
    for place, axis in enumerate(axes):
        for value in axis[1:]:
            yield (*lowest[:place], value, *lowest[place + 1 :])
