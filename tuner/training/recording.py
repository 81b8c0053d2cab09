"""Decides which trials are trained with recorded steps."""

from lightning_modules.fused.recorded_step import CudaGraph, Recorder
from tuner.config import registry
from tuner.config.objectives import TIME
from tuner.protocol import Assignment
from tuner.training import distributed

__all__ = ["may_be_recorded", "recorder_for"]

NOT_RECORDED = ("16-mixed", "bf16-true")  # precisions that groups do not have, or whose weights no kernel updates


def recorder_for(device: str) -> Recorder | None:
    """Return how the steps of trials are recorded on a device; None if they are not."""
    return CudaGraph if device == "cuda" else None


def may_be_recorded(assignment: Assignment, device: str) -> bool:
    """Return whether a single trial may be trained as a group of one, whose steps are recorded."""
    config, trainer = assignment.training, assignment.training.trainer
    is_watched = trainer.callbacks or trainer.seconds is not None or assignment.objective.epoch == "best"
    is_watched = is_watched or any(each.metric == TIME for each in assignment.further)
    if recorder_for(device) is None or is_watched or distributed.world_size() > 1:
        return False
    if trainer.precision in NOT_RECORDED or trainer.accumulate_grad_batches > 1:
        return False
    try:
        return not registry.is_module(config.model.name)
    except BaseException:  # from user code: the trial then fails alone, and reports it
        return False
