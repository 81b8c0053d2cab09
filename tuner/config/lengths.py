"""The length of a training, and lengths of a schedule in epochs or in percent of it.

A study file may give every length of a schedule as a whole number of steps, as "5 epochs" or as "25%" of the training.
The coordinator converts the lengths of a trial to steps before the trial is trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.config.annotations import map_lengths, parse_length, takes_steps
from tuner.config.component import Component

__all__ = ["Length", "relative_lengths", "resolve"]


@dataclass(frozen=True)
class Length:
    """The length of a training: optimizer steps per epoch, and either epochs or steps."""

    steps_per_epoch: int
    max_epochs: int = 0
    max_steps: int = 0

    @property
    def steps(self) -> int:
        """Return the optimizer steps of the whole training."""
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


def resolve(schedule: Mapping[str, Any], length: Length) -> dict[str, Any]:
    """Return the values of a schedule, ``{name: ..., argument: value}``, with every length in steps.

    >>> resolve({"name": "cosine", "decay_steps": "50%"}, Length(steps_per_epoch=80, max_epochs=3))
    {'name': 'cosine', 'decay_steps': 120}
    """
    return _resolved(Component.from_values(schedule), length)


def _resolved(schedule: Component, length: Length) -> dict[str, Any]:
    arguments = schedule.map_arguments(
        "schedule",
        lambda hint, value: map_lengths(hint, value, length.in_steps),
        lambda inner: _resolved(inner, length),
    )
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    return {"name": schedule.name, **plain}


def relative_lengths(schedule: Mapping[str, Any], path: str = "schedule") -> dict[str, str]:
    """Return the lengths of a schedule that are in epochs or percent, by their dotted paths.

    >>> relative_lengths({"name": "warmup", "steps": "5%", "schedule": {"name": "cosine", "decay_steps": "2 epochs"}})
    {'schedule.steps': '5%', 'schedule.schedule.decay_steps': '2 epochs'}
    """
    return {
        place: value
        for place, hint, value in Component.from_values(schedule).walk("schedule", path)
        if takes_steps(hint) and parse_length(value)
    }
