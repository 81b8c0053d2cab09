"""The linear regression of "What do near-optimal learning rate schedules look like?" for `linear_regression.yaml`.

SGD on a random least-squares problem with a known spectrum. Every seed has its own problem and batches; nothing
is downloaded. Source: Naganuma et al., 2026 (arXiv 2603.10301), and the workload ``linear_regression`` in the code
of its authors (google/init2winit, ``projects/optlrschedule``). There, the residuals z of n examples are trained, by
``z -= lr * n / batch * K[:, b] @ z[b]`` with a kernel K whose eigenvalues sum to one; here, a linear function with n
weights has these residuals. The code names neither the spectrum nor the sizes, so those here are our own.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules import Plateau, PlateauUpdates, Schedule, ScheduleLR
from lightning_modules.data.base import TensorLoader


class RandomBatches:
    """Batches of different rows, each batch drawn independently; the draws depend on the seed and the epoch alone.

    Args:
        rows: Tensor [n, columns].
        targets: Tensor [n].
        batch_size: Rows in a batch.
        batches: Batches in an epoch.
        seed: Seed of the draws.
    """

    batch_sampler = None  # Lightning reads it from every loader that has a sampler

    def __init__(self, rows: Tensor, targets: Tensor, batch_size: int, batches: int, seed: int) -> None:
        self._rows, self._targets = rows, targets
        self._batch_size, self._batches, self._seed = batch_size, batches, seed
        self._epoch = 0

    @property
    def sampler(self) -> "RandomBatches":
        """This object, as Lightning looks for ``set_epoch`` here."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        draws: torch.Generator | None = None
        for _ in range(self._batches):
            if draws is None:  # at the first batch, as Lightning calls iter() before set_epoch()
                draws = torch.Generator().manual_seed((self._seed * 1_000_003 + self._epoch) % 2**63)
            chosen = torch.randperm(len(self._rows), generator=draws)[: self._batch_size]
            yield self._rows[chosen], self._targets[chosen]


class LeastSquaresDataModule(pl.LightningDataModule):
    """A random least-squares problem, which depends on the seed.

    The n rows have n columns, in an orthogonal basis that is drawn at random. The k-th eigenvalue of their mean outer
    product is proportional to ``k ** -decay``, and all of them add up to one. The targets are normally distributed. The
    loss is validated on the rows that are trained.

    Args:
        examples: Number n of rows.
        decay: Exponent of the spectrum.
        batch_size: Rows in a training batch.
        batches_per_epoch: Batches from one validation to the next.
        seed: Seed of the problem and of the batches.
    """

    def __init__(
        self, examples: int = 64, decay: float = 2.0, batch_size: int = 8, batches_per_epoch: int = 40, seed: int = 0
    ) -> None:
        super().__init__()
        self.examples, self.decay, self.batch_size = examples, decay, batch_size
        self.batches_per_epoch, self.seed = batches_per_epoch, seed

    def setup(self, stage: str) -> None:
        """Draw the problem."""
        draws = torch.Generator().manual_seed(self.seed)
        normal = torch.randn(self.examples, self.examples, generator=draws, dtype=torch.float64)
        basis, triangle = torch.linalg.qr(normal)
        basis = basis * triangle.diagonal().sign()  # uniform over all bases
        spectrum = torch.arange(1, self.examples + 1, dtype=torch.float64) ** -self.decay
        self._rows = (basis * (self.examples * spectrum / spectrum.sum()).sqrt()).float()
        self._targets = torch.randn(self.examples, generator=draws)

    def train_dataloader(self) -> RandomBatches:
        """Return the training batches."""
        return RandomBatches(self._rows, self._targets, self.batch_size, self.batches_per_epoch, self.seed)

    def val_dataloader(self) -> TensorLoader:
        """Return all rows as one batch."""
        return TensorLoader(self._rows, self._targets, self.examples)


class LinearRegression(pl.LightningModule):
    """A linear function that begins at zero; logs `train/loss` and `val/loss`, half the mean squared error.

    Args:
        optimizer: Called with the parameters, returns their optimizer.
        schedule: Schedule of the factor on the initial lr, or a plateau on top of one.
        columns: Number of weights.
    """

    def __init__(
        self,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        schedule: Schedule | Plateau,
        columns: int = 64,
    ) -> None:
        super().__init__()
        self.optimizer, self.schedule = optimizer, schedule
        self.weights = nn.Parameter(torch.zeros(columns))

    def forward(self, rows: Tensor) -> Tensor:
        """Return a number [batch] for each of the rows [batch, columns]."""
        return rows @ self.weights

    def configure_optimizers(self) -> Any:
        """Set the lr by the schedule before every step."""
        optimizer = self.optimizer(self.parameters())
        scheduler = ScheduleLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_callbacks(self) -> list[pl.Callback]:
        """Pass a plateau its metric after each validation."""
        return [PlateauUpdates()]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        return self._loss(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the loss of all rows."""
        self._loss(batch, "val")

    def _loss(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        rows, targets = batch
        loss = (self(rows) - targets).square().mean() / 2
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True)
        return loss
