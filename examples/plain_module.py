"""A custom LightningModule for `plain_module.yaml`, independent of the tuner: it takes `optimizer` and `schedule`."""

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional


class PlainModule(pl.LightningModule):
    """An image classifier that logs its own metrics: `train_loss`, `val_top3` and `test_top3`.

    Args:
        optimizer: Called with the parameters, returns their optimizer.
        schedule: Called with the step, returns the factor on the initial lr.
        neurons: Width of the hidden layer.
        smoothing: Share of each label that is spread over all classes.
    """

    def __init__(
        self,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        schedule: Callable[[int], float],
        neurons: int = 64,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.optimizer, self.schedule, self.smoothing = optimizer, schedule, smoothing
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(784, neurons), nn.ReLU(), nn.Linear(neurons, 10))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images [batch, 1, 28, 28]."""
        logits: Tensor = self.network(images)
        return logits

    def configure_optimizers(self) -> Any:
        """Use the schedule in a torch scheduler."""
        optimizer = self.optimizer(self.parameters())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        images, labels = batch
        loss = functional.cross_entropy(self(images), labels, label_smoothing=self.smoothing)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the top-3 accuracy."""
        self.log("val_top3", self._top3(batch))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the top-3 accuracy on the test data."""
        self.log("test_top3", self._top3(batch))

    def _top3(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return (self(images).topk(3).indices == labels[:, None]).any(dim=1).float().mean()
