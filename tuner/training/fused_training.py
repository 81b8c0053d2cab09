"""The training of several trials as one model."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_modules import EpochSeed, FusedClassifier
from lightning_modules.data.base import TensorDataModule
from lightning_modules.fused.network import why_not
from lightning_modules.fused.recorded_step import not_recorded
from tuner.files import DiskFullError
from tuner.protocol import Assignment, Channel, Decision, EpochReport, TrialResult
from tuner.training import recording
from tuner.training.build import build_classifiers, build_data, build_trainer, task_of
from tuner.training.checkpoints import has_checkpoint
from tuner.training.fused import FusedCheckpointIO, FusedHistory, FusedReporter, FusedTrial
from tuner.training.history import History
from tuner.training.outcome import commit_result, disk_full_result, error_message, lost_a_process, result_of_training
from tuner.training.reporter import reporter_of
from tuner.training.results import save_weights
from tuner.training.saver import Saver, checkpoint_of, noted
from tuner.training.throughput import free_memory, is_out_of_memory

__all__ = ["train_together"]


def train_together(
    assignments: Sequence[Assignment], channel: Channel, device: str, checkpoint_every: float, as_group: bool
) -> dict[int, TrialResult]:
    """Train trials as one model where possible; return the results by number. The other trials are to be trained alone.

    Args:
        assignments: The trials.
        channel: Channel to the coordinator.
        device: "cpu" or "cuda".
        checkpoint_every: Seconds between checkpoints.
        as_group: Whether a single trial may be trained as a group of one.
    """
    results: dict[int, TrialResult] = {}
    try:
        parts = _parts(assignments)
    except BaseException:  # the data failed: each trial then fails alone, and reports it
        return results
    while parts and not any(result.state == "interrupted" for result in results.values()):
        part = parts.pop(0)
        has_begun = has_checkpoint(part[0].directory)
        checkpoint = checkpoint_of(part, channel)
        if has_begun and checkpoint is None:
            continue
        if len(part) == 1 and not (as_group and recording.may_be_recorded(part[0], device)):
            continue
        try:
            _fit_fused(part, checkpoint, channel, device, checkpoint_every, results)
        except DiskFullError as error:
            return {assignment.number: disk_full_result(error) for assignment in assignments} | results
        except SIGTERMException:
            raise
        except BaseException as error:  # the model cannot be vectorized, or needs too much memory
            if lost_a_process(error):
                raise
            if len(part) == 1:  # it is trained alone, and fails there if its network is at fault
                if not isinstance(error, _NotRecordedError):
                    _note_slower(part[0], channel, not_recorded(error_message(error, part[0].config)))
            else:
                left = [assignment for assignment in part if assignment.number not in results]
                size = len(part) // 2 if is_out_of_memory(error) else 1
                channel.fuse_at_most(size, why_not(error) or error_message(error, part[0].training))
                halves = [left[start : start + size] for start in range(0, len(left), size)]
                parts = halves + parts if size > 1 else []  # if the network is at fault, each trial fails alone
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
    seeds = [assignment.training.seed for assignment in assignments]
    data = build_data(first.training, seeds[0] if len(set(seeds)) == 1 else tuple(seeds))
    has_reported = False

    def refused(reason: str) -> None:
        _note_slower(first, channel, reason)
        if len(assignments) == 1 and not has_reported:  # alone it is faster, with the same results
            raise _NotRecordedError

    module = FusedClassifier(
        build_classifiers([assignment.training for assignment in assignments]),
        seeds,
        list(by_name),
        recorder=recording.recorder_for(device),
        note=refused,
    )

    def conclude(name: str) -> None:
        assignment, trial = by_name[name], trials[name]
        size = sum(parameter[0].numel() for parameter in module.model.parameters())
        result = result_of_training(
            assignment, trial.reporter, trial.diverged_at, trainer.global_step, group.was_asked_to_stop, size
        )
        if result.state == "complete" and trial.reporter.decision != "forget":
            save_weights(assignment, module.weights(name))
        results[assignment.number] = commit_result(assignment, result, started, device, len(by_name))

    saver = Saver(assignments, checkpoint_every, channel)
    trials = {}
    for name, assignment in by_name.items():
        history = History(assignment.directory, noted(assignment, channel))
        reporter = reporter_of(assignment, history, channel, lambda epoch, must: None)  # the group saves them together
        trials[name] = FusedTrial(history, reporter)

    def report(reports: Mapping[str, EpochReport]) -> dict[str, Decision]:
        nonlocal has_reported
        has_reported = True
        decisions = channel.report({by_name[name].number: each for name, each in reports.items()})
        return {name: decisions[by_name[name].number] for name in reports}

    group = FusedReporter(trials, report, saver.save, conclude)
    checkpoints = FusedCheckpointIO(
        {name: assignment.directory for name, assignment in by_name.items()}, lambda: group.continuing
    )
    # Data that have an order for each of several seeds draw nothing from torch's generators.
    callbacks: list[pl.Callback] = [EpochSeed(seeds[0]), group] if len(set(seeds)) == 1 else [group]
    saver.trainer = trainer = build_trainer(
        first.training, device, first.directory, callbacks, FusedHistory(trials), checkpoints
    )
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint and first.directory / checkpoint, weights_only=True)
    for name in module.live:
        conclude(name)


def _note_slower(assignment: Assignment, channel: Channel, reason: str) -> None:
    noted(assignment, channel)(f"is trained more slowly: {reason}")


class _NotRecordedError(Exception):
    """The steps of a single trial were to be recorded, but cannot be."""


def _parts(assignments: Sequence[Assignment]) -> list[list[Assignment]]:
    """Divide a group into parts that can be trained as one model: all begun or none, with the same data."""
    # The shipped data sets support one order per trial, for classes. Other data may use the seed in any way, so it must
    # be shared.
    config = assignments[0].training
    any_seed = task_of(config) == "classification" and isinstance(build_data(config), TensorDataModule)
    parts: dict[Any, list[Assignment]] = {}
    for assignment in assignments:
        key = has_checkpoint(assignment.directory), None if any_seed else assignment.training.seed
        parts.setdefault(key, []).append(assignment)
    return list(parts.values())
