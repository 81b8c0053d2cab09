"""What a Lightning Trainer is given to make a training repeatable."""

from typing import Any

import pytorch_lightning as pl
import torch

__all__ = ["EpochSeed"]


class EpochSeed(pl.Callback):
    """Make all randomness of an epoch (dropout) a pure function of the seed and the epoch, so that resuming is exact.

    It seeds at the first batch, not at the start of the epoch: Lightning draws from the global generator in between, in
    a resumed run other than in a straight one.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed torch's generators at the first batch of an epoch."""
        if batch_idx == 0:
            of_rank = 1_000_000_007 * trainer.global_rank  # each draws for other images
            torch.manual_seed((self.of_epoch(self.seed, trainer.current_epoch) + of_rank) % 2**63)

    @staticmethod
    def of_epoch(seed: int, epoch: int) -> int:
        """Return the seed of an epoch."""
        return (seed * 1_000_003 + epoch + 1) % 2**63
