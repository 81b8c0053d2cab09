"""Reads the constraints of a study file, and checks that trials can satisfy them."""

import dataclasses
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tuner.config.annotations import did_you_mean
from tuner.config.constraints import Constraint, RandomSuggester, paths_of
from tuner.config.document import Keys
from tuner.config.search_space import Template, corners, suggest
from tuner.config.study import StudyConfig
from tuner.errors import BadInputError
from tuner.text import shown

__all__ = ["broken_by", "feasible", "read_constraints"]

DRAWS = 2000
"""Number of random draws after which a study is rejected if none of them satisfied its constraints."""

Fault = Callable[[Keys, str], None]
"""Takes the path of an error and its message."""


def read_constraints(raw: Any, template: Template, fault: Fault, lengths: Sequence[str]) -> tuple[Constraint, ...]:
    """Return the constraints of a study file, and report invalid ones.

    Args:
        raw: The section ``constraints``; None if there is none.
        template: The template of the trials.
        fault: Called for each error.
        lengths: Names of the length of a trial.
    """
    if raw is None:
        return ()
    if not isinstance(raw, list) or not all(isinstance(each, str) for each in raw):
        fault(("constraints",), f"must be a list of conditions, each of them text (got {shown(raw)}).")
        return ()
    known = {path for corner in corners(template) for path in paths_of(corner)}
    constraints = []
    for index, text in enumerate(raw):
        constraint = Constraint(text)
        try:
            unknown = sorted(constraint.paths - known - set(lengths))
        except ValueError as error:
            fault(("constraints", index), str(error))
            continue
        for path in unknown:
            advice = _near(path, known) or " If that is a default, write its value into trial."
            fault(("constraints", index), f"trial has no {path}.{advice}")
        constraints.append(constraint)
    return tuple(constraints)


def _near(path: str, known: Collection[str]) -> str:
    """Return " Did you mean ...?" if a path of the same mapping is near, or else a path of another mapping."""
    parent, _, key = path.rpartition(".")
    siblings = {each.rpartition(".")[2]: each for each in known if each.rpartition(".")[0] == parent}
    if not siblings:
        return did_you_mean(path, known)
    hint = did_you_mean(key, siblings)
    return f" Did you mean {parent}.{hint.removeprefix(' Did you mean ')}" if hint and parent else hint


def feasible(config: StudyConfig, has_trials: bool, fault: Fault) -> StudyConfig:
    """Return a study whose grid has no more trials than points; report first trials that are not possible.

    Args:
        config: The study.
        has_trials: Whether its budget has a number of trials.
        fault: Called for each error.
    """
    try:
        if config.sampler.name == "grid":
            return _feasible_grid(config, has_trials, fault)
        if broken := broken_by(config, {}):
            fault(("constraints",), f"no trial was found that satisfies {broken}.")
            return config
        for number, given in enumerate(config.first.params):
            if broken := broken_by(config, given):
                values = ", ".join(f"{name}={value}" for name, value in given.items())
                fault(("constraints",), f"trial #{number}, which is given {values}, does not satisfy {broken}.")
    except (BadInputError, ValueError) as error:
        fault(("constraints",), " ".join(error.faults) if isinstance(error, BadInputError) else f"{error}.")
    return config


def _feasible_grid(config: StudyConfig, has_trials: bool, fault: Fault) -> StudyConfig:
    points = len(config.grid)
    if not points:
        fault(("constraints",), "no point of the grid satisfies them.")
    elif has_trials and points < config.trials:
        rule = f"must not be above the {points} points of the grid that satisfy the constraints"
        fault(("budget", "trials"), f"{rule} (got {config.trials}).")
    return dataclasses.replace(config, trials=min(config.trials, points))


def broken_by(config: StudyConfig, given: Mapping[str, Any]) -> str:
    """Return a constraint that no random draw with the given values satisfied; empty if a draw satisfied all.

    Args:
        config: The study.
        given: The values by their names in Optuna.

    Raises:
        BadInputError: If the data that a constraint needs cannot be loaded.
        ValueError: If a constraint cannot be evaluated.
    """
    generator, broken = random.Random("constraints"), None
    for _ in range(DRAWS):
        broken = config.broken(suggest(RandomSuggester(generator, given), config.trial))
        if broken is None:
            return ""
    return broken.text if broken else ""
