"""The best trials of earlier studies, as values for the first trials of a new one.

The lengths of a schedule are converted to percent of the run. Values in the new search space are used; the
others are left to the sampler, and reported.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.config.feasibility import broken_by
from tuner.config.given_values import Given, given_values
from tuner.config.known_values import SHIPPED
from tuner.config.lengths import Length
from tuner.config.optimization import in_percent_all
from tuner.config.search_space import OneOf, searched
from tuner.config.shipped_starts import SHIPPED_STARTS
from tuner.config.study import StudyConfig
from tuner.errors import BadInputError
from tuner.storage.reader import values_of
from tuner.storage.stored_study import StoredStudy
from tuner.text import format_value, join_names

__all__ = ["read_starts"]

MOST_NAMED = 6


@dataclass(frozen=True)
class _Known:
    """A configuration that was good elsewhere.

    Args:
        name: Its name in messages.
        values: Its values, nested as the `trial` of a study file, with lengths in percent.
        searched: The places that were searched there, as dotted paths in `trial`.
    """

    name: str
    values: Mapping[str, Any]
    searched: frozenset[str]


def read_starts(config: StudyConfig, storage: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the values that a study reuses from others, by their names in Optuna, and notes for the user.

    The studies take turns: the best trial of each, then the second best of each.

    Args:
        config: The study, whose ``start`` names the others.
        storage: URL of Optuna's database.

    Raises:
        BadInputError: If a study cannot be read or has no complete trial.
    """
    if config.start is None:
        return [], []
    length = _only_length(config)
    sources = [_shipped(config) if name == SHIPPED else _best_of(name, storage) for name in config.start.studies]
    taken: list[dict[str, Any]] = []
    notes: list[str] = []
    for known in filter(None, itertools.chain.from_iterable(itertools.zip_longest(*sources))):
        if len(taken) == config.start.trials:
            break
        params, unused = _fitted(config, known, length)
        if config.constraints and params and (broken := broken_by(config, params)):
            notes.append(f"{known.name} is not used: it does not satisfy {broken}")
        elif params and params not in taken:
            taken.append(params)
            notes.append(_note(known, params, unused))
    if not taken:
        notes.append(f"no value of {join_names(config.start.studies)} is in the search space: none is used")
    return taken, notes


def _best_of(name: str, storage: str) -> Iterator[_Known]:
    """Return the complete trials of a study, the best first."""
    past = StoredStudy.load(name, storage)
    places = {place for place, _ in searched(past.config.trial)}
    known = []
    for trial in past.ranking():
        values = values_of(past.config, trial.params)
        if past.config.kind.trains:
            values = in_percent_all(values, past.config.probe.length(values))
        drawn = frozenset(_place(name, values) for name in places & trial.params.keys())
        known.append(_Known(f"#{trial.number} of {name}", values, drawn))
    return iter(known)


def _shipped(config: StudyConfig) -> Iterator[_Known]:
    """Return the configurations that come with the tuner, each in the form that suits a study."""

    def suited(kind: str, forms: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        template = config.trial[kind]
        names = template.options if isinstance(template, OneOf) else (template["name"],)
        return next((form for form in forms if form["name"] in names), forms[0])

    for start in SHIPPED_STARTS:
        values = {"optimizer": suited("optimizer", start.optimizers), "schedule": suited("schedule", start.schedules)}
        yield _Known(start.name, values, frozenset(_leaves(values)))


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def _place(name: str, values: Mapping[str, Any]) -> str:
    """Return the path in `trial` of a parameter in Optuna, which has the names of families in it and a unit."""
    place: list[str] = []
    here: Any = values
    for part in name.partition(" (")[0].split("."):
        if isinstance(here, Mapping) and part not in here and here.get("name") == part:
            continue
        place.append(part)
        if isinstance(here, Mapping):
            here = here.get(part)
        elif isinstance(here, Sequence) and part.isdecimal():
            here = here[int(part)]
    return ".".join(place)


def _only_length(config: StudyConfig) -> Length | None:
    """Return the length of a study's runs; None if it is searched, or unknown."""
    try:
        lengths = {config.probe.length(values) for values in config.kind.trainings(config.trial)}
    except BadInputError:
        return None
    return lengths.pop() if len(lengths) == 1 else None


def _fitted(config: StudyConfig, known: _Known, length: Length | None) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a configuration that are in a search space, and why the others are not."""
    params: dict[str, Any] = {}
    unused: dict[str, str] = {}
    seen: set[str] = set()
    for found in given_values(config.trial, known.values, length=length):
        seen.add(found.place)
        if isinstance(found, Given):
            params |= {found.name: found.value} if found.name else {}
        elif not found.is_missing and (found.is_searched or found.place in known.searched):
            unused[found.place] = str(found)
    inside = tuple(f"{place}." for place in unused)
    for place in sorted(known.searched - seen):
        if not place.startswith(inside):
            unused.setdefault(place, f"{place} is not searched")
    return params, list(unused.values())


def _note(known: _Known, params: Mapping[str, Any], unused: Sequence[str]) -> str:
    values = ", ".join(f"{name.removesuffix('.name')} {format_value(value)}" for name, value in params.items())
    more = [f"{len(unused) - MOST_NAMED} more"] if len(unused) > MOST_NAMED else []
    rest = f"; not used: {'; '.join([*unused[:MOST_NAMED], *more])}" if unused else ""
    return f"the study starts from {known.name} with {values}{rest}"
