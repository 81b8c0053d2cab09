"""Large dense layers in bfloat16 on a CPU: the same weights, with less traffic to memory."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from lightning_modules import MLP, SGD, Adadelta, Adam, AdamW, Classifier, ExponentialDecay, MNIST5kDataModule
from lightning_modules.kernels.bf16_linear import Bf16LinearSpeedup, RoundedWeights
from tests.test_classifier import Recorder, quiet_trainer

STEPS = 6
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": Adam(initial_lr=1e-3, eps=1e-3),
    "adam with decay": Adam(initial_lr=1e-3, eps=1e-3, weight_decay=0.1),
    "adamw": AdamW(initial_lr=1e-3, eps=1e-3, weight_decay=0.1),
    "sgd": SGD(initial_lr=0.1),
    "momentum": SGD(initial_lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make small layers count as large, in blocks of which none is full and the last is smaller."""
    monkeypatch.setattr(RoundedWeights, "SMALLEST", 500)
    monkeypatch.setattr(RoundedWeights, "BLOCK", 330)


class Network(nn.Module):
    """Dense layers with and without bias, and one that is too small."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(30, 40, bias=False)
        self.second = nn.Linear(40, 40)
        self.last = nn.Linear(40, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.first(inputs)))))


class Twice(Network):
    """A layer that is used twice."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.second(torch.relu(self.second(torch.relu(self.first(inputs))))))
        return self.last(hidden)


class Tied(Network):
    """A weight that is also used directly."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(inputs))))
        return self.last(functional.linear(hidden, self.second.weight))


class Shared(Network):
    """Two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Linear(40, 40)
        self.third.weight = self.second.weight

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(inputs))))
        return self.last(torch.relu(self.third(hidden)))


class Replaced(Network):
    """A weight that is replaced by another tensor."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.relu(self.first(inputs))
        other = {"weight": self.second.weight * 0.5 + 0.01}
        return self.last(functional_call(self.second, other, hidden))


class Rows(Network):
    """Layers with inputs [batch, n, inputs]."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.unflatten(0, (4, -1))).flatten(0, 1)


class Frozen(Network):
    """A weight that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.second.weight.requires_grad = False


class Unused(Network):
    """A layer that is skipped every second time."""

    times = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.times += 1
        hidden = torch.relu(self.first(inputs))
        return self.last(self.second(hidden) if self.times % 2 else hidden)


NETWORKS = (Network, Twice, Tied, Shared, Replaced, Rows, Frozen, Unused)


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(20, 30, generator=generator), torch.randint(10, (20,), generator=generator)) for _ in range(STEPS)
    ]


def train(
    network: type[Network],
    make: Callable[[Any], torch.optim.Optimizer],
    is_rounded: bool,
    accumulate: int = 1,
    after: Callable[[nn.Module, torch.optim.Optimizer, int], None] = lambda *_: None,
) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = network()
    optimizer = make(model.parameters())
    rounded = RoundedWeights(model, optimizer) if is_rounded else None
    for step, (inputs, labels) in enumerate(batches()):
        optimizer.param_groups[0]["lr"] *= 0.9
        optimizer.zero_grad()
        for part in zip(inputs.chunk(accumulate), labels.chunk(accumulate), strict=True):
            # As Lightning has it: without a cache, by which a weight that is used twice has a gradient of bfloat16.
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), rounded or nullcontext():
                loss = functional.cross_entropy(model(part[0]), part[1])
            loss.backward()
            if rounded is not None:
                rounded.after_backward()
        optimizer.step()
        after(model, optimizer, step)
    if rounded is not None:
        rounded.close()
    return model, optimizer


def check_same(one: tuple[nn.Module, torch.optim.Optimizer], other: tuple[nn.Module, torch.optim.Optimizer]) -> None:
    """Compare weights and states; a CPU without bfloat16 may sum the products of a block in another order."""
    for mine, theirs in zip(one[0].parameters(), other[0].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
        assert one[1].state[mine].keys() == other[1].state[theirs].keys()
        for key, value in one[1].state[mine].items():
            torch.testing.assert_close(value, other[1].state[theirs][key], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_weights_and_states_equal_those_of_autocast_and_the_optimizer(network: type[Network], optimizer: str):
    make = OPTIMIZERS[optimizer]
    check_same(train(network, make, is_rounded=True), train(network, make, is_rounded=False))


@pytest.mark.parametrize("columns", [30, 50, 61, 400])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_last_weights_of_a_block_are_updated_as_in_a_whole(optimizer: str, columns: int):
    """With one input at a time, so that the order of summation cannot differ."""

    def trained(is_rounded: bool) -> nn.Linear:
        torch.manual_seed(0)
        layer = nn.Linear(columns, 100)
        made = OPTIMIZERS[optimizer](layer.parameters())
        rounded = RoundedWeights(layer, made) if is_rounded else None
        for _ in range(40):
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), rounded or nullcontext():
                loss = layer(torch.randn(1, columns)).float().square().mean()
            made.zero_grad()
            loss.backward()
            if rounded is not None:
                rounded.after_backward()
            made.step()
        return layer

    assert torch.equal(trained(True).weight, trained(False).weight)


def test_gradients_of_several_backward_passes_are_summed():
    make = OPTIMIZERS["adam"]
    check_same(train(Network, make, True, accumulate=3), train(Network, make, False, accumulate=3))


def test_the_gradient_of_a_large_layer_is_never_made_from_the_second_step_on():
    seen: list[list[str]] = []

    def look(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        assert not any(gradient.requires_grad for gradient in gradients.values())
        seen.append(list(gradients))

    train(Network, OPTIMIZERS["adam"], True, after=look)
    everything = ["first.weight", "second.weight", "second.bias", "last.weight", "last.bias"]
    assert seen == [everything] + [["second.bias", "last.weight", "last.bias"]] * (STEPS - 1)


def test_loaded_weights_and_states_are_used():
    def load(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        if step == 2:
            torch.manual_seed(7)
            model.load_state_dict(Network().state_dict())
        if step == 3:
            optimizer.load_state_dict(saved[0])
        saved.append(optimizer.state_dict())

    results = []
    for is_rounded in (True, False):
        saved: list[dict[str, Any]] = []
        results.append(train(Network, OPTIMIZERS["adam"], is_rounded, after=load))
    check_same(*results)


def test_outside_of_autocast_and_of_the_context_a_network_is_unchanged():
    torch.manual_seed(0)
    model = Network()
    inputs, optimizer = batches()[0][0], Adam(initial_lr=1e-3)(model.parameters())
    before = model(inputs)
    rounded = RoundedWeights(model, optimizer)
    with rounded:
        assert torch.equal(model(inputs), before)
        with torch.autocast("cpu", torch.float16):
            assert model.first(inputs).dtype == torch.float16
    assert not any("forward" in vars(layer) for layer in model.modules())
    rounded.close()
    assert not optimizer._optimizer_step_post_hooks


def concerned(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    with RoundedWeights(model, optimizer):
        return [name for name, layer in model.named_modules() if "forward" in vars(layer)]


def test_only_large_dense_layers_are_concerned_that_the_optimizer_updates_by_a_fused_kernel():
    model = Network()
    parameters = list(model.parameters())
    assert concerned(model, Adam(initial_lr=1e-3)(parameters)) == ["first", "second"]
    assert concerned(model, Adam(initial_lr=1e-3)([model.second.weight])) == ["second"]
    assert concerned(model, Adadelta(initial_lr=1e-3)(parameters)) == []
    assert concerned(model, torch.optim.Adam(parameters)) == []
    assert concerned(model, torch.optim.Adam(parameters, fused=True, amsgrad=True)) == []
    assert concerned(model.double(), Adam(initial_lr=1e-3)(parameters)) == []
    watched = Network()
    watched.first.weight.register_hook(lambda gradient: gradient * 2)
    watched.second.weight.register_post_accumulate_grad_hook(lambda weight: None)
    assert concerned(watched, Adam(initial_lr=1e-3)(watched.parameters())) == []


class Watch(pl.Callback):
    """Records the steps after which the large layers have no gradient, and optionally fails in an epoch."""

    def __init__(self, fails_in: int | None = None) -> None:
        self.seen: list[bool] = []
        self.fails_in = fails_in

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        self.seen.append(any(parameter.grad is None for parameter in module.parameters()))
        if trainer.current_epoch == self.fails_in:
            raise OSError("the network is away")


class LooksAtGradients(pl.Callback):
    def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert all(parameter.grad is not None for parameter in module.parameters())


class Own(Classifier):
    """A subclass, which may read gradients."""


def fit(module: Classifier, *callbacks: pl.Callback, precision: Any = "bf16-mixed", **options: Any) -> None:
    options = {"max_epochs": 2, "limit_train_batches": 4, "log_every_n_steps": 1, **options}
    callbacks = (Bf16LinearSpeedup(), *callbacks)
    trainer = quiet_trainer(Recorder(), precision=precision, callbacks=list(callbacks), **options)
    trainer.fit(module, datamodule=MNIST5kDataModule(batch_size=100))


def classifier(cls: type[Classifier] = Classifier) -> Classifier:
    torch.manual_seed(0)
    return cls(
        MLP(layers=1, neurons=20), Adam(initial_lr=1e-3, eps=1e-3), ExponentialDecay(decay_rate=0.9, decay_steps=3)
    )


def test_a_classifier_trains_that_way_in_bfloat16_on_a_cpu():
    watch, mine, theirs = Watch(), classifier(), classifier(Own)
    fit(mine, watch)
    assert watch.seen == [False] + [True] * 7
    fit(theirs)
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"precision": "32-true"}, {"precision": "64-true"}, {"gradient_clip_val": 0.5}, {"strategy": "ddp"}],
    ids=lambda options: next(iter(options.values())),
)
def test_the_callback_does_nothing_in_another_precision_with_clipping_or_distributed(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that what Lightning sets for its ranks is taken back
        monkeypatch.delenv(name)
    watch, module = Watch(), classifier()
    fit(module.double() if options.get("precision") == "64-true" else module, watch, **options)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    assert watch.seen == [False] * 8


def test_a_callback_that_looks_at_gradients_finds_them():
    watch = Watch()
    fit(classifier(), watch, LooksAtGradients())
    assert watch.seen == [False] * 8


def test_an_interrupted_training_does_not_affect_the_next_one():
    module, watch = classifier(), Watch(fails_in=1)
    with pytest.raises(OSError, match="the network is away"):
        fit(module, watch)
    weights = {key: value.clone() for key, value in module.state_dict().items()}
    fit(module)
    fresh = classifier()
    fresh.load_state_dict(weights)
    fit(fresh)
    for one, other in zip(module.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other)
