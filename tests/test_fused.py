"""Trials trained as one model end as they do alone: equal lrs, metrics, weights and states, to 1e-10 in float64."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning, StochasticWeightAveraging
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.nn.utils.prune import random_unstructured
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import (
    MNISTCNN,
    OPTIMIZERS,
    SCHEDULES,
    SGD,
    SOAP,
    Adadelta,
    Adagrad,
    Adam,
    AdamEpsilonHat,
    AdamW,
    Adan,
    AdEMAMix,
    Classifier,
    Constant,
    CosineDecay,
    CosineRestarts,
    ExponentialDecay,
    FivePointSpline,
    FusedClassifier,
    HoldThenDecay,
    InverseSqrt,
    InverseTimeDecay,
    Lambda,
    LinearCosineDecay,
    Lion,
    MNIST5kDataModule,
    Muon,
    NaturalExponentialDecay,
    NoisyLinearCosineDecay,
    OneCycle,
    Optimization,
    Optimizer,
    ParameterGroup,
    PiecewiseConstant,
    Plateau,
    PolynomialDecay,
    Prodigy,
    Rex,
    RMSprop,
    Schedule,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    SeededDropout,
    Spline,
    SqrtDecay,
    StepDecay,
    TriangularCyclic,
    TwoPointSpline,
    WarmupStableDecay,
    can_fuse,
    join,
    merge_checkpoints,
    scaled,
    split_checkpoint,
    warmup,
)
from lightning_modules.classifier import OptimizerCallable
from lightning_modules.fused.optimizer import FusedOptimizer

STEPS = 5  # an epoch: 40 images in batches of 8
SCHEDULED = ("lr", "momentum", "weight_decay")
EVERY_SCHEDULE: Sequence[Schedule] = [
    Constant(),
    CosineDecay(decay_steps=8),
    CosineRestarts(restart_period=4, period_growth=1.5, peak_decay=0.7),
    ExponentialDecay(decay_rate=0.5, decay_steps=3, staircase=True),
    FivePointSpline(total_steps=10, x_peak=0.3, delta_x1=0.5, y1=0.6, delta_x2=0.5, y2=0.2),
    HoldThenDecay(hold_steps=3, decay=StepDecay(decay_rate=0.5, decay_steps=2)),
    InverseSqrt(warmup_steps=3),
    InverseTimeDecay(decay_rate=0.5, decay_steps=2),
    join([Constant(), CosineDecay(decay_steps=4)], [4]),
    Lambda(function="1 / (1 + rate * step)", rate=0.5),
    LinearCosineDecay(decay_steps=9),
    NaturalExponentialDecay(decay_rate=1.0, decay_steps=4),
    NoisyLinearCosineDecay(decay_steps=9, seed=3),
    OneCycle(total_steps=10, start_factor=0.1),
    PiecewiseConstant(boundaries=(3, 6), factors=(1, 0.5, 0.1)),
    PolynomialDecay(decay_steps=4, end_factor=0.1, cycle=True),
    Rex(decay_steps=10),
    scaled(CosineDecay(decay_steps=6), 0.5),
    Spline(steps=(0, 5, 10), factors=(1.0, 0.4, 0.1)),
    SqrtDecay(decay_steps=10),
    StepDecay(decay_rate=0.3, decay_steps=4),
    TriangularCyclic(half_period=3, min_factor=0.2),
    TwoPointSpline(decay_steps=10, delta_x1=0.3, y1=0.8, delta_x2=0.5, delta_y2=0.5),
    warmup(Constant(), 4),
    WarmupStableDecay(warmup_steps=2, hold_steps=3, decay_steps=5),
]
EVERY_OPTIMIZER: Sequence[Optimizer] = [
    Adadelta(initial_lr=1.0, weight_decay=0.01),
    Adagrad(initial_lr=0.02, initial_accumulator=0.1),
    Adam(initial_lr=0.01, beta1=0.8, eps=0.1, weight_decay=0.01),
    AdamEpsilonHat(initial_lr=0.02, eps=1e-3),
    AdamW(initial_lr=0.005, weight_decay=0.1),
    AdEMAMix(initial_lr=0.005, beta3=0.99, weight_decay=0.01),
    Adan(initial_lr=0.005),
    Lion(initial_lr=0.001),
    Muon(initial_lr=0.02, adamw_lr=0.01),
    Prodigy(initial_lr=1.0, d0=1e-3),
    RMSprop(initial_lr=0.002, momentum=0.9, centered=True),
    SGD(initial_lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.001),
    SOAP(initial_lr=0.005, precondition_frequency=3),
    ScheduleFreeAdamW(initial_lr=0.01, weight_decay=0.01),
    ScheduleFreeSGD(initial_lr=0.5),
]


CONSTANT, ADAM = Constant(), Adam(initial_lr=0.01)


def small_cnn(dropout: float = 0.2) -> nn.Module:
    return MNISTCNN(channels=(2, 3, 4), hidden=(16, 8), dropout=dropout)


@dataclass(frozen=True)
class Trial:
    schedule: Schedule | Plateau = CONSTANT
    optimizer: Optimizer | OptimizerCallable = ADAM
    seed: int = 0
    network: Callable[[], nn.Module] = small_cnn
    further: Mapping[str, Any] = field(default_factory=dict)

    def classifier(self) -> Classifier:
        torch.manual_seed(self.seed)
        return Classifier(self.network(), self.optimizer, self.schedule, **self.further)


@dataclass
class Outcome:
    points: dict[tuple[str, int], float] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)


class Recorder(Logger):
    """Records every scheduled value; `Epochs` adds the metrics."""

    name = "recorder"
    version = 0

    def __init__(self) -> None:
        super().__init__()
        self.points: dict[tuple[str, int], float] = {}

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.points |= {(key, step or 0): value for key, value in metrics.items() if key.startswith(SCHEDULED)}


class Epochs(pl.Callback):
    """Records the metrics of every epoch, and removes trials.

    Args:
        names: Names of the trials; of a Classifier one, which is empty.
        leave: Epochs, from 1, at whose end a trial leaves.
    """

    def __init__(self, names: Iterable[str], leave: Mapping[str, int] | None = None) -> None:
        self.leave = leave or {}
        self.outcomes = {name: Outcome() for name in names}

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        step = trainer.global_step
        if isinstance(module, FusedClassifier):
            for stage in ("train", "val"):
                for name, metrics in module.metrics(stage).items():
                    self.outcomes[name].points |= {(key, step): value for key, value in metrics.items()}
            for name in module.live:
                self.outcomes[name].weights = module.weights(name)
                if self.leave.get(name) == trainer.current_epoch + 1:
                    module.leave(name)
        else:
            metrics = {key: value.item() for key, value in trainer.callback_metrics.items()}
            self.outcomes[""].points |= {(key, step): value for key, value in metrics.items()}
            self.outcomes[""].weights = module.model.state_dict()


def data(seed: int | Sequence[int] = 0) -> MNIST5kDataModule:
    return MNIST5kDataModule(batch_size=8, val_fraction=0.004, test_fraction=0.02, train_size=40, seed=seed)


def trainer(epochs: int, recorder: Recorder, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=recorder,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"accelerator": "cpu", "precision": "64-true", "num_sanity_val_steps": 0, **options},
    )


def at_once(module: pl.LightningModule, precision: str = "64-true", **options: Any) -> pl.LightningModule:
    """Convert the module to float64 at once; Lightning would convert, and so round, a restored checkpoint."""
    return module.double() if precision == "64-true" else module


def alone(trial: Trial, epochs: int = 2, resume_from: Path | None = None, **options: Any) -> Outcome:
    recorder, callback = Recorder(), Epochs([""])
    fit = trainer(epochs, recorder, callback, SeededDropout(trial.seed), **options)
    module = at_once(trial.classifier(), **options)
    fit.fit(module, datamodule=data(trial.seed), ckpt_path=resume_from, weights_only=True)
    outcome = callback.outcomes[""]
    outcome.points |= recorder.points
    fit.save_checkpoint("alone.ckpt")
    outcome.checkpoint = torch.load("alone.ckpt", weights_only=True)
    return outcome


def together(
    trials: Mapping[str, Trial],
    epochs: int = 2,
    *,
    leave: Mapping[str, int] | None = None,
    resume_from: Path | None = None,
    callbacks: Sequence[pl.Callback] = (),
    **options: Any,
) -> dict[str, Outcome]:
    seeds = {name: trial.seed for name, trial in trials.items()}
    module = FusedClassifier([trial.classifier() for trial in trials.values()], list(seeds.values()), list(trials))
    module = at_once(module, **options)
    recorder, callback = Recorder(), Epochs(seeds, leave)
    fit = trainer(epochs, recorder, callback, *callbacks, **options)
    shared = len(set(seeds.values())) == 1
    seed = next(iter(seeds.values())) if shared else tuple(seeds.values())
    fit.fit(module, datamodule=data(seed), ckpt_path=resume_from, weights_only=True)
    for (key, step), value in recorder.points.items():
        metric, _, name = key.rpartition("/")
        callback.outcomes[name].points[metric, step] = value
    fit.save_checkpoint("together.ckpt")
    for name, checkpoint in split_checkpoint(torch.load("together.ckpt", weights_only=True)):
        callback.outcomes[name].checkpoint = checkpoint
    return callback.outcomes


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def assert_equal(one: Outcome, other: Outcome, is_exact: bool = True) -> None:
    tolerance = 1e-10 if is_exact else 1e-4
    assert one.points.keys() == other.points.keys()
    assert one.points == pytest.approx(other.points, rel=tolerance, abs=tolerance)
    scheduled = [
        {point: value for point, value in each.points.items() if point[0].startswith(SCHEDULED)}
        for each in (one, other)
    ]
    assert scheduled[0] == scheduled[1], "lrs are the same, not only close"
    if is_exact:
        assert_close(one.weights, other.weights)


def assert_close(one: Any, other: Any, path: str = "") -> None:
    """Compare two checkpoints, or parts of them."""
    if isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10, msg=lambda text: f"{path}: {text}")
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_close(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_close(left, right, f"{path}[{index}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-10, abs=1e-10), path
    else:
        assert one == other, path


def named(*trials: Trial) -> dict[str, Trial]:
    return {f"t{index}": trial for index, trial in enumerate(trials)}


def assert_as_alone(trials: Mapping[str, Trial], epochs: int = 2, **options: Any) -> dict[str, Outcome]:
    fused = together(trials, epochs, **options)
    for name, trial in trials.items():
        # Rounding decides which eigenvectors SOAP finds of a matrix without full rank, as its first ones are.
        is_exact = not isinstance(trial.optimizer, SOAP)
        assert_equal(fused[name], alone(trial, epochs, **options), is_exact)
    return fused


def test_every_schedule_family_in_one_group_gives_the_same_as_alone():
    assert {type(schedule) for schedule in EVERY_SCHEDULE} == set(SCHEDULES.values())
    fused = assert_as_alone(named(*(Trial(schedule) for schedule in EVERY_SCHEDULE)))
    assert len({tuple(outcome.points.values()) for outcome in fused.values()}) == len(fused), "and no two the same"


def test_every_optimizer_with_its_own_numbers_gives_the_same_as_alone():
    assert {type(optimizer) for optimizer in EVERY_OPTIMIZER} == set(OPTIMIZERS.values())
    schedule = CosineRestarts(restart_period=4)
    assert_as_alone(named(*(Trial(schedule, optimizer) for optimizer in EVERY_OPTIMIZER)))


def no_decay_of_biases(params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    matrices, vectors = [], []
    for param in params:
        (matrices if param.ndim > 1 else vectors).append(param)
    groups = [{"params": matrices, "weight_decay": 0.1, "eps": 1e-3}, {"params": vectors, "betas": (0.5, 0.9)}]
    return torch.optim.AdamW(groups, lr=0.01, fused=True)


CUSTOM: Mapping[str, OptimizerCallable] = {
    "two groups": no_decay_of_biases,
    "amsgrad": partial(torch.optim.Adam, lr=0.01, fused=True, amsgrad=True),
    "maximize": partial(torch.optim.Adam, lr=0.01, fused=True, maximize=True),
    "not fused": partial(torch.optim.Adam, lr=0.01),
    "dampening": partial(torch.optim.SGD, lr=0.1, fused=True, momentum=0.5, dampening=0.2),
    "maximizing SGD": partial(torch.optim.SGD, lr=0.1, fused=True, maximize=True),
    "NAdam": partial(torch.optim.NAdam, lr=0.01),
}


def test_custom_optimizers_give_the_same_as_alone():
    trials = {"Adam": Trial(seed=2)}
    for name, make in CUSTOM.items():
        trials |= {f"{name} 0": Trial(CosineDecay(decay_steps=8), make), f"{name} 1": Trial(seed=1, optimizer=make)}
    assert_as_alone(trials)


HEAD = ParameterGroup(parameters="classifier.*", schedule=CosineDecay(decay_steps=6), weight_decay_schedule=Constant())
LATE = Lambda(function="0 if step < 3 else 1 - step / 12")
FADING = Lambda(function="max(0, 1 - step / 6)")


def test_every_optimizer_with_more_schedules_and_groups_gives_the_same_as_alone():
    trials = []
    for optimizer in EVERY_OPTIMIZER:
        decayed = replace(optimizer, weight_decay=0.01)
        faster = 1 if isinstance(optimizer, Prodigy) else 2  # it has one lr for all
        quick = replace(decayed, initial_lr=faster * optimizer.initial_lr)
        head = replace(HEAD, parameters=head_of(small_cnn()), optimizer=quick)
        further: dict[str, Any] = {"weight_decay_schedule": CosineDecay(decay_steps=9), "groups": {"head": head}}
        if not isinstance(optimizer, Adadelta | Adagrad | ScheduleFreeAdamW | ScheduleFreeSGD):
            further["momentum_schedule"] = FADING
        trials.append(Trial(CosineRestarts(restart_period=4), decayed, further=further))
    fused = assert_as_alone(named(*trials))
    points = next(fused[name].points for name, trial in named(*trials).items() if isinstance(trial.optimizer, SGD))
    assert points["lr/head", 3] == 0.2 * CosineDecay(decay_steps=6)(3)
    assert points["momentum", 3] == points["momentum/head", 3] == 0.9 * 0.5
    assert points["weight_decay", 3] == 0.01 * CosineDecay(decay_steps=9)(3)
    assert points["weight_decay/head", 9] == 0.01


def head_of(network: nn.Module) -> str:
    """Return the name of the last module that has parameters."""
    return list(dict(network.named_parameters()))[-1].rpartition(".")[0]


@pytest.mark.parametrize("schedule", [LATE, FADING], ids=["from 0", "to 0"])
def test_a_momentum_that_is_zero_for_some_steps_gives_the_same_as_alone(schedule: Schedule):
    optimizers = [SGD(initial_lr=0.1, momentum=0.9), SGD(initial_lr=0.05, momentum=0.5, nesterov=True), ADAM]
    further = {"momentum_schedule": schedule}
    assert_as_alone(named(*(Trial(optimizer=optimizer, further=further) for optimizer in optimizers), Trial()))


def test_a_group_of_trials_with_parameter_groups_resumes_and_splits_as_alone():
    further = {
        "momentum_schedule": FADING,
        "weight_decay_schedule": CosineDecay(decay_steps=9),
        "groups": {
            "head": replace(
                HEAD, parameters=head_of(small_cnn()), optimizer=SGD(initial_lr=0.3, momentum=0.8, weight_decay=0.1)
            )
        },
    }
    trial = Trial(CosineDecay(decay_steps=12), SGD(initial_lr=0.1, momentum=0.9, weight_decay=0.01), further=further)
    trials = named(trial, Trial(seed=1), replace(trial, seed=2))
    whole = together(trials)
    together(trials, epochs=1)
    Path("together.ckpt").rename("first.ckpt")
    resumed = together(trials, resume_from=Path("first.ckpt"))
    for name in trials:
        late = {point: value for point, value in whole[name].points.items() if point[1] >= STEPS}
        assert (
            late.items()
            >= {
                point: value
                for point, value in resumed[name].points.items()
                if point[1] > STEPS or point[0].startswith(SCHEDULED)
            }.items()
        )
        assert_close(whole[name].weights, resumed[name].weights)
    torch.save(dict(split_checkpoint(torch.load("first.ckpt", weights_only=True)))["t0"], "t0.ckpt")
    assert_close(alone(trial, resume_from=Path("t0.ckpt")).weights, whole["t0"].weights)


def test_trials_of_different_seeds_have_weights_batches_and_dropout_of_their_own():
    fused = assert_as_alone(named(*(Trial(seed=seed) for seed in (3, 1, 3, 2))))
    assert_equal(fused["t0"], fused["t2"])
    assert fused["t0"].points["train/loss", STEPS] != fused["t1"].points["train/loss", STEPS]


def test_a_checkpoint_splits_into_those_that_the_trials_leave_alone():
    plateau = Plateau(factor=0.5, patience=0, threshold=1e9, threshold_mode="abs", schedule=CosineDecay(decay_steps=9))
    trials = named(Trial(plateau, seed=1), Trial(seed=2, optimizer=SGD(initial_lr=0.1, momentum=0.9)))
    fused = together(trials)
    for name, trial in trials.items():
        expected = alone(trial).checkpoint
        # Lightning counts the calls of a scheduler of its own; nothing depends on it.
        for checkpoint in (expected, fused[name].checkpoint):
            checkpoint["loops"]["fit_loop"].pop("epoch_loop.scheduler_progress", None)
        assert_close(fused[name].checkpoint, expected)


def test_each_plateau_follows_the_metric_of_its_own_trial():
    plateau = Plateau(factor=0.5, patience=0, threshold=1e9, threshold_mode="abs", monitor="val/acc", mode="max")
    patient = Plateau(factor=0.5, patience=5, monitor="val/loss")
    fused = assert_as_alone(named(Trial(plateau), Trial(patient), Trial()), epochs=4)
    lrs = {name: [outcome.points["lr", epoch * STEPS] for epoch in range(4)] for name, outcome in fused.items()}
    assert lrs == {"t0": [0.01, 0.01, 0.005, 0.0025], "t1": [0.01] * 4, "t2": [0.01] * 4}


def test_a_plateau_on_a_metric_that_is_not_logged_says_which_are():
    with pytest.raises(ValueError, match=r"monitors 'val/accuracy', but only .*'val/acc'"):
        together(named(Trial(Plateau(monitor="val/accuracy")), Trial()))


@pytest.mark.parametrize("seeds", [(0, 0, 0, 0), (1, 2, 3, 4)], ids=["one batch", "a batch each"])
def test_trials_that_leave_at_different_epochs_do_not_affect_the_others(seeds: tuple[int, ...]):
    optimizers = [Adam(initial_lr=lr) for lr in (0.001, 0.003, 0.01, 0.03)]
    trials = named(*(Trial(CosineDecay(decay_steps=12), *each) for each in zip(optimizers, seeds, strict=True)))
    epochs = {"t0": 3, "t1": 1, "t2": 2, "t3": 3}
    fused = together(trials, epochs=3, leave=epochs)
    for name, trial in trials.items():
        assert_equal(fused[name], alone(trial, epochs[name]))


def test_a_trial_that_diverges_affects_no_other():
    trials = named(Trial(), Trial(optimizer=SGD(initial_lr=1e200)), Trial(seed=1))
    fused = together(trials)
    assert math.isnan(fused["t1"].points["train/loss", STEPS])
    for name in ("t0", "t2"):
        assert_equal(fused[name], alone(trials[name]))


def test_a_trial_that_leaves_within_an_epoch_stays_as_it_is():
    class LeaveAtStep(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *args: Any) -> None:
            if trainer.global_step == 2:
                module.leave("t1")
                self.weights = module.weights("t1")
            if trainer.global_step == STEPS:
                assert_close(module.weights("t1"), self.weights)

    trials = named(Trial(), Trial(optimizer=SGD(initial_lr=0.1)), Trial(seed=1))
    fused = together(trials, callbacks=[LeaveAtStep()])
    assert [step for key, step in fused["t1"].points if key == "lr"] == [0, 1]
    for name in ("t0", "t2"):
        assert_equal(fused[name], alone(trials[name]))


def test_training_continues_from_a_checkpoint_in_the_group_and_alone():
    trials = named(
        Trial(Plateau(factor=0.5, patience=0, threshold=1e9, threshold_mode="abs"), seed=1),
        Trial(CosineDecay(decay_steps=12), seed=2),
        Trial(optimizer=SGD(initial_lr=0.1, momentum=0.9), seed=3),
    )
    straight = together(trials, epochs=3)
    begun = together(trials, epochs=1)

    rest = together(trials, epochs=3, resume_from=Path("together.ckpt"))
    for name in trials:
        rest[name].points |= begun[name].points
        assert_equal(rest[name], straight[name])

    together(trials, epochs=1)
    torch.save(dict(split_checkpoint(torch.load("together.ckpt", weights_only=True)))["t0"], "t0.ckpt")
    one = alone(trials["t0"], epochs=3, resume_from=Path("t0.ckpt"))
    one.points |= begun["t0"].points
    assert_equal(one, straight["t0"])

    chosen = {name: trials[name] for name in ("t2", "t1")}
    torch.save(
        merge_checkpoints({name: alone(trial, epochs=1).checkpoint for name, trial in chosen.items()}), "two.ckpt"
    )
    two = together(chosen, epochs=3, resume_from=Path("two.ckpt"))
    for name in chosen:
        two[name].points |= begun[name].points
        assert_equal(two[name], straight[name])


def test_checkpoints_of_other_trials_or_epochs_are_refused():
    together(named(Trial(), Trial()), epochs=1)
    with pytest.raises(ValueError, match=r"must be of the trials \['a', 'b'\], but it is of \['t0', 't1'\]"):
        together({"a": Trial(), "b": Trial()}, resume_from=Path("together.ckpt"))
    with pytest.raises(ValueError, match=r"at the same \(epoch, step\), but they are at"):
        merge_checkpoints({"a": alone(Trial(), 1).checkpoint, "b": alone(Trial(), 2).checkpoint})


@pytest.mark.parametrize(
    "options",
    [{"gradient_clip_val": 0.05}, {"gradient_clip_val": 0.002, "gradient_clip_algorithm": "value"}],
    ids=["norm", "value"],
)
def test_gradients_are_clipped_for_each_trial_on_its_own(options: dict[str, Any]):
    trials = named(Trial(optimizer=SGD(initial_lr=0.1)), Trial(optimizer=SGD(initial_lr=3.0), seed=1))
    fused = assert_as_alone(trials, **options)
    free = together(trials)
    assert fused["t0"].points["train/loss", STEPS] != free["t0"].points["train/loss", STEPS]


def test_gradients_are_accumulated_as_alone():
    assert_as_alone(named(Trial(CosineDecay(decay_steps=5)), Trial(seed=1)), accumulate_grad_batches=2)


class Everything(nn.Module):
    """Batch norm; dropout of images, of channels and in place; a shared weight, an untrained one and an unused one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 5, stride=3, padding=2)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.drop_channels = nn.Dropout2d(0.3)
        self.square = nn.Linear(4, 4)
        self.same = nn.Linear(4, 4, bias=False)
        self.same.weight = self.square.weight
        self.last = nn.Linear(4, 10)
        self.last.bias.requires_grad_(False)
        self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, images: Tensor) -> Tensor:
        images = functional.dropout(images, 0.1, self.training)
        features = self.drop_channels(self.drop(self.norm(self.first(images)).relu()))
        hidden = functional.dropout(self.square(features.mean((2, 3))), 0.2, training=self.training, inplace=True)
        result: Tensor = self.last(self.same(hidden).relu())
        return result


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)], ids=["one batch", "a batch each"])
def test_a_network_with_batch_norm_shared_weights_and_every_dropout_gives_the_same_as_alone(seeds: tuple[int, int]):
    trials = named(
        *(Trial(seed=seed, network=Everything, optimizer=SGD(initial_lr=0.1, momentum=0.9)) for seed in seeds)
    )
    assert_as_alone(trials)


class Alternating(nn.Module):
    """Two networks that are trained in alternate steps."""

    def __init__(self) -> None:
        super().__init__()
        self.networks = nn.ModuleList([small_cnn(), small_cnn()])
        self.step = 0

    def forward(self, images: Tensor) -> Tensor:
        self.step += self.training
        result: Tensor = self.networks[self.step % 2](images)
        return result


@pytest.mark.parametrize("optimizer", [ADAM, SGD(initial_lr=0.1, momentum=0.9)], ids=["Adam", "SGD"])
def test_parameters_that_have_a_gradient_at_some_steps_only_are_updated_at_these(optimizer: Optimizer):
    assert_as_alone(named(*(Trial(CosineDecay(decay_steps=8), optimizer, seed, Alternating) for seed in (1, 2))))


class Growing(Alternating):
    """A network that a second one joins at the third step."""

    def forward(self, images: Tensor) -> Tensor:
        self.step += self.training
        first, second = self.networks
        result: Tensor = first(images)
        return result if self.step < 3 else result + second(images)


def test_parameters_that_get_their_first_gradient_later_than_others_are_trained_as_alone():
    assert_as_alone(named(*(Trial(optimizer=optimizer, network=Growing) for optimizer in EVERY_OPTIMIZER)))


class Operations(TorchDispatchMode):
    """Counts operations, each of which launches one or a few kernels on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_the_number_of_operations_grows_by_one_update_per_trial_only():
    counts, digits = {}, data()
    digits.prepare_data()
    digits.setup("fit")
    batch = next(iter(digits.train_dataloader()))
    for count in (2, 7):
        classifiers = [Trial(seed=seed).classifier() for seed in range(count)]
        module = FusedClassifier(classifiers, [0] * count)
        optimizer = FusedOptimizer(
            module.model.named_parameters(), {str(index): Optimization(optimizer=ADAM) for index in range(count)}
        )
        for _ in range(3):
            with Operations() as operations:
                loss = module.training_step(batch, 0)["loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        counts[count] = Counter(operations.names)
    assert counts[2].pop("_fused_adam_") == 2
    assert counts[7].pop("_fused_adam_") == 7
    assert counts[2] == counts[7]


def test_in_single_precision_trials_end_close_to_where_they_end_alone():
    trials = named(Trial(), Trial(seed=1))
    for precision in ("32-true", "bf16-mixed"):
        fused = together(trials, precision=precision)
        for name, trial in trials.items():
            single = alone(trial, precision=precision)
            assert fused[name].points.keys() == single.points.keys()
            assert fused[name].points["train/loss", STEPS] == pytest.approx(
                single.points["train/loss", STEPS], rel=1e-5 if precision == "32-true" else 2e-2
            )


def test_a_stock_trainer_logs_each_trial_under_its_name_and_tests_it():
    trials = named(Trial(), Trial(seed=1))
    module = FusedClassifier([trial.classifier() for trial in trials.values()])
    fit = trainer(1, Recorder(), num_sanity_val_steps=2)
    fit.fit(module, datamodule=data())
    stages = ("train/loss", "train/acc", "val/loss", "val/acc")
    assert fit.callback_metrics.keys() == {f"{metric}/{name}" for metric in stages for name in "01"}
    (metrics,) = fit.test(module, datamodule=data(), verbose=False)
    classifier = trials["t0"].classifier()
    classifier.model.load_state_dict(module.weights("0"))
    (expected,) = fit.test(classifier, datamodule=data(), verbose=False)
    assert {key: metrics[f"{key}/0"] for key in expected} == pytest.approx(expected)


def test_a_stock_trainer_predicts_the_logits_of_each_trial_of_inputs_with_labels_or_without():
    trials = [Trial(), Trial(seed=1)]
    module = FusedClassifier([trial.classifier() for trial in trials])
    images, labels = torch.rand(5, 1, 28, 28), torch.zeros(5)
    expected = torch.stack([trial.classifier().eval()(images) for trial in trials])
    each = [(images.expand(2, -1, -1, -1, -1), labels.expand(2, -1))]
    for loader in (DataLoader(images, 5), DataLoader(TensorDataset(images, labels), 5), DataLoader(each, None)):
        (logits,) = trainer(1, Recorder(), precision="32-true").predict(module, loader)
        torch.testing.assert_close(logits, expected)


def test_trials_whose_settings_share_a_tensor_for_the_lr_have_lrs_of_their_own():
    shared = partial(torch.optim.SGD, lr=torch.tensor(0.5))
    schedules = [ExponentialDecay(decay_rate=rate, decay_steps=1) for rate in (0.5, 0.25)]
    stacks = [nn.Parameter(torch.zeros(2, 3))]
    settings = [Optimization(optimizer=shared, schedule=schedule) for schedule in schedules]
    optimizer = FusedOptimizer([("weight", stacks[0])], {str(index): each for index, each in enumerate(settings)})
    stacks[0].grad = torch.ones(2, 3)
    for _ in range(2):
        optimizer.step()
    assert [optimizer.lr(name) for name in "01"] == [0.125, 0.03125]
    assert shared.keywords["lr"] == torch.tensor(0.5)


def test_the_global_generator_is_left_alone():
    module = FusedClassifier([Trial(seed=seed).classifier() for seed in (0, 1)])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    module(torch.zeros(2, 1, 28, 28))
    assert torch.equal(torch.rand(3), expected)


# Networks and optimizers that cannot be fused


class Branching(nn.Linear):
    def __init__(self) -> None:
        super().__init__(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images.flatten(1))
        return logits * 2 if logits.sum() > 0 else logits


class Noisy(Branching):
    def forward(self, images: Tensor) -> Tensor:
        return nn.Linear.forward(self, (images + torch.randn_like(images)).flatten(1))


class Replacing(nn.Linear):
    def __init__(self) -> None:
        super().__init__(784, 10)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * images.mean()
        return super().forward(images.flatten(1)) - self.mean


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.reader = kind(28, 10, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.reader(images[:, 0])[0][:, -1]
        return outputs


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(28, 2, dropout=0.1, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        rows = images[:, 0]
        outputs: Tensor = self.attention(rows, rows, rows)[0][:, -1]
        return outputs


class Scaling(Branching):
    def __init__(self) -> None:
        super().__init__()
        self.scale = lambda logits: 2 * logits

    def forward(self, images: Tensor) -> Tensor:
        scaled: Tensor = self.scale(nn.Linear.forward(self, images.flatten(1)))
        return scaled


class Hook:
    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return 2 * output


def weighted(change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), change(nn.Linear(784, 10)))


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(Hook())
    return layer


def pruned(layer: nn.Module) -> nn.Module:
    return cast(nn.Module, random_unstructured(layer, "weight", 0.3))


def volumes() -> nn.Module:
    convolutions = [nn.Unflatten(2, (4, 7)), nn.Conv3d(1, 3, 2), nn.Flatten(3), nn.Conv2d(3, 2, 2), nn.Flatten(2)]
    return nn.Sequential(*convolutions, nn.Conv1d(2, 3, 2), nn.Flatten(), nn.LazyLinear(10))


def seen(network: nn.Module) -> nn.Module:
    network(torch.rand(2, 1, 28, 28))
    return network


@pytest.mark.parametrize(
    ("networks", "reason"),
    [
        ([small_cnn, small_cnn], None),
        ([Everything, Everything], None),
        ([lambda: seen(volumes())] * 2, None),
        *(
            ([partial(Recurrent, kind)] * 2, rf"recurrent layers cannot be fused: the networks have reader \({name}\)")
            for name, kind in (("LSTM", nn.LSTM), ("GRU", nn.GRU), ("RNN", nn.RNN))
        ),
        ([lambda: nn.LSTM(28, 10)] * 2, r"the networks have LSTM$"),
        *(
            ([partial(kind, 28, 10)] * 2, rf"recurrent layers cannot be fused: the networks have {kind.__name__}$")
            for kind in (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
        ),
        ([partial(weighted, weight_norm)] * 2, "weight_norm cannot be fused: the networks have it in 1.weight$"),
        ([partial(weighted, spectral_norm)] * 2, "spectral_norm cannot be fused: the networks have it in 1.weight$"),
        ([partial(weighted, orthogonal)] * 2, None),
        ([partial(weighted, pruned)] * 2, "weights that a hook computes cannot be fused: the networks have 1.weight$"),
        ([partial(weighted, hooked)] * 2, r"has different objects as 1._forward_hooks \(Hook\), which cannot be"),
        (
            [lambda: nn.Sequential(nn.Flatten(), nn.RReLU())] * 2,
            "^torch.vmap cannot vectorize rrelu, which the networks use$",
        ),
        ([Scaling, Scaling], r"has a different object as scale \(function\), which cannot be compared"),
        ([Branching, Branching], r"^the forward pass branches on values of a tensor \(data-dependent control flow\)$"),
        ([Noisy, Noisy], "^the networks draw random numbers in their forward pass, other than by layers of dropout$"),
        ([Attending, Attending], "random"),
        ([Replacing, Replacing], "mean is replaced in the forward pass: change buffers in place"),
        ([partial(small_cnn, 0.1), partial(small_cnn, 0.5)], r"that of trial 1 has dropout = 0.5 instead of 0.1"),
        ([partial(nn.Linear, 4, 2), partial(nn.Linear, 4, 3)], r"out_features = 3 instead of 2"),
        ([partial(nn.Linear, 4, 2), partial(nn.Bilinear, 4, 4, 2)], r"class = Bilinear instead of Linear"),
        ([nn.Sequential, partial(nn.Sequential, nn.ReLU())], r"has different modules: \['0'\]"),
    ],
    ids=lambda value: value and (value if isinstance(value, str) else "networks"),
)
def test_trials_that_cannot_be_fused_are_refused_with_the_reason(
    networks: list[Callable[[], nn.Module]], reason: str | None
):
    found = can_fuse([Classifier(network(), ADAM) for network in networks], torch.rand(4, 1, 28, 28))
    if reason is None:
        assert found is None
    else:
        with pytest.raises(ValueError, match=reason):
            raise ValueError(found)


def test_half_precision_with_one_loss_scale_for_all_is_refused():
    module = FusedClassifier([Trial().classifier(), Trial().classifier()])
    scaling = MixedPrecision("16-mixed", device="cpu")
    with pytest.raises(ValueError, match='"16-mixed" has one loss scale for all trials: use "bf16-mixed"'):
        trainer(1, Recorder(), precision=None, plugins=[scaling]).fit(module, datamodule=data())


@pytest.mark.parametrize("callback", [StochasticWeightAveraging(0.1), BackboneFinetuning()])
def test_a_callback_that_changes_an_optimizer_of_torchs_is_refused_at_the_start(callback: pl.Callback):
    module = FusedClassifier([Trial().classifier(), Trial().classifier()])
    module.backbone = nn.Linear(1, 1)  # which one of them asks for
    with pytest.raises(ValueError, match=f"{type(callback).__name__} needs a torch optimizer: do not fuse trials"):
        trainer(1, Recorder(), callback).fit(module, datamodule=data())


def test_wrong_numbers_of_seeds_and_names_are_refused():
    classifiers = [Trial().classifier(), Trial().classifier()]
    with pytest.raises(ValueError, match=r"2 classifiers, seeds=\[1\], names=\['0', '1'\]"):
        FusedClassifier(classifiers, seeds=[1])
    with pytest.raises(ValueError, match=r"names=\['a', 'a'\]"):
        FusedClassifier(classifiers, names=["a", "a"])
