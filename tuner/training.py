"""Trains a group of trials: the only place that builds a Trainer.

A trial's directory holds its resumable checkpoints, what it printed, and in the end `result.json`: once that file is
there the trial is over, whatever becomes of the process. It is written after the weights, whole or not at all.
"""

import dataclasses
import json
import logging
import time
import traceback
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_modules import Classifier
from tuner.callbacks import DivergenceStop, EpochSeed, History, Predictions, Reporter
from tuner.checkpoints import (
    AtomicCheckpointIO,
    DamagedCheckpointError,
    DiskFullError,
    load_tensors,
    write_atomically,
    write_json,
)
from tuner.config import TrialConfig
from tuner.crashes import crash_point
from tuner.environment import device_name
from tuner.messages import Assignment, Channel, Group, TrialResult

__all__ = ["MODEL_FILE", "PREDICTIONS_FILE", "RESULT_FILE", "build_model", "read_result", "run"]

RESULT_FILE = "result.json"
MODEL_FILE = "model.ckpt"
PREDICTIONS_FILE = "test.pt"
KEPT_CHECKPOINTS = 2

_log = logging.getLogger(__name__)


def run(group: Group, channel: Channel, device: str = "cpu") -> list[TrialResult]:
    """Do a group's task, in this process.

    Args:
        group: What to do.
        channel: Where to report; the verdicts come from there.
        device: "cpu" or "cuda".

    Returns:
        One result for each trial, in order. Those of a training that is over are in its directory too.
    """
    _silence_libraries()
    if group.task == "test":
        return [_test(assignment, device) for assignment in group.trials]
    return [_train(assignment, channel, device) for assignment in group.trials]


def read_result(directory: Path) -> TrialResult | None:
    """Return the result of a trial that is over, or None."""
    try:
        return TrialResult.from_json(json.loads((directory / RESULT_FILE).read_bytes()))
    except FileNotFoundError:
        return None


def resolve_precision(precision: str, device: str) -> str:
    """Return the precision that "auto" stands for on a device: bf16-mixed where it computes in it, else 32-true."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "32-true"
    return "bf16-mixed" if "avx512_bf16" in flags or "amx_bf16" in flags else "32-true"


def _train(assignment: Assignment, channel: Channel, device: str) -> TrialResult:
    started = time.monotonic()
    try:
        result = _fit(assignment, channel, device)
        result = dataclasses.replace(result, seconds=time.monotonic() - started, device=device_name(device))
        if result.state != "interrupted":
            write_json(assignment.directory / RESULT_FILE, dataclasses.asdict(result))
            crash_point("result written")
    except DiskFullError as error:  # not the trial's fault: it goes on when there is room
        return TrialResult("interrupted", message=f"the disk is full: {error}")
    except Exception as error:  # the user's network, data or schedule: the trial fails, the study goes on
        if isinstance(error, ConnectionError | EOFError) or "DataLoader worker" in str(error):
            raise  # a process that loads data was killed: as good as this one
        result = TrialResult("failed", message=_message(error, assignment.config), traceback=traceback.format_exc())
        result = dataclasses.replace(result, seconds=time.monotonic() - started, device=device_name(device))
        write_json(assignment.directory / RESULT_FILE, dataclasses.asdict(result))
    if result.state != "interrupted":
        for checkpoint in _checkpoints(assignment.directory):
            checkpoint.unlink()
    return result


def _message(error: Exception, config: TrialConfig) -> str:
    """Return what went wrong in a line; if it was memory, with the sizes that matter."""
    message = " ".join(f"{type(error).__name__}: {error}".split("\n", 1)[0].split())
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in message:
        sizes = {**config.data.arguments, **config.model.arguments}
        sizes_text = ", ".join(f"{key}={value}" for key, value in sizes.items())
        message = f"out of memory with {config.model.name}, {sizes_text}: {message}"
    return message


def _fit(assignment: Assignment, channel: Channel, device: str) -> TrialResult:
    config, directory = assignment.config, assignment.directory
    resumed_from = _newest_checkpoint(directory)
    module, data = _build(config)
    history = History()

    def save(epoch: int) -> None:
        trainer.save_checkpoint(directory / f"epoch-{epoch:06d}.ckpt")
        crash_point("checkpoint saved")
        for checkpoint in _checkpoints(directory)[KEPT_CHECKPOINTS:]:
            checkpoint.unlink()

    reporter = Reporter(
        metric=assignment.metric,
        history=history,
        report=lambda report: channel.report(assignment.number, report),
        progress=lambda step: channel.progress(assignment.number, step),
        save=save,
    )
    divergence = DivergenceStop()
    trainer = _trainer(config, device, directory, [EpochSeed(config.seed), divergence, reporter], history)
    trainer.fit(module, datamodule=data, ckpt_path=resumed_from, weights_only=True)

    ended = partial(TrialResult, value=reporter.value, epochs=reporter.epochs, points=history.points)
    if divergence.diverged_at is not None:
        message = f"loss was not finite at step {divergence.diverged_at}"
        return ended("diverged", message=message, diverged_at=divergence.diverged_at)
    if reporter.value is None or reporter.reported_epochs != reporter.epochs:
        message = f"{assignment.metric} was not finite after epoch {reporter.epochs}"
        return ended("diverged", message=message, diverged_at=trainer.global_step)
    if reporter.verdict == "prune":
        return ended("pruned")
    if reporter.epochs < config.trainer.max_epochs:
        return ended("interrupted")
    weights = {"state_dict": module.model.state_dict()}
    write_atomically(directory / MODEL_FILE, lambda file: torch.save(weights, file))
    return ended("complete")


def _test(assignment: Assignment, device: str) -> TrialResult:
    started = time.monotonic()
    module, data = _build(assignment.config)
    weights = load_tensors(assignment.directory / MODEL_FILE)
    module.model.load_state_dict(weights["state_dict"])
    predictions = Predictions()
    trainer = _trainer(assignment.config, device, assignment.directory, [predictions], None)
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    write_atomically(assignment.directory / PREDICTIONS_FILE, lambda file: torch.save(predictions.tensors(), file))
    return TrialResult("complete", metrics=dict(metrics), seconds=time.monotonic() - started)


def build_model(config: TrialConfig, weights: Mapping[str, Any]) -> torch.nn.Module:
    """Return a trial's network with the weights of its `MODEL_FILE`."""
    model: torch.nn.Module = config.model.build("model")
    model.load_state_dict(weights["state_dict"])
    return model


def _build(config: TrialConfig) -> tuple[Classifier, pl.LightningDataModule]:
    torch.manual_seed(config.seed)  # the initial weights
    module = Classifier(
        config.model.build("model"), config.optimizer.build("optimizer"), config.schedule.build("schedule")
    )
    return module, config.data.build("data", seed=config.seed)


def _trainer(
    config: TrialConfig, device: str, directory: Path, callbacks: list[pl.Callback], logger: History | None
) -> pl.Trainer:
    return pl.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        max_epochs=config.trainer.max_epochs,
        precision=resolve_precision(config.trainer.precision, device),  # type: ignore[arg-type]
        gradient_clip_val=config.trainer.gradient_clip_val,
        accumulate_grad_batches=config.trainer.accumulate_grad_batches,
        callbacks=callbacks,
        logger=logger or False,
        log_every_n_steps=1,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=directory,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints of a trial, the newest first."""
    return sorted(directory.glob("epoch-*.ckpt"), reverse=True)


def _newest_checkpoint(directory: Path) -> Path | None:
    """Return the newest checkpoint that is as it was written; name and remove those that are not."""
    for leftover in directory.glob("*.tmp"):
        leftover.unlink()
    for checkpoint in _checkpoints(directory):
        try:
            load_tensors(checkpoint)
        except DamagedCheckpointError as error:
            _log.warning("%s; the checkpoint before it is used", error)
            checkpoint.unlink()
        else:
            return checkpoint
    return None


def _silence_libraries() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
