"""Train K trials as one vectorized model.

The trials of a schedule study are the same network with different numbers. Stacked into one model, K of them need one
sequence of kernel launches instead of K, and launches are the bottleneck of a small network on a large GPU.
"""

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning, StochasticWeightAveraging
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.func import functional_call, vmap

from lightning_modules.callbacks import check_monitor, is_of_training, monitored
from lightning_modules.classifier import Classifier
from lightning_modules.dropout import DropoutBySeed, as_int64, step_number
from lightning_modules.evaluation import evaluated_state
from lightning_modules.fused.attributes import attributes, changed
from lightning_modules.fused.evaluation import FusedEvaluationWeights
from lightning_modules.fused.layers import StackedLayers
from lightning_modules.fused.network import look_at, why_not
from lightning_modules.fused.optimizer import FusedOptimizer
from lightning_modules.fused.randomness import draws
from lightning_modules.fused.recorded_step import CudaGraph, RecordedStep, Recorder
from lightning_modules.fused.stacking import CannotFuseError, check_alike, rows_of, stack, stack_models
from lightning_modules.fused.sums import Sums
from lightning_modules.kernels.bf16_linear import gradients_are_read
from lightning_modules.losses import OwnLoss
from lightning_modules.schedules import Plateau
from lightning_modules.tasks import METRICS, at_least_float32, metrics_of, of_one_shape

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
        recorder: How a Trainer records the step in order to replay it: by default as a CUDA graph on a GPU, and not at
            all on other devices. `RecordedStep` has the details.
        note: Called once with the reason if the step cannot be recorded.

    Raises:
        ValueError: If the networks or losses differ, or the numbers of classifiers, seeds and names.
    """

    def __init__(
        self,
        classifiers: Sequence[Classifier],
        seeds: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        *,
        recorder: Recorder | None = None,
        note: Callable[[str], None] = warnings.warn,
    ) -> None:
        super().__init__()
        count = len(classifiers)
        self.names = list(names or map(str, range(count)))
        seeds = seeds or range(count)
        if not count == len(set(self.names)) == len(seeds) > 0:
            raise ValueError(
                "there must be one seed and one unique name for each classifier, "
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
        self._roundable: list[str] | None = None  # names of these weights; set by the first training step
        self._stages_seen: set[str] = set()  # in which the loss was examined
        self._sums = Sums()
        self._recorder, self._note = recorder, note
        self._recorded: RecordedStep | None = None  # set while a Trainer trains

    # -- trials --------------------------------------------------------------------------------------------------------

    @property
    def live(self) -> list[str]:
        """Names of the trials that are still trained, in the order of their rows."""
        return [name for name in self.names if name not in self._left]

    @property
    def is_settled(self) -> bool:
        """Whether the choice between replayed and eager steps has been made."""
        return self._recorded is None or self._recorded.is_settled

    @property
    def is_recorded(self) -> bool:
        """Whether the steps of a run are replayed from a recording."""
        return self._recorded is not None and self._recorded.is_recorded

    def leave(self, name: str) -> None:
        """Stop training a trial. Its weights stay unchanged until the next epoch begins, when its rows are removed."""
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
        if (found := self._sums.means(stage)) is None:
            return {}
        means = dict(zip(("loss", *METRICS[self.task]), found, strict=True))
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
            # Dropout outside of training uses torch's noise: vmap refuses it, and such trials are trained alone.
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
        losses = None
        if self._recorded is not None and self._roundable is not None:  # the first step inspects network and loss
            losses = self._recorded.run(*batch)
        if losses is None:
            losses = self._examined("train", batch)
        self._count(batch, "train")
        return {"loss": losses.sum(), "losses": losses.detach()}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients, unless a recorded step has used them already."""
        if not self._optimizer.is_launched:
            super().backward(loss, *args, **kwargs)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Make a step, and compare it with the recorded one if that is to be verified."""
        super().optimizer_step(*args, **kwargs)
        if self._recorded is not None:
            self._recorded.verify()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accumulate the losses and accuracies of a validation batch."""
        self._examined("val", batch)
        self._count(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accumulate the losses and accuracies of a test batch."""
        self._evaluate(batch, "test")
        self._count(batch, "test")

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
        _clip(gradients, gradient_clip_val, gradient_clip_algorithm)

    def on_train_start(self) -> None:
        """Reject a plateau that no metric will reach, and decide whether rounded weights are trained."""
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
        self._roundable = None  # the first step of this run inspects network and loss
        self._stages_seen.clear()
        recorder = self._recorder or (CudaGraph if self.device.type == "cuda" else None)
        if recorder is not None:
            self._recorded = RecordedStep(recorder, self._step_of_device, self._changed, self._optimizer, self._note)
            if reason := self._why_not_recorded():
                self._recorded.refuse(reason)

    def on_train_epoch_start(self) -> None:
        """Reset the sums of the epoch, and remove the rows of the trials that have left."""
        for stage in ("train", "val"):  # this epoch may have no validation
            self._sums.reset(stage)
        if self._left and self.live:  # not at the end of an epoch, where callbacks still read all of its trials
            self._compact()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the number of the step, which the trials' dropout depends on."""
        self._step.fill_(step_number(self.current_epoch, batch_idx))

    def on_validation_epoch_start(self) -> None:
        """Reset the sums of the validation."""
        self._sums.reset("val")

    def on_test_epoch_start(self) -> None:
        """Reset the sums of the test."""
        self._sums.reset("test")

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation, and pass them to the plateaus."""
        self._log_metrics("val")
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._update_plateaus("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test."""
        self._log_metrics("test")

    def on_train_end(self) -> None:
        """Drop the recorded step."""
        if self._recorded is not None:
            self._recorded.forget()

    def on_train_epoch_end(self) -> None:
        """Log the metrics of the training, and pass them to the plateaus."""
        self._log_metrics("train")
        self._update_plateaus("train")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the names of the trials in the checkpoint."""
        checkpoint["trials"] = list(self.names)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reject a checkpoint of other trials."""
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
        self._sums.add(stage, torch.stack([kept, *means]) * labels.shape[1])
        return losses

    def _count(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        labels = batch[1]
        self._sums.count(stage, labels.shape[1] if self._is_per_trial(labels) else len(labels))

    def _is_per_trial(self, labels: Any) -> bool:
        """Return whether a batch has one part for each trial, as custom loaders may yield."""
        return self.task == "classification" and isinstance(labels, Tensor) and labels.ndim == 2

    def _wanted(self, batches: Tensor) -> Tensor:
        """Return the batches [K, batch, ...] of the trials that have not been removed."""
        return batches if self._batch_rows is None else batches[self._batch_rows]

    def _step_of_device(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Make a whole step, and return the losses [K]; the CPU's share is done by `FusedOptimizer.prepare`."""
        torch.clear_autocast_cache()  # a recording must round the weights itself
        losses = self._evaluate((inputs, labels), "train")
        with torch.autocast(inputs.device.type, enabled=False):
            sources = self._optimizer.sources
            trained = [index for index, source in enumerate(sources) if source.requires_grad]
            gradients = torch.autograd.grad(losses.sum(), [sources[index] for index in trained], allow_unused=True)
            found = {index: each for index, each in zip(trained, gradients, strict=True) if each is not None}
            with torch.no_grad():
                _clip([*found.values()], self.trainer.gradient_clip_val, self.trainer.gradient_clip_algorithm)
                self._optimizer.launch(found)
        torch.clear_autocast_cache()
        return losses.detach()

    def _changed(self) -> dict[str, Tensor]:
        """Return what `_step_of_device` changes, except for the optimizer's tensors."""
        trained = {name: stack for name, stack in self.model.named_parameters() if stack.requires_grad}
        sums = zip(("loss", *METRICS[self.task]), self._sums.tensor("train"), strict=True)
        return {**trained, **dict(self.model.named_buffers()), **{f"train/{key}": each for key, each in sums}}

    def _why_not_recorded(self) -> str:
        """Return why a step cannot be recorded, as far as the Trainer's settings say; empty if it may."""
        if type(self) is not FusedClassifier:
            return f"{type(self).__name__} may change the step"
        if gradients_are_read(self.trainer):
            return "a callback may read the gradients"
        if self.trainer.accumulate_grad_batches > 1:
            return "gradients are accumulated over several batches"
        if not isinstance(self.trainer.strategy, SingleDeviceStrategy):
            return "training uses several processes"
        return ""

    def _look_at_network(self, inputs: Tensor) -> list[str]:
        """Return the names of the weights that autocast rounds wherever they are used.

        Args:
            inputs: A batch of one trial.

        Raises:
            ValueError: If the network replaces its buffers by new tensors, which `vmap` would lose.
        """
        found = look_at(self.model, inputs, DropoutBySeed(self._seeds[0], self._step))
        if self._recorded is not None and found.changed:
            self._recorded.refuse(f"the network changes {found.changed} when it is called")
        return found.rounded

    def _examined(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Evaluate a batch; the first one of a stage examines a loss that was written by the user.

        Raises:
            CannotFuseError: If the loss draws random numbers, or changes when it is called: the trials would share the
                generator or the change. If a single trial's loss changes, steps are not recorded.
        """
        if stage in self._stages_seen or not isinstance(self.criterion, OwnLoss):
            return self._evaluate(batch, stage)
        self._stages_seen.add(stage)
        before = attributes(self.criterion.function, buffers=True)
        with draws(self.device) as drawn:
            losses = self._evaluate(batch, stage)
        if drawn:
            raise CannotFuseError(f"the loss draws random numbers from {' and '.join(drawn)}")
        if name := changed(before, attributes(self.criterion.function, buffers=True)):
            if len(self.names) > 1:
                raise CannotFuseError(f"the loss changes {name} when it is called")
            if self._recorded is not None and not self._recorded.reason:
                self._recorded.refuse(f"the loss changes {name} when it is called")
        return losses

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
        self._sums.clear()
        kept = torch.tensor(rows, device=self.device)
        self._seeds = self._seeds[kept]
        self._batch_rows = kept if self._batch_rows is None else self._batch_rows[kept]
        self.names, self._left = live, set()


def _clip(gradients: list[Tensor], limit: float | None, algorithm: str | None) -> None:
    """Clip the gradients [K, ...] of each trial by the norm of that trial, or all gradients by value, in place."""
    if not limit or not gradients:
        return
    if algorithm == "value":
        torch._foreach_clamp_max_(gradients, limit)
        torch._foreach_clamp_min_(gradients, -limit)
        return
    norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
    shares = (limit / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(shares.view(-1, *(1,) * (gradient.ndim - 1)))


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
    except Exception as error:  # vmap or the network can raise anything
        return why_not(error) or " ".join(str(error).split())
    return None
