"""The outputs of a network for the test data."""

from typing import Any

import pytorch_lightning as pl
import torch

from lightning_modules import Classifier

__all__ = ["Predictions"]


class Predictions(pl.Callback):
    """Keeps a network's outputs for the test data, and the inputs of its worst mistakes.

    If a user's module is not a classifier, only an example of the inputs is kept.

    Args:
        keep: Number of worst mistakes to keep.
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
        is_classifier = not isinstance(module, Classifier) or module.task == "classification"
        if labels is None or not is_classifier or not _are_logits(outputs, labels):
            return
        first = sum(len(labels) for labels in self._labels)
        losses = torch.nn.functional.cross_entropy(outputs.float(), labels, reduction="none")
        for index in (outputs.argmax(dim=1) != labels).nonzero().flatten().tolist():
            self._wrong.append((float(losses[index]), first + index, inputs[index].cpu()))
        self._wrong = sorted(self._wrong, key=lambda wrong: (-wrong[0], wrong[1]))[: self.keep]
        self._logits.append(outputs.float().cpu())
        self._labels.append(labels.cpu())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the kept tensors; for a module that is not a classifier, they are empty.

        Returns:
            labels [n]; logits [n, classes]; worst [keep], indices of the worst mistakes, worst first, and their
            worst_inputs [keep, ...]; example [2, ...], two inputs.
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
    """Return whether outputs are logits [n, classes] for labels [n]."""
    tensors = isinstance(outputs, torch.Tensor) and isinstance(labels, torch.Tensor)
    return tensors and outputs.ndim == 2 and labels.shape == outputs.shape[:1] and not labels.is_floating_point()
