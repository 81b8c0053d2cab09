"""The classifier in a plain Trainer, without the tuner."""

import copy
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import (
    MLP,
    MNISTCNN,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Classifier,
    CosineDecay,
    CosineRestarts,
    ExponentialDecay,
    IrisDataModule,
    MNIST5kDataModule,
    Plateau,
    Schedule,
    ScheduleLR,
)
from lightning_modules.losses import LOSSES

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")

STEPS = 16  # an epoch: 4,000 images in batches of 250


class Recorder(Logger):
    name = "recorder"
    version = 0

    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[str, list[tuple[int, float]]] = defaultdict(list)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for key, value in metrics.items():
            self.metrics[key].append((step or 0, value))


def quiet_trainer(logger: Logger, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"log_every_n_steps": 7, **options},
    )


def fit(schedule: Schedule | Plateau, epochs: int = 2, **options: Any) -> tuple[Recorder, pl.Trainer, Classifier]:
    torch.manual_seed(0)
    recorder = Recorder()
    model = MNISTCNN(channels=(4, 4, 4), hidden=(16, 16))
    module = Classifier(model, Adam(initial_lr=0.01), schedule)
    trainer = quiet_trainer(recorder, max_epochs=epochs, **options)
    trainer.fit(module, datamodule=MNIST5kDataModule(batch_size=250))
    return recorder, trainer, module


def test_the_lr_of_every_step_is_logged_with_any_log_every_n_steps():
    schedule = CosineRestarts(restart_period=9)
    recorder, _, _ = fit(schedule, log_every_n_steps=16)
    assert recorder.metrics["lr"] == [(step, 0.01 * schedule(step)) for step in range(2 * STEPS)]


def test_loss_and_accuracy_of_training_and_validation_are_logged_each_epoch():
    recorder, trainer, module = fit(CosineRestarts(restart_period=9), num_sanity_val_steps=0)
    for key in ("train/loss", "train/acc", "val/loss", "val/acc"):
        assert len(recorder.metrics[key]) == 2
    (metrics,) = trainer.test(module, datamodule=MNIST5kDataModule(), verbose=False)
    assert metrics.keys() == {"test/loss", "test/acc"}


class LoggingEveryStep(Classifier):
    """Logs at every step, and leaves means and batch sizes to Lightning."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss, logits = self._evaluate(batch, batch_idx, "train")
        self.log_by_lightning("train", batch, loss, logits)
        return loss

    def on_train_epoch_start(self) -> None: ...

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log_by_lightning("val", batch, *self._evaluate(batch, batch_idx, "val"))

    def log_by_lightning(self, stage: str, batch: Any, loss: torch.Tensor, logits: torch.Tensor) -> None:
        accuracy = (logits.argmax(dim=1) == batch[1]).to(loss.dtype).mean()
        metrics = {f"lightning/{stage}/loss": loss, f"lightning/{stage}/acc": accuracy}
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(batch[1]))


@pytest.mark.parametrize(
    "options",
    [{}, {"val_check_interval": 0.3}, {"max_steps": 20}, {"limit_train_batches": 5}, {"precision": "64-true"}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_the_means_equal_lightnings_means_of_values_logged_at_every_step(options: dict[str, Any]):
    recorder = Recorder()
    module = LoggingEveryStep(MNISTCNN(channels=(2, 2, 2), hidden=(8, 8)), Adam(initial_lr=0.01))
    trainer = quiet_trainer(recorder, max_epochs=2, log_every_n_steps=1, **options)
    trainer.fit(module, datamodule=MNIST5kDataModule(batch_size=300, eval_batch_size=220))  # 4,000 and 500 images
    for key in ("train/loss", "train/acc", "val/loss", "val/acc"):
        assert recorder.metrics[key] == recorder.metrics[f"lightning/{key}"] != []
        assert float(trainer.callback_metrics[key]) == recorder.metrics[key][-1][1]


class Norms(pl.Callback):
    """Records the norm of the gradients of each step after clipping."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        self.seen.append(torch.nn.utils.get_total_norm(gradients).item())


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("kind", [Adam, AdamW, SGD, Adagrad])
def test_gradients_are_clipped_in_mixed_precision(kind: type[Adam | AdamW | SGD | Adagrad], precision: Any):
    torch.manual_seed(0)
    norms, module = Norms(), Classifier(MLP(layers=1, neurons=8), kind(initial_lr=1e-3))
    options = {"max_epochs": 1, "limit_train_batches": 4, "log_every_n_steps": 1, "gradient_clip_val": 0.01}
    trainer = quiet_trainer(Recorder(), callbacks=[norms], plugins=MixedPrecision(precision, "cpu"), **options)
    trainer.fit(module, datamodule=MNIST5kDataModule(batch_size=100))
    assert norms.seen == pytest.approx([0.01] * 4, rel=0.01)


class Broken(pl.Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        if args[-1] == 5:
            raise OSError("the network is away")


def test_a_training_that_breaks_off_within_an_epoch_leaves_nothing_in_the_means_of_the_next():
    def train(module: Classifier, *callbacks: pl.Callback) -> Recorder:
        recorder = Recorder()
        trainer = quiet_trainer(recorder, max_epochs=1, callbacks=list(callbacks))
        torch.manual_seed(0)
        trainer.fit(module, datamodule=MNIST5kDataModule(batch_size=250))
        return recorder

    torch.manual_seed(0)
    module = Classifier(MNISTCNN(channels=(4, 4, 4), hidden=(16, 16)), Adam(initial_lr=0.01))
    with pytest.raises(OSError, match="away"):
        train(module, Broken())
    fresh = Classifier(copy.deepcopy(module.model), Adam(initial_lr=0.01))
    repeated, fresh_one = train(module).metrics, train(fresh).metrics
    for key in ("train/loss", "train/acc", "val/loss", "val/acc"):
        assert repeated[key] == fresh_one[key] != []


def test_with_accumulation_a_step_is_an_optimizer_update():
    schedule = ExponentialDecay(decay_rate=0.5, decay_steps=3)
    recorder, _, _ = fit(schedule, accumulate_grad_batches=4)
    assert recorder.metrics["lr"] == [(step, 0.01 * schedule(step)) for step in range(2 * STEPS // 4)]


def test_a_plateau_gets_each_validation_but_not_the_sanity_check():
    plateau = Plateau(factor=0.5, patience=0, threshold=1e9, threshold_mode="abs", monitor="val/acc", mode="max")
    recorder, _, _ = fit(plateau, epochs=4)
    first_of_each_epoch = [recorder.metrics["lr"][epoch * STEPS][1] for epoch in range(4)]
    assert first_of_each_epoch == [0.01, 0.01, 0.005, 0.0025]


def test_a_plateau_on_a_metric_that_is_not_logged_says_which_are():
    with pytest.raises(ValueError, match=r"monitors 'val/accuracy', but only .*'val/acc'"):
        fit(Plateau(monitor="val/accuracy"))


def test_any_torch_optimizer_and_a_plain_csv_logger_work(tmp_path: Path):
    module = Classifier(MNISTCNN(channels=(4, 4, 4), hidden=(16, 16)), partial(torch.optim.NAdam, lr=1e-3))
    trainer = quiet_trainer(CSVLogger(tmp_path), max_steps=3, log_every_n_steps=1)
    trainer.fit(module, datamodule=MNIST5kDataModule(batch_size=250))
    trainer.logger.save()
    assert "lr" in (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()


def test_a_run_cut_at_an_epoch_continues_with_the_same_lrs_and_weights(tmp_path: Path):
    def module() -> Classifier:
        torch.manual_seed(0)
        model = MNISTCNN(channels=(4, 4, 4), hidden=(16, 16), dropout=0.0)
        inner = CosineRestarts(restart_period=20)
        return Classifier(model, Adam(initial_lr=0.01), Plateau(factor=0.5, patience=0, schedule=inner))

    straight, data = Recorder(), MNIST5kDataModule(batch_size=250)
    whole = module()
    quiet_trainer(straight, max_epochs=3).fit(whole, datamodule=data)

    begun, rest = Recorder(), Recorder()
    first = quiet_trainer(begun, max_epochs=1)
    first.fit(module(), datamodule=MNIST5kDataModule(batch_size=250))
    first.save_checkpoint(tmp_path / "cut.ckpt")
    second = module()
    quiet_trainer(rest, max_epochs=3).fit(
        second, datamodule=MNIST5kDataModule(batch_size=250), ckpt_path=tmp_path / "cut.ckpt", weights_only=True
    )
    assert begun.metrics["lr"] + rest.metrics["lr"] == straight.metrics["lr"]
    for one, other in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_the_squared_error_is_that_of_the_outputs_against_one_hot_labels():
    outputs, labels = torch.tensor([[0.5, 0.0], [1.0, 1.0]]), torch.tensor([0, 1])
    assert LOSSES["mse"]()(outputs, labels).item() == pytest.approx((0.25 + 0 + 1 + 0) / 4)
    assert LOSSES["mse"]().examples(outputs, labels).tolist() == [0.125, 0.5]
    with pytest.raises(ValueError, match="mse, squared_error, but got loss='mae'"):
        Classifier(MNISTCNN(channels=(1, 1, 1), hidden=(1, 1)), Adam(initial_lr=0.1), loss="mae")


INPUTS, LABELS = torch.rand(6, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        ([nn.Conv1d(1, 4, 2)], (8,)),
        ([nn.Conv2d(1, 4, 2)], (5, 8)),
        ([nn.Conv3d(1, 4, 2)], (3, 5, 8)),
        ([nn.Conv3d(1, 4, 2), nn.Flatten(2, 3), nn.ConvTranspose2d(4, 2, 2)], (3, 5, 8)),
        ([nn.BatchNorm3d(1), nn.ConvTranspose3d(1, 2, 3)], (3, 5, 8)),
    ],
    ids=["1-D", "2-D", "3-D", "3-D and 2-D", "3-D transposed"],
)
def test_convolutions_of_any_dimension_are_trained(network: list[nn.Module], shape: tuple[int, ...]):
    torch.manual_seed(0)
    images = torch.rand(6, 1, *shape)
    model = nn.Sequential(*network, nn.Flatten(), nn.LazyLinear(3))
    expected = model(images)
    module = Classifier(model, SGD(initial_lr=0.1))
    assert torch.allclose(module(images), expected, atol=1e-6)
    batches = DataLoader(TensorDataset(images, LABELS), 3)
    quiet_trainer(Recorder(), max_epochs=2, log_every_n_steps=1).fit(module, batches)
    assert module(images).isfinite().all()
    assert not torch.allclose(module(images), expected, atol=1e-3)
    for weight in module.model.parameters():
        assert weight.ndim != 4 or weight.is_contiguous(memory_format=torch.channels_last)


def test_a_model_that_is_no_network_is_refused():
    with pytest.raises(TypeError, match=r"model must be a network, an instance of torch.nn.Module, but got 'mlp'"):
        Classifier("mlp", Adam(initial_lr=0.1))  # type: ignore[arg-type]


@pytest.mark.parametrize("network", [nn.LazyLinear(3), nn.Sequential(nn.Linear(4, 3), nn.LazyBatchNorm1d())])
def test_a_lazy_network_is_refused_before_it_has_seen_a_batch(network: nn.Module):
    with pytest.raises(
        ValueError, match=r"the shape of (1\.)?weight is not known yet: call a network with lazy layers"
    ):
        Classifier(network, SGD(initial_lr=0.1))
    network(torch.rand(2, 4))
    Classifier(network, SGD(initial_lr=0.1))


@pytest.mark.parametrize(
    "data", [TensorDataset(INPUTS, LABELS), TensorDataset(INPUTS), INPUTS], ids=["pair", "one", "bare"]
)
def test_a_trainer_predicts_the_logits_of_inputs_with_labels_or_without(data: Any):
    module = Classifier(nn.Linear(8, 3), SGD(initial_lr=0.1))
    first, second = quiet_trainer(Recorder()).predict(module, DataLoader(data, 4))
    assert torch.equal(torch.cat([first, second]), module(INPUTS))


def test_a_trainer_predicts_the_test_batches_of_a_data_module():
    data = IrisDataModule(batch_size=20)
    module = Classifier(nn.Linear(4, 3), SGD(initial_lr=0.1))
    predicted = quiet_trainer(Recorder()).predict(module, datamodule=data)
    inputs = torch.cat([inputs for inputs, _ in data.test_dataloader()])
    assert torch.equal(torch.cat(predicted), module(inputs))


@pytest.mark.parametrize("fused", [True, False])
def test_each_training_begins_at_a_tensor_lr_of_the_settings(fused: bool):
    module = Classifier(
        nn.Linear(8, 3),
        partial(torch.optim.Adam, lr=torch.tensor(0.5), fused=fused),
        ExponentialDecay(decay_rate=0.5, decay_steps=1),
    )
    batches = DataLoader(TensorDataset(INPUTS, LABELS), 2)
    for _ in range(2):
        recorder = Recorder()
        quiet_trainer(recorder, max_epochs=1, log_every_n_steps=1).fit(module, batches)
        assert recorder.metrics["lr"] == [(0, 0.5), (1, 0.25), (2, 0.125)]


@pytest.mark.parametrize("optimizer", [Adam(initial_lr=1e-3), partial(torch.optim.SGD, lr=1e-3, momentum=0.9)])
@pytest.mark.parametrize("schedule", [CosineDecay(decay_steps=50), Plateau(factor=0.5, patience=0)])
def test_lightning_s_lr_find_changes_the_initial_lr_and_nothing_else(
    optimizer: Any, schedule: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = Classifier(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), optimizer, schedule)
    assert module.learning_rate == 1e-3
    before = copy.deepcopy(module.state_dict())
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", **options)
    data = IrisDataModule(batch_size=10)
    finder = Tuner(trainer).lr_find(module, datamodule=data, min_lr=1e-5, max_lr=1.0, num_training=40)
    assert finder is not None
    assert module.learning_rate == finder.suggestion() != 1e-3
    assert finder.results["lr"][-1] > 100 * finder.results["lr"][0]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    trainer.fit(module, datamodule=data)
    (scheduler,) = (config.scheduler for config in trainer.lr_scheduler_configs)
    assert isinstance(scheduler, ScheduleLR)
    assert scheduler.base_lrs == [finder.suggestion()]


def test_the_lr_of_a_function_cannot_be_changed():
    module = Classifier(nn.Linear(4, 3), lambda params: torch.optim.SGD(params, lr=0.5))
    assert module.learning_rate == 0.5
    with pytest.raises(TypeError, match="cannot be changed: pass settings"):
        module.learning_rate = 0.1
