"""Plateaus, schedules, and Lightning's callbacks that change an lr, in plain Trainers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import (
    SGD,
    Adam,
    Classifier,
    Constant,
    CosineDecay,
    ExponentialDecay,
    FusedClassifier,
    Plateau,
    PlateauUpdates,
    ScheduleLR,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step` but have no `val_dataloader`",
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
    "ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    "ignore:Total length of `DataLoader` across ranks is zero",
)

STEPS = 6  # an epoch: 96 rows in batches of 16
ALWAYS: dict[str, Any] = {"factor": 0.5, "patience": 0, "threshold": 10.0, "threshold_mode": "abs"}
"""Settings of a plateau that reduces at every evaluation but the first."""
REAL: dict[str, Any] = {"factor": 0.5, "patience": 0, "threshold": 0.15}
"""Settings of one that reduces at some."""


def rows(count: int, seed: int) -> TensorDataset:
    inputs = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs[:, :3].argmax(dim=1))


TRAINING, VALIDATION = rows(96, 0), rows(48, 1)


class Lrs(pl.Callback):
    """Records the lr of each group before each update."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.seen.append([float(group["lr"]) for group in optimizer.param_groups])

    @property
    def of_epochs(self) -> list[float]:
        return [lrs[0] for lrs in self.seen[::STEPS]]


def fit(
    module: pl.LightningModule,
    *callbacks: pl.Callback,
    validation: Any = VALIDATION,
    checkpoint: Path | None = None,
    **options: Any,
) -> Lrs:
    lrs = Lrs()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, lrs],
        **{"max_epochs": 4, **options},
    )
    loader = None if validation is None else DataLoader(validation, 48)
    trainer.fit(module, DataLoader(TRAINING, 16), loader, ckpt_path=checkpoint, weights_only=checkpoint and True)
    return lrs


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def classifier(monitor: str = "val/loss", kind: type[Classifier] = Classifier, **arguments: Any) -> Classifier:
    return kind(network(), SGD(initial_lr=1.0), Plateau(monitor=monitor, **{**ALWAYS, **arguments}))


@pytest.mark.parametrize("monitor", ["train/loss", "train/acc", "val/loss", "val/acc"])
def test_a_plateau_gets_a_metric_of_the_training_or_the_validation_once_an_epoch(monitor: str):
    assert fit(classifier(monitor)).of_epochs == [1.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize("options", [{"validation": None}, {"limit_val_batches": 0}], ids=["no data", "no batches"])
def test_a_plateau_on_a_metric_of_the_training_needs_no_validation(options: dict[str, Any]):
    assert fit(classifier("train/loss"), **options).of_epochs == [1.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    "options",
    [{"validation": None}, {"limit_val_batches": 0}, {"check_val_every_n_epoch": 5}, {"validation": rows(0, 0)}],
    ids=["no data", "no batches", "too few epochs", "empty data"],
)
@pytest.mark.parametrize("fused", [False, True])
def test_a_plateau_on_a_validation_that_never_comes_is_refused_at_the_start(options: dict[str, Any], fused: bool):
    module = FusedClassifier([classifier("train/loss"), classifier()]) if fused else classifier()
    lrs = Lrs()
    with pytest.raises(ValueError, match="monitors 'val/loss', but this run has no validation"):
        fit(module, lrs, **options)
    assert lrs.seen == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"val_check_interval": 0.5}, [1.0, 0.5, 0.125, 0.03125]),
        ({"check_val_every_n_epoch": 2, "max_epochs": 5}, [1.0, 1.0, 1.0, 1.0, 0.5]),
        ({"val_check_interval": 9, "check_val_every_n_epoch": None}, [1.0, 1.0, 1.0, 0.5]),
        ({"max_steps": 15, "max_epochs": -1}, [1.0, 1.0, 0.5]),
        ({"num_sanity_val_steps": 0}, [1.0, 1.0, 0.5, 0.25]),
        ({"fast_dev_run": True}, [1.0]),
    ],
    ids=str,
)
def test_a_plateau_gets_each_validation_of_the_training(options: dict[str, Any], expected: list[float]):
    assert fit(classifier(), **options).of_epochs == expected


def test_a_plateau_ignores_validations_and_tests_outside_a_training():
    module, loader = classifier(), DataLoader(VALIDATION, 48)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.validate(module, loader, verbose=False)
    trainer.test(module, loader, verbose=False)
    assert fit(module).of_epochs == [1.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize("options", [{}, {"val_check_interval": 0.5}], ids=["each epoch", "within epochs"])
def test_a_training_continues_with_the_same_lrs_from_any_checkpoint(options: dict[str, Any], tmp_path: Path):
    def module() -> Classifier:
        return classifier(schedule=CosineDecay(decay_steps=30))

    straight = fit(module(), ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1), **options).seen
    steps = {int(path.stem.removeprefix("step=")): path for path in tmp_path.iterdir()}
    del steps[len(straight)]
    assert len(steps) >= 3
    for step, path in steps.items():
        assert fit(module(), checkpoint=path, **options).seen == straight[step:]


def test_a_training_on_a_training_metric_continues_with_the_same_lrs_from_the_end_of_an_epoch(tmp_path: Path):
    def module() -> Classifier:
        return classifier("train/loss", threshold=0.3, threshold_mode="rel", schedule=CosineDecay(decay_steps=30))

    straight = fit(module(), ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)).seen
    scales = {lr / CosineDecay(decay_steps=30)(step) for step, (lr,) in enumerate(straight)}
    assert len({round(scale, 9) for scale in scales}) > 1
    for step in (STEPS, 2 * STEPS, 3 * STEPS):
        assert fit(module(), checkpoint=tmp_path / f"step={step}.ckpt").seen == straight[step:]


def test_an_epoch_that_is_resumed_after_its_last_batch_has_no_metric_of_the_training(tmp_path: Path):
    saved = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    fit(classifier("train/loss"), saved, val_check_interval=0.5, max_epochs=1)
    rest = fit(classifier("train/loss"), val_check_interval=0.5, max_epochs=3, checkpoint=tmp_path / "step=6.ckpt")
    assert rest.of_epochs == [1.0, 1.0]


def test_plateaus_of_fused_trials_get_the_metrics_that_they_get_alone():
    def trial(index: int) -> Classifier:
        monitor = ("train/loss", "train/acc", "val/loss", "val/acc")[index]
        mode: Any = "max" if "acc" in monitor else "min"
        plateau = Plateau(monitor=monitor, mode=mode, **REAL, schedule=CosineDecay(decay_steps=48))
        return Classifier(network(), Adam(initial_lr=0.01 * (index + 1)), plateau)

    class FusedLrs(pl.Callback):
        seen: list[list[float]] = []  # noqa: RUF012 - of one training

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            self.seen.append([optimizer.lr(name) for name in module.live])

    together = FusedLrs()
    fit(FusedClassifier([trial(index) for index in range(4)]), together, max_epochs=6)
    alone = [[lr for (lr,) in fit(trial(index), max_epochs=6).seen] for index in range(4)]
    assert [list(lrs) for lrs in zip(*together.seen, strict=True)] == alone
    reductions = [0.01 * (index + 1) * CosineDecay(decay_steps=48)(35) / alone[index][-1] for index in range(4)]
    assert min(reductions) > 1
    assert len({round(each, 6) for each in reductions}) > 1


@pytest.mark.parametrize("monitor", ["val/loss", "train/loss"])
def test_a_plateau_stops_once_weight_averaging_sets_the_lr(monitor: str):
    averaging = StochasticWeightAveraging(swa_lrs=0.5, swa_epoch_start=2, annealing_epochs=1)
    with pytest.warns(UserWarning, match="SWA is currently only supported every epoch"):
        lrs = fit(classifier(monitor), averaging)
    assert lrs.of_epochs[:2] == [1.0, 1.0]
    assert lrs.of_epochs[-1] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("averaging", [EMAWeightAveraging, WeightAveraging])
def test_a_plateau_goes_with_averaged_weights(averaging: type[WeightAveraging]):
    assert fit(classifier(), averaging()).of_epochs == [1.0, 1.0, 0.5, 0.25]


def test_a_plateau_goes_with_batches_that_are_accumulated_ever_more():
    assert [lr for (lr,) in fit(classifier(), GradientAccumulationScheduler({0: 2, 2: 3})).seen] == (
        [1.0] * 6 + [0.5] * 2 + [0.25] * 2
    )


class WithoutHooks(Classifier):
    """Overrides hooks without calling those of the class."""

    def on_train_epoch_end(self) -> None: ...

    def on_validation_epoch_end(self) -> None:
        self.log("val_f1", 0.5)


@pytest.mark.parametrize("monitor", ["val_f1", "train/loss"])
def test_a_subclass_may_have_its_own_hooks_and_metrics(monitor: str):
    assert fit(classifier(monitor, WithoutHooks)).of_epochs == [1.0, 1.0, 0.5, 0.25]


class WithoutCallbacks(Classifier):
    def configure_callbacks(self) -> list[pl.Callback]:
        return [EarlyStopping("val/loss")]


def test_a_subclass_that_leaves_out_the_callback_of_the_plateau_is_refused():
    with pytest.raises(TypeError, match=r"of WithoutCallbacks must return \[\*super\(\)"):
        fit(classifier(kind=WithoutCallbacks))
    fit(WithoutCallbacks(network(), SGD(initial_lr=1.0), CosineDecay(decay_steps=30)), max_epochs=1)


@pytest.mark.parametrize("monitor", ["val/f1", "train/f1"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_plateau_on_a_metric_that_is_not_logged_says_which_are_and_where(monitor: str, fused: bool):
    module = FusedClassifier([classifier(monitor)]) if fused else classifier(monitor)
    stage = "training" if monitor.startswith("train") else "validation"
    with pytest.raises(ValueError, match=f"monitors '{monitor}', but only .*log it in {stage}_step"):
        fit(module)


class Own(pl.LightningModule):
    """A user's module."""

    def __init__(self, configure: Callable[[torch.optim.Optimizer], Any]) -> None:
        super().__init__()
        self.backbone, self.head = network()[:2], network()[2]
        self.configure = configure

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return self.configure(torch.optim.SGD(trained, lr=1.0))


class WithUpdates(Own):
    def configure_callbacks(self) -> list[pl.Callback]:
        return [PlateauUpdates()]


FED = {"monitor": "val_loss", "reduce_on_plateau": True}


def torchs(optimizer: torch.optim.Optimizer) -> Any:
    scheduler = {"scheduler": ReduceLROnPlateau(optimizer, **REAL), "monitor": "val_loss"}
    return {"optimizer": optimizer, "lr_scheduler": scheduler}


def fed_by_lightning(optimizer: torch.optim.Optimizer) -> Any:
    scheduler = {"scheduler": ScheduleLR(optimizer, Plateau(**REAL)), **FED}
    return {"optimizer": optimizer, "lr_scheduler": scheduler}


def fed_by_the_callback(optimizer: torch.optim.Optimizer) -> Any:
    scheduler = {"scheduler": ScheduleLR(optimizer, Plateau(**REAL, monitor="val_loss")), "interval": "step"}
    return {"optimizer": optimizer, "lr_scheduler": scheduler}


@pytest.mark.parametrize(
    ("module", "configure"),
    [(Own, fed_by_lightning), (WithUpdates, fed_by_lightning), (WithUpdates, fed_by_the_callback)],
)
def test_a_plateau_in_a_custom_module_equals_torchs(module: type[Own], configure: Callable[..., Any]):
    expected = fit(Own(torchs), max_epochs=8).seen
    assert fit(module(configure), max_epochs=8).seen == expected
    assert len({lr for (lr,) in expected}) > 2


@pytest.mark.parametrize("module", [Own, WithUpdates])
def test_a_scheduler_in_two_entries_is_stepped_and_gets_its_metric_from_lightning(module: type[Own]):
    schedule = CosineDecay(decay_steps=30)

    def configure(optimizer: torch.optim.Optimizer) -> Any:
        scheduler = ScheduleLR(optimizer, Plateau(schedule=schedule, **ALWAYS))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}, {"scheduler": scheduler, **FED}]

    scales = [1.0, 1.0, 0.5, 0.25]
    assert fit(module(configure)).of_epochs == [schedule(STEPS * epoch) * scales[epoch] for epoch in range(4)]


def test_a_plateau_whose_schedule_is_never_stepped_is_refused_with_advice():
    def configure(optimizer: torch.optim.Optimizer) -> Any:
        scheduler = ScheduleLR(optimizer, Plateau(schedule=CosineDecay(decay_steps=30)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **FED}}

    with pytest.raises(ValueError, match=r"CosineDecay\(.* is still at step 0 .* update_plateau\(value\)"):
        fit(Own(configure))


def test_a_schedule_without_a_plateau_gets_no_metric():
    def configure(optimizer: torch.optim.Optimizer) -> Any:
        scheduler = ScheduleLR(optimizer, CosineDecay(decay_steps=30))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **FED}}

    with pytest.raises(ValueError, match="takes no metric: only a Plateau does"):
        fit(Own(configure))


def alone(schedule: Any, **options: Any) -> Callable[[torch.optim.Optimizer], Any]:
    return lambda optimizer: ([optimizer], [{"scheduler": ScheduleLR(optimizer, schedule), **options}])


def test_a_schedule_that_lightning_steps_once_per_epoch_gives_one_warning():
    with pytest.warns(UserWarning, match=r'made 6 updates .* CosineDecay\(.* "interval": "step"}') as warned:
        fit(Own(alone(CosineDecay(decay_steps=30))))
    assert len([each for each in warned if "ScheduleLR" in str(each.message)]) == 1


def test_a_plateau_that_lightning_steps_without_a_metric_gives_one_warning():
    with pytest.warns(UserWarning, match=r'Plateau\(.* no metric, but 2 steps.* "reduce_on_plateau": True') as warned:
        fit(Own(alone(Plateau(), monitor="val_loss")))
    assert len([each for each in warned if "no metric" in str(each.message)]) == 1


@pytest.mark.parametrize("schedule", [Constant(), Plateau(monitor="val_loss")], ids=["constant", "plateau"])
def test_a_schedule_that_does_not_depend_on_the_step_may_be_stepped_once_per_epoch(schedule: Any):
    fit(WithUpdates(alone(schedule)))


def test_a_backbone_that_is_unfrozen_later_has_the_lrs_that_it_has_with_torchs_scheduler(tmp_path: Path):
    def ours(optimizer: torch.optim.Optimizer) -> LRScheduler:
        return ScheduleLR(optimizer, ExponentialDecay(decay_rate=0.95, decay_steps=1))

    def module(scheduler: Callable[..., LRScheduler]) -> Own:
        return Own(lambda opt: {"optimizer": opt, "lr_scheduler": {"scheduler": scheduler(opt), "interval": "step"}})

    saved = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    straight = fit(module(ours), BackboneFinetuning(1), saved).seen
    expected = fit(module(lambda optimizer: ExponentialLR(optimizer, 0.95)), BackboneFinetuning(1)).seen
    assert [len(lrs) for lrs in straight] == [1] * STEPS + [2] * 3 * STEPS
    for ours_, theirs in zip(straight, expected, strict=True):
        assert ours_ == pytest.approx(theirs, rel=1e-12)
    for step in (STEPS, 2 * STEPS, 3 * STEPS):
        again = fit(module(ours), BackboneFinetuning(1), checkpoint=tmp_path / f"step={step}.ckpt")
        assert again.seen == straight[step:]


class TwoOptimizers(pl.LightningModule):
    """Trains two networks by manual optimization, one of them with a plateau."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second = network(), network()
        self.lrs: list[tuple[float, ...]] = []

    def configure_optimizers(self) -> Any:
        first = torch.optim.SGD(self.first.parameters(), lr=1.0)
        second = torch.optim.Adam(self.second.parameters(), lr=0.1)
        return [first, second], [ScheduleLR(first, CosineDecay(decay_steps=30)), ScheduleLR(second, Plateau(**ALWAYS))]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.lrs.append(tuple(optimizer.param_groups[0]["lr"] for optimizer in self.optimizers()))
        for optimizer, network in zip(self.optimizers(), (self.first, self.second), strict=True):
            optimizer.zero_grad()
            self.manual_backward(functional.cross_entropy(network(batch[0]), batch[1]))
            optimizer.step()
        self.lr_schedulers()[0].step()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", functional.cross_entropy(self.first(batch[0]), batch[1]))

    def on_validation_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.lr_schedulers()[1].step(self.trainer.callback_metrics["val_loss"])


def test_each_of_several_optimizers_has_its_own_schedule():
    module = TwoOptimizers()
    fit(module)
    scales = [0.1, 0.1, 0.05, 0.025]
    assert module.lrs == [(CosineDecay(decay_steps=30)(step), scales[step // STEPS]) for step in range(4 * STEPS)]
