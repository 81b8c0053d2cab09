"""Lightning data modules for data sets that fit in memory, and a loader that draws batches from tensors.

The whole data set is kept on the training device, and a batch is one gather from it, without per-item loading or worker
processes.
"""

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from lightning_modules._validation import require

__all__ = ["DataError", "TensorDataModule", "TensorLoader", "require_test_fraction", "split"]


class DataError(RuntimeError):
    """A data set is missing, damaged, or cannot be fetched; the message says which file or folder, and what to do."""


class TensorLoader:
    """Batches of images and labels, gathered by index from tensors on the training device.

    The order of an epoch depends on `seed` and the epoch alone, so a resumed run sees the same batches. Lightning sets
    the epoch by ``loader.sampler.set_epoch``. In distributed training, each process iterates over all batches: they are
    not divided.

    Args:
        images: Tensor [n, c, h, w], whose memory format batches keep; or rows of a table [n, columns].
        labels: Tensor [n] on the same device.
        batch_size: Images in a batch; the last batch of an epoch holds the remainder.
        shuffle: Draw a new order for every epoch. Without it, batches are views of the tensors.
        seed: Seed of the orders; or K seeds, for shuffled batches [K, batch, ...] of K orders at once.
        batches_per_epoch: Shuffled batches in an epoch. The next epoch begins where the previous one ended, and each
            pass over the images has a new order. By default, an epoch is a pass.
        drop_last: Leave out the last batch of a pass if it is smaller than the others.

    >>> loader = TensorLoader(torch.zeros(5, 1, 28, 28), torch.arange(5), batch_size=2)
    >>> len(loader), [labels.tolist() for _, labels in loader]
    (3, [[0, 1], [2, 3], [4]])
    """

    batch_sampler: None = None  # Lightning reads it from every loader that has a sampler

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int | Sequence[int] = 0,
        batches_per_epoch: int | None = None,
        drop_last: bool = False,
    ) -> None:
        if images.ndim not in (2, 4) or labels.shape != images.shape[:1]:
            raise ValueError(
                "images must be [n, c, h, w] or rows [n, columns], and labels [n], but got "
                f"images {list(images.shape)} and labels {list(labels.shape)}"
            )
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.batches_per_epoch = batches_per_epoch
        self.drop_last = drop_last
        self.epoch = 0
        require(self, "batch_size", batch_size >= 1, "batch_size >= 1")
        rule = f"batch_size <= {len(images)} images with drop_last"
        require(self, "batch_size", not drop_last or batch_size <= len(images), rule)
        rule = "batches_per_epoch >= 1"
        require(self, "batches_per_epoch", batches_per_epoch is None or batches_per_epoch >= 1, rule)

    @property
    def sampler(self) -> "TensorLoader":
        """This object, as Lightning looks for ``set_epoch`` here."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, which determines its order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches_per_epoch if self.shuffle and self.batches_per_epoch else self._batches_per_pass

    @property
    def _batches_per_pass(self) -> int:
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator reads the epoch at the first batch: Lightning calls iter() before set_epoch().
        if not self.shuffle:
            batches = zip(
                torch.split(self.images, self.batch_size), torch.split(self.labels, self.batch_size), strict=True
            )
            yield from itertools.islice(batches, len(self))
            return
        # index_select writes contiguous rows, which on a channels-last view are channels-last images. Indexing would
        # preserve the strides, but is several times slower on a CPU.
        is_table = self.images.ndim == 2
        rows = self.images if is_table else self.images.permute(0, 2, 3, 1)
        for chosen in self._chosen():
            images, labels = (tensor.index_select(0, chosen.flatten()) for tensor in (rows, self.labels))
            images = images.view(*chosen.shape, *rows.shape[1:])
            yield images if is_table else images.movedim(-1, -3), labels.view(chosen.shape)

    def _chosen(self) -> Iterator[Tensor]:
        """Yield the indices of each batch of the epoch."""
        number, end = self.epoch * len(self), (self.epoch + 1) * len(self)
        while number < end:
            done, first = divmod(number, self._batches_per_pass)
            batches = torch.split(self._orders(done).to(self.images.device), self.batch_size, dim=-1)
            chosen = batches[first : min(first + end - number, self._batches_per_pass)]
            yield from chosen
            number += len(chosen)

    def _orders(self, done: int) -> Tensor:
        """Return the order of the pass after `done` passes; with several seeds, the order of each."""
        seeds = [self.seed] if isinstance(self.seed, int) else self.seed
        orders = [torch.randperm(len(self.images), generator=_generator("epoch", seed, done)) for seed in seeds]
        return orders[0] if isinstance(self.seed, int) else torch.stack(orders)


@dataclass(kw_only=True, eq=False)
class TensorDataModule(LightningDataModule, ABC):
    """A data set in memory, split into training, validation and test.

    The split is stratified: of ``c`` examples of a class, ``round(fraction * c)`` (half to even) go to each held-out
    part, and the rest is for training. It depends on `split_seed` and the data alone.

    Args:
        batch_size: Examples in a training batch.
        val_fraction: Share of the examples of each class that is held out for validation.
        split_seed: Seed of the split.
        seed: Seed of the order of the training batches; or K seeds, for batches [K, batch, ...] of K orders at once.
        eval_batch_size: Examples in a validation or test batch.
        train_size: Number of training examples; by default all that are not held out.
        batches_per_epoch: Training batches in an epoch; by default one pass over the examples.
        drop_last: Leave out the last training batch of a pass if it is smaller than the others.
    """

    batch_size: int = 50
    val_fraction: float = 0.1
    split_seed: int = 0
    seed: int | Sequence[int] = 0
    eval_batch_size: int = 500
    train_size: int | None = None
    batches_per_epoch: int | None = None
    drop_last: bool = False

    num_classes: ClassVar[int]
    class_names: ClassVar[Sequence[str]] = ()
    """Names of the classes, in the order of their numbers; empty if the numbers are the names."""
    examples: ClassVar[str] = "examples"
    """The word for its examples in messages."""

    def __post_init__(self) -> None:
        super().__init__()
        self._inputs = self._labels = torch.empty(0)
        self._indices: dict[str, Tensor] = {}
        self._tensors: dict[str, tuple[Tensor, Tensor]] = {}
        require(self, "batch_size", self.batch_size >= 1, "batch_size >= 1")
        require(self, "val_fraction", 0 < self.val_fraction < 1, "0 < val_fraction < 1")
        require(self, "eval_batch_size", self.eval_batch_size >= 1, "eval_batch_size >= 1")
        require(self, "train_size", self.train_size is None or self.train_size >= 1, "train_size >= 1")

    @abstractmethod
    def _load(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return all inputs [n, ...] and labels [n], and the indices of "train", "val" and "test"."""

    @abstractmethod
    def _prepared(self, inputs: Tensor) -> Tensor:
        """Return inputs in the form for a network, on the same device."""

    def setup(self, stage: str | None = None) -> None:
        """Load the data set and split it, once.

        Args:
            stage: Lightning's name of the coming stage; ignored, because every stage needs the same data.

        Raises:
            DataError: If a file is missing or damaged.
            ImportError: If the package that contains the data is not installed.
            ValueError: If a part would be empty, or `batch_size` or `train_size` is larger than the training set.
        """
        if self._indices:
            return
        inputs, labels, indices = self._load()
        if self.train_size is not None:
            rule = f"train_size <= {len(indices['train'])} {self.examples} that are not held out"
            require(self, "train_size", self.train_size <= len(indices["train"]), rule)
            indices["train"] = indices["train"][: self.train_size]  # the indices are shuffled
        sizes = {part: len(chosen) for part, chosen in indices.items()}
        if self.batch_size > sizes["train"]:
            raise ValueError(
                f"batch_size must be at most the number of training {self.examples}, "
                f"but got batch_size={self.batch_size} with {sizes['train']} {self.examples}"
            )
        if 0 in sizes.values():
            raise ValueError(f"each part needs {self.examples}, but got {sizes}: raise the fraction of the empty one")
        self._inputs, self._labels, self._indices = inputs, labels, indices

    def train_dataloader(self) -> TensorLoader:
        """Return the training batches, in a new order every epoch."""
        # With overfit_batches, Lightning turns shuffling off, but can do so only in a torch DataLoader.
        shuffle = self.trainer is None or not getattr(self.trainer, "overfit_batches", 0)
        return TensorLoader(
            *self._part("train"),
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            batches_per_epoch=self.batches_per_epoch,
            drop_last=self.drop_last,
        )

    def val_dataloader(self) -> TensorLoader:
        """Return the validation batches, in a fixed order."""
        return TensorLoader(*self._part("val"), self.eval_batch_size)

    def test_dataloader(self) -> TensorLoader:
        """Return the test batches, in a fixed order."""
        return TensorLoader(*self._part("test"), self.eval_batch_size)

    def predict_dataloader(self) -> TensorLoader:
        """Return the test batches, with their labels."""
        return self.test_dataloader()

    def digest(self) -> str:
        """Return the sha256 of all inputs and labels, to detect changed data."""
        self._check_set_up()
        digest = hashlib.sha256(self._inputs.numpy().tobytes())
        digest.update(self._labels.numpy().tobytes())
        return digest.hexdigest()

    def _check_set_up(self) -> None:
        if not self._indices:
            raise DataError(f"{type(self).__name__} has no data yet: call prepare_data() and setup() first")

    def _part(self, part: str) -> tuple[Tensor, Tensor]:
        """Return the inputs and labels of a part, on the device of the trainer or else on the CPU."""
        self._check_set_up()
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if part not in self._tensors or self._tensors[part][0].device != device:
            chosen = self._indices[part]
            with torch.inference_mode(False):  # Lightning requests validation batches in inference mode
                inputs, labels = self._inputs[chosen].to(device), self._labels[chosen].to(device)
                self._tensors[part] = self._prepared(inputs), labels.long()
        return self._tensors[part]


def require_test_fraction(module: TensorDataModule, fraction: float) -> None:
    """Raise ValueError unless a share can be held out for the test, in addition to the validation share."""
    require(module, "test_fraction", 0 < fraction < 1, "0 < test_fraction < 1")
    rule = f"val_fraction + test_fraction < 1 with val_fraction={module.val_fraction!r}"
    require(module, "test_fraction", module.val_fraction + fraction < 1, rule)


def _generator(purpose: str, *numbers: int) -> torch.Generator:
    """Return a generator seeded by a purpose and numbers; similar numbers give independent generators."""
    digest = hashlib.sha256(f"{purpose} {numbers}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def split(labels: Tensor, fractions: Sequence[float], seed: int) -> list[Tensor]:
    """Split the indices of `labels` into a first part and one for each fraction, stratified by class and shuffled."""
    generator = _generator("split", seed)
    parts: list[list[Tensor]] = [[] for _ in range(len(fractions) + 1)]
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        held_out = [round(fraction * len(members)) for fraction in fractions]
        for part, chosen in zip(parts, torch.split(members, [len(members) - sum(held_out), *held_out]), strict=True):
            part.append(chosen)
    whole = [torch.cat(part) for part in parts]
    return [part[torch.randperm(len(part), generator=generator)] for part in whole]
