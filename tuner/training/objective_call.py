"""The call of an objective function with a trial."""

import inspect
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lightning_fabric.utilities.seed import seed_everything

from tuner.config.registry import FUNCTION
from tuner.files import DiskFullError
from tuner.objective import DivergedError, InterruptedTrialError, Trial, number_of
from tuner.protocol import Assignment, Channel, TrialResult
from tuner.training.experiment_proxy import FILES
from tuner.training.outcome import commit_result, disk_full_result, failed_result, lost_a_process

__all__ = ["call"]

PRUNED = "TrialPruned"  # name of the tuner's and Optuna's class; Optuna is not imported here


def call(assignment: Assignment, channel: Channel, device: str) -> TrialResult:
    """Call the objective function of a trial, and return its result; an error in the function also becomes a result."""
    started, config, process = time.monotonic(), assignment.call, os.getpid()
    trial = Trial(assignment, channel, device, assignment.directory / FILES)
    try:
        seed_everything(config.seed, verbose=False)
        function = config.function.build(FUNCTION)
        result = _result(assignment, trial, function(trial), function.func)
    except InterruptedTrialError:
        return TrialResult("interrupted")
    except DivergedError as error:
        result = _ended(trial, "diverged", message=str(error), diverged_at=trial.last_step)
    except BaseException as error:  # the function can raise anything
        if lost_a_process(error):
            raise
        if isinstance(error, DiskFullError):
            return disk_full_result(error)
        is_pruned = any(each.__name__ == PRUNED for each in type(error).__mro__)
        result = _ended(trial, "pruned") if is_pruned else replace(failed_result(error, config), points=trial.points)
    if os.getpid() != process:  # a process that the function has forked
        os._exit(0)
    return commit_result(assignment, result, started, device)


def _result(assignment: Assignment, trial: Trial, returned: Any, function: Callable[..., Any]) -> TrialResult:
    """Return the result of a completed call."""
    metrics = [each.metric for each in (assignment.objective, *assignment.further)]
    try:
        values = _values(returned, metrics)
    except TypeError as error:
        return _ended(trial, "failed", message=f"{error}{_place(function)}")
    for metric, value in values.items():
        if not math.isfinite(value):
            message = f"{metric} was not finite: the function returned {value}"
            return _ended(trial, "diverged", message=message, diverged_at=max(trial.last_step, 0))
    first, *further = values.values()
    is_known = trial.reports and first == trial.value
    step = trial.last_step if is_known else trial.last_step + 1
    points = [(metric, step, value) for metric, value in values.items() if metric != metrics[0] or not is_known]
    trial.points += points
    trial.value = first
    return _ended(trial, "complete", further=further)


def _values(returned: Any, metrics: list[str]) -> dict[str, float]:
    """Return the values of the objectives.

    Raises:
        TypeError: If something else was returned.
    """
    if isinstance(returned, Mapping):
        if set(returned) != set(metrics):
            names = ", ".join(map(str, returned)) or "nothing"
            form = ", ".join(metrics)
            raise TypeError(f"the function must return {form}, but returned a mapping with the keys {names}")
        return {metric: number_of(returned[metric], f"the function returned {metric}") for metric in metrics}
    if len(metrics) == 1:
        return {metrics[0]: number_of(returned, "the returned value")}
    if not isinstance(returned, list | tuple) or len(returned) != len(metrics):
        form = f"{len(metrics)} numbers ({', '.join(metrics)}), as a list or a mapping"
        got = f"{len(returned)} numbers" if isinstance(returned, list | tuple) else repr(returned)[:60]
        raise TypeError(f"the function must return {form}, but returned {got}")
    return {
        metric: number_of(value, f"the function returned {metric}")
        for metric, value in zip(metrics, returned, strict=True)
    }


def _ended(trial: Trial, state: Any, **more: Any) -> TrialResult:
    return TrialResult(state, trial.value, trial.reports, points=trial.points, **more)


def _place(function: Callable[..., Any]) -> str:
    """Return name, file and first line of a function, in parentheses after a space; empty if they are unknown."""
    try:
        code = inspect.unwrap(function).__code__
    except (AttributeError, ValueError):
        return ""
    return f" ({code.co_filename}, line {code.co_firstlineno}, {code.co_name})"
