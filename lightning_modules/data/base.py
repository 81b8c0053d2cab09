"""Data sets that fit in memory, as Lightning data modules, and the loader that takes batches out of tensors.

A data set lies on the training device as a whole and a batch is one gather from it: there is no per-item loading and
there are no worker processes.
"""

import hashlib
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

    The order of an epoch depends on `seed` and the epoch alone, so a resumed training sees the batches that it would
    have seen. Lightning announces the epoch through ``loader.sampler.set_epoch``. Each process of a distributed
    training goes through all the batches: nothing is divided among them.

    Args:
        images: Tensor [n, c, h, w], of which batches keep the memory format; or rows of a table [n, columns].
        labels: Tensor [n] on the same device.
        batch_size: Images in a batch; the last of an epoch has the rest.
        shuffle: Draw a new order for every epoch. Without it, batches are views of the tensors.
        seed: Seed of the orders; or K seeds, for shuffled batches [K, batch, ...] of K orders at once.
        batches_per_epoch: Shuffled batches that count as an epoch; the next epoch begins where it ends, and a new order
            after each pass over the images. By default an epoch is a pass.

    >>> loader = TensorLoader(torch.zeros(5, 1, 28, 28), torch.arange(5), batch_size=2)
    >>> len(loader), [labels.tolist() for _, labels in loader]
    (3, [[0, 1], [2, 3], [4]])
    """

    batch_sampler: None = None  # Lightning reads it of every loader that has a sampler

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int | Sequence[int] = 0,
        batches_per_epoch: int | None = None,
    ) -> None:
        if images.ndim not in (2, 4) or labels.shape != images.shape[:1]:
            raise ValueError(
                "images [n, c, h, w] or rows [n, columns], and labels [n] must hold, but got "
                f"images {list(images.shape)} and labels {list(labels.shape)}"
            )
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.batches_per_epoch = batches_per_epoch
        self.epoch = 0
        require(self, "batch_size", batch_size >= 1, "batch_size >= 1")
        rule = "batches_per_epoch >= 1"
        require(self, "batches_per_epoch", batches_per_epoch is None or batches_per_epoch >= 1, rule)

    @property
    def sampler(self) -> "TensorLoader":
        """The object that has ``set_epoch``, where Lightning looks for it."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches_per_epoch if self.shuffle and self.batches_per_epoch else self._batches_per_pass

    @property
    def _batches_per_pass(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator, so that the epoch is read at the first batch: Lightning calls iter() before set_epoch().
        if not self.shuffle:
            yield from zip(
                torch.split(self.images, self.batch_size), torch.split(self.labels, self.batch_size), strict=True
            )
            return
        # index_select writes contiguous rows; on the channels-last view these are channels-last images. On a CPU it is
        # several times faster than indexing, which would keep the strides by itself.
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
            chosen = batches[first : first + end - number]
            yield from chosen
            number += len(chosen)

    def _orders(self, done: int) -> Tensor:
        """Return the order of a pass, or that of each seed, after so many passes."""
        seeds = [self.seed] if isinstance(self.seed, int) else self.seed
        orders = [torch.randperm(len(self.images), generator=_generator("epoch", seed, done)) for seed in seeds]
        return orders[0] if isinstance(self.seed, int) else torch.stack(orders)


@dataclass(kw_only=True, eq=False)
class TensorDataModule(LightningDataModule, ABC):
    """A whole data set in memory, split into training, validation and test.

    The split is stratified: of ``c`` examples of a class, ``round(fraction * c)`` (a half to the even number) go to
    each held-out part and the rest is for training. It depends on `split_seed` and the data alone.

    Args:
        batch_size: Examples in a training batch.
        val_fraction: Share of the examples of each class that is held out for validation.
        split_seed: Seed of the split.
        seed: Seed of the order of the training batches; or K seeds, for batches [K, batch, ...] of K orders at once.
        eval_batch_size: Examples in a validation or test batch.
        train_size: Examples for training, out of those that are not held out; by default all of them.
        batches_per_epoch: Training batches that count as an epoch; by default one pass over the examples.
    """

    batch_size: int = 50
    val_fraction: float = 0.1
    split_seed: int = 0
    seed: int | Sequence[int] = 0
    eval_batch_size: int = 500
    train_size: int | None = None
    batches_per_epoch: int | None = None

    num_classes: ClassVar[int]
    examples: ClassVar[str] = "examples"
    """What messages call them."""

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
        """Return inputs as a network takes them, on the device where they lie."""

    def setup(self, stage: str | None = None) -> None:
        """Load the data set and split it, once.

        Args:
            stage: Lightning's word for what comes next; every stage needs the same.

        Raises:
            DataError: If a file is missing or damaged.
            ImportError: If a package that has the data is not installed.
            ValueError: If a part would be empty, or `batch_size` or `train_size` is larger than the training set.
        """
        if self._indices:
            return
        inputs, labels, indices = self._load()
        if self.train_size is not None:
            rule = f"train_size <= {len(indices['train'])} {self.examples} that are not held out"
            require(self, "train_size", self.train_size <= len(indices["train"]), rule)
            indices["train"] = indices["train"][: self.train_size]  # they are in mixed order
        sizes = {part: len(chosen) for part, chosen in indices.items()}
        if self.batch_size > sizes["train"]:
            raise ValueError(
                f"batch_size <= {self.examples} for training must hold, "
                f"but got batch_size={self.batch_size} with {sizes['train']} {self.examples} for training"
            )
        if 0 in sizes.values():
            raise ValueError(f"each part needs {self.examples}, but got {sizes}: raise the fraction of the empty one")
        self._inputs, self._labels, self._indices = inputs, labels, indices

    def train_dataloader(self) -> TensorLoader:
        """Return the training batches, in a new order every epoch."""
        # With overfit_batches, Lightning says that it turns shuffling off, but it can do so for a DataLoader only.
        shuffle = self.trainer is None or not getattr(self.trainer, "overfit_batches", 0)
        return TensorLoader(
            *self._part("train"),
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            batches_per_epoch=self.batches_per_epoch,
        )

    def val_dataloader(self) -> TensorLoader:
        """Return the validation batches, in a fixed order."""
        return TensorLoader(*self._part("val"), self.eval_batch_size)

    def test_dataloader(self) -> TensorLoader:
        """Return the test batches, in a fixed order."""
        return TensorLoader(*self._part("test"), self.eval_batch_size)

    def digest(self) -> str:
        """Return the sha256 of all inputs and then all labels, as loaded, so that changed data can be noticed."""
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
            with torch.inference_mode(False):  # Lightning asks for validation batches inside of it
                inputs, labels = self._inputs[chosen].to(device), self._labels[chosen].to(device)
                self._tensors[part] = self._prepared(inputs), labels.long()
        return self._tensors[part]


def require_test_fraction(module: TensorDataModule, fraction: float) -> None:
    """Raise ValueError unless a share can be held out for the test, beside that for validation."""
    require(module, "test_fraction", 0 < fraction < 1, "0 < test_fraction < 1")
    rule = f"val_fraction + test_fraction < 1 with val_fraction={module.val_fraction!r}"
    require(module, "test_fraction", module.val_fraction + fraction < 1, rule)


def _generator(purpose: str, *numbers: int) -> torch.Generator:
    """Return a generator for this purpose and these numbers; neighbouring numbers give unrelated ones."""
    digest = hashlib.sha256(f"{purpose} {numbers}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def split(labels: Tensor, fractions: Sequence[float], seed: int) -> list[Tensor]:
    """Deal the indices of `labels` into a first part and one for each fraction, class by class, each in mixed order."""
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
