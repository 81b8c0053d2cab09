"""The training run of one trial."""

import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_modules import Bf16LinearSpeedup, Classifier, EpochSeed, EvaluationWeights, SeededDropout
from tuner.files import DiskFullError
from tuner.protocol import Assignment, Channel, TrialResult
from tuner.training import distributed
from tuner.training.build import build_averaging, build_callbacks, build_data, build_module, build_trainer, network_of
from tuner.training.callbacks import DivergenceStop, IntervalCheck, LrLog, PlateauResume
from tuner.training.history import History
from tuner.training.outcome import commit_result, disk_full_result, failed_result, lost_a_process, result_of_training
from tuner.training.reporter import reporter_of
from tuner.training.results import save_weights
from tuner.training.saver import Saver, checkpoint_of, noted

__all__ = ["fit", "train"]


def train(assignment: Assignment, channel: Channel, device: str, checkpoint_every: float) -> TrialResult:
    """Train a trial, and return its result; an error from the user's code is a result too."""
    started = time.monotonic()
    try:
        return commit_result(assignment, fit(assignment, channel, device, checkpoint_every), started, device)
    except DiskFullError as error:
        return disk_full_result(error)
    except SIGTERMException:
        raise
    except BaseException as error:  # from user code: the trial fails, the study continues
        if lost_a_process(error):
            raise
        result = failed_result(error, assignment.config)
    return commit_result(assignment, result, started, device)


def fit(
    assignment: Assignment,
    channel: Channel,
    device: str,
    checkpoint_every: float,
    watching: Sequence[pl.Callback] = (),
    **changes: Any,
) -> TrialResult:
    """Train a trial.

    Args:
        assignment: The trial.
        channel: Channel to the coordinator.
        device: "cpu" or "cuda".
        checkpoint_every: Seconds between checkpoints.
        watching: Additional callbacks.
        changes: Arguments of the Trainer that replace those of the trial.
    """
    config, directory = assignment.training, assignment.directory
    checkpoint = distributed.on_rank_zero(lambda: checkpoint_of([assignment], channel))
    module, data = build_module(config), build_data(config)
    saver = Saver([assignment], checkpoint_every, channel)
    logs_lr = isinstance(module, Classifier)
    history = History(directory, noted(assignment, channel), reserved=() if logs_lr else ("lr",))
    divergence = DivergenceStop()
    if checkpoint is None and distributed.is_rank_zero():
        history.records.forget()
    reporter = reporter_of(
        assignment, history, channel, saver.save, has_diverged=lambda: divergence.diverged_at is not None
    )
    callbacks: list[pl.Callback] = [EpochSeed(config.seed)]
    if type(module) is Classifier:
        callbacks.append(SeededDropout(config.seed))
    callbacks += [divergence, *build_callbacks(config), *watching, reporter]
    if logs_lr:
        callbacks.append(Bf16LinearSpeedup())
    else:
        callbacks += [
            LrLog(history),
            IntervalCheck(noted(assignment, channel)),
            PlateauResume(noted(assignment, channel)),
            EvaluationWeights(build_averaging(config)),
        ]
    saver.trainer = trainer = build_trainer(config, device, directory, callbacks, history, **changes)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint and directory / checkpoint, weights_only=True)
    except Exception:
        if divergence.diverged_at is None:
            raise  # otherwise a callback missed the validation, which a diverged run does not have
    was_asked_to_stop = reporter.decision == "stop"
    size = sum(parameter.numel() for parameter in module.parameters())
    result = result_of_training(
        assignment, reporter, divergence.diverged_at, trainer.global_step, was_asked_to_stop, size
    )
    if result.state == "complete" and reporter.decision != "forget" and distributed.is_rank_zero():
        if reporter.weights is not None:
            module.load_state_dict(reporter.weights)
        save_weights(assignment, network_of(module).state_dict())
    return result
