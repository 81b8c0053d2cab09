"""Callbacks that the tuner adds to a Lightning training: lr log, schedulers, plateaus and divergence."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import LambdaLR

from lightning_modules import Constant, PlateauState, Schedule, ScheduleLR
from lightning_modules.lr_scheduler import scheduled_values
from tuner.training.history import History

__all__ = ["DivergenceStop", "IntervalCheck", "LrLog", "PlateauResume"]


class LrLog(pl.Callback):
    """Logs the lr of every step, for user modules; with several optimizers, the lr of the first.

    Args:
        history: Where it is logged.
    """

    def __init__(self, history: History) -> None:
        self._history = history

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the lr of the coming update, and what else a `ScheduleLR` schedules."""
        if optimizer is trainer.optimizers[0]:
            self._history.log_scheduled(scheduled_values(optimizer.param_groups), trainer.global_step)


class PlateauResume(pl.Callback):
    """Makes plateau schedulers of a user's module resumable, and reports a plateau that gets no metric.

    Lightning passes the metric to a plateau scheduler (``"reduce_on_plateau": True``) after the last hook of an epoch,
    in which the checkpoint is saved. So the checkpoint stores the metric, and a resumed run passes it first.

    Args:
        note: Called with messages for the user.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._pending: dict[int, float] = {}

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the metrics that Lightning is about to pass, by the index of the scheduler."""
        metrics = trainer.callback_metrics
        checkpoint["plateau_metrics"] = {
            index: float(metrics[config.monitor])
            for index, config in enumerate(trainer.lr_scheduler_configs)
            if config.reduce_on_plateau and config.interval == "epoch" and config.monitor in metrics
            if (trainer.current_epoch + 1) % config.frequency == 0
        }

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Load the metrics from the checkpoint."""
        self._pending = checkpoint.get("plateau_metrics", {})

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Pass the loaded metrics to the schedulers."""
        for index, value in self._pending.items():
            module.lr_scheduler_step(trainer.lr_scheduler_configs[index].scheduler, value)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Report a plateau that got no metric."""
        for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
            if isinstance(scheduler, ScheduleLR) and scheduler.plateau and scheduler.plateau_state == PlateauState():
                self._note(
                    "has a Plateau that got no metric and changed nothing: let the module's configure_callbacks return "
                    "[lightning_modules.PlateauUpdates()], or call update_plateau"
                )


class IntervalCheck(pl.Callback):
    """Reports a schedule in a user's module that Lightning will step once per epoch instead of once per update.

    Args:
        note: Called with messages for the user.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Look at the intervals of the schedulers; Lightning steps none in a module with manual optimization."""
        if not module.automatic_optimization or trainer.num_training_batches <= trainer.accumulate_grad_batches:
            return
        for config in trainer.lr_scheduler_configs:
            if config.interval == "epoch" and not config.reduce_on_plateau and _depends_on_step(config.scheduler):
                self._note(
                    "steps its schedule once per epoch, but the lengths of schedules are in updates of the optimizer: "
                    'let configure_optimizers return {"scheduler": scheduler, "interval": "step"} as "lr_scheduler"'
                )


def _depends_on_step(scheduler: Any) -> bool:
    """Return whether a scheduler sets the lr of a schedule that is not constant."""
    given = [scheduler.schedule] if isinstance(scheduler, ScheduleLR) else []
    if isinstance(scheduler, LambdaLR):
        given = [each for each in cast(Any, scheduler.lr_lambdas) if isinstance(each, Schedule)]
    return any(schedule != Constant() for schedule in given)


class DivergenceStop(pl.Callback):
    """Ends a run whose loss is NaN or infinite: at once on a CPU, within `every` steps on a GPU.

    Reading the loss makes the CPU wait for the GPU, so there it is read every `every` steps and at the end of an epoch.
    """

    def __init__(self, every: int = 32) -> None:
        self.every = every
        self.diverged_at: int | None = None
        self._finite: torch.Tensor | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss of a step."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is None:  # a module with manual optimization need not return it
            return
        finite = torch.isfinite(loss.detach()).all()
        self._finite = finite if self._finite is None else self._finite & finite
        if self.reads_after(trainer, loss.device, batch_idx):
            if not trainer.strategy.reduce_boolean_decision(bool(self._finite)):  # false if false on any rank
                self.diverged_at = trainer.global_step - 1
                trainer.should_stop = True
                trainer.limit_val_batches = 0  # a diverged run needs no validation
            self._finite = None

    def reads_after(self, trainer: pl.Trainer, device: torch.device, batch_idx: int) -> bool:
        """Return whether the losses are read after this batch."""
        return device.type == "cpu" or (batch_idx + 1) % self.every == 0 or trainer.is_last_batch
