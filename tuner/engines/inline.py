"""Trains in the coordinator's own process, one group after another: for debugging."""

from collections.abc import Sequence

import torch

from tuner.engines import Handler
from tuner.protocol import Slot
from tuner.training.run import run

__all__ = ["InlineEngine"]


class InlineEngine:
    """Runs every group where a debugger sees it."""

    def __init__(self, slot: Slot) -> None:
        self.slots: Sequence[Slot] = (slot,)

    def run(self, handler: Handler) -> None:
        """Work until the handler has no more groups."""
        torch.set_num_threads(self.slots[0].threads)
        while (group := handler.next_group(self.slots[0])) is not None:
            results = run(group, handler, self.slots[0].kind)
            handler.done(group, results)
            handler.tick()

    def close(self) -> None:
        """Do nothing: there is nothing to end."""
