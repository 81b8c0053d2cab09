"""Axes for searched parameters: their order, and the positions of their values."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tuner.analysis.record import StudyRecord
from tuner.text import format_value

__all__ = ["axis_of", "parameters_of"]


def parameters_of(record: StudyRecord) -> list[str]:
    """Return the searched parameters: first those that all trials have, then by importance."""
    names = dict.fromkeys(name for trial in record.ranking for name in trial.params)
    having = {name: sum(name in trial.params for trial in record.ranking) for name in names}
    everywhere = len(record.ranking)
    return sorted(
        names,
        key=lambda name: (having[name] < everywhere, name.split(".")[:-1], -record.importances.get(name, 0.0)),
    )


def axis_of(
    values: Sequence[Any], order: Sequence[str] = ()
) -> tuple[Callable[[Any], float], Mapping[float, str] | None]:
    """Return the positions of values on an axis, and the tick labels if they are not numbers."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return float, None
    found = {format_value(value) for value in values}
    names = [name for name in order if name in found] or sorted(found)
    return (lambda value: float(names.index(format_value(value)))), {float(at): name for at, name in enumerate(names)}
