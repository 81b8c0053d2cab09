"""Data sets that are tables, as Lightning data modules: rows of numbers instead of images.

To add a table: write such a class, and add its line to `TABLES`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from lightning_modules.checks import require
from lightning_modules.data import DataError, TensorLoader, split

__all__ = ["TABLES", "IrisDataModule"]


@dataclass(kw_only=True, eq=False)
class IrisDataModule(LightningDataModule):
    """Fisher's 150 irises, 50 of each of three species, with four lengths in cm; they come with mlxtend: no download.

    Batches are pairs of rows, float32 [n, 4], and labels, int64 [n]. With the defaults 90 are for training, 30 for
    validation and 30 for test, equally many of each species.

    Args:
        batch_size: Rows in a training batch.
        val_fraction: Share of the rows of each species that is held out for validation.
        test_fraction: Share of them that is held out for the test.
        split_seed: Seed of the split.
        seed: Seed of the order of the training batches; or K seeds, for batches [K, batch, ...] of K orders at once.
        standardize: Subtract from each column the mean of the training rows, and divide by their standard deviation.
        train_size: Rows for training, out of those that are not held out; by default all of them.
        batches_per_epoch: Training batches that count as an epoch; by default one pass over the rows.
    """

    batch_size: int = 5
    val_fraction: float = 0.2
    test_fraction: float = 0.2
    split_seed: int = 0
    seed: int | Sequence[int] = 0
    standardize: bool = True
    train_size: int | None = None
    batches_per_epoch: int | None = None

    num_classes: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__init__()
        self._rows = self._labels = torch.empty(0)
        self._indices: dict[str, Tensor] = {}
        require(self, "batch_size", self.batch_size >= 1, "batch_size >= 1")
        require(self, "train_size", self.train_size is None or self.train_size >= 2, "train_size >= 2")
        for field in ("val_fraction", "test_fraction"):
            require(self, field, 0 < getattr(self, field) < 1, f"0 < {field} < 1")
        rule = f"val_fraction + test_fraction < 1 with val_fraction={self.val_fraction!r}"
        require(self, "test_fraction", self.val_fraction + self.test_fraction < 1, rule)

    def setup(self, stage: str | None = None) -> None:
        """Load the table and split it, once.

        Args:
            stage: Lightning's word for what comes next; every stage needs the same.

        Raises:
            ImportError: If mlxtend is not installed.
            ValueError: If a part would be empty, or `batch_size` or `train_size` is larger than the training set.
        """
        if self._indices:
            return
        try:
            from mlxtend.data import iris_data
        except ImportError as error:
            raise ImportError("the data set iris comes with mlxtend: pip install mlxtend") from error
        rows, labels = (torch.from_numpy(values) for values in iris_data())
        train, val, test = split(labels, (self.val_fraction, self.test_fraction), self.split_seed)
        rule = f"train_size <= {len(train)} rows that are not held out"
        require(self, "train_size", (self.train_size or 0) <= len(train), rule)
        train = train[: self.train_size]  # they are in mixed order
        rule = f"batch_size <= {len(train)} rows for training"
        require(self, "batch_size", self.batch_size <= len(train), rule)
        sizes = {"train": len(train), "val": len(val), "test": len(test)}
        if 0 in sizes.values():
            raise ValueError(f"each part must have a row, but got {sizes}: raise the fraction of the empty part")
        if self.standardize:
            rows = (rows - rows[train].mean(dim=0)) / rows[train].std(dim=0, correction=0).clamp(min=1e-12)
        self._rows, self._labels = rows.float(), labels
        self._indices = {"train": train, "val": val, "test": test}

    def train_dataloader(self) -> TensorLoader:
        """Return the training batches, in a new order every epoch."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> TensorLoader:
        """Return the validation rows, as one batch."""
        return self._loader("val", len(self._labels), shuffle=False)

    def test_dataloader(self) -> TensorLoader:
        """Return the test rows, as one batch."""
        return self._loader("test", len(self._labels), shuffle=False)

    def digest(self) -> str:
        """Return the sha256 of all rows and then all labels, so that changed data can be noticed."""
        self._check_set_up()
        return hashlib.sha256(self._rows.numpy().tobytes() + self._labels.numpy().tobytes()).hexdigest()

    def _loader(self, part: str, batch_size: int, *, shuffle: bool) -> TensorLoader:
        self._check_set_up()
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        chosen = self._indices[part]
        with torch.inference_mode(False):  # Lightning asks for validation batches inside of it
            rows, labels = self._rows[chosen].to(device), self._labels[chosen].to(device)
        batches = self.batches_per_epoch if shuffle else None
        return TensorLoader(rows, labels, batch_size, shuffle=shuffle, seed=self.seed, batches_per_epoch=batches)

    def _check_set_up(self) -> None:
        if not self._indices:
            raise DataError(f"{type(self).__name__} has no data yet: call setup() first")


TABLES: dict[str, type[LightningDataModule]] = {"iris": IrisDataModule}
"""Every table by the name that a study file gives it."""
