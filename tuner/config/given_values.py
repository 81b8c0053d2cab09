"""The values of a configuration as suggestions for a trial: which are in the search space, and why others are not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.config.annotations import parse_length
from tuner.config.lengths import Length
from tuner.config.search_space import Choices, OneOf, Range, Template, described
from tuner.text import shown

__all__ = ["Default", "Given", "Misfit", "given_values", "nested"]

Default = Callable[[str, str, str], Any]
"""Takes path and name of a component and an argument; returns its default value or raises KeyError."""

STEP_TOLERANCE = 1e-8  # the same as Optuna's


@dataclass(frozen=True)
class Given:
    """A value that the search space has.

    Args:
        place: Its path in `trial`.
        name: Its name in Optuna; empty if it is not searched, and has this value in each trial.
        value: The value.
    """

    place: str
    name: str
    value: Any


@dataclass(frozen=True)
class Misfit:
    """A place where the configuration has no value from the search space.

    Args:
        place: Its path in `trial`.
        reason: The reason, after the place.
        is_missing: Whether the configuration has no value there.
        is_searched: Whether the place is searched.
    """

    place: str
    reason: str
    is_missing: bool = False
    is_searched: bool = True

    def __str__(self) -> str:
        return f"{self.place} {self.reason}"


def given_values(
    template: Template,
    values: Mapping[str, Any],
    default: Default | None = None,
    length: Length | None = None,
    *,
    all_keys: bool = False,
) -> Iterator[Given | Misfit]:
    """Yield the value or misfit of a configuration at each place of a template.

    Args:
        template: The template of the trials of a study.
        values: The configuration, nested as the `trial` of a study file; it need not be complete.
        default: Returns the default values of arguments that it does not have; None to leave them out.
        length: The length of a run, which converts percent to steps and epochs; None to convert no lengths.
        all_keys: Whether a key of the configuration that the template does not have is a misfit.
    """
    return _Walk(default, length, all_keys).entries(template, values, "", "", "")


def nested(assignments: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that are given by dotted paths as nested mappings.

    Raises:
        ValueError: If a path is given twice, or leads into a value.

    >>> nested({"optimizer.initial_lr": 0.1, "schedule": {"name": "constant"}, "optimizer": {"eps": 1}})
    {'optimizer': {'initial_lr': 0.1, 'eps': 1}, 'schedule': {'name': 'constant'}}
    """
    values: dict[str, Any] = {}
    for path, value in assignments.items():
        *outer, last = path.split(".")
        here = values
        for part in outer:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                raise ValueError(f"{path} leads into the value of {path.rpartition('.')[0]}")
        if isinstance(value, Mapping):
            value = nested(value)
        before = here.get(last)
        if isinstance(before, dict) and isinstance(value, dict) and not before.keys() & value.keys():
            here[last] = before | value
        elif last in here:
            raise ValueError(f"{path} is given twice")
        else:
            here[last] = value
    return values


class _Walk:
    """Implements `given_values`, whose arguments it takes."""

    def __init__(self, default: Default | None, length: Length | None, all_keys: bool) -> None:
        self._default, self._length, self._all_keys = default, length, all_keys

    def entries(
        self, template: Mapping[str, Any], values: Mapping[str, Any], name: str, place: str, path: str
    ) -> Iterator[Given | Misfit]:
        """Yield the values and misfits at the entries of a mapping.

        Args:
            template: The template of the mapping.
            values: The values.
            name: Name of the component whose arguments they are; empty if they are not arguments.
            place: Path of the mapping in `trial`.
            path: The same path with the names of families, as in Optuna.
        """
        if isinstance(template.get("name"), str) and values.get("name", template["name"]) != template["name"]:
            reason = f"is {shown(values['name'])}, in search_space {shown(template['name'])}"
            yield Misfit(f"{place}.name", reason, is_searched=False)
            return  # an argument of the same name would have another meaning
        for key, inner in template.items():
            inner_place, inner_path = (f"{before}.{key}" if before else key for before in (place, path))
            try:
                value = values[key] if key in values else self._of_default(place, name, key)
            except KeyError:
                is_searched = isinstance(inner, Range | Choices | OneOf)
                if self._default or is_searched:
                    yield Misfit(inner_place, "is not given", True, is_searched)
                continue
            yield from self._place(inner, value, inner_place, inner_path)
        if self._all_keys:
            for key in values.keys() - template.keys() - {"name"}:
                yield Misfit(f"{place}.{key}" if place else key, "is not searched, and not in trial", is_searched=False)

    def _of_default(self, place: str, name: str, key: str) -> Any:
        if self._default is None:
            raise KeyError(key)
        return self._default(place, name, key)

    def _place(self, template: Template, value: Any, place: str, path: str) -> Iterator[Given | Misfit]:
        match template:
            case Range():
                yield self._of_range(template, value, place, path)
            case Choices():
                yield self._of_choices(template, value, place, path)
            case OneOf(options=options):
                if not isinstance(value, Mapping):
                    yield _no_mapping(value, place)
                elif (name := value.get("name")) is None:
                    yield Misfit(place, "is not given", True)
                elif name not in options:
                    yield Misfit(place, f"is {name}, not one of {', '.join(options)}")
                else:
                    yield Given(f"{place}.name", f"{path}.name", name)
                    yield from self.entries(options[name], value, name, place, f"{path}.{name}")
            case Mapping():
                if isinstance(value, Mapping):
                    yield from self.entries(template, value, template.get("name", ""), place, path)
                else:
                    yield _no_mapping(value, place)
            case list():
                yield from self._list(template, value, place, path)
            case _ if value != template:
                yield Misfit(place, f"is {shown(value)}, in search_space {shown(template)}", is_searched=False)
            case _:
                yield Given(place, "", value)

    def _list(self, template: list[Any], value: Any, place: str, path: str) -> Iterator[Given | Misfit]:
        if isinstance(value, Mapping) and all(str(key).isdecimal() and int(key) < len(template) for key in value):
            items = {int(key): item for key, item in value.items()}  # some of the items, by their indices
        elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == len(template):
            items = dict(enumerate(value))
        else:
            yield Misfit(place, f"is {shown(value)}, in search_space it has {len(template)} items")
            return
        for index, item in items.items():
            yield from self._place(template[index], item, f"{place}.{index}", f"{path}.{index}")

    def _of_range(self, spec: Range, value: Any, place: str, path: str) -> Given | Misfit:
        number = value
        found = parse_length(value)
        if found and found[1] == spec.unit:
            number = found[0]
        elif found and self._length:
            number = self._length.convert(value, spec.unit)
        elif spec.unit:
            number = None
        is_number = isinstance(number, int if spec.integer else int | float) and not isinstance(number, bool)
        if is_number and spec.low <= number <= spec.high:
            steps = (number - spec.low) / spec.step if spec.step else 0.0
            if abs(steps - round(steps)) < STEP_TOLERANCE:
                return Given(place, spec.name(path), int(number) if spec.integer else float(number))
        unit = f" {spec.unit}" if spec.unit else ""
        return Misfit(place, f"is {shown(value)}, not in {described(spec)}{unit}")

    def _of_choices(self, spec: Choices, value: Any, place: str, path: str) -> Given | Misfit:
        same = [each for each in spec.values if each == value and isinstance(each, bool) == isinstance(value, bool)]
        if not same and self._length and parse_length(value):
            steps = self._length.in_steps(value)
            same = [each for each in spec.values if self._length.in_steps_or(each) == steps]
        return (
            Given(place, path, same[0]) if same else Misfit(place, f"is {shown(value)}, not one of {described(spec)}")
        )


def _no_mapping(value: Any, place: str) -> Misfit:
    return Misfit(place, "is not given" if value is None else f"is {shown(value)}", is_missing=value is None)
