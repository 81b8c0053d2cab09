"""Callbacks and checkpoints of a group of trials in one Trainer; each trial gets what it would get alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch

from lightning_modules import FusedClassifier, merge_checkpoints, split_checkpoint
from lightning_modules.lr_scheduler import OPTIONS
from tuner.protocol import Decision, EpochReport
from tuner.training.callbacks import DivergenceStop
from tuner.training.checkpoints import AtomicCheckpointIO
from tuner.training.history import History, MemoryLogger
from tuner.training.reporter import EpochMetrics, LastCallback, Reporter

__all__ = ["FusedCheckpointIO", "FusedHistory", "FusedReporter", "FusedTrial"]


@dataclass
class FusedTrial:
    """One trial of the group.

    Args:
        history: Its metrics.
        reporter: Its reporter.
        diverged_at: Step of its first loss that was not finite; None if all were.
    """

    history: History
    reporter: Reporter
    diverged_at: int | None = None


class FusedHistory(MemoryLogger):
    """Logger that passes each trial's lr, and what else is scheduled, to its history.

    `FusedReporter` adds the metrics of the epochs.
    """

    def __init__(self, trials: Mapping[str, FusedTrial]) -> None:
        super().__init__()
        self._trials = trials

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append the scheduled values."""
        for key, value in metrics.items():
            metric, _, name = key.rpartition("/")
            if metric.partition("/")[0] in ("lr", *OPTIONS):
                self._trials[name].history.log_metrics({metric: value}, step)


class FusedReporter(LastCallback):
    """Watches and reports each trial as if it were alone, and removes it from the group when it is over.

    Args:
        trials: The trials by name.
        report: Called with the reports of an epoch, by name; returns the decisions.
        save: Called with the number of an epoch that can be continued from, and whether it must be saved.
        leave: Called with the name of a trial that has diverged, or is pruned or paused, at the end of its last epoch.
    """

    def __init__(
        self,
        trials: Mapping[str, FusedTrial],
        report: Callable[[Mapping[str, EpochReport]], Mapping[str, Decision]],
        save: Callable[[int, bool], None],
        leave: Callable[[str], None],
    ) -> None:
        self.trials, self.report, self.save, self.leave = trials, report, save, leave
        self.continuing: list[str] = []
        self.was_asked_to_stop = False
        self._divergence = DivergenceStop()
        self._finite: torch.Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the trials' reporters."""
        return {name: trial.reporter.state_dict() for name, trial in self.trials.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states from a checkpoint."""
        for name, trial in self.trials.items():
            trial.reporter.load_state_dict(state_dict[name])

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Remove the trials that wait at a rung."""
        fused = _fused(module)
        for name in [each for each in fused.names if self.trials[each].reporter.waits(trainer)]:
            fused.leave(name)
            self.leave(name)
        if not fused.live:
            trainer.should_stop = True

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the epoch of each trial."""
        for name in _fused(module).live:
            self.trials[name].reporter.on_train_epoch_start(trainer, module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remove trials whose loss is not finite, and report the progress of the others."""
        fused = _fused(module)
        finite = torch.isfinite(outputs["losses"])
        self._finite = finite if self._finite is None else self._finite & finite
        if self._divergence.reads_after(trainer, finite.device, batch_idx):
            for name, is_finite in zip(fused.names, self._finite.tolist(), strict=True):
                if not is_finite and name in fused.live:
                    self.trials[name].diverged_at = trainer.global_step - 1
                    fused.leave(name)
            self._finite = None
            if not fused.live:
                trainer.should_stop = True
                trainer.limit_val_batches = 0  # no trial is left to validate
        for name in fused.live:
            self.trials[name].reporter.on_train_batch_end(trainer, module, outputs, batch, batch_idx)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Report each trial's epoch, save the trials that continue, and remove the others."""
        fused = _fused(module)
        train, val = fused.metrics("train"), fused.metrics("val")
        metrics = {
            name: EpochMetrics.same_for_all(val.get(name, {}) | train[name], trainer.global_step) for name in fused.live
        }
        ended = {name: self.trials[name].reporter.end_epoch(trainer, metrics.get(name)) for name in fused.names}
        reports = {name: report for name, report in ended.items() if report}
        answers = self.report(reports) if reports else {}
        self.continuing = [
            name for name, report in reports.items() if self.trials[name].reporter.continues(report, answers[name])
        ]
        decisions = {name: self.trials[name].reporter.decision for name in fused.names}
        self.was_asked_to_stop = "stop" in decisions.values()
        if self.continuing:
            self.save(trainer.current_epoch + 1, bool({"pause", "stop"} & set(decisions.values())))
        for name in fused.names:
            if decisions[name] in ("prune", "pause"):
                fused.leave(name)
        live = set(fused.live)
        for name in fused.names:
            if name not in live:
                self.leave(name)
        if not fused.live or self.was_asked_to_stop:
            trainer.should_stop = True


class FusedCheckpointIO(AtomicCheckpointIO):
    """Writes one checkpoint per trial into the trial's directory, as if it were alone, and reads them together.

    Args:
        directories: Directory of each trial. Of a path that Lightning passes, only the file name is used.
        wanted: Returns the names of the trials whose checkpoints are to be written.
    """

    def __init__(self, directories: Mapping[str, Path], wanted: Callable[[], Sequence[str]]) -> None:
        self.directories, self.wanted = directories, wanted

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the trials' checkpoints, each atomically."""
        states = checkpoint["callbacks"][FusedReporter.__qualname__]
        wanted = self.wanted()
        for name, alone in split_checkpoint(checkpoint):
            if name in wanted:
                alone["callbacks"] = {Reporter.__qualname__: states[name]}
                super().save_checkpoint(alone, self.directories[name] / Path(path).name, storage_options)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Load the trials' checkpoints.

        Raises:
            DamagedCheckpointError: If one is damaged or unsafe.
        """
        alone = {
            name: super(FusedCheckpointIO, self).load_checkpoint(
                directory / Path(path).name, map_location, weights_only
            )
            for name, directory in self.directories.items()
        }
        states = {name: checkpoint["callbacks"][Reporter.__qualname__] for name, checkpoint in alone.items()}
        return {**merge_checkpoints(alone), "callbacks": {FusedReporter.__qualname__: states}}


def _fused(module: pl.LightningModule) -> FusedClassifier:
    return cast(FusedClassifier, module)
