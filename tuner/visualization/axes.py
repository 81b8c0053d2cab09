"""Axes for searched parameters: their order, and the positions of their values."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tuner.analysis.record import StudyRecord, TrialRecord
from tuner.text import format_value

__all__ = ["axis_of", "parameters_of", "room_for", "unnamed_note"]

MOST_NAMES, SOME_NAMES = 30, 10


def parameters_of(record: StudyRecord) -> list[str]:
    """Return the searched parameters: first the ones that all trials have, then by importance."""
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
    """Return the positions of values on an axis, and the tick labels if they are not numbers.

    If there are very many names, only some are labels, evenly spread, including the first and the last.
    """
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return float, None
    found = {format_value(value) for value in values}
    names = [name for name in order if name in found] or sorted(found)
    places = {name: float(at) for at, name in enumerate(names)}
    labelled = range(len(names)) if len(names) <= MOST_NAMES else _spread(len(names), SOME_NAMES)
    return (lambda value: places[format_value(value)]), {float(at): names[at] for at in labelled}


def room_for(names: Mapping[float, str] | None, places: Collection[float]) -> tuple[float, float] | None:
    """Return the limits of an axis, with room for the first and the last name; None for an axis of numbers."""
    return (min(places) - 0.5, max(places) + 0.5) if names is not None else None


def unnamed_note(trials: Sequence[TrialRecord], parameters: Collection[str]) -> str:
    """Return a sentence about categories without a label on an axis; empty if there are none.

    Args:
        trials: The trials of a chart.
        parameters: The parameters that it has axes for.
    """
    found: dict[str, set[str]] = {}
    for trial in trials:
        for name, value in trial.params.items():
            if name in parameters and (not isinstance(value, int | float) or isinstance(value, bool)):
                found.setdefault(name, set()).add(format_value(value))
    if max(map(len, found.values()), default=0) <= MOST_NAMES:
        return ""
    return f" Of more than {MOST_NAMES} categories, {SOME_NAMES} have a label; point at a trial for its own."


def _spread(count: int, most: int) -> list[int]:
    """Return so many of the first whole numbers, from 0 to the last.

    >>> _spread(101, 5)
    [0, 25, 50, 75, 100]
    """
    return [index * (count - 1) // (most - 1) for index in range(most)]
