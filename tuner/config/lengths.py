"""The length of a run, and lengths of a schedule in epochs or in percent of the run.

A study file may give every length of a schedule as a whole number of steps, as "5 epochs" or as "25%" of the run. The
coordinator converts the lengths of a trial to steps before the trial is trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.config.annotations import item_hint, map_lengths, parse_length, takes_steps
from tuner.config.component import Component

__all__ = ["WITH_LENGTHS", "Length", "in_percent", "relative_lengths", "resolve"]

WITH_LENGTHS = ("averaging", "schedule")
"""The kinds of components whose lengths can be in epochs or percent."""


@dataclass(frozen=True)
class Length:
    """The length of a run: optimizer steps per epoch, and either epochs or steps."""

    steps_per_epoch: int
    max_epochs: int = 0
    max_steps: int = 0

    @property
    def steps(self) -> int:
        """Return the optimizer steps of the whole run."""
        return self.steps_per_epoch * self.max_epochs or self.max_steps

    @property
    def epochs(self) -> float:
        """Return the number of passes over the data."""
        return self.steps / self.steps_per_epoch

    def spread(self, count: int) -> list[int]:
        """Return all steps or, if there are more than `count`, that many evenly spaced ones from first to last.

        >>> Length(steps_per_epoch=10, max_epochs=1).spread(4)
        [0, 3, 6, 9]
        """
        count = min(count, self.steps)
        return [index * (self.steps - 1) // max(1, count - 1) for index in range(count)]

    def convert(self, text: str, unit: str) -> float:
        """Return a length such as "5 epochs" or "25%" as a number in a unit: "epochs", "%", or "" for steps.

        >>> Length(steps_per_epoch=80, max_epochs=4).convert("25%", "epochs")
        1.0
        """
        if not unit:
            return self.in_steps(text)
        number, given = parse_length(text) or (0.0, unit)
        epochs = number if given == "epochs" else number * self.epochs / 100
        return number if given == unit else epochs if unit == "epochs" else 100 * epochs / self.epochs

    def in_steps_or(self, value: Any) -> Any:
        """Return a length in steps; any value that is not a length in epochs or percent, unchanged."""
        return self.in_steps(value) if parse_length(value) else value

    def in_steps(self, text: str) -> int:
        """Return a length such as "5 epochs" or "25%" in steps, rounded to the nearest whole number, half to even.

        Raises:
            ValueError: If it is not such a length.

        >>> Length(steps_per_epoch=80, max_epochs=3).in_steps("1.5 epochs")
        120
        >>> Length(steps_per_epoch=80, max_epochs=3).in_steps("25%")
        60
        """
        found = parse_length(text)
        if found is None:
            raise ValueError(f"{text!r} is not a length in epochs or percent")
        number, unit = found
        return round(number * self.steps / 100 if unit == "%" else number * self.steps_per_epoch)


def resolve(values: Mapping[str, Any], length: Length, kind: str = "schedule") -> dict[str, Any]:
    """Return the values of a schedule or an average, ``{name: ..., argument: value}``, with every length in steps.

    >>> resolve({"name": "cosine", "decay_steps": "50%"}, Length(steps_per_epoch=80, max_epochs=3))
    {'name': 'cosine', 'decay_steps': 120}
    """
    return _resolved(Component.from_values(values), length, kind)


def _resolved(component: Component, length: Length, kind: str) -> dict[str, Any]:
    arguments = component.map_arguments(
        kind,
        lambda hint, value: map_lengths(hint, value, length.in_steps),
        lambda inner: _resolved(inner, length, "schedule"),
    )
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    return {"name": component.name, **plain}


def in_percent(values: Mapping[str, Any], length: Length, kind: str = "schedule") -> dict[str, Any]:
    """Return the values of a schedule or an average with every length in percent of its run.

    >>> in_percent({"name": "cosine", "decay_steps": 120}, Length(steps_per_epoch=80, max_epochs=3))
    {'name': 'cosine', 'decay_steps': '50.0%'}
    >>> formula = {"name": "lambda", "function": "(step / total) ** power", "total": "3 epochs", "power": 2}
    >>> in_percent(formula, Length(steps_per_epoch=80, max_epochs=3))["power"]
    2
    """

    def percent(hint: Any, value: Any) -> Any:
        if isinstance(value, list):
            return [percent(item_hint(hint, index), item) for index, item in enumerate(value)]
        if not takes_steps(hint) or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return f"{100 * value / length.steps!r}%" if takes_steps(hint, only=True) else value
        return f"{length.convert(value, '%')!r}%" if parse_length(value) else value

    def converted(component: Component, kind: str = "schedule") -> dict[str, Any]:
        arguments = component.map_arguments(kind, percent, converted)
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
        return {"name": component.name, **plain}

    return converted(Component.from_values(values), kind)


def relative_lengths(values: Mapping[str, Any], path: str = "schedule", kind: str = "schedule") -> dict[str, str]:
    """Return the lengths of a schedule or an average that are in epochs or percent, by their dotted paths.

    >>> relative_lengths({"name": "warmup", "steps": "5%", "schedule": {"name": "cosine", "decay_steps": "2 epochs"}})
    {'schedule.steps': '5%', 'schedule.schedule.decay_steps': '2 epochs'}
    """
    return {
        place: value
        for place, hint, value in Component.from_values(values).walk(kind, path)
        if takes_steps(hint) and parse_length(value)
    }
