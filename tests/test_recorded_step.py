"""A step of fused trials that is recorded and repeated gives what the plain step gives, to the bit.

On a GPU, the recording is a CUDA graph. Here it is a `Repetition`, which calls the same work over the same tensors, and
Triton interprets the kernels, in one process of its own for all trainings.
"""

import functools
import itertools
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_modules import (
    EMA,
    SGD,
    Adam,
    AdamEpsilonHat,
    AdamW,
    Classifier,
    CosineDecay,
    CrossEntropy,
    FusedClassifier,
    Plateau,
    RMSprop,
)
from lightning_modules.data.base import TensorLoader
from lightning_modules.fused import stacked_update
from lightning_modules.fused.attributes import attributes, changed
from lightning_modules.fused.recorded_step import Repetition, Work
from tests.launcher import output_of
from tests.test_stacked_layers import ReadsGradients
from tuner.training.throughput import StopWatch

COSINE = CosineDecay(decay_steps=20)


class Network(nn.Module):
    """A small network with dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(18, 3))
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


class Counting(Network):
    """Behaves differently at every second call."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(images) * (1 + self.calls % 2)


class Weighing(nn.Module):
    """A loss that changes from call to call."""

    calls = 0

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        return functional.cross_entropy(outputs, labels) * (1 + self.calls % 2)


class Buffered(nn.Module):
    """A loss that counts its calls in a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        return functional.cross_entropy(outputs, labels) * (1 + self.calls % 2)


class Holding:
    """A loss that is no module, and holds one in a list."""

    def __init__(self) -> None:
        self.held = {"losses": [Weighing()]}

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.held["losses"][0](outputs, labels)
        return loss


def enclosing() -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss that counts its calls in a variable of this function."""
    calls = 0

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return functional.cross_entropy(outputs, labels) * (1 + calls % 2)

    return loss


def small(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels) * 0.01


class Counted(Repetition):
    """Counts the steps that are repeated."""

    replays = 0

    def replay(self) -> None:
        Counted.replays += 1
        super().replay()


class Idle(Counted):
    """A recording that is wrong: it does nothing."""

    def replay(self) -> None:
        Counted.replays += 1


class Twice(Counted):
    """A recording that is wrong: it makes every step twice."""

    def replay(self) -> None:
        super().replay()
        super().replay()


class Unsummed(Counted):
    """A recording that is wrong: it leaves the sums of the losses alone."""

    def replay(self) -> None:
        sums = self._work.__self__._changed()["train/loss"]  # type: ignore[attr-defined]
        before = sums.clone()
        super().replay()
        sums.copy_(before)


class Waiting(Counted):
    """Refuses the work after it was done, as a GPU does if the work waits for it."""

    @staticmethod
    def warm_up(work: Work) -> None:
        work()
        raise RuntimeError("called a synchronizing\nCUDA operation")


class Steps(pl.Callback):
    """Keeps the losses, and lets trials leave.

    Args:
        leave: The step after which trial 1 leaves, and the epoch after which trial 2 leaves.
    """

    def __init__(self, leave: tuple[int, int] | None = None) -> None:
        self.leave = leave
        self.losses: list[Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["losses"])
        if self.leave and trainer.global_step == self.leave[0]:
            module.leave("1")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        if self.leave and trainer.current_epoch + 1 == self.leave[1]:
            module.leave("2")


class Watch(StopWatch):
    """Times all steps of a training after the first ones."""

    WARM_UP, RECORDING = 1, 3
    SECONDS = math.inf


class Data(pl.LightningDataModule):
    def __init__(self, seeds: int | tuple[int, ...]) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.images = torch.rand(100, 1, 5, 5, generator=draw)
        self.labels = (self.images.sum((1, 2, 3)) - 10).clamp(0, 4).long() // 2
        self.seeds = seeds

    def train_dataloader(self) -> TensorLoader:
        return TensorLoader(self.images, self.labels, 30, shuffle=True, seed=self.seeds, drop_last=False)

    def val_dataloader(self) -> TensorLoader:
        return TensorLoader(self.images, self.labels, 50)


class Ragged(Data):
    """Batches of ever other sizes."""

    def train_dataloader(self) -> Any:
        return DataLoader([(self.images[:size], self.labels[:size]) for size in range(10, 22)], batch_size=None)


class Keyed(Data):
    """Inputs in dictionaries."""

    def train_dataloader(self) -> Any:
        return DataLoader([({"images": images}, labels) for images, labels in super().train_dataloader()], None)

    def val_dataloader(self) -> Any:
        return DataLoader([({"images": images}, labels) for images, labels in super().val_dataloader()], None)


class OfKeyed(Network):
    def forward(self, inputs: Any) -> Tensor:
        return super().forward(inputs["images"])


ADAM = (Adam(initial_lr=0.02), COSINE, {})
NADAM = (partial(torch.optim.NAdam, lr=0.01), COSINE, {})
EACH = [
    ADAM,
    (SGD(initial_lr=0.1, momentum=0.9, nesterov=True), Plateau(patience=0, monitor="train/loss"), {}),
    (AdamW(initial_lr=0.01), Plateau(schedule=COSINE, patience=0), {"weight_decay_schedule": COSINE}),
    (AdamEpsilonHat(initial_lr=0.05, eps=1e-3), COSINE, {"momentum_schedule": COSINE}),
    (RMSprop(initial_lr=0.01, momentum=0.5, centered=True), COSINE, {}),
]


def trained(
    recorder: Any,
    made: Sequence[Any] = (ADAM, ADAM),
    *,
    callbacks: Callable[[], pl.Callback] | None = None,
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    network: Callable[[], nn.Module] = Network,
    leave: tuple[int, int] | None = None,
    resume_from: str | None = None,
    data: type[Data] = Data,
    fits: int = 1,
    **options: Any,
) -> dict[str, Any]:
    """Train trials as one model; return what can be compared, and how the steps were made."""
    precision, further = options.pop("precision", "64-true"), options.pop("further", {})
    classifiers, chosen = [], list(seeds)[: len(made)]
    for seed, (optimizer, schedule, own) in zip(chosen, made, strict=True):
        torch.manual_seed(seed)
        classifiers.append(Classifier(network(), optimizer, schedule, **own, **further))
    notes: list[str] = []
    module: Any = FusedClassifier(classifiers, chosen, recorder=recorder, note=notes.append)
    module = module.double() if precision == "64-true" else module
    steps, Counted.replays = Steps(leave), 0
    watching = [callbacks()] if callbacks else []
    loaded = data(chosen[0] if len(set(chosen)) == 1 else tuple(chosen))
    for _ in range(fits):
        trainer = pl.Trainer(
            callbacks=[steps, *watching],
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **{"accelerator": "cpu", "max_epochs": 2, "num_sanity_val_steps": 0, **options},
        )
        trainer.fit(module, datamodule=loaded, ckpt_path=resume_from, weights_only=True)
    trainer.save_checkpoint("last.ckpt")
    saved = torch.load("last.ckpt", map_location="cpu", weights_only=True)
    state = [saved[key] for key in ("state_dict", "optimizer_states", "trials")]
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    result = [state, metrics, [losses.tolist() for losses in steps.losses]]
    untimed = [watch._first for watch in watching if isinstance(watch, StopWatch)]
    return {"result": result, "notes": notes, "replays": Counted.replays, "untimed": untimed}


def resumed(recorder: Any, **options: Any) -> dict[str, Any]:
    trained(recorder, EACH, max_epochs=2, **options)
    Path("last.ckpt").rename("first.ckpt")
    return trained(recorder, EACH, max_epochs=4, resume_from="first.ckpt", **options)


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "four kinds": partial(trained, made=EACH, max_epochs=4),
    "resumed": resumed,
    "trials leave": partial(trained, made=EACH, max_epochs=5, leave=(6, 3)),
    "bf16": partial(
        trained,
        made=[ADAM, EACH[2]],
        seeds=(1, 1),
        precision="bf16-mixed",
        val_check_interval=3,
        further={"averaging": EMA(decay=0.9)},
    ),
    "clipped": partial(trained, gradient_clip_val=0.1),
    "clipped by value": partial(trained, precision="32-true", gradient_clip_val=0.01, gradient_clip_algorithm="value"),
    "one": partial(trained, made=[ADAM]),
    "sgd": partial(trained, made=[ADAM, (SGD(initial_lr=0.1), COSINE, {})]),
    "ragged": partial(trained, callbacks=Watch, data=Ragged, seeds=(1, 1), max_epochs=1),
    "weights": partial(trained, further={"loss": CrossEntropy(class_weights=(1.0, 2.0, 3.0))}),
}
REPLAYS = {  # of the steps with 30 examples: one creates the states, one is recorded, and one is repeated twice
    "four kinds": 9,
    "resumed": 3,
    "trials leave": 8,
    "bf16": 3,
    "clipped": 3,
    "clipped by value": 3,
    "one": 3,
    "sgd": 3,
    "ragged": 0,
    "weights": 3,
}
REFUSED = {
    "accumulating": (partial(trained, accumulate_grad_batches=2), Counted, "gradients are accumulated over several"),
    "NAdam": (partial(trained, made=[ADAM, NADAM]), Counted, "there is no kernel for NAdam"),
    "watched": (partial(trained, callbacks=ReadsGradients), Counted, "a callback may read the gradients"),
    "counting": (
        partial(trained, network=Counting, fits=2, max_epochs=1),
        Counted,
        "the network changes calls when it is called",
    ),
    "weighing": (
        partial(trained, made=[ADAM], further={"loss": Weighing()}),
        Counted,
        "the loss changes calls when it is called",
    ),
    "buffered": (
        partial(trained, made=[ADAM], further={"loss": Buffered()}),
        Counted,
        "the loss changes calls when it is called",
    ),
    "holding": (
        partial(trained, made=[ADAM], further={"loss": Holding()}),
        Counted,
        "the loss changes held.losses.0.calls when it",
    ),
    "enclosing": (
        partial(trained, made=[ADAM], max_epochs=1, further={"loss": enclosing()}),
        Counted,
        "the loss changes calls when it is called",
    ),
    "keyed": (
        partial(trained, data=Keyed, network=OfKeyed, seeds=(1, 1)),
        Counted,
        "the inputs or labels of a batch are not tensors",
    ),
    "idle": (trained, Idle, "a replayed step gives different values of layers.0.weight"),
    "twice": (trained, Twice, "a replayed step gives different values of layers.0.weight"),
    "unsummed": (
        partial(trained, further={"loss": small}),
        Unsummed,
        "a replayed step gives different values of train/loss",
    ),
    "waiting": (trained, Waiting, "RuntimeError: called a synchronizing CUDA operation"),
}


QUICK = ("trials leave", "sgd", "ragged", "NAdam", "counting", "enclosing", "unsummed", "idle")


def train_all(names: Sequence[str], path: str) -> None:
    """Make trainings, with a recorder and without, and save what they give."""
    torch.set_num_threads(1)
    stacked_update.AHEAD = 5  # so that the table of numbers is refilled
    chosen = {name: (CASES[name], Counted) if name in CASES else REFUSED[name][:2] for name in names}
    torch.save({name: (train(None), train(recorder)) for name, (train, recorder) in chosen.items()}, path)


@functools.cache
def found(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    pytest.importorskip("triton")
    code = "import sys, tests.test_recorded_step as t; t.train_all(sys.argv[1:], 'found.pt')"
    output_of(code, folder, *names, TRITON_INTERPRET="1")
    result: dict[str, Any] = torch.load(folder / "found.pt", weights_only=True)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recorded")


def check(case: str, found: dict[str, Any]) -> None:
    plain, recorded = found[case]
    assert_same(plain["result"], recorded["result"], case)
    assert (plain["replays"], plain["notes"]) == (0, [])
    if case in CASES:
        assert recorded["notes"] == []
        assert recorded["replays"] == REPLAYS[case]
        assert recorded["untimed"] == [4] * (case == "ragged"), "batches that never repeat are timed all the same"
        return
    note, *further = recorded["notes"]
    assert further == [note] * (case == "counting"), "once for each training"
    assert note.startswith(f"the steps are not recorded as a CUDA graph: {REFUSED[case][2]}")
    assert recorded["replays"] == {"idle": 1, "twice": 2, "unsummed": 1}.get(case, 0)


@pytest.mark.parametrize("case", QUICK)
def test_recorded_steps_give_the_bits_of_plain_ones_or_are_refused_with_a_reason(folder: Path, case: str):
    check(case, found(folder, QUICK))


class Keeping(nn.Module):
    calls = 0

    def __init__(self, kept: Any = None) -> None:
        super().__init__()
        self.kept = kept


def called(network: Keeping) -> None:
    Keeping.calls += 1


@pytest.mark.parametrize(
    ("kept", "use", "path"),
    [
        (random.Random(0), lambda network: network.kept.random(), "kept.state"),
        (numpy.random.default_rng(0), lambda network: network.kept.random(), "kept.state"),
        (numpy.random.RandomState(0), lambda network: network.kept.rand(), "kept.state"),
        (torch.Generator(), lambda network: torch.rand(1, generator=network.kept), "kept.state"),
        (None, called, "calls"),
    ],
    ids=["python", "numpy", "legacy", "torch", "class"],
)
def test_a_generator_or_class_attribute_that_a_network_uses_is_found(
    kept: Any, use: Callable[[Keeping], object], path: str
):
    network = Keeping(kept)
    before = attributes(network, buffers=False)
    assert changed(before, attributes(network, buffers=False)) == ""
    use(network)
    assert changed(before, attributes(network, buffers=False)) == path


def test_an_iterator_that_a_network_keeps_counts_as_changed():
    network = Keeping(itertools.count())
    assert changed(attributes(network, buffers=False), attributes(network, buffers=False)) == "kept"


@pytest.mark.parametrize("case", [case for case in (*CASES, *REFUSED) if case not in QUICK])
def test_every_recorded_training_gives_the_bits_of_the_plain_one(folder: Path, case: str):
    others = tuple(each for each in (*CASES, *REFUSED) if each not in QUICK)
    check(case, found(folder, others))


def assert_same(one: Any, other: Any, path: str) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        for index, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_same(mine, theirs, f"{path}[{index}]")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path
