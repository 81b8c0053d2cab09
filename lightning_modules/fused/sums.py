"""Sums of the metrics of K trials over an epoch."""

import torch
from torch import Tensor

__all__ = ["Sums"]


class Sums:
    """Sums over the examples of each stage ("train", "val" or "test"), which stay on the device until they are read.

    The sums of "train" keep their address as long as they are only reset, so adding to them can be part of a recorded
    step. The CPU counts the examples.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def tensor(self, stage: str) -> Tensor:
        """Return the sums [metrics, K] of a stage, which must not be empty."""
        return self._sums[stage]

    def add(self, stage: str, values: Tensor) -> None:
        """Add values [metrics, K], with the same rounding as a Classifier."""
        if stage not in self._sums:
            self._sums[stage] = torch.zeros_like(values)
        self._sums[stage] += values

    def count(self, stage: str, examples: int) -> None:
        """Count the examples of a batch."""
        self._counts[stage] = self._counts.get(stage, 0) + examples

    def means(self, stage: str) -> Tensor | None:
        """Return the means [metrics, K]; None if nothing has been counted."""
        return self._sums[stage] / self._counts[stage] if self._counts.get(stage) else None

    def reset(self, stage: str) -> None:
        """Reset the sums of a stage."""
        self._counts.pop(stage, None)
        if stage == "train" and stage in self._sums:
            self._sums[stage].zero_()
        else:
            self._sums.pop(stage, None)  # after a validation, this is an inference tensor

    def clear(self) -> None:
        """Forget all sums, since the trials have changed."""
        self._sums.clear()
        self._counts.clear()
