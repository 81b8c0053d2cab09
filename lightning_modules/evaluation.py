"""The callback that evaluates and saves a network with weights other than its training weights."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.averaging import Averages, Averaging
from lightning_modules.callbacks import is_of_training
from lightning_modules.lr_scheduler import ScheduleLR
from lightning_modules.schedules import Plateau, Schedule

__all__ = ["SAVED_KEY", "EvaluationWeights", "check_average", "evaluated_state", "has_switch"]

SAVED_KEY = "averaging"
"""The key in a checkpoint of the training weights and of what continues the average; its state_dict is the average."""


class EvaluationWeights(pl.Callback):
    """Evaluates and saves a network with an average of its weights, without changing its training.

    The average comes from `averaging`, or from a schedule-free optimizer, which has the methods ``train`` and ``eval``
    to switch between the training weights and the average. Validation during training uses the average; so do
    the ``state_dict`` of checkpoints and the network after training, which can be tested and exported as usual.
    Checkpoints also contain the training weights, so a resumed run ends with the same bits as an uninterrupted one.
    Without `averaging` and with another optimizer, the callback does nothing.

    Buffers, such as the statistics of batch normalization, are averaged with the weights; a schedule-free optimizer
    leaves them unchanged.

    `Classifier` adds this callback. In your own LightningModule, pass it to the Trainer, or::

        def configure_callbacks(self):
            return [EvaluationWeights(EMA(decay=0.99))]

    Args:
        averaging: The average; None for the optimizer's own.

    Raises:
        ValueError: When the training starts, if both would average; if a `Plateau` monitors a training metric, which is
            computed without `averaging`; or if training resumes without the average that it had begun.
    """

    def __init__(self, averaging: Averaging | None = None) -> None:
        self.is_of_classifier = False
        self._settings: list[Averaging | None] = [averaging]
        self._begin()

    def _begin(self) -> None:
        self._averages = Averages(self._settings)
        self._training: dict[str, Tensor] = {}  # the training weights, while the network holds the average
        self._loaded: Any = None
        self._step = 0

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Start from the network's current weights."""
        if stage == "fit":
            self._begin()

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the training weights, and what continues the average, from a checkpoint."""
        self._loaded = checkpoint.get(SAVED_KEY)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Switch optimizers to training mode, and restore the training weights of a resumed network."""
        self._step = trainer.global_step
        optimizers = self.switchable(module)
        self._check(trainer, bool(optimizers))
        for optimizer in optimizers:
            optimizer.train()
        if self._loaded is not None:
            self._load(module, self._loaded)
            self._loaded = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the weights after an update to the average."""
        if trainer.global_step > self._step and any(self._settings):
            with torch.no_grad():
                self._averages.update(self._stacks(module), trainer.global_step)
        self._step = trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Give the network the average."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._switch(module)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Give the network its training weights."""
        if trainer.state.fn == "fit":
            self._switch_back(module)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Leave the network with the average."""
        self._switch(module)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Give the network its training weights."""
        self._switch_back(module)

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the average as the ``state_dict``, and the training weights under a separate key."""
        if evaluated := self.evaluated(module):
            training = self._training or _copied(self._tensors(module))
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **evaluated}
            checkpoint[SAVED_KEY] = self._saved(trainer, training)

    def evaluated(self, module: pl.LightningModule) -> dict[str, Tensor]:
        """Return copies of the weights and buffers to evaluate, by name; none if they are the training weights."""
        if self._training:
            return _copied(self._tensors(module))
        if not self._switch(module):
            return {}
        evaluated = _copied(self._tensors(module))
        self._switch_back(module)
        return evaluated

    def switchable(self, module: pl.LightningModule) -> Sequence[Any]:
        """Return the optimizers that do their own averaging."""
        return [optimizer for optimizer in module.trainer.optimizers if has_switch(optimizer)]

    # In inference mode, in which Lightning validates, copies could not be used in training.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _switch(self, module: pl.LightningModule) -> bool:
        """Give the network the average, and return whether there is one."""
        optimizers = self.switchable(module)
        if self._training or (not optimizers and self._averages.are_current):
            return False
        tensors = self._tensors(module)
        self._training = _copied(tensors)
        for optimizer in optimizers:
            optimizer.eval()
        if not self._averages.are_current:
            _copy_into(tensors, self._unstacked(self._averages.evaluated(self._stacks(module))))
        return True

    @torch.inference_mode(False)
    @torch.no_grad()
    def _switch_back(self, module: pl.LightningModule) -> None:
        if self._training:
            for optimizer in self.switchable(module):
                optimizer.train()  # rounds, so the weights are copied back
            _copy_into(self._tensors(module), self._training)
            self._training = {}

    def _check(self, trainer: pl.Trainer, optimizer_averages: bool) -> None:
        if self._loaded is not None and not optimizer_averages and not any(self._settings):
            raise ValueError("the checkpoint contains an average of the weights: resume with the same averaging")
        if self._loaded is None and self._averages.have_begun(trainer.global_step):
            raise ValueError(
                f"the average of the first {trainer.global_step} updates is missing: "
                "resume from a checkpoint that was saved with the same averaging, or use a new Trainer"
            )
        self._check_combinations(trainer, optimizer_averages)

    def _check_combinations(self, trainer: pl.Trainer, optimizer_averages: bool) -> None:
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        plateaus = [scheduler.plateau for scheduler in schedulers if isinstance(scheduler, ScheduleLR)]
        for plateau in (None, *plateaus):
            check_average(self._settings[0], plateau, optimizer_averages)

    def _stacks(self, module: pl.LightningModule) -> dict[str, Tensor]:
        """Return the weights and buffers as stacks [K, ...] that share their memory."""
        return {name: tensor.unsqueeze(0) for name, tensor in self._tensors(module).items()}

    def _unstacked(self, stacks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return stacks [K, ...] in the form of the network's weights and buffers."""
        return {name: stacked[0] for name, stacked in stacks.items()}

    def _saved(self, trainer: pl.Trainer, training: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the state that a checkpoint needs in addition to the average."""
        dtypes = {name: tensor.dtype for name, tensor in training.items()}
        return {"training": dict(training), **self._averages.state(0, dtypes)}

    def _load(self, module: pl.LightningModule, saved: Mapping[str, Any]) -> None:
        """Continue from a checkpoint; the network holds the average."""
        self._averages.load([saved], self._stacks(module), self._step)
        with torch.no_grad():
            _copy_into(self._tensors(module), saved["training"])

    @staticmethod
    def _tensors(module: pl.LightningModule) -> dict[str, Tensor]:
        """Return the parameters and buffers that are saved, if they are real numbers."""
        saved = module.state_dict().keys()
        named = [*module.named_parameters(), *module.named_buffers()]
        return {name: tensor.detach() for name, tensor in named if name in saved and tensor.is_floating_point()}


def check_average(averaging: Averaging | None, schedule: Schedule | Plateau | None, optimizer_averages: bool) -> None:
    """Reject settings that cannot be combined with an average.

    Args:
        averaging: The average; None for none.
        schedule: The schedule.
        optimizer_averages: Whether the optimizer does its own averaging.

    Raises:
        ValueError: If it cannot be combined.
    """
    if averaging is None:
        return
    if optimizer_averages:
        raise ValueError(f"a schedule-free optimizer does its own averaging: it cannot be combined with {averaging}")
    if isinstance(schedule, Plateau) and is_of_training(schedule.monitor):
        raise ValueError(
            f"monitor must be a validation metric with averaging, but got monitor={schedule.monitor!r}: "
            "a training metric is computed without averaging"
        )


def evaluated_state(module: pl.LightningModule) -> dict[str, Tensor]:
    """Return the state dict of a module in training, with the weights used for evaluation."""
    callbacks: list[pl.Callback] = module.trainer.callbacks  # type: ignore[attr-defined]
    state = cast(dict[str, Tensor], module.state_dict())
    for callback in callbacks:
        if isinstance(callback, EvaluationWeights):
            state = {**state, **callback.evaluated(module)}
    return state


def has_switch(optimizer: Any) -> bool:
    """Return whether an optimizer must be switched between training and evaluation."""
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _copy_into(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(values[name])
