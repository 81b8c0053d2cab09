"""The callback that reports a run's epochs to the coordinator and carries out its decisions."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Checkpoint

from lightning_modules.evaluation import evaluated_state
from tuner.config.objectives import MEASURED
from tuner.config.study import Objective
from tuner.protocol import Assignment, Channel, Decision, EpochReport, Point, StepReport
from tuner.training.history import History
from tuner.training.real_metrics import real_number

__all__ = ["EpochMetrics", "LastCallback", "Reporter", "reporter_of"]


class LastCallback(Checkpoint):
    """Base of callbacks whose hooks run after all other callbacks' and, at an epoch's end, the module's.

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
            self.seen |= {name: real_number(name, current[name]) for name in names if name in current}
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
        further: The further objectives.

    Attributes:
        others: The values of the further objectives that are logged, in the epoch of the value.
        seconds: How long its epochs took, without validation.
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
        further: Sequence[Objective] = (),
    ) -> None:
        self.further = further
        self.others: dict[str, float] = {}
        self.seconds = 0.0
        self._began = self._paused = 0.0  # times of the monotonic clock
        self.objective, self.history, self.report, self.progress, self.save = objective, history, report, progress, save
        self.has_diverged, self.trial = has_diverged, trial
        self.weights: dict[str, torch.Tensor] | None = None  # weights of the best epoch
        self.decision: Decision = "continue"
        self.value: float | None = None
        self.epochs = 0
        self.valued_epoch = 0  # the last epoch that logged the objective
        self.is_finite = True  # whether the objective's last value was finite
        self.names: set[str] = set()  # names of all metrics of all epochs
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
        if self.further:
            state |= {"others": self.others, "seconds": self.seconds}
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
        self.others, self.seconds = state_dict.get("others", {}), state_dict.get("seconds", 0.0)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """End at once if the training waits at a rung."""
        if self.waits(trainer):
            trainer.should_stop = True

    def waits(self, trainer: pl.Trainer) -> bool:
        """Return whether a paused run, whose result may not have been written, must wait again."""
        if self.decision == "pause":
            report = EpochReport(self.epochs, self.value, (), lr_rose=False, step=self._step(trainer))
            self.decision = self.report(report)
        return self.decision == "pause"

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start recording metrics of the epoch."""
        self.history.open = True
        self._first_lr = None
        self._metrics = EpochMetrics()
        self._began = time.monotonic()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """In a resumed training, continue the batch count that Lightning uses as the step of validation metrics."""
        self.validated = True
        self._paused = time.monotonic()
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
        self._began += time.monotonic() - self._paused
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
        self._metrics.add_running_loop(trainer)  # waits for a GPU
        self.seconds += time.monotonic() - self._began
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

        Raises:
            ValueError: If a metric has the name of a further objective that is measured.
        """
        self.epochs = trainer.current_epoch + 1
        if metrics is None:
            return None
        value = metrics.seen.get(self.objective.metric)
        self.history.add(metrics.points)
        for metric in (each.metric for each in (self.objective, *self.further)):
            if (
                metric in metrics.seen and metric not in metrics.names
            ):  # logged with logger=False, but the study shows it
                self.history.points.append((metric, trainer.global_step, metrics.seen[metric]))
        self.names |= metrics.seen.keys()
        for metric in (each.metric for each in self.further if each.metric in MEASURED and each.metric in self.names):
            raise ValueError(f"{metric} is an objective that is measured, so no logged metric can have that name")
        if value is not None:
            self.valued_epoch, self.is_finite = self.epochs, math.isfinite(value)
        if not self.is_finite:
            return None
        if value is not None and self._update_value(value, trainer):
            self.others = {
                each.metric: metrics.seen[each.metric] for each in self.further if each.metric in metrics.seen
            }
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

    def _update_value(self, value: float, trainer: pl.Trainer) -> bool:
        """Use an epoch's value as the trial's, and return whether it is.

        If the best epoch counts, it is only if it is better, and its weights are kept.
        """
        if self.objective.epoch == "last":
            self.value = value
            return True
        if self.value is None or self.objective.direction.better(value, self.value):
            self.value = value
            state = evaluated_state(trainer.lightning_module)
            self.weights = {key: tensor.detach().cpu().clone() for key, tensor in state.items()}
            return True
        return False

    def _lr(self) -> float:
        return next((value for key, _, value in reversed(self.history.points) if key == "lr"), math.nan)

    def _step(self, trainer: pl.Trainer) -> StepReport:
        try:
            total = max(0, int(trainer.estimated_stepping_batches))
        except MisconfigurationException:  # the module changes the number of batches per step
            total = 0
        return StepReport(trainer.current_epoch, trainer.global_step, total, self._lr())


def reporter_of(
    assignment: Assignment,
    history: History,
    channel: Channel,
    save: Callable[[int, bool], None],
    has_diverged: Callable[[], bool] = lambda: False,
) -> Reporter:
    """Return the reporter of a trial."""
    return Reporter(
        objective=assignment.objective,
        history=history,
        report=lambda report: channel.report({assignment.number: report})[assignment.number],
        progress=lambda step: channel.progress(assignment.number, step),
        save=save,
        has_diverged=has_diverged,
        trial=assignment.config.digest,
        further=assignment.further,
    )
