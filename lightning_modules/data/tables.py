"""Lightning data modules for tables: rows of numbers instead of images.

To add a table, write a subclass of `TensorDataModule`, and add its line to `TABLES`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_modules._validation import require
from lightning_modules.data.base import TensorDataModule, require_test_fraction, split

__all__ = ["IrisDataModule"]


@dataclass(kw_only=True, eq=False)
class IrisDataModule(TensorDataModule):
    """Fisher's 150 irises, 50 of each of three species, with four lengths in cm, from the package mlxtend.

    Batches are pairs of rows, float32 [n, 4], and labels, int64 [n]. By default, 90 are for training, 30 for validation
    and 30 for test, with equal numbers of each species.

    Args:
        test_fraction: Share of the rows of each species that is held out for the test.
        standardize: Subtract from each column the mean of the training rows, and divide by their standard deviation.

    The other arguments are those of `TensorDataModule`.
    """

    batch_size: int = 5
    val_fraction: float = 0.2
    test_fraction: float = 0.2
    standardize: bool = True

    num_classes: ClassVar[int] = 3
    class_names: ClassVar[Sequence[str]] = ("setosa", "versicolor", "virginica")
    examples: ClassVar[str] = "rows"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_test_fraction(self, self.test_fraction)
        if self.standardize:
            require(self, "train_size", self.train_size is None or self.train_size >= 2, "train_size >= 2")

    def _load(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        try:
            from mlxtend.data import iris_data
        except ImportError as error:
            raise ImportError("the data set iris comes with mlxtend: pip install mlxtend") from error
        rows, labels = (torch.from_numpy(values) for values in iris_data())
        train, val, test = split(labels, (self.val_fraction, self.test_fraction), self.split_seed)
        return rows, labels, {"train": train, "val": val, "test": test}

    def _prepared(self, inputs: Tensor) -> Tensor:
        if self.standardize:
            train = self._inputs[self._indices["train"]].to(inputs.device)
            inputs = (inputs - train.mean(dim=0)) / train.std(dim=0, correction=0).clamp(min=1e-12)
        return inputs.float()
