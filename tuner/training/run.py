"""Train a group of trials.

A trial's directory holds its checkpoints, its output and, at the end, `result.json`. That file is the commit point:
once it exists the trial is over, whatever happens to the process. It is written after the weights, atomically.
"""

import dataclasses
import hashlib
import json
import logging
import math
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.utils.data
from pydantic import TypeAdapter
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.model_helpers import is_overridden

from lightning_modules import (
    Bf16LinearSpeedup,
    Classifier,
    EpochSeed,
    EvaluationWeights,
    FusedClassifier,
    SeededDropout,
)
from lightning_modules.data.base import TensorDataModule
from tuner.config.study import TrialConfig
from tuner.console import printable
from tuner.errors import in_a_line, place_of
from tuner.files import DiskFullError, write_atomically, write_json
from tuner.process import crash_point
from tuner.protocol import (
    Assignment,
    Channel,
    ChannelClosedError,
    Decision,
    EpochReport,
    EvaluationGroup,
    EvaluationResult,
    Group,
    MeasurementGroup,
    RehearsalGroup,
    RehearsalResult,
    Result,
    StepReport,
    TrainingGroup,
    TrialResult,
)
from tuner.training import distributed
from tuner.training.build import (
    build_averaging,
    build_callbacks,
    build_classifiers,
    build_data,
    build_module,
    build_trainer,
    network_of,
    task_of,
)
from tuner.training.callbacks import DivergenceStop, LrLog, PlateauResume
from tuner.training.checkpoints import (
    CheckpointPace,
    DamagedCheckpointError,
    UnsafeCheckpointError,
    checkpoint_name,
    common_checkpoint,
    has_checkpoint,
    load_tensors,
    remove_checkpoints,
)
from tuner.training.conditions import device_name, training_conditions
from tuner.training.fused import FusedCheckpointIO, FusedHistory, FusedReporter, FusedTrial
from tuner.training.history import History
from tuner.training.lightning_cli import resolve_precision
from tuner.training.predictions import Predictions
from tuner.training.reporter import Reporter
from tuner.training.step_check import StepCheck
from tuner.training.throughput import fastest_together, free_memory, is_out_of_memory

__all__ = ["MODEL_FILE", "PREDICTIONS_FILE", "RESULT_FILE", "TRACEBACK_FILE", "read_result", "run"]

RESULT_FILE = "result.json"
TRACEBACK_FILE = "traceback.txt"
MODEL_FILE = "model.ckpt"
PREDICTIONS_FILE = "test.pt"
KEPT_CHECKPOINTS = 2
REHEARSED_STEPS, REHEARSED_EPOCHS = 3, 10

_log = logging.getLogger(__name__)


def run(group: Group, channel: Channel, device: str = "cpu") -> Sequence[Result]:
    """Do what a group is for, in this process; together with the other ranks if `distributed.join` was called.

    Args:
        group: The trials; its class says what to do with them.
        channel: Channel to the coordinator, for reports and decisions.
        device: "cpu" or "cuda".

    Returns:
        One result for each trial, in order. The results of finished trainings are in the trials' directories too.
    """
    _silence_libraries()
    match group:
        case TrainingGroup(trials, checkpoint_every):
            return _train_all(trials, channel, device, checkpoint_every)
        case EvaluationGroup(trials):
            return [_evaluate(assignment, device) for assignment in trials]
        case RehearsalGroup(trials):
            return [_rehearse(assignment, channel, device) for assignment in trials]
        case MeasurementGroup((assignment,), most):
            return [fastest_together(assignment, most, device)]
    raise TypeError(f"nothing is known of a {type(group).__name__}")


def _train_all(
    assignments: Sequence[Assignment], channel: Channel, device: str, checkpoint_every: float
) -> list[TrialResult]:
    results = _train_together(assignments, channel, device, checkpoint_every) if len(assignments) > 1 else {}
    for assignment in assignments:
        if assignment.number not in results:
            stopped = any(result.state == "interrupted" for result in results.values())
            results[assignment.number] = (
                TrialResult("interrupted") if stopped else _train(assignment, channel, device, checkpoint_every)
            )
    return [results[assignment.number] for assignment in assignments]


@dataclass(frozen=True)
class _Stored:
    """Content of a result file: the result, and the digest of the trial's configuration."""

    trial: str
    result: TrialResult


_STORED = TypeAdapter(_Stored)


def _write_result(assignment: Assignment, result: TrialResult) -> None:
    content = {"trial": assignment.config.digest, "result": dataclasses.asdict(result)}
    write_json(assignment.directory / RESULT_FILE, {"checksum": _checksum(content), **content})


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_result(directory: Path, config: TrialConfig, note: Callable[[str], None] = _log.warning) -> TrialResult | None:
    """Return the result of a finished trial; None if it is missing, damaged, or belongs to another configuration.

    Args:
        directory: The trial's directory.
        config: The trial's configuration.
        note: Called with the reason why a result is not used.
    """
    path = directory / RESULT_FILE
    try:
        stored_bytes = path.read_bytes()
        content = json.loads(stored_bytes)
        if "checksum" in content:
            # The bytes too: two spellings of a number may be the same float.
            if json.dumps(content).encode() != stored_bytes or content.pop("checksum") != _checksum(content):
                raise ValueError("its checksum is wrong")
        else:  # written by an earlier version
            content = {"trial": config.digest, "result": content}
        stored = _STORED.validate_json(json.dumps(content), strict=True)
        is_number = stored.result.value is not None and math.isfinite(stored.result.value)
        if not is_number and (stored.result.value is not None or stored.result.state == "complete"):
            raise ValueError(f"a trial that is {stored.result.state} cannot have the value {stored.result.value}")
    except FileNotFoundError:
        return None
    except (AttributeError, TypeError, ValueError) as error:
        note(f"{path} is damaged ({in_a_line(error)}); its trial is trained again")
        return None
    if stored.trial != config.digest:
        note(f"{path} is not used: it belongs to other values of the trial, which is trained again")
        return None
    return stored.result


def _train(assignment: Assignment, channel: Channel, device: str, checkpoint_every: float) -> TrialResult:
    started = time.monotonic()
    try:
        return _conclude(assignment, _fit(assignment, channel, device, checkpoint_every), started, device)
    except DiskFullError as error:
        return _disk_is_full(error)
    except SIGTERMException:
        raise
    except BaseException as error:  # from user code: the trial fails, the study continues
        if _lost_a_process(error):
            raise
        result = _failed(error, assignment.config)
    return _conclude(assignment, result, started, device)


def _failed(error: BaseException, config: TrialConfig) -> TrialResult:
    if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
        error = error.__context__  # Lightning converts the one into the other
    # User code can put any text into an error, and not every database and file can store every text.
    return TrialResult(
        "failed", message=printable(_message(error, config)), traceback=printable(traceback.format_exc())
    )


def _conclude(assignment: Assignment, result: TrialResult, started: float, device: str, fused: int = 1) -> TrialResult:
    """Commit the result of a trial, unless it was interrupted."""
    name = (
        f"{distributed.world_size()} x {device_name(device)}" if distributed.world_size() > 1 else device_name(device)
    )
    precision = resolve_precision(assignment.config.trainer.precision, device)
    conditions = training_conditions(device, precision, distributed.world_size(), fused)
    result = dataclasses.replace(result, seconds=time.monotonic() - started, device=name, setup=conditions)
    writes = distributed.is_rank_zero() or result.state == "failed"  # the rank that failed may be any
    if writes and result.state != "interrupted":
        if result.traceback:
            write_atomically(assignment.directory / TRACEBACK_FILE, lambda file: file.write(result.traceback.encode()))
        _write_result(assignment, result)
        crash_point("result written")
        if result.state != "paused":
            remove_checkpoints(assignment.directory)
    return result


def _disk_is_full(error: DiskFullError) -> TrialResult:
    return TrialResult("interrupted", message=f"the disk is full: {error}")  # can continue when there is room


def _lost_a_process(error: BaseException) -> bool:
    """Return whether an error means that a process is gone: the coordinator, a data loader's worker or a rank."""
    if isinstance(error, ChannelClosedError):
        return True
    loads_data = f"{Path(torch.utils.data.__file__).parent}/"
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if any(frame.startswith(loads_data) for frame in frames) and not place_of(error):  # not in the user's own code
        is_reported = frames[-1].startswith(loads_data) and "DataLoader worker (pid" in in_a_line(error)
        if is_reported or isinstance(error, ConnectionError | EOFError):
            return True
    return isinstance(error, Exception) and distributed.world_size() > 1 and distributed.lost_a_rank(error)


def _message(error: BaseException, config: TrialConfig) -> str:
    """Return an error and its place on one line; if memory ran out, with the sizes of model and data."""
    message = f"{in_a_line(error)}{place_of(error)}"
    if is_out_of_memory(error):
        sizes = {**config.data.arguments, **config.model.arguments}
        sizes_text = ", ".join(f"{key}={value}" for key, value in sizes.items())
        message = f"out of memory with {config.model.name}, {sizes_text}: {message}"
    return message


def _fit(
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
    config, directory = assignment.config, assignment.directory
    checkpoint = distributed.on_rank_zero(lambda: _checkpoint_of([assignment], channel))
    module, data = build_module(config), build_data(config)
    saver = _Saver([assignment], checkpoint_every, channel)
    history, divergence = History(directory, _noted(assignment, channel)), DivergenceStop()
    if checkpoint is None and distributed.is_rank_zero():
        history.records.forget()
    reporter = _reporter(
        assignment, history, channel, saver.save, has_diverged=lambda: divergence.diverged_at is not None
    )
    callbacks: list[pl.Callback] = [EpochSeed(config.seed)]
    if type(module) is Classifier:
        callbacks.append(SeededDropout(config.seed))
    callbacks += [divergence, *build_callbacks(config), *watching, reporter]
    if isinstance(module, Classifier):
        callbacks.append(Bf16LinearSpeedup())
    else:
        callbacks += [LrLog(), PlateauResume(_noted(assignment, channel)), EvaluationWeights(build_averaging(config))]
    saver.trainer = trainer = build_trainer(config, device, directory, callbacks, history, **changes)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint and directory / checkpoint, weights_only=True)
    except Exception:
        if divergence.diverged_at is None:
            raise  # otherwise a callback missed the validation, which a training that diverged does not have
    was_asked_to_stop = reporter.decision == "stop"
    result = _outcome(assignment, reporter, divergence.diverged_at, trainer.global_step, was_asked_to_stop)
    if result.state == "complete" and reporter.decision != "forget" and distributed.is_rank_zero():
        if reporter.weights is not None:
            module.load_state_dict(reporter.weights)
        _save_weights(assignment, network_of(module).state_dict())
    return result


class _RehearsalChannel:
    """The channel of a rehearsal: it ends the training when the objective was logged, after two epochs or more."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._has_value = False

    def report(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        return {number: self._decide(report) for number, report in reports.items()}

    def _decide(self, report: EpochReport) -> Decision:
        self._has_value = self._has_value or report.value is not None
        return "prune" if self._has_value and report.epoch > 1 else "forget" if report.is_last else "continue"

    def progress(self, number: int, report: StepReport) -> None:
        pass

    def fuse_at_most(self, count: int, reason: str) -> None:
        pass

    def note(self, text: str) -> None:
        self._channel.note(text)


def _rehearse(assignment: Assignment, channel: Channel, device: str) -> RehearsalResult:
    """Train a few steps of a trial, validate one batch, and save and load a checkpoint, to find errors early."""
    config = assignment.config
    check = StepCheck()
    batches = min(REHEARSED_STEPS * config.trainer.accumulate_grad_batches, config.trainer.batches or 2**31)
    length = {
        "max_epochs": min(config.trainer.evaluations, REHEARSED_EPOCHS),
        "limit_train_batches": batches,
        "limit_val_batches": 1,
        "check_val_every_n_epoch": 1,
    }
    try:
        result = _fit(assignment, _RehearsalChannel(channel), device, 0.0, [check], **length)
    except SIGTERMException:
        raise
    except BaseException as error:  # from user code
        if isinstance(error, DiskFullError) or _lost_a_process(error):
            raise
        result = _failed(error, config)
    has_failed = result.state == "failed"
    if has_failed and not result.traceback and config.trainer.evaluations > REHEARSED_EPOCHS:
        has_failed = False  # a later epoch may log the objective
    return RehearsalResult(result.message if has_failed else "", check.parameters, check.seconds)


class _Saver:
    """Saves checkpoints at the end of epochs, when one is due or required.

    Args:
        assignments: The trials of the training.
        every: Seconds between checkpoints.
        channel: Channel for the report that a checkpoint cannot be loaded.
    """

    def __init__(self, assignments: Sequence[Assignment], every: float, channel: Channel) -> None:
        self.trainer: pl.Trainer
        self._assignments, self._channel = assignments, channel
        self._pace = CheckpointPace(every)
        self._has_loaded_one = self._cannot_save = False

    def save(self, epoch: int, must: bool) -> None:
        """Save a checkpoint after an epoch if one is due, or if it must be saved."""
        if self._cannot_save or not (must or distributed.on_rank_zero(self._pace.is_due)):
            return
        path = self._assignments[0].directory / checkpoint_name(epoch)
        try:
            with self._pace.saving():
                self.trainer.save_checkpoint(path)
            if not self._has_loaded_one and distributed.is_rank_zero():
                load_tensors(path)
            self._has_loaded_one = True
        except UnsafeCheckpointError as error:
            self._cannot_save = True
            # Report it now rather than days later, when the training needs the checkpoint to continue.
            reason = str(error).removeprefix(f"{path}: ")
            advice = "store plain values and tensors in on_save_checkpoint and state_dict"
            for assignment in self._assignments:
                _noted(assignment, self._channel)(
                    f"cannot continue after an interruption: its checkpoint cannot be loaded ({reason}); {advice}"
                )
        crash_point("checkpoint saved")
        if distributed.is_rank_zero():
            for assignment in self._assignments:
                remove_checkpoints(assignment.directory, KEPT_CHECKPOINTS)


def _checkpoint_of(assignments: Sequence[Assignment], channel: Channel) -> str | None:
    """Return the name of the newest checkpoint that all trials can continue from; None if there is none."""
    digests = {assignment.directory: assignment.config.digest for assignment in assignments}

    def is_of_trial(directory: Path, checkpoint: Any) -> bool:
        state = checkpoint["callbacks"][Reporter.__qualname__]
        return bool(state.get("trial", digests[directory]) == digests[directory])  # earlier versions stored none

    return common_checkpoint(list(digests), is_of_trial, channel.note)


def _noted(assignment: Assignment, channel: Channel) -> Callable[[str], None]:
    return lambda text: channel.note(f"trial #{assignment.number} {text}")


def _train_together(
    assignments: Sequence[Assignment], channel: Channel, device: str, checkpoint_every: float
) -> dict[int, TrialResult]:
    """Train trials as one model where possible; return the results by number. The other trials are to train alone."""
    results: dict[int, TrialResult] = {}
    try:
        parts = _parts(assignments)
    except BaseException:  # from the data: each trial then fails alone, and reports it
        return results
    while parts and not any(result.state == "interrupted" for result in results.values()):
        part = parts.pop(0)
        has_begun = has_checkpoint(part[0].directory)
        checkpoint = _checkpoint_of(part, channel)
        if len(part) == 1 or (has_begun and checkpoint is None):
            continue
        try:
            _fit_fused(part, checkpoint, channel, device, checkpoint_every, results)
        except DiskFullError as error:
            return {assignment.number: _disk_is_full(error) for assignment in assignments} | results
        except SIGTERMException:
            raise
        except BaseException as error:  # the model cannot be vectorized, or needs too much memory
            if _lost_a_process(error):
                raise
            left = [assignment for assignment in part if assignment.number not in results]
            size = len(part) // 2 if is_out_of_memory(error) else 1
            channel.fuse_at_most(size, _message(error, part[0].config))
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
    seeds = [assignment.config.seed for assignment in assignments]
    data = build_data(first.config, seeds[0] if len(set(seeds)) == 1 else tuple(seeds))
    module = FusedClassifier(build_classifiers([assignment.config for assignment in assignments]), seeds, list(by_name))

    def conclude(name: str) -> None:
        assignment, trial = by_name[name], trials[name]
        result = _outcome(assignment, trial.reporter, trial.diverged_at, trainer.global_step, group.was_asked_to_stop)
        if result.state == "complete" and trial.reporter.decision != "forget":
            _save_weights(assignment, module.weights(name))
        results[assignment.number] = _conclude(assignment, result, started, device, len(by_name))

    saver = _Saver(assignments, checkpoint_every, channel)
    trials = {}
    for name, assignment in by_name.items():
        history = History(assignment.directory, _noted(assignment, channel))
        reporter = _reporter(assignment, history, channel, lambda epoch, must: None)  # the group saves them together
        trials[name] = FusedTrial(history, reporter)

    def report(reports: Mapping[str, EpochReport]) -> dict[str, Decision]:
        decisions = channel.report({by_name[name].number: each for name, each in reports.items()})
        return {name: decisions[by_name[name].number] for name in reports}

    group = FusedReporter(trials, report, saver.save, conclude)
    checkpoints = FusedCheckpointIO(
        {name: assignment.directory for name, assignment in by_name.items()}, lambda: group.continuing
    )
    saver.trainer = trainer = build_trainer(
        first.config, device, first.directory, [group], FusedHistory(trials), checkpoints
    )
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint and first.directory / checkpoint, weights_only=True)
    for name in module.live:
        conclude(name)


def _parts(assignments: Sequence[Assignment]) -> list[list[Assignment]]:
    """Divide a group into parts that can be trained as one model: all begun or none, with the same data."""
    # The shipped data sets support one order per trial, for classes. Other data may use the seed in any way, so it must
    # be shared.
    config = assignments[0].config
    any_seed = task_of(config) == "classification" and isinstance(build_data(config), TensorDataModule)
    parts: dict[Any, list[Assignment]] = {}
    for assignment in assignments:
        key = has_checkpoint(assignment.directory), None if any_seed else assignment.config.seed
        parts.setdefault(key, []).append(assignment)
    return list(parts.values())


def _reporter(
    assignment: Assignment,
    history: History,
    channel: Channel,
    save: Callable[[int, bool], None],
    has_diverged: Callable[[], bool] = lambda: False,
) -> Reporter:
    return Reporter(
        objective=assignment.objective,
        history=history,
        report=lambda report: channel.report({assignment.number: report})[assignment.number],
        progress=lambda step: channel.progress(assignment.number, step),
        save=save,
        has_diverged=has_diverged,
        trial=assignment.config.digest,
    )


def _outcome(
    assignment: Assignment, reporter: Reporter, diverged_at: int | None, step: int, was_asked_to_stop: bool
) -> TrialResult:
    """Return the result of a training after its last epoch.

    Args:
        assignment: The trial.
        reporter: The trial's reporter.
        diverged_at: Step of the first loss that was not finite; None if all were.
        step: Number of steps done.
        was_asked_to_stop: Whether the coordinator interrupted it or its group, to be continued later.
    """
    history = reporter.history
    ended = partial(
        TrialResult,
        value=reporter.value,
        epochs=reporter.epochs,
        points=history.points,
        params=history.records.params,
        tags=history.records.tags,
    )
    metric, epochs, asked = assignment.objective.metric, reporter.epochs, assignment.config.trainer.evaluations
    if diverged_at is not None:
        return ended("diverged", message=f"loss was not finite at step {diverged_at}", diverged_at=diverged_at)
    if not reporter.is_finite:
        message = f"{metric} was not finite after epoch {reporter.valued_epoch}"
        return ended("diverged", message=message, diverged_at=step)
    if reporter.decision in ("prune", "pause"):
        return ended("pruned" if reporter.decision == "prune" else "paused")
    if was_asked_to_stop:
        return ended("interrupted")
    if epochs == 0:
        return ended("failed", message="the module or a callback stopped the training before its first epoch was over")
    if reporter.value is None:
        names, verb = ", ".join(sorted(reporter.names)), "is" if len(reporter.names) == 1 else "are"
        logged = f"only {names} {verb} logged" if names else "nothing is logged"
        nothing = "" if reporter.validated else "; no validation was run"
        return ended("failed", message=f"the objective is {metric}, but {logged}{nothing}")
    remarks = [f"stopped by itself after epoch {epochs} of {asked}"] if epochs < asked else []
    if reporter.valued_epoch != epochs:
        remarks.append(f"{metric} was last logged in epoch {reporter.valued_epoch}; its value is of that epoch")
    return ended("complete", message="; ".join(remarks))


def _save_weights(assignment: Assignment, weights: Mapping[str, torch.Tensor]) -> None:
    content = {"state_dict": weights, "trial": assignment.config.digest}
    write_atomically(assignment.directory / MODEL_FILE, lambda file: torch.save(content, file))


def _evaluate(assignment: Assignment, device: str) -> EvaluationResult:
    try:
        return EvaluationResult(_test_metrics(assignment, device))
    except SIGTERMException:
        raise
    except BaseException as error:  # damaged weights, a full disk, user code
        if _lost_a_process(error):
            raise
        return EvaluationResult(message=_failed(error, assignment.config).message)


def _test_metrics(assignment: Assignment, device: str) -> dict[str, float]:
    config = assignment.config
    module, data = build_module(config), build_data(config)
    if not is_overridden("test_step", module) or not is_overridden("test_dataloader", data):
        return {}
    weights = load_tensors(assignment.directory / MODEL_FILE)
    if weights.get("trial", config.digest) != config.digest:
        raise DamagedCheckpointError(f"{MODEL_FILE} belongs to other values of the trial")
    network_of(module).load_state_dict(weights["state_dict"])
    predictions = Predictions()
    trainer = build_trainer(config, device, assignment.directory, [predictions], None)
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    write_atomically(assignment.directory / PREDICTIONS_FILE, lambda file: torch.save(predictions.tensors(), file))
    return dict(metrics)


def _silence_libraries() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
