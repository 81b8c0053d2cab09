"""Train in the coordinator's own process, one group after another, for debugging."""

from collections.abc import Sequence

import torch

from tuner.protocol import Handler, Slot
from tuner.training.run import run

__all__ = ["InlineEngine"]


class InlineEngine:
    """Runs every group in this process, where a debugger can follow."""

    def __init__(self, slot: Slot) -> None:
        self.slots: Sequence[Slot] = (slot,)

    def run(self, handler: Handler) -> None:
        """Run groups until the handler has no more."""
        torch.set_num_threads(self.slots[0].threads)
        while (group := handler.next_group(self.slots[0])) is not None:
            results = run(group, handler, self.slots[0].kind)
            handler.done(group, results)
            handler.tick()

    def close(self) -> None:
        """Do nothing: there are no processes to end."""
