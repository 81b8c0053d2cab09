"""Train a group of trials.

A trial's directory holds its checkpoints, its output and, at the end, `result.json`. That file is the commit point:
once it exists the trial is over, whatever happens to the process. It is written after the weights, atomically.
"""

import logging
import warnings
from collections.abc import Sequence

from tuner.config.function_trial import FunctionTrial
from tuner.protocol import (
    Assignment,
    Channel,
    EvaluationGroup,
    Group,
    MeasurementGroup,
    RehearsalGroup,
    Result,
    TrainingGroup,
    TrialResult,
)
from tuner.training.evaluation import evaluate
from tuner.training.fused_training import train_together
from tuner.training.objective_call import call
from tuner.training.outcome import lost_worker
from tuner.training.recording import may_be_recorded
from tuner.training.rehearsal import rehearse
from tuner.training.saver import noted
from tuner.training.single_training import train
from tuner.training.throughput import fastest_together, free_memory

__all__ = ["run"]


def run(group: Group, channel: Channel, device: str = "cpu") -> Sequence[Result]:
    """Process a group in this process; together with the other ranks if `distributed.join` was called.

    Args:
        group: The trials; its class determines whether to train, evaluate, rehearse or measure them.
        channel: Channel to the coordinator, for reports and decisions.
        device: "cpu" or "cuda".

    Returns:
        One result for each trial, in order. The results of finished runs are in the trials' directories too.
    """
    _silence_libraries()
    try:
        return _run(group, channel, device)
    except BaseException as error:
        if lost := lost_worker(error):
            noted(group.trials[0], channel)(lost)
        raise


def _run(group: Group, channel: Channel, device: str) -> Sequence[Result]:
    match group:
        case TrainingGroup(trials, checkpoint_every, as_group):
            return _train_all(trials, channel, device, checkpoint_every, as_group)
        case EvaluationGroup(trials):
            return [evaluate(assignment, device) for assignment in trials]
        case RehearsalGroup(trials):
            return [rehearse(assignment, channel, device) for assignment in trials]
        case MeasurementGroup((assignment,), most):
            return [fastest_together(assignment, most, device)]
    raise TypeError(f"unknown group type {type(group).__name__}")


def _train_all(
    assignments: Sequence[Assignment], channel: Channel, device: str, checkpoint_every: float, as_group: bool
) -> list[TrialResult]:
    if any(isinstance(assignment.config, FunctionTrial) for assignment in assignments):
        return [call(assignment, channel, device) for assignment in assignments]
    is_group = len(assignments) > 1 or (as_group and may_be_recorded(assignments[0], device))
    results = train_together(assignments, channel, device, checkpoint_every, as_group) if is_group else {}
    for assignment in assignments:
        if assignment.number not in results:
            if any(result.state == "interrupted" for result in results.values()):
                results[assignment.number] = TrialResult("interrupted")
                continue
            if assignment is not assignments[0]:
                free_memory(device)  # of the trial before
            results[assignment.number] = train(assignment, channel, device, checkpoint_every)
    return [results[assignment.number] for assignment in assignments]


def _silence_libraries() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
