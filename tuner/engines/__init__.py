"""Engines: where groups of trials are worked on, and nothing else about them.

An engine takes groups from a `Handler` (the coordinator) whenever a slot is free, carries reports to it and verdicts
back, and says how each group ended. It knows neither Optuna nor MLflow.
"""

from collections.abc import Sequence
from typing import Protocol

from tuner.protocol import Channel, Group, Slot, TrialResult

__all__ = ["Engine", "Handler"]


class Handler(Channel, Protocol):
    """What an engine asks of the coordinator, always from the thread that called `Engine.run`."""

    def next_group(self, slot: Slot) -> Group | None:
        """Return what a free slot shall do; None if there is nothing, now or any more."""

    def done(self, group: Group, results: Sequence[TrialResult]) -> None:
        """Take the results of a group that came to an end of its own."""

    def died(self, group: Group, reason: str) -> None:
        """Learn that the process of a group has ended without its results."""

    def returned(self, group: Group) -> None:
        """Take back a group that nothing was done with: its slot was lost before."""

    def tick(self) -> bool:
        """Be called several times a second; return False to have everything killed."""


class Engine(Protocol):
    """Where groups are worked on."""

    @property
    def slots(self) -> Sequence[Slot]:
        """Return the places for groups; there may be others later."""

    def run(self, handler: Handler) -> None:
        """Work until no slot is busy and the handler has no group for any."""

    def close(self) -> None:
        """End every process that was started."""
