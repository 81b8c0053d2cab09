"""The callback that evaluates averages of the weights of K trials whose parameters are stacked [K, ...]."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.averaging import Averaging
from lightning_modules.evaluation import EvaluationWeights, check_average, has_switch
from lightning_modules.fused.optimizer import FusedOptimizer
from lightning_modules.fused.stacking import rows_of

__all__ = ["FusedEvaluationWeights"]


class FusedEvaluationWeights(EvaluationWeights):
    """Evaluates and saves each trial of a `FusedClassifier` with the average of its own weights.

    Args:
        settings: The average of each trial, by name; None for its optimizer's own, if it makes one.
    """

    def __init__(self, settings: Mapping[str, Averaging | None]) -> None:
        super().__init__()
        self.is_of_classifier = True
        self._names, self._settings = list(settings), list(settings.values())
        self._begin()

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only the trials of these rows, in this order."""
        self._names = [self._names[row] for row in rows]
        self._settings = [self._settings[row] for row in rows]
        self._averages.keep(rows)

    def switchable(self, module: pl.LightningModule) -> Sequence[Any]:
        """Return the optimizers that do their own averaging."""
        return [each for optimizer in _optimizers(module.trainer) for each in optimizer.joined if has_switch(each)]

    def _check_combinations(self, trainer: pl.Trainer, optimizer_averages: bool) -> None:
        """Check each trial with its optimizer; its `Classifier` has checked the schedule."""
        for name, averaging in zip(self._names, self._settings, strict=True):
            check_average(averaging, None, self._has_switch(trainer, name))

    def _stacks(self, module: pl.LightningModule) -> dict[str, Tensor]:
        return self._tensors(module)

    def _unstacked(self, stacks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(stacks)

    def _saved(self, trainer: pl.Trainer, training: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what each trial would save on its own, by trial name."""
        dtypes = {name: tensor.dtype for name, tensor in training.items()}
        return {
            name: {"training": rows_of(training, row), **self._averages.state(row, dtypes)}
            for row, (name, averaging) in enumerate(zip(self._names, self._settings, strict=True))
            if averaging is not None or self._has_switch(trainer, name)
        }

    def _load(self, module: pl.LightningModule, saved: Mapping[str, Any]) -> None:
        stacks = self._stacks(module)
        self._averages.load([saved.get(name) for name in self._names], stacks, self._step)
        with torch.no_grad():
            for row, name in enumerate(self._names):
                for key, tensor in saved[name]["training"].items() if name in saved else ():
                    stacks[key][row] = tensor

    @staticmethod
    def _has_switch(trainer: pl.Trainer, name: str) -> bool:
        (optimizer,) = _optimizers(trainer)
        return has_switch(optimizer.torch_optimizer(name))


def _optimizers(trainer: pl.Trainer) -> Sequence[FusedOptimizer]:
    return cast(Sequence[FusedOptimizer], trainer.optimizers)
