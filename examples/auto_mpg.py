"""A regression for `auto_mpg.yaml`: a data module, and a LightningModule that supports plateaus."""

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from mlxtend.data import autompg_data
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules import Plateau, PlateauUpdates, Schedule, ScheduleLR
from lightning_modules.data.base import TensorLoader


class AutoMPGDataModule(pl.LightningDataModule):
    """392 cars of the seventies, with seven features and the fuel consumption of each.

    Args:
        batch_size: Cars in a training batch.
        seed: Seed of the order of the training batches.
    """

    def __init__(self, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.batch_size, self.seed = batch_size, seed

    def setup(self, stage: str) -> None:
        """Load and split the table; distances are in units of 10 miles per gallon."""
        rows, distances = (torch.from_numpy(values) for values in autompg_data())
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        rows, self._distances = rows[order, :7], (distances[order] / 10).float()  # the last column has names
        self._parts = {"train": slice(0, 272), "val": slice(272, 332), "test": slice(332, 392)}
        training = rows[self._parts["train"]]
        self._rows = ((rows - training.mean(dim=0)) / training.std(dim=0)).float()

    def _loader(self, part: str, batch_size: int, shuffle: bool = False) -> TensorLoader:
        rows, distances = self._rows[self._parts[part]], self._distances[self._parts[part]]
        return TensorLoader(rows, distances, batch_size, shuffle=shuffle, seed=self.seed)

    def train_dataloader(self) -> TensorLoader:
        """Return the training batches, in a new order every epoch."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> TensorLoader:
        """Return the validation rows, as one batch."""
        return self._loader("val", 60)

    def test_dataloader(self) -> TensorLoader:
        """Return the test rows, as one batch."""
        return self._loader("test", 60)


class Regressor(pl.LightningModule):
    """A dense network that predicts a number; logs `train/loss`, `val/loss`, `val/mae`, `test/loss` and `test/mae`.

    Args:
        optimizer: Called with the parameters, returns their optimizer.
        schedule: Schedule of the factor on the initial lr, or a plateau on top of one.
        neurons: Width of the hidden layer.
    """

    def __init__(
        self,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        schedule: Schedule | Plateau,
        neurons: int = 32,
    ) -> None:
        super().__init__()
        self.optimizer, self.schedule = optimizer, schedule
        self.network = nn.Sequential(nn.Linear(7, neurons), nn.ReLU(), nn.Linear(neurons, 1))

    def forward(self, rows: Tensor) -> Tensor:
        """Return a number [batch] for each of the rows [batch, 7]."""
        outputs: Tensor = self.network(rows)
        return outputs.squeeze(1)

    def configure_optimizers(self) -> Any:
        """Set the lr by the schedule before every step."""
        optimizer = self.optimizer(self.parameters())
        scheduler = ScheduleLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_callbacks(self) -> list[pl.Callback]:
        """Pass a plateau its metric after each validation."""
        return [PlateauUpdates()]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean squared error."""
        return self._evaluate(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the errors."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the errors."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        rows, distances = batch
        predicted = self(rows)
        loss = functional.mse_loss(predicted, distances)
        mae = (predicted - distances).abs().mean()
        self.log_dict({f"{stage}/loss": loss, f"{stage}/mae": mae}, on_step=False, on_epoch=True)
        return loss
