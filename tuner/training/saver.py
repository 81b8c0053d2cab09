"""Saves the checkpoints of a run, and finds the one that it continues from."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from tuner.process import crash_point
from tuner.protocol import Assignment, Channel
from tuner.training import distributed
from tuner.training.checkpoints import (
    CheckpointPace,
    UnsafeCheckpointError,
    checkpoint_name,
    common_checkpoint,
    load_tensors,
    remove_checkpoints,
)
from tuner.training.reporter import Reporter

__all__ = ["KEPT_CHECKPOINTS", "Saver", "checkpoint_of", "noted"]

KEPT_CHECKPOINTS = 2


class Saver:
    """Saves checkpoints at the end of epochs, when one is due or required.

    Args:
        assignments: The trials of the training.
        every: Seconds between checkpoints.
        channel: Channel for the report that a checkpoint cannot be loaded.
    """

    def __init__(self, assignments: Sequence[Assignment], every: float, channel: Channel) -> None:
        self.trainer: pl.Trainer
        self._assignments, self._channel = assignments, channel
        self._pace = CheckpointPace(every)
        self._has_loaded_one = self._cannot_save = False

    def save(self, epoch: int, must: bool) -> None:
        """Save a checkpoint after an epoch if one is due, or if it must be saved."""
        if self._cannot_save or not (must or distributed.on_rank_zero(self._pace.is_due)):
            return
        path = self._assignments[0].directory / checkpoint_name(epoch)
        try:
            with self._pace.saving():
                self.trainer.save_checkpoint(path)
            if not self._has_loaded_one and distributed.is_rank_zero():
                load_tensors(path)
            self._has_loaded_one = True
        except UnsafeCheckpointError as error:
            self._cannot_save = True
            # Report it now rather than days later, when the training needs the checkpoint to continue.
            reason = str(error).removeprefix(f"{path}: ")
            advice = "store plain values and tensors in on_save_checkpoint and state_dict"
            for assignment in self._assignments:
                noted(assignment, self._channel)(
                    f"cannot continue after an interruption: its checkpoint cannot be loaded ({reason}); {advice}"
                )
        crash_point("checkpoint saved")
        if distributed.is_rank_zero():
            for assignment in self._assignments:
                remove_checkpoints(assignment.directory, KEPT_CHECKPOINTS)


def checkpoint_of(assignments: Sequence[Assignment], channel: Channel) -> str | None:
    """Return the name of the newest checkpoint that all trials can continue from; None if there is none."""
    digests = {assignment.directory: assignment.config.digest for assignment in assignments}

    def is_of_trial(directory: Path, checkpoint: Any) -> bool:
        state = checkpoint["callbacks"][Reporter.__qualname__]
        return bool(state.get("trial", digests[directory]) == digests[directory])  # earlier versions stored none

    return common_checkpoint(list(digests), is_of_trial, channel.note)


def noted(assignment: Assignment, channel: Channel) -> Callable[[str], None]:
    """Return a function that notes a text about a trial."""
    return lambda text: channel.note(f"trial #{assignment.number} {text}")
