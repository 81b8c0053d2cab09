"""A custom data module for a table, a custom network and a custom schedule, for `wine.yaml`."""

import math
from dataclasses import dataclass

import torch
from mlxtend.data import wine_data
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import Schedule


class WineDataModule(LightningDataModule):
    """178 wines of three growers, with 13 measurements each; every fifth is for validation, and every fifth for test.

    Args:
        batch_size: Wines in a training batch.
        seed: Seed of the order of the training batches; a study passes the trial's seed.
    """

    def __init__(self, batch_size: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.batch_size, self.seed = batch_size, seed

    def setup(self, stage: str) -> None:
        """Load, split and standardize the table."""
        rows, labels = (torch.from_numpy(values) for values in wine_data())
        part = torch.arange(len(rows)) % 5  # the table is in the order of the growers
        training = rows[part > 1]
        rows = ((rows - training.mean(dim=0)) / training.std(dim=0)).float()
        chosen = {"train": part > 1, "val": part == 0, "test": part == 1}
        self._parts = {name: TensorDataset(rows[mask], labels[mask]) for name, mask in chosen.items()}

    def train_dataloader(self) -> DataLoader:
        """Return the training batches, in a new order every epoch."""
        order = torch.Generator().manual_seed(self.seed)
        return DataLoader(self._parts["train"], self.batch_size, shuffle=True, generator=order)

    def val_dataloader(self) -> DataLoader:
        """Return the validation rows, as one batch."""
        return DataLoader(self._parts["val"], len(self._parts["val"]))

    def test_dataloader(self) -> DataLoader:
        """Return the test rows, as one batch."""
        return DataLoader(self._parts["test"], len(self._parts["test"]))


class WineMLP(nn.Sequential):
    """A dense network with one hidden layer."""

    def __init__(self, neurons: int = 32) -> None:
        super().__init__(nn.Linear(13, neurons), nn.Tanh(), nn.Linear(neurons, 3))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits [batch, 3] of rows [batch, 13]."""
        logits: Tensor = super().forward(rows)
        return logits


@dataclass(frozen=True, kw_only=True)
class Breathing(Schedule):
    """A custom schedule, ``1 - depth * sin(pi * s / period) ** 2``, which oscillates between 1 and ``1 - depth``.

    Args:
        period: Steps from one maximum to the next.
        depth: Decrease of the factor from a maximum to a minimum, in [0, 1].
    """

    period: float
    depth: float = 0.9

    def _check(self) -> None:
        if not self.period > 0 or not 0 <= self.depth <= 1:
            raise ValueError(f"period > 0 and 0 <= depth <= 1 must hold, but got period={self.period!r}")

    def _factor(self, step: float) -> float:
        return 1 - self.depth * math.sin(math.pi * step / self.period) ** 2
