"""Layers of stacked networks: the values and gradients of each network alone, without copies of large tensors."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_modules import MNISTCNN, Adam, Classifier, FusedClassifier, MNIST5kDataModule

COUNT = 3


class Example(nn.Module):
    """Calls a function of images [batch, 4, 8, 8], with layers of its own, and returns logits."""

    def __init__(self, call: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.call = call

    def forward(self, images: Tensor) -> Tensor:
        return self.call(self.layers, images).flatten(1)


def dense_of_rows(layers: Any, images: Tensor) -> Tensor:
    return layers["dense"](images)


def constant_weight(layers: Any, images: Tensor) -> Tensor:
    return functional.linear(layers["dense"](images.flatten(1)), torch.ones(2, 5, dtype=images.dtype))


def own_vmap(layers: Any, images: Tensor) -> Tensor:
    convolved = torch.vmap(layers["conv"])(images.unsqueeze(1))[:, 0]
    pooled = torch.vmap(nn.MaxPool2d(2))(convolved)
    return torch.vmap(layers["dense"])(pooled.flatten(1))


def convolved_rows(layers: Any, images: Tensor) -> Tensor:
    return layers["second"](layers["first"](images.flatten(2)).relu())


def convolved_volumes(layers: Any, images: Tensor) -> Tensor:
    return functional.max_pool3d(layers["first"](images.unflatten(1, (2, 2))), (1, 2, 2))


def pooled(layers: Any, images: Tensor) -> Tensor:
    features = layers["conv"](functional.max_pool2d(images, 2, ceil_mode=True))
    maxima, places = functional.max_pool2d(features, 2, return_indices=True)
    means = functional.avg_pool2d(features, 3, 1, padding=1) + functional.adaptive_avg_pool2d(features, (4, 4))
    rows = functional.adaptive_avg_pool1d(functional.avg_pool1d(functional.max_pool1d(means.flatten(2), 2), 2), 3)
    return torch.cat([maxima.flatten(1), 0 * places.flatten(1), rows.flatten(1), means[:, 0].flatten(1)], 1)


def images_of_two(layers: Any, images: Tensor) -> Tensor:
    return functional.avg_pool2d(functional.max_pool2d(layers["conv"](images), 2)[0], 2).expand(len(images), -1, -1, -1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: Example(lambda layers, images: layers["dense"](images.flatten(1)), dense=nn.Linear(256, 5)),
    "dense without bias": lambda: Example(dense_of_rows, dense=nn.Linear(8, 2, bias=False)),
    "dense of rows": lambda: Example(dense_of_rows, dense=nn.Linear(8, 2)),
    "a computed weight": lambda: Example(
        lambda layers, images: functional.linear(images.flatten(1), layers["dense"].weight.tanh()),
        dense=nn.Linear(256, 5, bias=False),
    ),
    "a constant weight": lambda: Example(constant_weight, dense=nn.Linear(256, 5)),
    "vmap of its own": lambda: Example(own_vmap, conv=nn.Conv2d(4, 4, 3), dense=nn.Linear(36, 3)),
    "1d": lambda: Example(convolved_rows, first=nn.Conv1d(4, 6, 5, stride=3), second=nn.Conv1d(6, 2, 3, dilation=2)),
    "3d": lambda: Example(convolved_volumes, first=nn.Conv3d(2, 3, (2, 3, 3), padding=1)),
    "groups": lambda: Example(
        lambda layers, images: layers["second"](layers["first"](images)),
        first=nn.Conv2d(4, 6, 3, groups=2, bias=False),
        second=nn.Conv2d(6, 4, 3, padding="same", groups=2),
    ),
    "circular": lambda: Example(
        lambda layers, images: layers["first"](images),
        first=nn.Conv2d(4, 2, 3, padding="same", padding_mode="circular"),
    ),
    "batch norm": lambda: Example(
        lambda layers, images: layers["last"](
            layers["rows"](layers["norm"](layers["conv"](layers["first"](images))).mean(3))[..., 0]
        ),
        first=nn.BatchNorm2d(4),
        conv=nn.Conv2d(4, 3, 3),
        norm=nn.BatchNorm2d(3),
        rows=nn.BatchNorm1d(3, affine=False),
        last=nn.BatchNorm1d(3, track_running_stats=False),
    ),
    "synchronized batch norm": lambda: Example(
        lambda layers, images: layers["norm"](layers["conv"](images)),
        conv=nn.Conv2d(4, 3, 3),
        norm=nn.SyncBatchNorm(3),
    ),
    "instance norm": lambda: Example(
        lambda layers, images: layers["last"](layers["norm"](layers["conv"](layers["first"](images))).flatten(2)),
        first=nn.InstanceNorm2d(4),
        conv=nn.Conv2d(4, 3, 3),
        norm=nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        last=nn.InstanceNorm1d(3, affine=True),
    ),
    "transposed": lambda: Example(
        lambda layers, images: layers["rows"](layers["second"](layers["first"](images)).mean(3)),
        first=nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        second=nn.ConvTranspose2d(6, 4, 3, dilation=2, groups=2, bias=False),
        rows=nn.ConvTranspose1d(4, 2, 3),
    ),
    "in place": lambda: Example(
        lambda layers, images: layers["all"](images),
        all=nn.Sequential(
            *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            *(nn.MaxPool2d(2), nn.ELU(inplace=True), nn.Linear(4, 3), nn.ReLU(inplace=True)),
            *(nn.Flatten(), nn.Linear(48, 8), nn.ReLU(inplace=True), nn.Linear(8, 2)),
        ),
    ),
    "pooling": lambda: Example(pooled, conv=nn.Conv2d(4, 2, 3, padding=1)),
    "pooling of one image": lambda: Example(images_of_two, conv=nn.Conv2d(4, 2, 3)),
}


def fused(networks: list[nn.Module]) -> FusedClassifier:
    return FusedClassifier([Classifier(network, Adam(initial_lr=0.1)) for network in networks])


@pytest.mark.parametrize("per_trial", [False, True], ids=["one batch", "a batch each"])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_gradients_are_those_of_each_network_alone(name: str, per_trial: bool):
    torch.manual_seed(0)
    networks = [NETWORKS[name]().double() for _ in range(COUNT)]
    for network in networks[1:]:
        network.call = networks[0].call  # or they would have different functions
    images = torch.rand(COUNT, 2, 4, 8, 8, dtype=torch.float64) if per_trial else torch.rand(2, 4, 8, 8).double()
    module = fused(networks)
    outputs = module(images, per_trial)
    outputs.square().sum().backward()
    gradients = {key: parameter.grad for key, parameter in module.model.named_parameters()}
    buffers = dict(module.model.named_buffers())
    for index, network in enumerate(networks):
        alone = network(images[index] if per_trial else images)
        network.zero_grad()
        alone.square().sum().backward()
        torch.testing.assert_close(outputs[index], alone, rtol=1e-12, atol=1e-12)
        for key, parameter in network.named_parameters():
            torch.testing.assert_close(gradients[key][index], parameter.grad, rtol=1e-12, atol=1e-12)
        for key, buffer in network.named_buffers():
            torch.testing.assert_close(buffers[key][index], buffer, rtol=1e-12, atol=1e-12)


class Copies(TorchDispatchMode):
    """Counts the operations that only copy or convert a tensor, if it is a large one."""

    LARGE = 10_000

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("clone", "copy_", "_to_copy", "contiguous") and result.numel() >= self.LARGE:
            self.found[f"{name} {list(result.shape)}"] += 1
        return result


@contextmanager
def copies_of_a_step(module: FusedClassifier, batch: tuple[Tensor, Tensor], bf16: bool = False) -> Iterator[Copies]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        module.training_step(batch, 0)["loss"].backward()  # the first one checks the network
        module.zero_grad()
    with Copies() as copies:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = module.training_step(batch, 0)["loss"]
        loss.backward()
    yield copies


def test_a_step_copies_no_weight_gradient_or_activation():
    module = fused([MNISTCNN(channels=(8, 16, 24), hidden=(60, 40)) for _ in range(COUNT)])
    batch = torch.rand(20, 1, 28, 28), torch.zeros(20, dtype=torch.int64)
    flattened = [COUNT, 20, 24, 4, 4]  # the only change of the layout: where the convolutions end
    with copies_of_a_step(module, batch) as copies:
        assert set(copies.found) <= {f"clone {flattened}"}


def test_with_autocast_activations_have_the_types_that_they_have_alone():
    networks = [nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(676, 10)) for _ in range(2)]
    module = fused(list(networks))
    seen: dict[nn.Module, list[torch.dtype]] = {}
    for network in (*networks, module.model):
        for layer in network:
            layer.register_forward_hook(lambda layer, _, output: seen.setdefault(layer, []).append(output.dtype))
    images = torch.rand(5, 1, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        networks[0](images)
        module(images)
    assert [seen[layer] for layer in networks[0]] == [seen[layer] for layer in module.model]
    assert set(map(tuple, seen.values())) == {(torch.bfloat16,)}


class ReadsGradients(pl.Callback):
    def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        pass


class Watch(pl.Callback):
    """Changes a weight in the middle, and counts the large weights that forward and backward convert in the last step.

    Only the whole step can be watched, in which the update on a CPU converts each gradient once.
    """

    def __init__(self) -> None:
        self.copies = Copies()

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 5:
            with torch.no_grad():
                next(iter(module.model.parameters())).mul_(1.1)
        if trainer.global_step == trainer.max_steps - 1:
            self.copies.__enter__()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            self.copies.__exit__(None, None, None)


def trained_in_bf16(*callbacks: pl.Callback) -> tuple[dict[str, Tensor], Counter[str]]:
    classifiers = []
    for seed in range(COUNT):
        torch.manual_seed(seed)
        network = nn.Sequential(MNISTCNN(channels=(4, 4, 4), hidden=(100, 60)), nn.BatchNorm1d(10))
        classifiers.append(Classifier(network, Adam(initial_lr=0.01 * (seed + 1))))
    module, watch = FusedClassifier(classifiers), Watch()
    data = MNIST5kDataModule(batch_size=20, val_fraction=0.02, test_fraction=0.9, seed=0)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_steps=12, accelerator="cpu", precision="bf16-mixed", callbacks=[watch, *callbacks],
        enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return module.model.state_dict(), watch.copies.found


def test_rounded_weights_are_trained_to_the_same_bits_with_fewer_conversions():
    rounded, few = trained_in_bf16()
    plain, many = trained_in_bf16(ReadsGradients())
    assert all(torch.equal(rounded[key], plain[key]) for key in plain)
    conversions = [each["_to_copy [3, 100, 64]"] for each in (few, many)]
    assert conversions == [1, 2], "on a CPU, the update converts the gradient"
