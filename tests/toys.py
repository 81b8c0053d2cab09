"""Users' modules that train in milliseconds, each written in another way that Lightning allows."""

from asyncio import CancelledError
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy

from lightning_modules import PlateauUpdates, ScheduleLR

STEPS = 6  # in an epoch: 96 rows in batches of 16


def table(rows: int, seed: int) -> TensorDataset:
    inputs = torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs[:, :3].argmax(1))


class ToyData(pl.LightningDataModule):
    def __init__(self, batch_size: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.batch_size, self.seed = batch_size, seed

    def train_dataloader(self) -> DataLoader:
        return DataLoader(table(96, 0), self.batch_size)

    def val_dataloader(self) -> Any:
        return DataLoader(table(48, 1), 24)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(table(48, 2), 48)


class TwoValidationsData(ToyData):
    def val_dataloader(self) -> list[DataLoader]:
        return [DataLoader(table(48, 1), 24), DataLoader(table(24, 3), 24)]


class NoValidationData(ToyData):
    def val_dataloader(self) -> list[DataLoader]:
        return []


class Net(nn.Sequential):
    def __init__(self, width: int = 8) -> None:
        super().__init__(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))


class Base(pl.LightningModule):
    """Logs a loss at every step, and loss and accuracy of the validation."""

    def __init__(self, optimizer: Any, schedule: Any) -> None:
        super().__init__()
        self.optimizer, self.schedule, self.net = optimizer, schedule, Net()

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        scheduler = ScheduleLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def loss(self, batch: Any) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        outputs = self.net(batch[0])
        self.log("val_loss", functional.cross_entropy(outputs, batch[1]))
        self.log("val_acc", (outputs.argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))


# -- ways to log -------------------------------------------------------------------------------------------------------


class LogsTheLr(Base):
    """Logs the lr as usual modules do, and something else under its name at the end of an epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.logger.log_metrics({"lr": 15.0}, step=self.global_step)


class OnEpoch(Base):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss


class OnBoth(Base):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss


class InHookOfTheEpoch(Base):
    """Uses torchmetrics as in Lightning's documentation."""

    def __init__(self, optimizer: Any, schedule: Any) -> None:
        super().__init__(optimizer, schedule)
        self.accuracy = Accuracy("multiclass", num_classes=3)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = self.net(batch[0])
        self.accuracy(outputs, batch[1])
        return functional.cross_entropy(outputs, batch[1])

    def on_train_epoch_end(self) -> None:
        self.log("train_acc_epoch", self.accuracy.compute())
        self.accuracy.reset()


class MetricObjects(Base):
    def __init__(self, optimizer: Any, schedule: Any) -> None:
        super().__init__(optimizer, schedule)
        self.train_acc, self.val_acc = (Accuracy("multiclass", num_classes=3) for _ in range(2))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = self.net(batch[0])
        self.train_acc(outputs, batch[1])
        self.log("train_acc", self.train_acc, on_step=True, on_epoch=False)
        return functional.cross_entropy(outputs, batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_acc(self.net(batch[0]), batch[1])
        self.log("val_acc", self.val_acc)


class InHookOfTheValidation(Base):
    def on_validation_epoch_start(self) -> None:
        self.found: list[Tensor] = []

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.found.append(self.net(batch[0]).argmax(1) == batch[1])

    def on_validation_epoch_end(self) -> None:
        self.log_dict({"val_acc": torch.cat(self.found).float().mean(), "val_count": 48.0})


class OnStepOfTheValidation(Base):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        outputs = self.net(batch[0])
        self.log("val_loss", functional.cross_entropy(outputs, batch[1]), on_step=True, on_epoch=True)
        self.log("val_acc", (outputs.argmax(1) == batch[1]).float().mean())


class TwoValidations(Base):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        outputs = self.net(batch[0])
        self.log("loss", functional.cross_entropy(outputs, batch[1]))
        name = f"val_acc{'_again' if dataloader_idx else ''}"
        self.log(name, (outputs.argmax(1) == batch[1]).float().mean(), add_dataloader_idx=False)


class ByHand(Base):
    """Uses manual optimization, and passes metrics to the logger directly."""

    def __init__(self, optimizer: Any, schedule: Any) -> None:
        super().__init__(optimizer, schedule)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        loss = self.loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.lr_schedulers().step()
        self.log("train_loss", loss)

    def on_train_epoch_end(self) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics({"by_hand": 0.25 + self.current_epoch}, step=100 + self.current_epoch)


class NotForLoggers(Base):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        accuracy = (self.net(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("val_acc", accuracy, logger=False)
        self.log("val_error", 1 - accuracy)


class EverySecondEpoch(Base):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if self.current_epoch % 2 == 0:
            self.log("rare", 0.5 + self.current_epoch)


class StepIsTheEpoch(Base):
    """Sets the step of its epoch metrics, by a metric `step`, which Lightning uses for that."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        self.log("step", float(self.current_epoch))


class InHooksOfBatches(Base):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("after_batch", float(batch_idx))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        norms = [parameter.grad.norm() for parameter in self.parameters() if parameter.grad is not None]
        self.log("gradient_norm", torch.stack(norms).norm())


class RecordsItself(Base):
    """Logs to the trial's run through the methods of an MlflowClient."""

    def on_train_epoch_end(self) -> None:
        logger = self.loggers[0]  # the trial's, whichever others there are
        run = logger.experiment
        run.log_metric(logger.run_id, "own", 0.5, step=self.current_epoch)
        run.log_text(logger.run_id, f"epoch {self.current_epoch}", "notes/epoch.txt")
        run.log_image(logger.run_id, torch.rand(4, 4).numpy(), key="noise", step=self.current_epoch)
        run.log_param(logger.run_id, "own.layers", 2)
        run.set_tag(logger.run_id, "own.phase", "late" if self.current_epoch else "early")


class ByACallback(Base):
    def configure_callbacks(self) -> list[pl.Callback]:
        class Logs(pl.Callback):
            def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
                module.log("from_a_callback", 2.0 * trainer.current_epoch)

        return [Logs(), pl.callbacks.LearningRateMonitor("step")]


WAYS_TO_LOG = [
    Base,
    OnEpoch,
    OnBoth,
    InHookOfTheEpoch,
    MetricObjects,
    InHookOfTheValidation,
    OnStepOfTheValidation,
    TwoValidations,
    ByHand,
    NotForLoggers,
    EverySecondEpoch,
    StepIsTheEpoch,
    InHooksOfBatches,
    ByACallback,
]


def with_csv_logger(module: type[pl.LightningModule], folder: Path) -> type[pl.LightningModule]:
    """Return a module whose Trainer also has Lightning's CSVLogger and ModelCheckpoint."""

    class WithCSVLogger(module):  # type: ignore[misc, valid-type]
        def on_fit_start(self) -> None:
            self.trainer.loggers = [*self.trainer.loggers, CSVLogger(folder, name="", version="csv")]
            super().on_fit_start()

    return WithCSVLogger


# -- ways to end -------------------------------------------------------------------------------------------------------


class EarlyStopping(Base):
    """Stops after its second epoch."""

    def configure_callbacks(self) -> list[pl.Callback]:
        return [pl.callbacks.EarlyStopping("val_loss", patience=1, min_delta=10.0)]


class EarlyStoppingOnTraining(Base):
    def configure_callbacks(self) -> list[pl.Callback]:
        monitor = {"monitor": "train_loss", "check_on_train_epoch_end": True}
        return [pl.callbacks.EarlyStopping(patience=1, min_delta=10.0, **monitor)]


class ShouldStop(Base):
    def on_train_epoch_end(self) -> None:
        self.trainer.should_stop = self.current_epoch == 1


class ShouldStopWithinAnEpoch(Base):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.trainer.should_stop = self.current_epoch == 1 and batch_idx == 2
        return super().training_step(batch, batch_idx)


class NoTime(Base):
    def configure_callbacks(self) -> list[pl.Callback]:
        return [pl.callbacks.Timer(duration={"seconds": 0})]


class SkipsEveryEpoch(Base):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int:
        return -1


# -- what checkpoints hold ---------------------------------------------------------------------------------------------


class Thing:
    pass


class KeepsNumPy(Base):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        import datetime

        import numpy as np

        checkpoint["own"] = [np.random.get_state(), np.float64(0.5), datetime.datetime.now(), Path("data")]


class KeepsAThing(Base):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["own"] = Thing()


class KeepsAFunction(Base):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["own"] = lambda: None


# -- errors ------------------------------------------------------------------------------------------------------------


class BadTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class ExitingTextError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class OwnError(BaseException):
    pass


ERRORS = {
    "ConnectionError": ConnectionError("cannot download"),
    "EOFError": EOFError(),
    "BrokenPipeError": BrokenPipeError("broken"),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "SystemExit": SystemExit(0),
    "CancelledError": CancelledError(),
    "GeneratorExit": GeneratorExit(),
    "StopIteration": StopIteration("no more"),
    "OwnError": OwnError(),
    "BadTextError": BadTextError(),
    "ExitingTextError": ExitingTextError(),
    "RuntimeError": RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed."),
    "ValueError": ValueError("caf\udce9\0"),
}


class Raises(Base):
    def __init__(self, optimizer: Any, schedule: Any, error: str = "ValueError") -> None:
        super().__init__(optimizer, schedule)
        self.error = error

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise ERRORS[self.error]


class FailsInTheThirdEpoch(pl.Callback):
    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("the third epoch")


# -- ways to tell a plateau its metric ---------------------------------------------------------------------------------


class ByLightning(Base):
    def configure_optimizers(self) -> Any:
        configured = super().configure_optimizers()
        configured["lr_scheduler"] |= {"interval": "epoch", "monitor": "val_loss", "reduce_on_plateau": True}
        return configured


class ByLightningToTorch(Base):
    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs")
        return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "val_loss"}


class SteppedPerEpoch(Base):
    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return [optimizer], [ScheduleLR(optimizer, self.schedule)]


class LambdaSteppedPerEpoch(Base):
    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return [optimizer], [LambdaLR(optimizer, self.schedule)]


class ByPlateauUpdates(Base):
    def configure_callbacks(self) -> list[pl.Callback]:
        return [PlateauUpdates()]
