"""The result of a run, from its last epoch or from an error."""

import contextlib
import dataclasses
import math
import multiprocessing.connection
import signal
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.utils.data

from tuner.config.annotations import did_you_mean
from tuner.config.objectives import TIME
from tuner.config.trial import AnyTrial, TrialConfig
from tuner.console import printable
from tuner.errors import in_a_line, place_of
from tuner.files import DiskFullError, write_atomically
from tuner.process import crash_point
from tuner.protocol import Assignment, ChannelClosedError, TrialResult
from tuner.training import distributed
from tuner.training.build import resolve_precision
from tuner.training.checkpoints import remove_checkpoints
from tuner.training.conditions import conditions_here, device_name, training_conditions
from tuner.training.reporter import Reporter
from tuner.training.results import TRACEBACK_FILE, write_result
from tuner.training.throughput import is_out_of_memory

__all__ = [
    "commit_result",
    "disk_full_result",
    "error_message",
    "failed_result",
    "lost_a_process",
    "lost_worker",
    "result_of_training",
]

SECONDS_TO_EXIT = 10.0  # time that a worker may take to exit after it has closed its socket, on a loaded machine


def failed_result(error: BaseException, config: AnyTrial) -> TrialResult:
    """Return the result of a trial that ended with an error."""
    if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
        error = error.__context__  # Lightning converts the one into the other
    # User code can put any text into an error, and not every database and file can store every text.
    return TrialResult(
        "failed", message=printable(error_message(error, config)), traceback=printable(traceback.format_exc())
    )


def commit_result(
    assignment: Assignment, result: TrialResult, started: float, device: str, fused: int = 1
) -> TrialResult:
    """Commit the result of a trial, unless it was interrupted."""
    name = (
        f"{distributed.world_size()} x {device_name(device)}" if distributed.world_size() > 1 else device_name(device)
    )
    conditions = conditions_here(device)
    if isinstance(assignment.config, TrialConfig):
        precision = resolve_precision(assignment.config.trainer.precision, device)
        conditions = training_conditions(device, precision, distributed.world_size(), fused)
    result = dataclasses.replace(result, seconds=time.monotonic() - started, device=name, setup=conditions)
    writes = distributed.is_rank_zero() or result.state == "failed"  # any rank may have failed
    if writes and result.state != "interrupted":
        if result.traceback:
            write_atomically(assignment.directory / TRACEBACK_FILE, lambda file: file.write(result.traceback.encode()))
        write_result(assignment, result)
        crash_point("result written")
        if result.state != "paused":
            remove_checkpoints(assignment.directory)
    return result


def disk_full_result(error: DiskFullError) -> TrialResult:
    """Return the result of a trial whose disk is full."""
    return TrialResult("interrupted", message=f"the disk is full: {error}")  # can continue when there is room


def lost_a_process(error: BaseException) -> bool:
    """Return whether an error means that a process is gone: the coordinator, a data loader's worker or a rank."""
    if isinstance(error, ChannelClosedError):
        return True
    if _lost_a_worker(error):
        return True
    return isinstance(error, Exception) and distributed.world_size() > 1 and distributed.lost_a_rank(error)


def _lost_a_worker(error: BaseException) -> bool:
    loads_data = f"{Path(torch.utils.data.__file__).parent}/"
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if not any(frame.startswith(loads_data) for frame in frames):
        return False
    if frames[-1].startswith(loads_data) and "DataLoader worker (pid" in in_a_line(error):
        return True  # reported wherever the signal arrives, also in user code
    if isinstance(error, FileNotFoundError):  # the socket through which a worker that has ended would send its tensors
        return frames[-1] == multiprocessing.connection.__file__
    return isinstance(error, ConnectionError | EOFError) and not place_of(error)


def lost_worker(error: BaseException) -> str:
    """Return the predicate of a sentence about a training whose data loader lost a worker; empty if it did not."""
    if not _lost_a_worker(error):
        return ""
    workers = {worker.sentinel: worker for loader in _owners(error) for worker in getattr(loader, "_workers", ())}
    with contextlib.suppress(RuntimeError):  # torch reports a worker's end from a signal handler, too
        for ended in multiprocessing.connection.wait(list(workers), SECONDS_TO_EXIT):
            workers[ended].join()  # it closes its sentinel shortly before it has a status
    codes = {worker.exitcode for worker in workers.values()} - {None}
    status = ""
    if len(codes) == 1:  # several codes may include those of workers that were ended with the loader
        code = codes.pop()
        status = f", which ended with status {code}" if code >= 0 else f", which {signal.Signals(-code).name} killed"
    return f"lost a worker of its data loader{status} (num_workers=0 may show its error): {in_a_line(error)}"


def error_message(error: BaseException, config: AnyTrial) -> str:
    """Return an error and its place on one line; if memory ran out, with the sizes of model and data."""
    message = f"{in_a_line(error)}{place_of(error) or _layer_of(error)}"
    if is_out_of_memory(error):
        message = f"out of memory with {config.sizes}: {message}"
    return message


def _layer_of(error: BaseException) -> str:
    """Return the layer of the network that raised an error, in parentheses after a space; empty if none did."""
    modules = [owner for owner in _owners(error) if isinstance(owner, torch.nn.Module)]
    if not modules:
        return ""
    outermost, layer = modules[0], modules[-1]
    name = next((name for name, each in outermost.named_modules() if each is layer), "")
    return f" (in the layer {name}, {type(layer).__name__})" if name else ""


def _owners(error: BaseException) -> list[Any]:
    """Return the objects in whose methods an error was raised, the outermost first.

    The function that caught the error is left out: it still runs, and until Python 3.13 reading its variables would
    keep the error, and with it the model and its gradients, in memory until it ends.
    """
    inner = error.__traceback__ and error.__traceback__.tb_next
    return [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(inner)]


def result_of_training(
    assignment: Assignment,
    reporter: Reporter,
    diverged_at: int | None,
    step: int,
    was_asked_to_stop: bool,
    parameters: int,
) -> TrialResult:
    """Return the result of a run after its last epoch.

    Args:
        assignment: The trial.
        reporter: The trial's reporter.
        diverged_at: Step of the first loss that was not finite; None if all were.
        step: Number of steps done.
        was_asked_to_stop: Whether the coordinator interrupted it or its group, to be continued later.
        parameters: Number of parameters of its network.
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
    metric, epochs, asked = assignment.objective.metric, reporter.epochs, assignment.training.trainer.evaluations
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
        message = f"the objective is {metric}, but {logged}{nothing}{_near(metric, sorted(reporter.names))}"
        return ended("failed", message=message)
    measured = {"parameters": float(parameters), "steps": float(step), TIME: reporter.seconds}
    found = {**reporter.others, **measured}
    for further in (each.metric for each in assignment.further):
        if further not in found:
            names = ", ".join(sorted(reporter.names))
            near = _near(further, sorted(set(reporter.names) - {metric}))
            but = f"only {names} are logged with {metric}{near}"
            if further in reporter.names:
                but = f"it was logged in a different epoch from the one whose {metric} counts"
            return ended("failed", message=f"{further} is an objective, but {but}")
        if not math.isfinite(found[further]):
            message = f"{further} was not finite in the epoch whose {metric} counts"
            return ended("diverged", message=message, diverged_at=step)
    values = {each.metric: found[each.metric] for each in assignment.further}
    points = [*history.points, *((key, step, value) for key, value in values.items() if key in measured)]
    remarks = [f"stopped on its own after epoch {epochs} of {asked}"] if epochs < asked else []
    if reporter.valued_epoch != epochs:
        remarks.append(f"{metric} was last logged in epoch {reporter.valued_epoch}; its value is from that epoch")
    return ended("complete", message="; ".join(remarks), points=points, further=list(values.values()))


def _near(metric: str, logged: Sequence[str]) -> str:
    """Return the question whether a similar metric is meant, as the end of a message; empty if there is none."""
    hint = did_you_mean(metric, logged, cutoff=0.75)  # val_f1 is not a mistyped val_acc
    return f".{hint}" if hint else ""
