"""A LightningModule that trains a classifier under a learning-rate schedule."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torchmetrics import Metric

from lightning_modules.averaging import Averaging
from lightning_modules.callbacks import PlateauUpdates
from lightning_modules.evaluation import EvaluationWeights, check_average
from lightning_modules.losses import Loss, the_loss
from lightning_modules.lr_scheduler import OptimizerCallable, initial_lr_of, scheduled_values, with_initial_lr
from lightning_modules.optimizers import Optimizer
from lightning_modules.parameter_groups import Optimization, ParameterGroup
from lightning_modules.schedules import Constant, Plateau, Schedule
from lightning_modules.tasks import METRICS, Task, at_least_float32, metrics_of, of_one_shape

__all__ = ["Classifier"]

STAGES = ("train", "val", "test")


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


class _RootMean(_Mean):
    """Root of the mean of squares over the examples of an epoch."""

    def compute(self) -> Tensor:
        """Return the root so far."""
        return super().compute().sqrt()


class Classifier(pl.LightningModule):
    """Trains any network, with any optimizer, under any schedule: a classifier or, with another loss, a regression.

    Logs `lr` at every step (directly to the loggers, because Lightning's ``log`` would move the number to the device
    and back), with `momentum` and `weight_decay` if they are scheduled, and `lr/head` for a group `head`; and, per
    epoch, `train/loss`, `train/acc`, `val/loss`, `val/acc`, `test/loss` and `test/acc`. In place of `acc`, a regression
    logs `mae` and `rmse`, and a multi-label network `f1` (the mean F1 of an example), `exact_match` and `hamming_loss`
    (the share of examples with all labels right, and of labels that are wrong). A `Plateau` gets its metric after every
    validation, or after every training epoch if the name of the metric begins with "train". Validation, checkpoints and
    the network after training use the average of the weights, if `averaging` or a schedule-free optimizer makes one;
    see `EvaluationWeights`.

    It is a module of ``pytorch_lightning``; the Trainer of ``lightning.pytorch`` accepts only that package's modules.
    In one of those, use `ScheduleLR`.

    Args:
        model: Network from a batch of inputs to logits [batch, classes], or to what the loss takes; two-dimensional
            convolutions are converted to channels-last. Lazy layers must have seen a batch.
        optimizer: Called with the parameters, returns their optimizer, whose lr is the initial lr. Pass settings of
            `lightning_modules.optimizers`, or for example ``functools.partial(torch.optim.NAdam, lr=1e-3)``.
        schedule: Schedule of the factor on the initial lr, or a `Plateau` on top of one.
        loss: A key of `LOSSES`; settings such as ``CrossEntropy(label_smoothing=0.1)``; or a function or module of
            that takes outputs and labels and returns the mean of the batch.
        averaging: Average of the weights to evaluate and save; None for the optimizer's own, if it has one.
        momentum_schedule: Schedule of the factor on the momentum (or beta1); None to keep it constant.
        weight_decay_schedule: Schedule of the factor on the weight decay; None to keep it constant.
        groups: Groups of the network's parameters with their own optimizer settings or schedules, by name.
        task: "classification", "multi_label" or "regression", which decides the metrics; None for the task of the
            loss, which is classification for your own loss.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | OptimizerCallable,
        schedule: Schedule | Plateau = Constant(),  # noqa: B008 - frozen, so it can be shared
        loss: str | Loss | Callable[..., Any] = "cross_entropy",
        averaging: Averaging | None = None,
        *,
        momentum_schedule: Schedule | None = None,
        weight_decay_schedule: Schedule | None = None,
        groups: Mapping[str, ParameterGroup] | None = None,
        task: Task | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a network, an instance of torch.nn.Module, but got {model!r}")
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
        self.criterion, self.task = the_loss(loss, task)
        check_average(averaging, schedule, optimizer_averages=False)
        self.averaging = averaging
        self._evaluation = EvaluationWeights(averaging)
        self._evaluation.is_of_classifier = True
        kinds = {name: _RootMean if name == "rmse" else _Mean for name in ("loss", *METRICS[self.task])}
        self.means = nn.ModuleDict({f"{stage}/{name}": kind() for stage in STAGES for name, kind in kinds.items()})

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
        """Return the logits [batch, classes] of inputs [batch, ...], or the outputs that the loss takes."""
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
            raise ValueError("Classifier adds EvaluationWeights automatically: leave it out, and pass averaging=...")
        return [PlateauUpdates(), self._evaluation]

    def on_fit_start(self) -> None:
        """Reject to train with a plateau that would get no metric, or with an average that nothing would evaluate.

        Raises:
            TypeError: If a subclass does not return the callbacks of `configure_callbacks`.
        """
        callbacks: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        needed = {PlateauUpdates: isinstance(self.schedule, Plateau), EvaluationWeights: self._averages}
        for kind, is_needed in needed.items():
            if is_needed and not any(isinstance(each, kind) for each in callbacks):
                raise TypeError(
                    f"configure_callbacks of {type(self).__name__} must return [*super().configure_callbacks(), ...]: "
                    f"one of those is {kind.__name__}, which this run needs"
                )

    @property
    def _averages(self) -> bool:
        """Whether an average of the weights is to be evaluated."""
        return self.averaging is not None or bool(self._evaluation.switchable(self))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a training batch."""
        return self._evaluate(batch, batch_idx, "train")[0]

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and metrics of a validation batch."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Log loss and metrics of a test batch, and return its outputs, for callbacks."""
        return self._evaluate(batch, batch_idx, "test")[1]

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the logits of a batch, which is a tensor of inputs, or a sequence whose first element is one."""
        logits: Tensor = self(batch[0] if isinstance(batch, list | tuple) else batch)
        return logits

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the lr of the coming update, and what else is scheduled."""
        values = scheduled_values(optimizer.param_groups)
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=self.trainer.global_step)

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, stage: str) -> tuple[Tensor, Tensor]:
        inputs, labels = batch
        outputs = of_one_shape(self.task, self(inputs), labels)
        loss = self.criterion(outputs, labels)
        kept = at_least_float32(loss.detach())
        metrics = metrics_of(self.task, outputs.detach(), labels)
        means = {"loss": kept} | {name: each.to(kept.dtype).mean() for name, each in metrics.items()}
        # Log metric objects once per epoch, because logging every step would take longer than a small network's step.
        for name, value in means.items():
            mean = cast(_Mean, self.means[f"{stage}/{name}"])
            if batch_idx == 0:
                mean.reset()  # the previous epoch may have been interrupted
            is_new = not mean.update_called
            mean.update(value, len(labels))
            if is_new:
                self.log(f"{stage}/{name}", mean, on_step=False, on_epoch=True)
        return loss, outputs
