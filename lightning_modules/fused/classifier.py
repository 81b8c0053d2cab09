"""Train K trials as one vectorized model.

The trials of a schedule study are the same network with different numbers. Stacked into one model, K of them need one
sequence of kernel launches instead of K, and launches are the bottleneck of a small network on a large GPU.
"""

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning, StochasticWeightAveraging
from torch import Tensor
from torch.func import functional_call, vmap

from lightning_modules.callbacks import check_monitor, is_of_training, monitored
from lightning_modules.classifier import Classifier
from lightning_modules.dropout import DropoutBySeed, as_int64, step_number
from lightning_modules.evaluation import evaluated_state
from lightning_modules.fused.evaluation import FusedEvaluationWeights
from lightning_modules.fused.layers import AutocastUses, StackedLayers
from lightning_modules.fused.optimizer import FusedOptimizer
from lightning_modules.fused.stacking import check_alike, rows_of, stack, stack_models
from lightning_modules.kernels.bf16_linear import gradients_are_read
from lightning_modules.losses import METRICS, at_least_float32, metrics_of, of_one_shape
from lightning_modules.schedules import Plateau

__all__ = ["FusedClassifier", "can_fuse"]


class FusedClassifier(pl.LightningModule):
    """Trains K trials at once, each as a `Classifier` would train it alone.

    Each trial has its own initial weights, optimizer, schedule (and plateau), dropout and optionally data; trials do
    not affect each other, even if one diverges. Its dropout is that of a `Classifier` with the callback
    `SeededDropout` of its seed. In a plain Trainer, metrics are logged under the trial's name: `lr/3`
    at every step; `train/loss/3`, `train/acc/3`, `val/loss/3` and `val/acc/3` after every epoch.

    A batch is either a pair of inputs and labels [batch] for all trials, or a pair of inputs [K, batch, ...] and labels
    [K, batch] with one batch for each of the K original trials.

    Args:
        classifiers: The classifier of each trial, built as for training alone. Their networks may differ only in the
            values of parameters and buffers, and they must have the same loss; optimizers, schedules and averages may
            differ.
        seeds: Seed of each trial's dropout; by default 0, 1, ...
        names: Names of the trials; by default "0", "1", ...

    Raises:
        ValueError: If the networks or losses differ, or the numbers of classifiers, seeds and names.
    """

    def __init__(
        self,
        classifiers: Sequence[Classifier],
        seeds: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        count = len(classifiers)
        self.names = list(names or map(str, range(count)))
        seeds = seeds or range(count)
        if not count == len(set(self.names)) == len(seeds) > 0:
            raise ValueError(
                "as many classifiers as seeds and different names must be given, "
                f"but got {count} classifiers, seeds={list(seeds)}, names={self.names}"
            )
        self.criterion, self.task = classifiers[0].criterion, classifiers[0].task
        for classifier in classifiers:
            if (classifier.criterion, classifier.task) != (self.criterion, self.task):
                found = f"{self.criterion} and {classifier.criterion}"
                raise ValueError(f"the classifiers must have one loss and task, but got {found}")
        self.model = stack_models([classifier.model for classifier in classifiers], self.names)
        self._settings = {
            name: classifier.optimization for name, classifier in zip(self.names, classifiers, strict=True)
        }
        averagings = [classifier.averaging for classifier in classifiers]
        self._evaluation = FusedEvaluationWeights(dict(zip(self.names, averagings, strict=True)))
        self._left: set[str] = set()
        self._batch_rows: Tensor | None = None  # which batches of [K, batch, ...] to use; None: all
        self._seeds: Tensor
        self._step: Tensor
        self.register_buffer("_seeds", _as_tensor(seeds), persistent=False)
        self.register_buffer("_step", torch.zeros((), dtype=torch.int64), persistent=False)
        self._seeds_are_equal = len(set(seeds)) == 1
        self._rounds = False  # whether rounded copies of weights are trained, instead of rounding them at every step
        self._roundable: list[str] | None = None  # names of these weights; known after the first training step
        self._sums: dict[str, tuple[Tensor, int]] = {}

    # -- trials --------------------------------------------------------------------------------------------------------

    @property
    def live(self) -> list[str]:
        """Names of the trials that are still trained, in the order of their rows."""
        return [name for name in self.names if name not in self._left]

    def seed(self, seeds: Mapping[str, int]) -> None:
        """Change the seeds of the trials' dropout.

        Args:
            seeds: Seeds by the names of all trials that have not been removed.
        """
        self._seeds = _as_tensor([seeds[name] for name in self.names]).to(self.device)
        self._seeds_are_equal = len({seeds[name] for name in self.names}) == 1

    def leave(self, name: str) -> None:
        """Stop training a trial. Its weights stay unchanged until its rows are removed when the next epoch begins."""
        self._left.add(name)
        self._optimizer.stop(name)

    def weights(self, name: str) -> dict[str, Tensor]:
        """Return a copy of the state dict of a trial's network, with the weights that it is evaluated with."""
        state = self.model.state_dict()
        if self._trainer is not None:
            evaluated = evaluated_state(self)
            state = {key: evaluated[f"model.{key}"] for key in state}
        return rows_of(state, self.names.index(name))

    def metrics(self, stage: str) -> dict[str, dict[str, float]]:
        """Return the metrics of each live trial in this epoch so far, with Classifier's names. It waits for a GPU.

        Args:
            stage: "train", "val" or "test".
        """
        if stage not in self._sums:
            return {}
        sums, count = self._sums[stage]
        means = dict(zip(("loss", *METRICS[self.task]), sums / count, strict=True))
        if "rmse" in means:
            means["rmse"] = means["rmse"].sqrt()
        keys, table = [f"{stage}/{key}" for key in means], torch.stack([*means.values()]).T.tolist()
        return {
            name: dict(zip(keys, values, strict=True))
            for name, values in zip(self.names, table, strict=True)
            if name not in self._left
        }

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    def forward(self, inputs: Tensor, per_trial: bool = False) -> Tensor:
        """Return the logits [K, batch, classes].

        Args:
            inputs: A batch [batch, ...] for all trials, or a batch [K, batch, ...] for each.
            per_trial: Whether each trial has its own batch.
        """
        state = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        if self.training:
            if self._roundable is None:
                self._roundable = self._look_at_network(inputs[0] if per_trial else inputs)
            if self._rounds and torch.is_autocast_enabled(inputs.device.type):
                state |= self._optimizer.rounded() or self._optimizer.round(self._roundable, torch.bfloat16)

        def run(trial_state: dict[str, Tensor], seed: Tensor, batch: Tensor) -> Tensor:
            # Dropout outside of training has the noise of torch: vmap refuses it, and such trials are trained alone.
            noise = DropoutBySeed(seed, self._step) if self.training else contextlib.nullcontext()
            with noise, StackedLayers():
                logits: Tensor = functional_call(self.model, trial_state, (batch,))
                return logits

        # Trials with one seed have the same noise, which is then computed once.
        seeds, dim = (self._seeds[0], None) if self._seeds_are_equal else (self._seeds, 0)
        vectorized = vmap(run, in_dims=(0, dim, 0 if per_trial else None), randomness="error")
        logits: Tensor = vectorized(state, seeds, inputs)
        return logits

    def configure_optimizers(self) -> Any:
        """Build the optimizers, and the schedulers that set their lrs before every step.

        Raises:
            ValueError: If the precision is "16-mixed", which has one loss scale for all trials; or if a callback of the
                Trainer needs a torch optimizer.
        """
        callbacks: list[pl.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, StochasticWeightAveraging | BaseFinetuning):
                raise ValueError(f"{type(callback).__name__} needs a torch optimizer: do not fuse trials")
        if self.trainer.precision == "16-mixed":
            raise ValueError(
                'precision "16-mixed" has one loss scale for all trials: use "bf16-mixed", or do not fuse trials'
            )
        self._optimizer = FusedOptimizer(self.model.named_parameters(), self._settings)
        return self._optimizer

    def configure_callbacks(self) -> list[pl.Callback]:
        """Add the callback that evaluates averages of the weights."""
        return [self._evaluation]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return the sum of the trials' losses as "loss", and the losses [K] as "losses"."""
        losses = self._evaluate(batch, "train")
        return {"loss": losses.sum(), "losses": losses.detach()}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accumulate the losses and accuracies of a validation batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accumulate the losses and accuracies of a test batch."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the logits [K, batch, classes] of a batch, which is a tensor of inputs, or inputs and labels."""
        inputs, *labels = batch if isinstance(batch, list | tuple) else (batch,)
        per_trial = bool(labels) and self._is_per_trial(labels[0])
        logits: Tensor = self(self._wanted(inputs) if per_trial else inputs, per_trial)
        return logits

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Log the lrs of the coming update, and what else is scheduled."""
        scheduled = {name: self._optimizer.scheduled(name) for name in self.live}
        values = {f"{metric}/{name}": value for name, each in scheduled.items() for metric, value in each.items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=self.trainer.global_step)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of each trial by the norm of that trial, or all gradients by value."""
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        if not gradient_clip_val or not gradients:
            return
        if gradient_clip_algorithm == "value":
            torch._foreach_clamp_max_(gradients, gradient_clip_val)
            torch._foreach_clamp_min_(gradients, -gradient_clip_val)
            return
        norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
        shares = (gradient_clip_val / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(shares.view(-1, *(1,) * (gradient.ndim - 1)))

    def on_train_start(self) -> None:
        """Refuse a plateau that no metric will reach, and decide whether rounded weights are trained."""
        trainer = self.trainer
        self._rounds = (
            trainer.precision == "bf16-mixed"
            and trainer.accumulate_grad_batches == 1  # gradients add up in float32
            and not trainer.gradient_clip_val
            and not gradients_are_read(trainer)
        )
        for name in self.live:
            if isinstance(schedule := self._settings[name].schedule, Plateau):
                check_monitor(schedule.monitor, self.trainer)

    def on_train_epoch_start(self) -> None:
        """Reset the sums of the epoch, and remove the rows of the trials that have left."""
        self._sums.clear()  # those of a validation too, which need not come in this epoch
        if self._left and self.live:  # not at the end of an epoch, where callbacks still read all of its trials
            self._compact()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the number of the step, which the trials' dropout depends on."""
        self._step.fill_(step_number(self.current_epoch, batch_idx))

    def on_validation_epoch_start(self) -> None:
        """Reset the sums of the validation."""
        self._sums.pop("val", None)

    def on_test_epoch_start(self) -> None:
        """Reset the sums of the test."""
        self._sums.pop("test", None)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation, and pass them to the plateaus."""
        self._log_metrics("val")
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._update_plateaus("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test."""
        self._log_metrics("test")

    def on_train_epoch_end(self) -> None:
        """Log the metrics of the training, and pass them to the plateaus."""
        self._log_metrics("train")
        self._update_plateaus("train")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the names of the trials in the checkpoint."""
        checkpoint["trials"] = list(self.names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other trials."""
        if checkpoint.get("trials") != self.names:
            raise ValueError(
                f"the checkpoint must be of the trials {self.names}, but it is of {checkpoint.get('trials')}"
            )

    # -- the work ----------------------------------------------------------------------------------------------------

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        inputs, labels = batch
        per_trial = self._is_per_trial(labels)
        if per_trial:
            inputs, labels = self._wanted(inputs), self._wanted(labels)
        outputs = self(inputs, per_trial)
        if not per_trial:
            labels = labels.expand(len(outputs), *labels.shape)
        outputs = of_one_shape(self.task, outputs, labels)
        losses = self.criterion.of_each(outputs, labels)
        kept = at_least_float32(losses.detach())
        metrics = metrics_of(self.task, outputs.detach().flatten(0, 1), labels.flatten(0, 1)).values()
        means = [each.view(labels.shape[:2]).to(kept.dtype).mean(dim=1) for each in metrics]
        self._add(stage, torch.stack([kept, *means]), labels.shape[1])
        return losses

    def _is_per_trial(self, labels: Any) -> bool:
        """Return whether a batch has one part for each trial, which the loaders of classes can give."""
        return self.task == "classification" and isinstance(labels, Tensor) and labels.ndim == 2

    def _wanted(self, batches: Tensor) -> Tensor:
        """Return the batches [K, batch, ...] of the trials that have not been removed."""
        return batches if self._batch_rows is None else batches[self._batch_rows]

    def _add(self, stage: str, means: Tensor, batch_size: int) -> None:
        """Add to the epoch's sums [metrics, K], with the same rounding as a Classifier."""
        sums, count = self._sums.get(stage, (torch.zeros((), device=means.device), 0))
        self._sums[stage] = sums + means * batch_size, count + batch_size

    def _look_at_network(self, inputs: Tensor) -> list[str]:
        """Return the names of the weights that autocast rounds wherever they are used.

        Args:
            inputs: A batch of one trial.

        Raises:
            ValueError: If the network replaces its buffers by new tensors, which `vmap` would lose.
        """
        stacks = [*self.model.parameters(), *self.model.buffers()]
        alone = copy.deepcopy(self.model, {id(stack): stack.detach()[0].clone() for stack in stacks})
        buffers = dict(alone.named_buffers())
        trained = [name for name, stack in self.model.named_parameters() if stack.requires_grad]
        uses = AutocastUses(alone.named_parameters())
        with torch.no_grad(), DropoutBySeed(self._seeds[0], self._step), uses:  # leaves torch's generator alone
            alone(inputs)
        for name, buffer in alone.named_buffers():
            if buffer is not buffers[name]:
                raise ValueError(f"{name} is replaced in the forward pass: change buffers in place to fuse trials")
        return [name for name in trained if name in uses.names]

    def _log_metrics(self, stage: str) -> None:
        for name, metrics in self.metrics(stage).items():
            self.log_dict({f"{metric}/{name}": value for metric, value in metrics.items()})

    def _update_plateaus(self, stage: str) -> None:
        """Pass each plateau the metric of its trial, if it is a metric of this stage."""
        for name, metrics in self.metrics(stage).items():
            schedule = self._settings[name].schedule
            if isinstance(schedule, Plateau) and is_of_training(schedule.monitor) == (stage == "train"):
                self._optimizer.update_plateau(name, monitored(metrics, schedule.monitor))

    def _compact(self) -> None:
        live = self.live
        rows = [self.names.index(name) for name in live]
        for stacked in [*self.model.parameters(), *self.model.buffers()]:
            stacked.grad = None
            stacked.data = stack([stacked.data[row] for row in rows])
        self._optimizer.keep(live)
        self._evaluation.keep(rows)
        kept = torch.tensor(rows, device=self.device)
        self._seeds = self._seeds[kept]
        self._batch_rows = kept if self._batch_rows is None else self._batch_rows[kept]
        self.names, self._left = live, set()


def _as_tensor(seeds: Sequence[int]) -> Tensor:
    return torch.tensor([as_int64(seed) for seed in seeds])


def can_fuse(classifiers: Sequence[Classifier], inputs: Tensor) -> str | None:
    """Return why trials cannot be trained as one vectorized model, or None if they can.

    Args:
        classifiers: The trials' classifiers.
        inputs: A batch of one trial; only its first two inputs are used.
    """
    try:
        check_alike([classifier.model for classifier in classifiers], [str(index) for index in range(len(classifiers))])
        fused = FusedClassifier(classifiers[:2])
        fused(inputs[:2]).sum().backward()
        fused.eval()(inputs[:2])
    except Exception as error:  # from vmap or the network
        return " ".join(str(error).split())
    return None
