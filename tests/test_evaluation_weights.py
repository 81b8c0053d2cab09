"""Networks that are evaluated and saved with averages of their weights, in plain Trainers."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_modules import (
    EMA,
    LAWA,
    Adam,
    Averaging,
    Classifier,
    Constant,
    CosineDecay,
    EpochSeed,
    EvaluationWeights,
    FusedClassifier,
    MNIST5kDataModule,
    Optimizer,
    Plateau,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    TailAverage,
    merge_checkpoints,
    split_checkpoint,
)

STEPS = 5  # an epoch: 100 images in batches of 20
ADAM = Adam(initial_lr=0.01)
CASES: Mapping[str, tuple[Optimizer, Averaging | None]] = {
    "schedule-free AdamW": (ScheduleFreeAdamW(initial_lr=0.01), None),
    "schedule-free SGD": (ScheduleFreeSGD(initial_lr=0.5), None),
    "EMA": (ADAM, EMA(decay=0.8)),
    "late EMA": (ADAM, EMA(decay=0.8, start=7)),
    "tail": (ADAM, TailAverage(start=6)),
    "LAWA": (ADAM, LAWA(count=2, interval=3)),
}


def network() -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 10)]
    return nn.Sequential(*layers)


def classifier(case: str, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    optimizer, averaging = CASES[case]
    return Classifier(network(), optimizer, CosineDecay(decay_steps=15), averaging=averaging)


def data() -> MNIST5kDataModule:
    return MNIST5kDataModule(batch_size=20, val_fraction=0.02, test_fraction=0.02, train_size=100, seed=0)


def trainer(epochs: int, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[EpochSeed(3), *callbacks],
        logger=False,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"num_sanity_val_steps": 0, **options},
    )


class Watch(pl.Callback):
    """Records the weights after each update, those of each validation, and its loss."""

    def __init__(self) -> None:
        self.trained: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *args: Any) -> None:
        self.trained.append(copied(module))

    def on_validation_batch_end(self, trainer: pl.Trainer, module: Any, *args: Any) -> None:
        self.validated.append(copied(module))

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        self.losses += [trainer.callback_metrics["val/loss"].item()] if self.validated else []
        assert_equal(copied(module), self.trained[-1])


def copied(module: pl.LightningModule) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    torch.testing.assert_close(dict(one), dict(other), rtol=0, atol=0)


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fitted(case: str, epochs: int = 3, **options: Any) -> tuple[pl.Trainer, Classifier, Watch]:
    watch, module = Watch(), classifier(case)
    fit = trainer(epochs, watch, **options)
    fit.fit(module, datamodule=data())
    return fit, module, watch


def mean(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([state[name].double() for state in states]).mean(dim=0) for name in states[0]}


def expected(case: str, trained: Sequence[dict[str, Tensor]], step: int) -> Mapping[str, Tensor]:
    """Return the average after some updates, worked out from the weights after each of them."""
    averaging = CASES[case][1]
    match averaging:
        case EMA(decay=decay, start=start):
            average = {name: tensor.double() for name, tensor in trained[min(int(start), step - 1)].items()}
            for state in trained[int(start) + 1 : step]:
                average = {name: decay * average[name] + (1 - decay) * state[name].double() for name in average}
            return average
        case TailAverage(start=start):
            return mean(trained[int(start) : step]) if step > start else trained[step - 1]
        case LAWA(count=count, interval=interval):
            return mean([trained[at - 1] for at in range(int(interval), step + 1, int(interval))][-count:])
    raise AssertionError(case)


@pytest.mark.parametrize("case", ["EMA", "late EMA", "tail", "LAWA"])
def test_the_average_is_the_one_worked_out_from_the_weights_after_each_update(case: str):
    fit, module, watch = fitted(case)
    assert len(watch.trained) == 3 * STEPS
    for epoch, validated in enumerate(watch.validated, 1):
        average = expected(case, watch.trained, epoch * STEPS)
        floats = {name: tensor for name, tensor in validated.items() if tensor.is_floating_point()}
        torch.testing.assert_close(
            {name: tensor.double() for name, tensor in floats.items()},
            {name: average[name].double() for name in floats},
            rtol=1e-4,
            atol=1e-6,
        )
    assert_equal(copied(module), watch.validated[-1])
    plain = Watch()
    torch.manual_seed(0)
    other = Classifier(network(), ADAM, CosineDecay(decay_steps=15))
    trainer(3, plain).fit(other, datamodule=data())
    for one, two in zip(watch.trained, plain.trained, strict=True):
        assert_equal(one, two)  # the training is that without averaging, to the last bit
    assert watch.losses[-1] != plain.losses[-1]
    assert fit.validate(module, datamodule=data(), verbose=False)[0]["val/loss"] == watch.losses[-1]


@pytest.mark.parametrize("case", ["schedule-free AdamW", "schedule-free SGD"])
def test_a_schedule_free_optimizer_is_evaluated_at_its_average_and_trained_as_without_a_validation(case: str):
    fit, module, watch = fitted(case)
    assert_equal(copied(module), watch.validated[-1])
    (optimizer,) = fit.optimizers
    share = CASES[case][0].beta1 if case.endswith("AdamW") else CASES[case][0].momentum
    for name, parameter in module.named_parameters():
        # the trained point lies between the average and the sequence z
        z = optimizer.state[parameter]["z"]
        torch.testing.assert_close(watch.trained[-1][name], share * parameter.detach() + (1 - share) * z)
    unseen = Watch()
    trainer(3, unseen, limit_val_batches=0).fit(classifier(case), datamodule=data())
    for one, two in zip(watch.trained, unseen.trained, strict=True):
        assert_equal(one, two)
    assert fit.validate(module, datamodule=data(), verbose=False)[0]["val/loss"] == watch.losses[-1]
    assert any(not torch.equal(watch.trained[-1][name], watch.validated[-1][name]) for name in watch.validated[-1])


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_training_ends_with_the_same_bits_and_a_checkpoint_has_the_average(case: str):
    _, module, watch = fitted(case)
    for epoch in (1, 2):
        begun, _, first = fitted(case, epoch)
        begun.save_checkpoint("begun.ckpt")
        checkpoint = torch.load("begun.ckpt", weights_only=True)
        assert_equal(checkpoint["state_dict"], first.validated[-1])
        rest, again = Watch(), classifier(case, seed=1)
        trainer(3, rest).fit(again, datamodule=data(), ckpt_path="begun.ckpt", weights_only=True)
        assert_equal(copied(again), copied(module))
        assert_equal(rest.trained[-1], watch.trained[-1])
        assert rest.losses == watch.losses[epoch:]


@pytest.mark.parametrize("case", ["schedule-free AdamW", "EMA"])
def test_lightnings_best_checkpoint_has_the_weights_that_were_validated(case: str):
    best = ModelCheckpoint(".", "best", monitor="val/loss", save_last=True)
    _, _, watch = fitted(case)
    module = classifier(case)
    fit = trainer(3, best)
    fit.fit(module, datamodule=data())
    epoch = watch.losses.index(min(watch.losses))
    assert best.best_model_score == min(watch.losses)
    assert_equal(torch.load("best.ckpt", weights_only=True)["state_dict"], watch.validated[epoch])
    assert_equal(torch.load("last.ckpt", weights_only=True)["state_dict"], watch.validated[-1])
    (result,) = fit.validate(classifier(case, seed=1), datamodule=data(), ckpt_path="best.ckpt", verbose=False)
    assert result["val/loss"] == min(watch.losses)


def test_an_average_of_rounded_weights_is_kept_in_single_precision():
    def train(epochs: int, ckpt_path: str | None = None) -> Classifier:
        torch.manual_seed(0)
        module = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), ADAM, averaging=EMA(decay=0.999))
        fit = trainer(epochs, precision="bf16-true")
        fit.fit(module, datamodule=data(), ckpt_path=ckpt_path, weights_only=True)
        fit.save_checkpoint("saved.ckpt")
        return module

    straight = train(4)
    train(2)
    saved = torch.load("saved.ckpt", weights_only=True)
    assert saved["averaging"]["means"]["model.1.weight"].dtype == torch.float32
    assert saved["state_dict"]["model.1.weight"].dtype == torch.bfloat16
    assert_equal(copied(train(4, "saved.ckpt")), copied(straight))


class OwnModule(pl.LightningModule):
    def __init__(self, optimizer: Optimizer = CASES["schedule-free AdamW"][0]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model, self.optimizer = network(), optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", nn.functional.cross_entropy(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())


def test_the_callback_works_with_any_module_and_without_it_a_schedule_free_optimizer_refuses_to_train():
    torch.manual_seed(0)
    constant = Classifier(network(), CASES["schedule-free AdamW"][0])
    trainer(3).fit(constant, datamodule=data())
    module = OwnModule()
    trainer(3, EvaluationWeights()).fit(module, datamodule=data())
    assert_equal(copied(module), copied(constant))
    with pytest.raises(Exception, match=r"not in train mode when step is called"):
        trainer(1).fit(OwnModule(), datamodule=data())
    averaged = OwnModule(ADAM)
    trainer(3, EvaluationWeights(EMA(decay=0.8))).fit(averaged, datamodule=data())
    torch.manual_seed(0)
    twin = Classifier(network(), ADAM, averaging=EMA(decay=0.8))
    trainer(3).fit(twin, datamodule=data())
    assert_equal(copied(averaged), copied(twin))


def test_a_subclass_without_the_callback_is_refused():
    class Deaf(Classifier):
        def configure_callbacks(self) -> list[pl.Callback]:
            return []

    for arguments in ((CASES["schedule-free SGD"][0],), (ADAM, Constant(), "cross_entropy", EMA())):
        with pytest.raises(TypeError, match=r"configure_callbacks of Deaf must return .* EvaluationWeights"):
            trainer(1).fit(Deaf(network(), *arguments), datamodule=data())
    trainer(1).fit(Deaf(network(), ADAM), datamodule=data())


def test_what_cannot_be_combined_is_refused():
    train = partial(trainer(1).fit, datamodule=data())
    with pytest.raises(ValueError, match="a schedule-free optimizer does its own averaging"):
        train(Classifier(network(), CASES["schedule-free SGD"][0], averaging=EMA()))
    rule = "monitor must be a validation metric with averaging, but got monitor='train/loss'"
    with pytest.raises(ValueError, match=rule):
        Classifier(network(), ADAM, Plateau(monitor="train/loss"), averaging=EMA())
    Classifier(network(), ADAM, Plateau(monitor="val/loss"), averaging=EMA())
    with pytest.raises(ValueError, match="Classifier adds EvaluationWeights automatically"):
        trainer(1, EvaluationWeights(EMA())).fit(Classifier(network(), ADAM), datamodule=data())


def test_a_checkpoint_without_the_average_or_of_another_one_is_refused():
    def train(averaging: Averaging | None, epochs: int, ckpt_path: str | None = None) -> None:
        fit = trainer(epochs)
        fit.fit(Classifier(network(), ADAM, averaging=averaging), datamodule=data(), ckpt_path=ckpt_path)
        fit.save_checkpoint("saved.ckpt")

    train(None, 1)
    train(TailAverage(start=STEPS + 1), 2, "saved.ckpt")  # begins later
    with pytest.raises(ValueError, match="the checkpoint contains an average of the weights: resume with the same"):
        train(None, 3, "saved.ckpt")
    train(None, 1)
    with pytest.raises(ValueError, match="the average of the first 5 updates is missing: resume from a checkpoint"):
        train(EMA(), 2, "saved.ckpt")


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        *((EMA, {"decay": bad}, "0 < decay < 1 must hold, but got decay=") for bad in (0, 1, float("nan"))),
        (EMA, {"start": -1}, "start >= 0 must hold, but got start=-1"),
        (EMA, {"decay": "0.9"}, "decay must be a number, but got decay='0.9'"),
        (TailAverage, {"start": -1}, "start >= 0 must hold, but got start=-1"),
        (LAWA, {"interval": 0}, "interval must be a whole number >= 1, but got interval=0"),
        (LAWA, {"interval": 1.5}, "interval must be a whole number >= 1, but got interval=1.5"),
        (LAWA, {"interval": 1, "count": 0}, "count >= 1 must hold, but got count=0"),
    ],
    ids=str,
)
def test_an_argument_that_breaks_a_rule_is_refused(kind: type[Averaging], arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


# Several trainings as one model

TOGETHER = {f"t{index}": case for index, case in enumerate((*CASES, "none"))}


def member(case: str, seed: int) -> Classifier:
    torch.manual_seed(seed)
    optimizer, averaging = CASES.get(case, (ADAM, None))
    layers = [nn.Flatten(), nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10)]
    return Classifier(nn.Sequential(*layers), optimizer, CosineDecay(decay_steps=20), averaging=averaging).double()


def group(cases: Mapping[str, str]) -> FusedClassifier:
    module = FusedClassifier([member(case, int(name[1:])) for name, case in cases.items()], names=list(cases))
    return module.double()


def alone(name: str, epochs: int, ckpt_path: str | None = None) -> tuple[dict[str, Any], dict[str, float]]:
    module, fit = member(TOGETHER[name], int(name[1:])), trainer(epochs, precision="64-true")
    fit.fit(module, datamodule=data(), ckpt_path=ckpt_path, weights_only=True)
    fit.save_checkpoint("alone.ckpt")
    metrics = {key: value.item() for key, value in fit.callback_metrics.items()}
    return torch.load("alone.ckpt", weights_only=True), metrics


def together(names: Sequence[str], epochs: int, ckpt_path: str | None = None, *callbacks: pl.Callback) -> pl.Trainer:
    fit = trainer(epochs, *callbacks, precision="64-true")
    fit.fit(group({name: TOGETHER[name] for name in names}), datamodule=data(), ckpt_path=ckpt_path, weights_only=True)
    return fit


def assert_close(one: Any, other: Any) -> None:
    if isinstance(one, Mapping):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key])
    elif isinstance(one, list | tuple):
        for left, right in zip(one, other, strict=True):
            assert_close(left, right)
    elif isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    else:
        assert one == (pytest.approx(other, rel=1e-10) if isinstance(one, float) else other)


def test_trials_in_a_group_have_the_averages_and_checkpoints_that_they_have_alone():
    fit = together(list(TOGETHER), 4)
    fit.save_checkpoint("together.ckpt")
    for name, checkpoint in split_checkpoint(torch.load("together.ckpt", weights_only=True)):
        expected, metrics = alone(name, 4)
        for key in ("state_dict", "optimizer_states", "averaging"):
            assert (key in checkpoint) == (key in expected)
            assert_close(checkpoint.get(key), expected.get(key))
        assert {key: fit.callback_metrics[f"{key}/{name}"].item() for key in metrics} == pytest.approx(metrics)
        assert_close(fit.lightning_module.weights(name), {k[6:]: v for k, v in expected["state_dict"].items()})


def test_averages_continue_when_trials_leave_a_group_and_from_a_group_alone_and_back():
    class Leave(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
            if trainer.current_epoch == 1:
                for name in ("t0", "t3"):
                    module.leave(name)

    names = list(TOGETHER)
    straight = {name: alone(name, 4)[0] for name in names}
    fit = together(names, 4, None, Leave())
    for name in fit.lightning_module.live:
        of_trial = {f"model.{key}": tensor for key, tensor in fit.lightning_module.weights(name).items()}
        assert_close(of_trial, straight[name]["state_dict"])

    together(names, 2).save_checkpoint("together.ckpt")
    whole = together(names, 4, "together.ckpt").lightning_module
    begun = dict(split_checkpoint(torch.load("together.ckpt", weights_only=True)))
    for name in names:
        torch.save(begun[name], f"{name}.ckpt")
        continued = alone(name, 4, f"{name}.ckpt")[0]["state_dict"]
        assert_close(continued, straight[name]["state_dict"])
        assert_close({f"model.{key}": tensor for key, tensor in whole.weights(name).items()}, continued)
    checkpoints = {name: alone(name, 2)[0] for name in names[2:]}
    torch.save(merge_checkpoints(checkpoints), "merged.ckpt")
    merged = together(names[2:], 4, "merged.ckpt").lightning_module
    for name in names[2:]:
        assert_close({f"model.{key}": t for key, t in merged.weights(name).items()}, straight[name]["state_dict"])
