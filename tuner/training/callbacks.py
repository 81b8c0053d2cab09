"""Callbacks and loggers that the tuner adds to a Lightning training: history, reports and the end of the training."""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers.logger import Logger

from lightning_modules import Classifier, PlateauState, ScheduleLR
from lightning_modules.evaluation import evaluated_state
from lightning_modules.losses import Task
from lightning_modules.lr_scheduler import scheduled_values
from tuner.config.study import Objective
from tuner.protocol import Decision, EpochReport, Point, StepReport
from tuner.text import cut
from tuner.training.experiment_proxy import ExperimentProxy

__all__ = [
    "DivergenceStop",
    "EpochMetrics",
    "History",
    "LastCallback",
    "LrLog",
    "MemoryLogger",
    "PlateauResume",
    "Predictions",
    "Reporter",
    "StepCheck",
]


class MemoryLogger(Logger):
    """Base of loggers that keep metrics in memory: everything that Lightning requires, except for `log_metrics`."""

    @property
    def name(self) -> str:
        """Return a name, which Lightning requires."""
        return "history"

    @property
    def version(self) -> int:
        """Return a version, which Lightning requires."""
        return 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Ignore hyperparameters: the coordinator records the trial's configuration."""


class History(MemoryLogger):
    """Logger that keeps all metrics of a training in memory, in order. Checkpoints save and restore them.

    Args:
        folder: The trial's folder.
        note: Called with messages for the user.
    """

    def __init__(self, folder: Path, note: Callable[[str], None] = lambda text: None) -> None:
        super().__init__()
        self.points: list[Point] = []
        self.open = True
        self.records = ExperimentProxy(folder, lambda key, value, step: self.log_metrics({key: value}, step))
        self._note = note
        self._held: list[Point] | None = None
        self._refused: set[str] = set()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append metrics, except Lightning's own `epoch`. `Reporter` adds the metrics of whole epochs."""
        if not self.open:
            return
        points = self.points if self._held is None else self._held
        for key, value in metrics.items():
            if key != "epoch" and key not in self._refused:
                try:
                    points.append((key, int(step or 0), float(value)))
                except (TypeError, ValueError):
                    self._refused.add(key)
                    self._note(f"logs {key}, which is not a number and not recorded: {cut(repr(value))}")

    @property
    def experiment(self) -> ExperimentProxy:
        """Return the proxy of the trial's run, for a user's module that logs to it."""
        return self.records

    @property
    def run_id(self) -> str:
        """Return a placeholder for the run id: only the coordinator knows MLflow's."""
        return "trial"

    def hold(self) -> None:
        """Keep metrics that are logged from now on apart, until `release`."""
        self._held = []

    def release(self, without: Collection[str]) -> None:
        """Append the metrics that were kept apart, except those with these names."""
        self.points += [point for point in self._held or () if point[0] not in without]
        self._held = None

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
        """Restore the points from a checkpoint."""
        self.points = [
            (key, step, value)
            for key, series in state.items()
            for step, value in zip(series["steps"].tolist(), series["values"].tolist(), strict=True)
        ]


class LrLog(pl.Callback):
    """Logs the lr of every step, for user modules; with several optimizers, the lr of the first."""

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Log the lr of the coming update, and what else a `ScheduleLR` schedules."""
        if optimizer is trainer.optimizers[0]:
            for logger in trainer.loggers:
                logger.log_metrics(scheduled_values(optimizer.param_groups), step=trainer.global_step)


class PlateauResume(pl.Callback):
    """Makes plateau schedulers of a user's module resumable, and reports a plateau that gets no metric.

    Lightning passes the metric to a plateau scheduler (``"reduce_on_plateau": True``) after the last hook of an epoch,
    in which the checkpoint is saved. So the checkpoint stores the metric, and a resumed training passes it first.

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


class DivergenceStop(pl.Callback):
    """Ends a training whose loss is NaN or infinite: at once on a CPU, within `every` steps on a GPU.

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
            if not trainer.strategy.reduce_boolean_decision(bool(self._finite)):  # false if it is on any rank
                self.diverged_at = trainer.global_step - 1
                trainer.should_stop = True
                trainer.limit_val_batches = 0  # a diverged training needs no validation
            self._finite = None

    def reads_after(self, trainer: pl.Trainer, device: torch.device, batch_idx: int) -> bool:
        """Return whether the losses are read after this batch."""
        return device.type == "cpu" or (batch_idx + 1) % self.every == 0 or trainer.is_last_batch


class Predictions(pl.Callback):
    """Keeps a network's outputs for the test data, and the inputs of its worst mistakes.

    If a user's module is no classifier, only an example of the inputs is kept.

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
        """Return the kept tensors; those of a module that is no classifier are empty.

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


class StepCheck(pl.Callback):
    """Times the steps of a training, counts its parameters, and checks the batches and outputs of a `Classifier`."""

    def __init__(self) -> None:
        self.parameters, self.seconds = 0, 0.0
        self._began = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Count the parameters."""
        self.parameters = sum(parameter.numel() for parameter in module.parameters())

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Check the first batch and the network's outputs for it.

        Raises:
            ValueError: If they do not fit together.
        """
        if type(module) is Classifier and trainer.global_step == 0 and batch_idx == 0:
            inputs, labels = _pair(batch, module.task)
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                outputs = module(inputs)
            if module.task == "classification":
                _check_outputs(outputs, labels, getattr(trainer.train_dataloader, "labels", labels))
            else:
                _check_numbers(outputs, labels, module.task)
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the time of the fastest step: the first steps include one-time setup."""
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        taken = time.perf_counter() - self._began
        self.seconds = min(self.seconds or taken, taken)


def _pair(batch: Any, task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    own = "your own LightningModule can take any"
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        kind = f"{type(batch).__name__}{size}"
        raise ValueError(f"a batch must be a pair of inputs and labels, but the data give a {kind}; {own}")
    inputs, labels = batch
    found = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, torch.Tensor) else type(labels).__name__
    if not isinstance(labels, torch.Tensor):
        raise ValueError(f"labels must be a tensor, but the data give {found}; {own}")
    if task == "classification" and (labels.ndim != 1 or labels.is_floating_point()):
        raise ValueError(f"labels must be the numbers of classes, int64 [batch], but the data give {found}; {own}")
    if task == "multi_label" and (labels.ndim != 2 or not ((labels == 0) | (labels == 1)).all()):
        raise ValueError(f"labels must be 0 or 1, [batch, labels], but the data give {found}; {own}")
    if task == "regression" and labels.ndim not in (1, 2):
        raise ValueError(f"labels must be numbers, [batch] or [batch, numbers], but the data give {found}; {own}")
    return inputs, labels


def _check_numbers(outputs: Any, labels: torch.Tensor, task: Task) -> None:
    """Refuse outputs that are not as many as the labels."""
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


def _are_logits(outputs: Any, labels: Any) -> bool:
    """Return whether outputs are logits [n, classes] for labels [n]."""
    tensors = isinstance(outputs, torch.Tensor) and isinstance(labels, torch.Tensor)
    return tensors and outputs.ndim == 2 and labels.shape == outputs.shape[:1] and not labels.is_floating_point()


class LastCallback(Checkpoint):
    """Base of callbacks whose hooks run after those of all other callbacks and, at an epoch's end, of the module.

    Lightning calls `Checkpoint` callbacks last, so they see the metrics that the module logs in its own
    ``on_train_epoch_end``. A checkpoint that is saved there has the other callbacks' states of the same epoch.
    """

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Move to the end of the callbacks, after those that the module has added."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [*(each for each in callbacks if each is not self), self]  # type: ignore[attr-defined]


@dataclass
class EpochMetrics:
    """The metrics of an epoch.

    Args:
        seen: The values that callbacks such as Lightning's ModelCheckpoint see.
        points: The points that loggers get at the end of the epoch.
    """

    seen: dict[str, float] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)

    @classmethod
    def same_for_all(cls, metrics: Mapping[str, float], step: int) -> "EpochMetrics":
        """Return metrics that callbacks and loggers both see."""
        return cls(dict(metrics), [(key, step, value) for key, value in metrics.items()])

    @property
    def names(self) -> list[str]:
        """Return the names of the metrics that loggers get."""
        return [key for key, _, _ in self.points]

    def add_running_loop(self, trainer: pl.Trainer) -> None:
        """Add the metrics of the loop that is about to end: the training epoch or its validation.

        ``trainer.callback_metrics`` also has metrics of earlier epochs, and cannot tell them apart.
        """
        results, current = trainer._results, trainer.callback_metrics
        if results is None:
            return
        logged: dict[str, float] = {}
        for metric in results.values():
            if metric.has_reset or not (results.training or metric.meta.on_epoch):
                continue
            names = results._forked_name(metric, on_step=False)
            self.seen |= {name: float(current[name]) for name in names if name in current}
            if metric.meta.on_epoch and metric.meta.logger:
                logged[names[1]] = self.seen[names[1]]
        step = int(logged.pop("step", trainer.global_step))  # like Lightning, which uses a metric "step" as the step
        self.points += [(key, step, value) for key, value in logged.items()]


class Reporter(LastCallback):
    """Reports steps and epochs to the coordinator, saves checkpoints, and carries out the decisions.

    Args:
        objective: The objective. If the best epoch counts, the value and the weights of that one are kept.
        history: The training's logger.
        report: Called with an `EpochReport`; returns the decision.
        progress: Called with a `StepReport` at most twice a second.
        save: Called with the number of an epoch that can be continued from, and whether it must be saved.
        has_diverged: Returns whether the training ends without a value because its loss is not finite.
        trial: Digest of the trial's configuration, which is stored in its checkpoints.
    """

    PROGRESS_SECONDS = 0.5

    def __init__(
        self,
        objective: Objective,
        history: History,
        report: Callable[[EpochReport], Decision],
        progress: Callable[[StepReport], None],
        save: Callable[[int, bool], None],
        has_diverged: Callable[[], bool] = lambda: False,
        trial: str = "",
    ) -> None:
        self.objective, self.history, self.report, self.progress, self.save = objective, history, report, progress, save
        self.has_diverged, self.trial = has_diverged, trial
        self.weights: dict[str, torch.Tensor] | None = None  # of the best epoch
        self.decision: Decision = "continue"
        self.value: float | None = None
        self.epochs = 0
        self.valued_epoch = 0  # the last epoch that logged the objective
        self.is_finite = True  # whether the last objective was
        self.names: set[str] = set()  # of all metrics of all epochs
        self.validated = False
        self._validation_batches: dict[int, int] = {}
        self._reported = 0
        self._next_progress = 0.0
        self._first_lr: float | None = None
        self._metrics = EpochMetrics()

    def state_dict(self) -> dict[str, Any]:
        """Return the history and the progress, for the checkpoint."""
        state = {
            "trial": self.trial,
            "history": self.history.state(),
            "records": {"params": self.history.records.params, "tags": self.history.records.tags},
            "epoch": self.epochs,
            "value": self.value,
            "valued_epoch": self.valued_epoch,
            "is_finite": self.is_finite,
            "validation_batches": self._validation_batches,
        }
        if self.decision == "pause":
            state["decision"] = self.decision
        return state if self.weights is None else {**state, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore history and progress from a checkpoint."""
        self.history.restore(state_dict["history"])
        for kind, values in state_dict.get("records", {}).items():
            getattr(self.history.records, kind).update(values)
        self.epochs, self.value = state_dict["epoch"], state_dict["value"]
        self.weights = state_dict.get("weights")
        self.valued_epoch = state_dict.get("valued_epoch", self.epochs)
        self.is_finite = state_dict.get("is_finite", True)
        self._validation_batches = state_dict.get("validation_batches", {})
        self.decision = state_dict.get("decision", "continue")

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """End at once if the training waits at a rung."""
        if self.waits(trainer):
            trainer.should_stop = True

    def waits(self, trainer: pl.Trainer) -> bool:
        """Return whether a training that was paused, whose result may not have been written, has to wait again."""
        if self.decision == "pause":
            report = EpochReport(self.epochs, self.value, (), lr_rose=False, step=self._step(trainer))
            self.decision = self.report(report)
        return self.decision == "pause"

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start recording metrics of the epoch."""
        self.history.open = True
        self._first_lr = None
        self._metrics = EpochMetrics()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """In a resumed training, continue the batch count that Lightning uses as the step of validation metrics."""
        self.validated = True
        seen = trainer.fit_loop.epoch_loop.val_loop._seen_batches_per_dataloader
        for index, count in self._validation_batches.items():
            seen[index] = max(seen[index], count)

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Hold back the metrics that Lightning logs for the whole validation."""
        self.history.hold()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Add the metrics of the validation."""
        self._metrics.add_running_loop(trainer)
        self.history.release(without=self._metrics.names)
        self._validation_batches = dict(trainer.fit_loop.epoch_loop.val_loop._seen_batches_per_dataloader)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the progress, at most twice a second."""
        if self._first_lr is None:
            self._first_lr = self._lr()
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + self.PROGRESS_SECONDS
            self.progress(self._step(trainer))

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Report the epoch, unless the training has diverged in it."""
        self._metrics.add_running_loop(trainer)
        self.history.open = False  # Lightning logs these later, at another step and after the checkpoint
        report = self.end_epoch(trainer, None if self.has_diverged() else self._metrics)
        goes_on = report is not None and self.continues(report, self.report(report))
        if self.decision in ("prune", "pause", "stop"):
            trainer.should_stop = True
        if goes_on:
            self.save(self.epochs, self.decision in ("pause", "stop"))

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Record the metrics that the module logs after its last epoch."""
        self.history.open = True

    def end_epoch(self, trainer: pl.Trainer, metrics: EpochMetrics | None) -> EpochReport | None:
        """Record an epoch, and return its report; None if the training ends without one, as it has diverged.

        Args:
            trainer: The trainer at the end of the epoch.
            metrics: The epoch's metrics; None if the training diverged in it.
        """
        self.epochs = trainer.current_epoch + 1
        if metrics is None:
            return None
        metric = self.objective.metric
        value = metrics.seen.get(metric)
        self.history.points += metrics.points
        if value is not None and metric not in metrics.names:  # logged with logger=False, but the study shows it
            self.history.points.append((metric, trainer.global_step, value))
        self.names |= metrics.seen.keys()
        if value is not None:
            self.valued_epoch, self.is_finite = self.epochs, math.isfinite(value)
        if not self.is_finite:
            return None
        if value is not None:
            self._update_value(value, trainer)
        points = self.history.points[self._reported :]
        self._reported = len(self.history.points)
        last_lr = self._lr()
        rose = self._first_lr is not None and last_lr > self._first_lr
        is_last = self.epochs == trainer.max_epochs or (trainer.should_stop and trainer.fit_loop._can_stop_early)
        return EpochReport(self.epochs, value, points, rose, self._step(trainer), is_last)

    def continues(self, report: EpochReport, decision: Decision) -> bool:
        """Take the decision on a report, and return whether the training continues from its epoch, now or later."""
        self.decision = decision
        return decision in ("pause", "stop") or (decision == "continue" and not report.is_last)

    def _update_value(self, value: float, trainer: pl.Trainer) -> None:
        """Use an epoch's value as the trial's; if the best epoch counts, only if it is better, and keep its weights."""
        if self.objective.epoch == "last":
            self.value = value
            return
        if self.value is None or self.objective.direction.better(value, self.value):
            self.value = value
            state = evaluated_state(trainer.lightning_module)
            self.weights = {key: tensor.detach().cpu().clone() for key, tensor in state.items()}

    def _lr(self) -> float:
        return next((value for key, _, value in reversed(self.history.points) if key == "lr"), math.nan)

    def _step(self, trainer: pl.Trainer) -> StepReport:
        try:
            total = max(0, int(trainer.estimated_stepping_batches))
        except MisconfigurationException:  # the module changes the number of batches per step
            total = 0
        return StepReport(trainer.current_epoch, trainer.global_step, total, self._lr())
