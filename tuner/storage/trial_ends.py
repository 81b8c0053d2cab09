"""The end of a finished trial in Optuna, which the coordinator stored, or another program.

Others may add trials to a study, or change attributes. So no attribute is expected to be there, or to be of its type.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from optuna.trial import FrozenTrial, TrialState

from tuner.protocol import State, TrialResult
from tuner.storage.attributes import CONSTANT_LR, PARTS

__all__ = [
    "TRIAL_STATES",
    "attribute",
    "attributes_of",
    "end_of",
    "is_complete",
    "newly_finished",
    "parts_of",
    "progress_of",
    "setup_of",
    "state_of",
    "value_of",
]

Value = TypeVar("Value")

TRIAL_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "diverged": TrialState.PRUNED,  # never told as infinity: Optuna ranks it by its reports, if any
}
"""Optuna's state of a trial, by the state of its `TrialResult`."""


def newly_finished(trials: Sequence[FrozenTrial], known: set[int]) -> Iterator[FrozenTrial]:
    """Yield the trials that are not known, and add their numbers to the known ones.

    They are sought from the last trial on, because they are among the last ones: the time does not grow with the study.

    Args:
        trials: All finished trials, or all complete ones, in the order of their numbers.
        known: The numbers of earlier calls; those trials are still among `trials`.
    """
    missing = len(trials) - len(known)
    for trial in reversed(trials):
        if not missing:
            return
        if trial.number not in known:
            known.add(trial.number)
            missing -= 1
            yield trial


def attribute(attributes: Mapping[str, Any], name: str, default: Value) -> Value:
    """Return an attribute of a trial or study; the default if there is none, or one of another type."""
    value = attributes.get(name, default)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    return value if type(value) is type(default) else default


def is_complete(trial: FrozenTrial) -> bool:
    """Return whether a trial ran to completion, with numbers as its values; another program can add infinities."""
    return trial.state is TrialState.COMPLETE and all(map(math.isfinite, trial.values or ()))


def state_of(trial: FrozenTrial) -> State:
    """Return how a finished trial ended."""
    if trial.state is TrialState.COMPLETE and not is_complete(trial):
        return "diverged"
    possible = [state for state, in_optuna in TRIAL_STATES.items() if in_optuna is trial.state]
    state = attribute(trial.user_attrs, "state", "")
    return cast(State, state if state in possible else possible[0])


def value_of(trial: FrozenTrial) -> float | None:
    """Return the value of the first objective of a trial; None if it has none."""
    return trial.values[0] if trial.values else None


def setup_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return what a trial was trained with; nothing if that is not known."""
    return attribute(trial.user_attrs, "setup", {})


def parts_of(trial: FrozenTrial) -> list[tuple[float, float]]:
    """Return when each earlier part of a run began and ended, in seconds since 1970, the first one first."""
    parts: dict[str, Any] = attribute(trial.user_attrs, PARTS, {})
    try:
        return sorted((float(began), float(ended)) for began, ended in parts.values())
    except (TypeError, ValueError):  # changed by another program
        return []


def progress_of(trial: FrozenTrial, *, of_function: bool) -> int:
    """Return the number of epochs after which a trial was last reported, or of a function's reports."""
    reported = trial.intermediate_values
    return len(reported) if of_function else max(reported, default=0)  # an epoch without validation is not reported


def end_of(trial: FrozenTrial) -> TrialResult:
    """Return the result of a finished trial, as far as Optuna has it: without its points."""
    attributes, reported = trial.user_attrs, trial.intermediate_values
    return TrialResult(
        state_of(trial),
        value_of(trial) if is_complete(trial) else None,
        attribute(attributes, "epochs", len(reported)),
        attribute(attributes, "seconds", 0.0),
        attribute(attributes, "message", ""),
        attribute(attributes, "traceback", ""),
        further=tuple(trial.values[1:]) if is_complete(trial) and trial.values else (),
    )


def attributes_of(result: TrialResult) -> dict[str, Any]:
    """Return what Optuna stores of a result as a trial's attributes, from which `end_of` reads it."""
    attributes: dict[str, Any] = {
        "state": result.state,
        "epochs": result.epochs,
        "seconds": round(result.seconds, 3),
        "setup": dict(result.setup),
    }
    if lrs := {lr for metric, _, lr in result.points if metric == "lr"}:
        attributes[CONSTANT_LR] = len(lrs) == 1
    if result.message:
        attributes["message"] = result.message
    if result.traceback:
        attributes["traceback"] = result.traceback
    if result.diverged_at is not None:
        attributes["diverged_at"] = result.diverged_at
    return attributes
