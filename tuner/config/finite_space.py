"""Search spaces, or parts of them, that have finitely many configurations, so that a sampler can repeat one."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tuner.config.search_space import Choices, OneOf, Range, Template, grid_point, grid_size

__all__ = ["can_repeat", "is_finite", "points", "restricted"]


def is_finite(template: Template) -> bool:
    """Return whether a template has finitely many configurations.

    >>> is_finite({"a": Range(1, 9, integer=True)}), is_finite({"a": OneOf({"x": {}, "y": {"b": Range(0.0, 1.0)}})})
    (True, False)
    """
    match template:
        case Range(integer=integer, step=step):
            return integer or step is not None
        case OneOf(options=options):
            return all(map(is_finite, options.values()))
        case Choices():
            return True
        case Mapping():
            return all(map(is_finite, template.values()))
        case list():
            return all(map(is_finite, template))
        case _:
            return True


def can_repeat(template: Template) -> bool:
    """Return whether some configuration has no number from a continuous range, so that two trials can be the same.

    >>> can_repeat({"a": Range(0.0, 1.0)}), can_repeat({"a": OneOf({"x": {}, "y": {"b": Range(0.0, 1.0)}})})
    (False, True)
    """
    match template:
        case OneOf(options=options):
            return any(map(can_repeat, options.values()))
        case Mapping():
            return all(map(can_repeat, template.values()))
        case list():
            return all(map(can_repeat, template))
        case _:
            return is_finite(template)


def restricted(template: Template, given: Mapping[str, Any], path: str = "") -> Template:
    """Return a template in which some values are fixed.

    Args:
        template: The template.
        given: The values, by their names in Optuna.
        path: Path of the template.

    >>> restricted({"a": OneOf({"x": {"b": Choices((1, 2))}, "y": {}})}, {"a.name": "x", "a.x.b": 2})
    {'a': OneOf(options={'x': {'b': Choices(values=(2,))}})}
    """
    match template:
        case Range() if template.name(path) in given:
            value = given[template.name(path)]
            return replace(template, low=value, high=value, step=1)
        case Choices() if path in given:
            return Choices((given[path],))
        case OneOf(options=options):
            name = given.get(f"{path}.name")
            options = {each: options[each] for each in options if name is None or each == name}
            return OneOf({each: restricted(options[each], given, f"{path}.{each}") for each in options})
        case Mapping():
            return {key: restricted(each, given, f"{path}.{key}" if path else key) for key, each in template.items()}
        case list():
            return [restricted(each, given, f"{path}.{index}") for index, each in enumerate(template)]
        case _:
            return template


def points(template: Template, seed: int) -> Iterator[dict[str, Any]]:
    """Yield all configurations of a finite template in random order, by their names in Optuna.

    Args:
        template: The template.
        seed: Seed of the order.
    """
    size = grid_size(template)
    for index in random.Random(seed).sample(range(size), size):
        yield grid_point(template, index)
