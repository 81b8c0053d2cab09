"""What the tuner hooks into a Lightning training: its history, its reports, its end."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger

from tuner.messages import EpochReport, Point, StepReport, Verdict

__all__ = ["DivergenceStop", "History", "LrLog", "MemoryLogger", "Predictions", "Reporter"]


class MemoryLogger(Logger):
    """What Lightning asks of a logger that keeps metrics in memory; `log_metrics` is left to do."""

    @property
    def name(self) -> str:
        """Return a name, which Lightning asks for."""
        return "history"

    @property
    def version(self) -> int:
        """Return a version, which Lightning asks for."""
        return 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Ignore hyperparameters: the coordinator records the trial's configuration."""


class History(MemoryLogger):
    """Every metric of a training, in memory, in the order it was logged; saved in and restored from checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[Point] = []
        self.open = True

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append metrics, except Lightning's own `epoch`, and those of a whole epoch: `Reporter` adds these."""
        if self.open:
            self.points += [(key, int(step or 0), float(value)) for key, value in metrics.items() if key != "epoch"]

    def state(self) -> dict[str, Any]:
        """Return the points as tensors, by metric."""
        grouped: dict[str, tuple[list[int], list[float]]] = {}
        for key, step, value in self.points:
            steps, values = grouped.setdefault(key, ([], []))
            steps.append(step)
            values.append(value)
        return {
            key: {"steps": torch.tensor(steps), "values": torch.tensor(values, dtype=torch.float64)}
            for key, (steps, values) in grouped.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the points of a checkpoint."""
        self.points = [
            (key, step, value)
            for key, series in state.items()
            for step, value in zip(series["steps"].tolist(), series["values"].tolist(), strict=True)
        ]


class LrLog(pl.Callback):
    """Log the lr of every step, for modules of the user's; of several optimizers, that of the first."""

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the lr that the coming update uses."""
        if optimizer is trainer.optimizers[0]:
            for logger in trainer.loggers:
                logger.log_metrics({"lr": float(optimizer.param_groups[0]["lr"])}, step=trainer.global_step)


class DivergenceStop(pl.Callback):
    """End a training whose loss is NaN or infinite: at once on a CPU, within `every` steps on a GPU.

    Reading the loss makes the CPU wait for a GPU, so there it is read every `every` steps, and at the epoch's end.
    """

    def __init__(self, every: int = 32) -> None:
        self.every = every
        self.diverged_at: int | None = None
        self._finite: torch.Tensor | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss of a step."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is None:  # a module that optimises by hand need not tell
            return
        finite = torch.isfinite(loss.detach()).all()
        self._finite = finite if self._finite is None else self._finite & finite
        if self.looks(trainer, loss.device, batch_idx):
            if not trainer.strategy.reduce_boolean_decision(bool(self._finite)):  # on all ranks, or it ends on all
                self.diverged_at = trainer.global_step - 1
                trainer.should_stop = True
                trainer.limit_val_batches = 0  # nothing of this training is worth validating
            self._finite = None

    def looks(self, trainer: pl.Trainer, device: torch.device, batch_idx: int) -> bool:
        """Tell whether the losses are read after this batch."""
        return device.type == "cpu" or (batch_idx + 1) % self.every == 0 or trainer.is_last_batch


class Predictions(pl.Callback):
    """Keep what a network says to the test data, and the inputs that it is most wrong about.

    Of what is no classification, as a module of the user's need not be, only an example of the inputs is kept.

    Args:
        keep: How many of these inputs.
    """

    def __init__(self, keep: int = 36) -> None:
        self.keep = keep
        self._logits: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []
        self._wrong: list[tuple[float, int, torch.Tensor]] = []
        self._example: torch.Tensor | None = None

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch."""
        inputs, labels = batch if isinstance(batch, list | tuple) and len(batch) == 2 else (batch, None)
        if not isinstance(inputs, torch.Tensor):
            return
        if self._example is None:
            self._example = inputs[:2].cpu()
        if labels is None or not _are_logits(outputs, labels):
            return
        first = sum(len(labels) for labels in self._labels)
        losses = torch.nn.functional.cross_entropy(outputs.float(), labels, reduction="none")
        for index in (outputs.argmax(dim=1) != labels).nonzero().flatten().tolist():
            self._wrong.append((float(losses[index]), first + index, inputs[index].cpu()))
        self._wrong = sorted(self._wrong, key=lambda wrong: (-wrong[0], wrong[1]))[: self.keep]
        self._logits.append(outputs.float().cpu())
        self._labels.append(labels.cpu())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return what was kept.

        Returns:
            labels [n]; logits [n, classes]; worst, the indices of the worst mistakes, the worst first, and
            worst_inputs; example, two inputs.
        """
        worst = torch.stack([inputs for *_, inputs in self._wrong]) if self._wrong else torch.empty(0)
        return {
            "labels": torch.cat(self._labels) if self._labels else torch.empty(0),
            "logits": torch.cat(self._logits) if self._logits else torch.empty(0),
            "worst": torch.tensor([index for _, index, _ in self._wrong], dtype=torch.long),
            "worst_inputs": worst,
            "example": torch.empty(0) if self._example is None else self._example,
        }


def _are_logits(outputs: Any, labels: Any) -> bool:
    """Tell whether outputs are logits [n, classes] for labels [n]."""
    tensors = isinstance(outputs, torch.Tensor) and isinstance(labels, torch.Tensor)
    return tensors and outputs.ndim == 2 and labels.shape == outputs.shape[:1] and not labels.is_floating_point()


class Reporter(pl.Callback):
    """Tell the coordinator about steps and epochs, save a checkpoint, and do what the answer says.

    Args:
        metric: The objective metric.
        history: The training's logger.
        report: Called with an `EpochReport`, returns the verdict.
        progress: Called with a `StepReport` now and then.
        save: Called after an epoch that can be continued from, with its number and whether it must be saved.
        best_epoch: In which direction the metric of the best epoch is looked for, whose value and weights are kept;
            None for those of the last epoch.
    """

    PROGRESS_SECONDS = 0.5

    def __init__(
        self,
        metric: str,
        history: History,
        report: Callable[[EpochReport], Verdict],
        progress: Callable[[StepReport], None],
        save: Callable[[int, bool], None],
        best_epoch: Literal["maximize", "minimize"] | None = None,
    ) -> None:
        self.metric, self.history, self.report, self.progress, self.save = metric, history, report, progress, save
        self.best_epoch = best_epoch
        self.weights: dict[str, torch.Tensor] | None = None  # those of the best epoch
        self.verdict: Verdict = "continue"
        self.value: float | None = None
        self.epochs = 0
        self.reported_epochs = 0
        self._reported = 0
        self._next_progress = 0.0
        self._first_lr: float | None = None
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        """Return the history, for the checkpoint."""
        state = {"history": self.history.state(), "epoch": self.epochs, "value": self.value}
        return state if self.weights is None else {**state, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the history of a checkpoint."""
        self.history.restore(state_dict["history"])
        self.epochs = self.reported_epochs = state_dict["epoch"]
        self.value, self.weights = state_dict["value"], state_dict.get("weights")

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Record the epoch's metrics again."""
        self.history.open = True
        self._first_lr = None
        self._validated = False

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Leave out what Lightning logs from here to the epoch's end."""
        self.history.open = False
        self._validated = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell how far the training is, at most twice a second."""
        if self._first_lr is None:
            self._first_lr = self._lr()
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + self.PROGRESS_SECONDS
            self.progress(self._step(trainer))

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Report the epoch, unless the training has diverged in it."""
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        self.history.open = False
        if not self._validated and trainer.limit_val_batches != 0:  # which a training that has diverged sets to 0
            raise ValueError("the data have nothing for validation, so there is no value to report")
        goes_on = self.end_epoch(trainer, metrics if self._validated else {})  # else those of the epoch before
        if self.verdict in ("prune", "stop"):
            trainer.should_stop = True
        if goes_on:
            self.save(self.epochs, self.verdict == "stop")

    def end_epoch(self, trainer: pl.Trainer, metrics: Mapping[str, float]) -> bool:
        """Record and report an epoch; tell whether the training goes on from it, now or another time.

        Args:
            trainer: The trainer at the end of the epoch.
            metrics: The epoch's; none if the training diverged in it.
        """
        step = trainer.global_step
        # Lightning itself logs these at another step, and some only after this hook, too late for the checkpoint.
        self.history.points += [(key, step, value) for key, value in metrics.items()]
        self.epochs = trainer.current_epoch + 1
        if metrics and self.metric not in metrics:
            raise ValueError(f"the objective is {self.metric}, but only {', '.join(sorted(metrics))} are logged")
        if not metrics or not math.isfinite(metrics[self.metric]):
            return False
        self.reported_epochs = self.epochs
        self._take(metrics[self.metric], trainer)
        points = self.history.points[self._reported :]
        self._reported = len(self.history.points)
        last_lr = self._lr()
        rose = self._first_lr is not None and last_lr > self._first_lr
        self.verdict = self.report(EpochReport(self.epochs, metrics[self.metric], points, rose, self._step(trainer)))
        return self.verdict == "stop" or (self.verdict == "continue" and self.epochs != trainer.max_epochs)

    def _take(self, value: float, trainer: pl.Trainer) -> None:
        """Take the value of an epoch for the trial's; if the best epoch counts, only a better one, with its weights."""
        if self.best_epoch is None:
            self.value = value
            return
        sign = 1 if self.best_epoch == "maximize" else -1
        if self.value is None or sign * value > sign * self.value:
            self.value = value
            state = trainer.lightning_module.state_dict()
            self.weights = {key: tensor.detach().cpu().clone() for key, tensor in state.items()}

    def _lr(self) -> float:
        return next((value for key, _, value in reversed(self.history.points) if key == "lr"), math.nan)

    def _step(self, trainer: pl.Trainer) -> StepReport:
        total = int(trainer.estimated_stepping_batches)
        return StepReport(trainer.current_epoch, trainer.global_step, total, self._lr())
