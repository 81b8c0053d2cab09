"""The keys ``enqueue`` and ``start`` of a study file: values that are known to be good, for the first trials."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from tuner.config.document import Keys
from tuner.config.given_values import Given, given_values, nested
from tuner.config.search_space import Template
from tuner.text import shown

__all__ = ["SHIPPED", "Start", "read_queue"]

SHIPPED = "shipped"
"""The name, among the studies to start from, of the list that comes with the tuner."""

Fault = Callable[[Keys, str], None]
"""Takes the path of an error and its message."""


@dataclass(frozen=True)
class Start:
    """The earlier studies that a study starts from.

    Args:
        studies: Their names; `SHIPPED` is the list that comes with the tuner.
        trials: The largest number of their trials to reuse.
    """

    studies: Annotated[list[str], Field(min_length=1)]
    trials: Annotated[int, Field(ge=1, le=1000)] = 5


def read_queue(raw: Any, template: Template, fault: Fault) -> list[Mapping[str, Any]]:
    """Return the fixed values of the trials in ``enqueue``, by their names in Optuna.

    Args:
        raw: The list, as it is in the file.
        template: The template of the study's trials.
        fault: Called for each error.
    """
    if not isinstance(raw, list):
        fault(("enqueue",), f"must be a list of values by their dotted paths in trial (got {shown(raw)}).")
        return []
    trials: list[Mapping[str, Any]] = []
    for index, entry in enumerate(raw):
        place = ("enqueue", index)
        if not isinstance(entry, Mapping) or not entry:
            fault(place, f"must be values by their dotted paths in trial, {{path: value, ...}} (got {shown(entry)}).")
            continue
        try:
            values = nested(entry)
        except ValueError as error:
            fault(place, f"{error}.")
            continue
        params: dict[str, Any] = {}
        for found in given_values(template, values, all_keys=True):
            if isinstance(found, Given):
                params |= {found.name: found.value} if found.name else {}
            elif not found.is_missing:
                fault(place, f"{found}.")
        trials.append(params)
    return trials
