"""A LightningModule that trains a classifier under a learning-rate schedule."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy
from torchmetrics import Metric

from lightning_modules.averaging import Averaging
from lightning_modules.callbacks import PlateauUpdates
from lightning_modules.evaluation import EvaluationWeights, check_average
from lightning_modules.lr_scheduler import OptimizerCallable, initial_lr_of, scheduled_values, with_initial_lr
from lightning_modules.optimizers import Optimizer
from lightning_modules.parameter_groups import Optimization, ParameterGroup
from lightning_modules.schedules import Constant, Plateau, Schedule

__all__ = ["LOSSES", "Classifier", "Loss"]

Loss = Literal["cross_entropy", "mse"]


def mse(outputs: Tensor, labels: Tensor, reduction: Literal["mean", "none"] = "mean") -> Tensor:
    """Return the mean squared error of outputs [n, classes] and one-hot labels [n]: the mean, or each [n]."""
    targets = functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
    losses = functional.mse_loss(outputs, targets, reduction="none").mean(dim=1)
    return losses if reduction == "none" else losses.mean()


STAGES = ("train", "val", "test")
LOSSES: dict[Loss, Callable[..., Tensor]] = {"cross_entropy": functional.cross_entropy, "mse": mse}
"""The losses by their names."""


def _channels_last(model: nn.Module) -> nn.Module:
    """Convert four-dimensional parameters and buffers to channels-last, in place, and return the network.

    Raises:
        ValueError: If a layer is lazy and does not know its shapes yet.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise ValueError(
                f"the shape of {name} is not known yet: call a network with lazy layers once with a batch of inputs "
                "before you pass it to Classifier"
            )
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return model


class _Mean(Metric):
    """Mean over the examples of an epoch."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, value: Tensor, count: int) -> None:
        """Add the mean of a batch."""
        self.total = self.total + value * count
        self.count = self.count + count

    def compute(self) -> Tensor:
        """Return the mean so far."""
        return self.total / self.count


def at_least_float32(values: Tensor) -> Tensor:
    """Return values in float32 or float64, in which many of them can be summed."""
    return values if values.dtype == torch.float64 else values.float()


class Classifier(pl.LightningModule):
    """Trains any network that returns logits, with any optimizer, under any schedule.

    Logs `lr` at every step (directly to the loggers, because Lightning's ``log`` would move the number to the device
    and back), with `momentum` and `weight_decay` if they are scheduled, and `lr/head` for a group `head`; and per epoch
    `train/loss`, `train/acc`, `val/loss`, `val/acc`, `test/loss` and `test/acc`. A `Plateau` gets its metric after
    every validation, or after every training epoch if the name of the metric begins with "train". Validation,
    checkpoints and the network after the training have the average of the weights, if `averaging` or a schedule-free
    optimizer makes one; see `EvaluationWeights`.

    It is a module of ``pytorch_lightning``; the Trainer of ``lightning.pytorch`` accepts only that package's modules.
    In one of those, use `ScheduleLR`.

    Args:
        model: Network from a batch of inputs to logits [batch, classes]; two-dimensional convolutions are converted to
            channels-last. Lazy layers must have seen a batch.
        optimizer: Called with the parameters, returns their optimizer, whose lr is the initial lr. Pass settings of
            `lightning_modules.optimizers`, or for example ``functools.partial(torch.optim.NAdam, lr=1e-3)``.
        schedule: Schedule of the factor on the initial lr, or a `Plateau` on top of one.
        loss: "cross_entropy" of the softmax of the outputs; or "mse", the mean squared error of the outputs and the
            one-hot labels (Hui and Belkin, "Evaluation of Neural Architectures Trained with Square Loss vs
            Cross-Entropy in Classification Tasks", ICLR 2021).
        averaging: Average of the weights to evaluate and save; None for that of the optimizer, if it makes one.
        momentum_schedule: Schedule of the factor on the momentum (or beta1); None to leave it as it is.
        weight_decay_schedule: Schedule of the factor on the weight decay; None to leave it as it is.
        groups: Groups of the network's parameters with an optimizer setting or a schedule of their own, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | OptimizerCallable,
        schedule: Schedule | Plateau = Constant(),  # noqa: B008 - frozen, so it can be shared
        loss: Loss = "cross_entropy",
        averaging: Averaging | None = None,
        *,
        momentum_schedule: Schedule | None = None,
        weight_decay_schedule: Schedule | None = None,
        groups: Mapping[str, ParameterGroup] | None = None,
    ) -> None:
        super().__init__()
        self.model = _channels_last(model)
        self.optimizer = optimizer
        self.schedule = schedule
        self._further = Optimization(
            optimizer=optimizer,
            schedule=schedule,
            momentum_schedule=momentum_schedule,
            weight_decay_schedule=weight_decay_schedule,
            groups=dict(groups or {}),
        )
        if loss not in LOSSES:
            raise ValueError(f"a loss of {', '.join(LOSSES)} must hold, but got loss={loss!r}")
        self.loss = loss
        check_average(averaging, schedule, optimizer_averages=False)
        self.averaging = averaging
        self._evaluation = EvaluationWeights(averaging)
        self._evaluation.is_of_classifier = True
        self.means = nn.ModuleDict({f"{stage}/{name}": _Mean() for stage in STAGES for name in ("loss", "acc")})

    @property
    def optimization(self) -> Optimization:
        """The optimizer with its schedules and groups of parameters."""
        return replace(self._further, optimizer=self.optimizer, schedule=self.schedule)

    @property
    def learning_rate(self) -> float:
        """The initial lr of the optimizer; Lightning's ``Tuner.lr_find`` sets it.

        Setting it raises TypeError if the optimizer is a function that takes no lr.
        """
        return initial_lr_of(self.optimizer)

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self.optimizer = with_initial_lr(self.optimizer, value)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of a batch."""
        logits: Tensor = self.model(inputs)
        return logits

    def configure_optimizers(self) -> Any:
        """Build the optimizer, and the scheduler that sets its lr before every step."""
        named = ((name.removeprefix("model."), parameter) for name, parameter in self.named_parameters())
        optimizer, scheduler = self.optimization.build(named)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_callbacks(self) -> list[pl.Callback]:
        """Add the callbacks that pass a plateau its metric, and that evaluate an average of the weights.

        Raises:
            ValueError: If the Trainer was given an `EvaluationWeights`, which this one would replace.
        """
        callbacks: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(each, EvaluationWeights) and not each.is_of_classifier for each in callbacks):
            raise ValueError("Classifier adds EvaluationWeights itself: leave it out, and pass averaging=... instead")
        return [PlateauUpdates(), self._evaluation]

    def on_fit_start(self) -> None:
        """Refuse to train with a plateau that would get no metric, or with an average that would not be used.

        Raises:
            TypeError: If a subclass does not return the callbacks of `configure_callbacks`.
        """
        callbacks: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        needed = {PlateauUpdates: isinstance(self.schedule, Plateau), EvaluationWeights: self._averages}
        for kind, is_needed in needed.items():
            if is_needed and not any(isinstance(each, kind) for each in callbacks):
                raise TypeError(
                    f"configure_callbacks of {type(self).__name__} must return [*super().configure_callbacks(), ...]: "
                    f"one of those is {kind.__name__}, which this training needs"
                )

    @property
    def _averages(self) -> bool:
        """Whether an average of the weights is to be evaluated."""
        return self.averaging is not None or bool(self._evaluation.switchable(self))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a training batch."""
        return self._evaluate(batch, batch_idx, "train")[0]

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of a validation batch."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log loss and accuracy of a test batch, and return its logits, for callbacks."""
        return self._evaluate(batch, batch_idx, "test")[1]

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the logits of a batch, which is a tensor of inputs, or a sequence whose first element is that."""
        logits: Tensor = self(batch[0] if isinstance(batch, list | tuple) else batch)
        return logits

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the lr of the coming update, and what else is scheduled."""
        values = scheduled_values(optimizer.param_groups)
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=self.trainer.global_step)

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, stage: str) -> tuple[Tensor, Tensor]:
        inputs, labels = batch
        logits = self(inputs)
        loss = LOSSES[self.loss](logits, labels)
        kept = at_least_float32(loss.detach())
        accuracy = (logits.detach().argmax(dim=1) == labels).to(kept.dtype).mean()
        # Log metric objects once per epoch, because logging every step would take longer than a small network's step.
        for name, value in {f"{stage}/loss": kept, f"{stage}/acc": accuracy}.items():
            mean = cast(_Mean, self.means[name])
            if batch_idx == 0:
                mean.reset()  # the previous epoch may have been interrupted
            is_new = not mean.update_called
            mean.update(value, len(labels))
            if is_new:
                self.log(name, mean, on_step=False, on_epoch=True)
        return loss, logits
