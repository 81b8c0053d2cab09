"""The check of a run's first batch, and the time of its steps."""

import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_helpers import is_overridden

from lightning_modules import Classifier
from lightning_modules.tasks import Task

__all__ = ["StepCheck"]


class StepCheck(pl.Callback):
    """Times the steps of a run, counts its parameters, and checks the batches and outputs of a `Classifier`.

    It also records which methods are missing that testing and registering a network need, and whether all numbers in
    the batches are finite.
    """

    def __init__(self) -> None:
        self.parameters, self.seconds = 0, 0.0
        self.has_test_data, self.has_test_step, self.has_forward, self.is_finite = True, True, True, True
        self._began = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Count the parameters, and look for the methods."""
        self.has_test_step = is_overridden("test_step", module)
        self.has_forward = is_overridden("forward", module)
        self.has_test_data = is_overridden("test_dataloader", trainer.datamodule)  # type: ignore[attr-defined]
        self.parameters = sum(parameter.numel() for parameter in module.parameters())

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Check the first batch and the network's outputs for it.

        Raises:
            ValueError: If they do not fit together.
        """
        self._check_numbers_of(batch)
        if type(module) is Classifier and trainer.global_step == 0 and batch_idx == 0:
            inputs, labels = _pair(batch, module.task)
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                outputs = module(inputs)
            if module.task == "classification":
                _check_outputs(outputs, labels, getattr(trainer.train_dataloader, "labels", labels))
            else:
                _check_numbers(outputs, labels, module.task)
        self._began = time.perf_counter()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Check the numbers and the labels of the batch.

        Raises:
            ValueError: If a class is below 0: torch's cross entropy leaves out -100, but no metric does.
        """
        self._check_numbers_of(batch)
        if type(module) is Classifier and module.task == "classification":
            _, labels = _pair(batch, module.task)
            if labels.numel() and (low := int(labels.min())) < 0:
                raise ValueError(f"labels must be class indices from 0, but the validation data have {low}")

    def _check_numbers_of(self, batch: Any) -> None:
        parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
        tensors = [part for part in parts if isinstance(part, torch.Tensor) and part.is_floating_point()]
        self.is_finite &= all(map(_is_finite, tensors))

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the time of the fastest step: the first steps include one-time setup."""
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        taken = time.perf_counter() - self._began
        self.seconds = min(self.seconds or taken, taken)


def _is_finite(tensor: torch.Tensor) -> bool:
    """Return whether all numbers are finite; true of a layout or type for which torch cannot say, such as sparse."""
    try:
        return bool(torch.isfinite(tensor).all())
    except RuntimeError:
        return True


def _pair(batch: Any, task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    own = "your own LightningModule can take any"
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        kind = f"{type(batch).__name__}{size}"
        raise ValueError(f"a batch must be a pair of inputs and labels, but the data yield a {kind}; {own}")
    inputs, labels = batch
    found = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, torch.Tensor) else type(labels).__name__
    if not isinstance(labels, torch.Tensor):
        raise ValueError(f"labels must be a tensor, but the data yield {found}; {own}")
    if task == "classification" and (labels.ndim != 1 or labels.is_floating_point()):
        raise ValueError(f"labels must be class indices, int64 [batch], but the data yield {found}; {own}")
    if task == "multi_label" and (labels.ndim != 2 or not ((labels == 0) | (labels == 1)).all()):
        raise ValueError(f"labels must be 0 or 1, [batch, labels], but the data yield {found}; {own}")
    if task == "regression" and labels.ndim not in (1, 2):
        raise ValueError(f"labels must be numbers, [batch] or [batch, numbers], but the data yield {found}; {own}")
    return inputs, labels


def _check_numbers(outputs: Any, labels: torch.Tensor, task: Task) -> None:
    """Reject outputs whose number differs from the labels'."""
    shape = list(labels.shape)
    allowed = [shape, [*shape, 1]] if task == "regression" else [shape]
    if not isinstance(outputs, torch.Tensor) or list(outputs.shape) not in allowed:
        found = list(outputs.shape) if isinstance(outputs, torch.Tensor) else f"a {type(outputs).__name__}"
        rule = f"the network must return {' or '.join(map(str, allowed))} for labels {shape}"
        raise ValueError(f"{rule}, but it returns {found}")


def _check_outputs(outputs: Any, labels: torch.Tensor, all_labels: torch.Tensor) -> None:
    if not isinstance(outputs, torch.Tensor):
        raise ValueError(f"the network must return logits [batch, classes], but it returns a {type(outputs).__name__}")
    if outputs.ndim != 2 or len(outputs) != len(labels):
        found = f"for a batch of {len(labels)} it returns {list(outputs.shape)}"
        raise ValueError(f"the network must return logits [batch, classes], but {found}")
    low, high = int(all_labels.min()), int(all_labels.max())
    if low < 0 or high >= outputs.shape[1]:
        found = f"the network has {outputs.shape[1]} outputs and the data have labels from {low} to {high}"
        raise ValueError(f"there must be an output for each class, but {found}")
