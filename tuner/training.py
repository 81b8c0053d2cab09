"""Trains a group of trials.

A trial's directory holds its resumable checkpoints, what it printed, and in the end `result.json`: once that file is
there the trial is over, whatever becomes of the process. It is written after the weights, whole or not at all.
"""

import dataclasses
import json
import logging
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.model_helpers import is_overridden

from lightning_modules import Classifier, EpochSeed, FusedClassifier
from lightning_modules.tensors import TensorDataModule
from tuner import ranks
from tuner.building import build_classifiers, build_data, build_module, build_trainer, network_of
from tuner.callbacks import DivergenceStop, History, LrLog, Predictions, Reporter
from tuner.checkpoints import (
    CheckpointPace,
    DiskFullError,
    checkpoint_name,
    common_checkpoint,
    has_checkpoint,
    load_tensors,
    remove_checkpoints,
    write_atomically,
    write_json,
)
from tuner.config import TrialConfig
from tuner.crashes import crash_point
from tuner.environment import device_name, setup
from tuner.errors import in_a_line
from tuner.fusing import FusedCheckpointIO, FusedHistory, FusedReporter, FusedTrial
from tuner.lightning_config import resolve_precision
from tuner.measuring import fastest_together, free_memory, is_out_of_memory
from tuner.messages import Assignment, Channel, ChannelClosedError, Group, TrialResult

__all__ = ["MODEL_FILE", "PREDICTIONS_FILE", "RESULT_FILE", "read_result", "run"]

RESULT_FILE = "result.json"
MODEL_FILE = "model.ckpt"
PREDICTIONS_FILE = "test.pt"
KEPT_CHECKPOINTS = 2

_log = logging.getLogger(__name__)


def run(group: Group, channel: Channel, device: str = "cpu") -> list[TrialResult]:
    """Do a group's task, in this process; with others, if `ranks.join` was called in all of them.

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
    if group.task == "measure":
        return [fastest_together(group.trials[0], group.fuse, device)]
    every = group.checkpoint_every
    results = _train_together(group.trials, channel, device, every) if len(group.trials) > 1 else {}
    for assignment in group.trials:
        if assignment.number not in results:
            stopped = any(result.state == "interrupted" for result in results.values())
            results[assignment.number] = (
                TrialResult("interrupted") if stopped else _train(assignment, channel, device, every)
            )
    return [results[assignment.number] for assignment in group.trials]


def read_result(directory: Path) -> TrialResult | None:
    """Return the result of a trial that is over, or None; a damaged one is named, and counts for nothing."""
    path = directory / RESULT_FILE
    try:
        return TrialResult.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        _log.warning("%s: is damaged (%s: %s); its trial is trained again", path, type(error).__name__, error)
        return None


def _train(assignment: Assignment, channel: Channel, device: str, checkpoint_every: float) -> TrialResult:
    started = time.monotonic()
    try:
        return _conclude(assignment, _fit(assignment, channel, device, checkpoint_every), started, device)
    except DiskFullError as error:
        return _disk_is_full(error)
    except Exception as error:  # the user's network, data or schedule: the trial fails, the study goes on
        if _is_of_a_process(error):
            raise
        result = TrialResult("failed", message=_message(error, assignment.config), traceback=traceback.format_exc())
    return _conclude(assignment, result, started, device)


def _conclude(assignment: Assignment, result: TrialResult, started: float, device: str, fused: int = 1) -> TrialResult:
    """Commit the result of a trial, unless it is to be continued."""
    name = f"{ranks.count()} x {device_name(device)}" if ranks.count() > 1 else device_name(device)
    precision = resolve_precision(assignment.config.trainer.precision, device)
    conditions = setup(device, precision, ranks.count(), fused)
    result = dataclasses.replace(result, seconds=time.monotonic() - started, device=name, setup=conditions)
    speaks = ranks.is_first() or result.state == "failed"  # a trial fails, whichever of its ranks does
    if speaks and result.state != "interrupted":
        write_json(assignment.directory / RESULT_FILE, dataclasses.asdict(result))
        crash_point("result written")
        remove_checkpoints(assignment.directory)
    return result


def _disk_is_full(error: DiskFullError) -> TrialResult:
    return TrialResult("interrupted", message=f"the disk is full: {error}")  # it goes on when there is room


def _is_of_a_process(error: Exception) -> bool:
    """Tell whether the coordinator is gone, or a process that loads data or trains was killed: as good as this one."""
    is_lost = isinstance(error, ChannelClosedError | ConnectionError | EOFError) or "DataLoader worker" in str(error)
    return is_lost or (ranks.count() > 1 and ranks.has_lost_a_rank(error))


def _message(error: Exception, config: TrialConfig) -> str:
    """Return what went wrong in a line; if it was memory, with the sizes that matter."""
    message = in_a_line(error)
    if is_out_of_memory(error):
        sizes = {**config.data.arguments, **config.model.arguments}
        sizes_text = ", ".join(f"{key}={value}" for key, value in sizes.items())
        message = f"out of memory with {config.model.name}, {sizes_text}: {message}"
    return message


def _fit(assignment: Assignment, channel: Channel, device: str, checkpoint_every: float) -> TrialResult:
    config, directory = assignment.config, assignment.directory
    checkpoint = ranks.first(lambda: common_checkpoint([directory]))  # it removes damaged ones
    module, data = build_module(config), build_data(config)

    def save(epoch: int, must: bool) -> None:
        if not must and not ranks.first(pace.is_due):
            return
        with pace.saving():
            trainer.save_checkpoint(directory / checkpoint_name(epoch))
        crash_point("checkpoint saved")
        if ranks.is_first():
            remove_checkpoints(directory, KEPT_CHECKPOINTS)

    pace = CheckpointPace(checkpoint_every)
    history, divergence = History(), DivergenceStop()
    reporter = _reporter(assignment, history, channel, save)
    callbacks = [EpochSeed(config.seed), divergence, reporter]
    if not isinstance(module, Classifier):
        callbacks.append(LrLog())
    trainer = build_trainer(config, device, directory, callbacks, history)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint and directory / checkpoint, weights_only=True)
    result = _outcome(assignment, reporter, divergence.diverged_at, trainer.global_step)
    if result.state == "complete" and reporter.verdict != "forget" and ranks.is_first():
        if reporter.weights is not None:
            module.load_state_dict(reporter.weights)
        _save_weights(directory, network_of(module).state_dict())
    return result


def _train_together(
    assignments: Sequence[Assignment], channel: Channel, device: str, checkpoint_every: float
) -> dict[int, TrialResult]:
    """Train trials as one model where that can be, and return the results by number; the others are to train alone."""
    results: dict[int, TrialResult] = {}
    try:
        parts = _parts(assignments)
    except Exception:  # of the data: a trial that is alone fails of it as well, and tells
        return results
    while parts and not any(result.state == "interrupted" for result in results.values()):
        part = parts.pop(0)
        has_begun = has_checkpoint(part[0].directory)
        checkpoint = common_checkpoint([assignment.directory for assignment in part])
        if len(part) == 1 or (has_begun and checkpoint is None):
            continue
        try:
            _fit_fused(part, checkpoint, channel, device, checkpoint_every, results)
        except DiskFullError as error:
            return {assignment.number: _disk_is_full(error) for assignment in assignments} | results
        except Exception as error:  # it cannot be vectorised, or needs too much memory
            if _is_of_a_process(error):
                raise
            left = [assignment for assignment in part if assignment.number not in results]
            size = len(part) // 2 if is_out_of_memory(error) else 1
            channel.fuse_at_most(size, _message(error, part[0].config))
            halves = [left[start : start + size] for start in range(0, len(left), size)]
            parts = halves + parts if size > 1 else []  # if it is the network that is at fault, it fails alone
        free_memory(device)
    return results


def _fit_fused(
    assignments: Sequence[Assignment],
    checkpoint: str | None,
    channel: Channel,
    device: str,
    checkpoint_every: float,
    results: dict[int, TrialResult],
) -> None:
    started = time.monotonic()
    first = assignments[0]
    by_name = {str(assignment.number): assignment for assignment in assignments}
    seeds = [assignment.config.seed for assignment in assignments]
    data = build_data(first.config, seeds[0] if len(set(seeds)) == 1 else tuple(seeds))
    module = FusedClassifier(build_classifiers([assignment.config for assignment in assignments]), seeds, list(by_name))

    def save(epoch: int, must: bool) -> None:
        if not must and not pace.is_due():
            return
        with pace.saving():
            trainer.save_checkpoint(first.directory / checkpoint_name(epoch))
        crash_point("checkpoint saved")
        for assignment in assignments:
            remove_checkpoints(assignment.directory, KEPT_CHECKPOINTS)

    def conclude(name: str) -> None:
        assignment, trial = by_name[name], trials[name]
        result = _outcome(assignment, trial.reporter, trial.diverged_at, trainer.global_step)
        if result.state == "complete" and trial.reporter.verdict != "forget":
            _save_weights(assignment.directory, module.weights(name))
        results[assignment.number] = _conclude(assignment, result, started, device, len(by_name))

    pace = CheckpointPace(checkpoint_every)
    trials = {}
    for name, assignment in by_name.items():
        history = History()
        reporter = _reporter(assignment, history, channel, lambda epoch, must: None)  # all are saved together
        trials[name] = FusedTrial(assignment.config.seed, history, reporter)
    group = FusedReporter(trials, save, conclude)
    checkpoints = FusedCheckpointIO(
        {name: assignment.directory for name, assignment in by_name.items()}, lambda: group.continuing
    )
    trainer = build_trainer(first.config, device, first.directory, [group], FusedHistory(trials), checkpoints)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint and first.directory / checkpoint, weights_only=True)
    for name in module.live:
        conclude(name)


def _parts(assignments: Sequence[Assignment]) -> list[list[Assignment]]:
    """Divide a group into those that can be trained as one model: they have begun, or have not, and share the data."""
    # Of the shipped data sets each trial can have an order of its own; what others do with the seed is not known.
    any_seed = isinstance(build_data(assignments[0].config), TensorDataModule)
    parts: dict[Any, list[Assignment]] = {}
    for assignment in assignments:
        key = has_checkpoint(assignment.directory), None if any_seed else assignment.config.seed
        parts.setdefault(key, []).append(assignment)
    return list(parts.values())


def _reporter(
    assignment: Assignment, history: History, channel: Channel, save: Callable[[int, bool], None]
) -> Reporter:
    return Reporter(
        metric=assignment.metric,
        history=history,
        report=lambda report: channel.report(assignment.number, report),
        progress=lambda step: channel.progress(assignment.number, step),
        save=save,
        best_epoch=assignment.best_epoch,
    )


def _outcome(assignment: Assignment, reporter: Reporter, diverged_at: int | None, step: int) -> TrialResult:
    """Return how a training ended whose last epoch is over."""
    ended = partial(TrialResult, value=reporter.value, epochs=reporter.epochs, points=reporter.history.points)
    if diverged_at is not None:
        return ended("diverged", message=f"loss was not finite at step {diverged_at}", diverged_at=diverged_at)
    if reporter.value is None or reporter.reported_epochs != reporter.epochs:
        message = f"{assignment.metric} was not finite after epoch {reporter.epochs}"
        return ended("diverged", message=message, diverged_at=step)
    if reporter.verdict == "prune":
        return ended("pruned")
    return ended("complete" if reporter.epochs == assignment.config.trainer.evaluations else "interrupted")


def _save_weights(directory: Path, weights: Mapping[str, torch.Tensor]) -> None:
    write_atomically(directory / MODEL_FILE, lambda file: torch.save({"state_dict": weights}, file))


def _test(assignment: Assignment, device: str) -> TrialResult:
    started = time.monotonic()
    try:
        return _tested(assignment, device, started)
    except Exception as error:  # the weights are damaged, the network cannot do it, the disk is full
        if _is_of_a_process(error):
            raise
        return TrialResult("failed", message=_message(error, assignment.config), traceback=traceback.format_exc())


def _tested(assignment: Assignment, device: str, started: float) -> TrialResult:
    config = assignment.config
    module, data = build_module(config), build_data(config)
    if not is_overridden("test_step", module) or not is_overridden("test_dataloader", data):
        return TrialResult("complete", seconds=time.monotonic() - started)
    network_of(module).load_state_dict(load_tensors(assignment.directory / MODEL_FILE)["state_dict"])
    predictions = Predictions()
    trainer = build_trainer(config, device, assignment.directory, [predictions], None)
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    write_atomically(assignment.directory / PREDICTIONS_FILE, lambda file: torch.save(predictions.tensors(), file))
    return TrialResult("complete", metrics=dict(metrics), seconds=time.monotonic() - started)


def _silence_libraries() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
