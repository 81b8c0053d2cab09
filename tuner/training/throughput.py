"""Measure how many trials are trained fastest as one model, by training a few steps of them."""

import gc
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_modules import FusedClassifier
from tuner.errors import in_a_line
from tuner.protocol import Assignment, MeasurementResult
from tuner.training.build import build_classifiers, build_data, build_trainer

__all__ = ["StopWatch", "fastest", "fastest_together", "free_memory", "is_out_of_memory"]

ENOUGH = 0.9  # share of the highest throughput
COORDINATION = 0.015
"""Seconds for which the coordinator asks for, reports and tells a trial in a group, while its slot waits."""


def fastest(most: int, seconds: Callable[[int], float | None]) -> tuple[int, float]:
    """Return how many trials to train as one model, and the speed-up over training them one by one.

    Tries 1, 2, 4 ... until two steps in a row bring no gain, and returns the smallest number whose throughput comes
    near the best: trials that are sampled together cannot learn from each other's results.

    Args:
        most: Largest number to try.
        seconds: Returns the time that so many trials take; None if they do not fit into memory.
    """
    speeds: dict[int, float] = {}
    count, fruitless = 1, 0
    while fruitless < 2 and (taken := seconds(count)) is not None:
        fruitless = fruitless + 1 if speeds and count / taken < max(speeds.values()) / ENOUGH else 0
        speeds[count] = count / taken
        if count == most:
            break
        count = min(2 * count, most)
    if not speeds:
        return 1, 1.0
    chosen = min(count for count, speed in speeds.items() if speed >= ENOUGH * max(speeds.values()))
    return chosen, speeds[chosen] / speeds[1]


def fastest_together(assignment: Assignment, most: int, device: str) -> MeasurementResult:
    """Measure how many trials like this one are trained fastest as one model.

    A few steps of each number are trained. What counts is the whole time of a group in its slot: its beginning in a new
    process, all of its steps, and the coordinator's part.

    Args:
        assignment: The trial; nothing of its training is kept.
        most: Largest number to try.
        device: "cpu" or "cuda".
    """
    new_process = 0.0  # how much longer a training takes to begin where none was before

    def seconds(count: int) -> float | None:
        nonlocal new_process
        try:
            first = _measure_alone(assignment, device) if count == 1 else None
            measured = _measure(assignment, count, device)
            if first:
                new_process = max(0.0, first.beginning - measured.beginning)
            return measured.seconds(new_process + COORDINATION * count)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        finally:
            free_memory(device)
        return None

    try:
        return MeasurementResult(*fastest(most, seconds))
    except Exception as error:  # from vmap or the network; an error of the network will fail the trial as well
        return MeasurementResult(message=f"they cannot be fused: {in_a_line(error)}")


@dataclass(frozen=True)
class _Measured:
    """The time of a training.

    Args:
        beginning: Seconds from its beginning to its first timed step.
        step: Seconds of a step.
        steps: Number of its steps; infinite if its time is limited instead.
    """

    beginning: float
    step: float
    steps: float

    def seconds(self, more: float) -> float:
        """Return the seconds of the whole training and what is added to it; of one step if its length is unknown."""
        return self.beginning + self.steps * self.step + more if math.isfinite(self.steps) else self.step


def _measure(assignment: Assignment, count: int, device: str) -> _Measured:
    """Train so many trials for a few steps. They also validate a batch, which needs memory too."""
    if count > 1:
        return _measure_group(assignment, count, device)
    alone = _measure_alone(assignment, device)
    if device != "cuda":
        return alone
    group = _measure_group(assignment, 1, device)  # as it may be trained if its steps can be recorded
    return min(alone, group, key=lambda each: each.seconds(0.0))


def _measure_alone(assignment: Assignment, device: str) -> _Measured:
    return _measure_module(assignment, lambda: build_classifiers([assignment.config])[0], device)


def _measure_group(assignment: Assignment, count: int, device: str) -> _Measured:
    def build() -> pl.LightningModule:
        return FusedClassifier(build_classifiers([assignment.config] * count), note=_ignore)

    return _measure_module(assignment, build, device)


def _measure_module(assignment: Assignment, build: Callable[[], pl.LightningModule], device: str) -> _Measured:
    began, watch = time.perf_counter(), StopWatch()
    trainer = build_trainer(assignment.config, device, assignment.directory, [watch], None, limit_val_batches=1)
    trainer.fit(build(), datamodule=build_data(assignment.config))
    return _Measured(watch.began - began, watch.seconds, watch.steps)


def _ignore(reason: str) -> None:
    """Ignore why steps are not recorded: the training will tell."""


class StopWatch(pl.Callback):
    """Times the steps of a training, and ends it after a third of a second or the last step.

    Attributes:
        began: When the first timed step began, by the performance counter.
        seconds: The time of a step.
        steps: Number of steps of the whole training; infinite if it has no end.
    """

    WARM_UP = 3  # steps that are not timed, besides those by which a recording is tried; at most half of all steps
    STEPS, SECONDS = 5, 0.3

    def __init__(self) -> None:
        self.began = self.seconds = 0.0
        self.steps = math.inf
        self._first = self._latest = self._done = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Determine the first step to time."""
        self.steps = trainer.estimated_stepping_batches
        self._latest = int(self.steps) // 2 if math.isfinite(self.steps) else sys.maxsize
        self._first = min(self.WARM_UP, self._latest)
        self._look(trainer, module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the clock."""
        self._done += 1
        if isinstance(module, FusedClassifier) and not module.is_settled:  # its steps will become faster
            self._first = min(max(self._first, self._done + 1), self._latest)
        self._look(trainer, module)

    def _look(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        timed = self._done - self._first
        if timed == 0:
            _wait_for(module.device)
            self.began = time.perf_counter()
        if timed <= 0:
            return
        is_last = trainer.global_step == self.steps
        if is_last or (timed >= self.STEPS and time.perf_counter() - self.began >= self.SECONDS):
            _wait_for(module.device)
            self.seconds = (time.perf_counter() - self.began) / timed
            trainer.should_stop = True


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out."""
    text = in_a_line(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in text for words in ("can't allocate memory", "out of memory", "alloc_failed")
    )


def free_memory(device: str) -> None:
    """Free the memory that a training has left on the device."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
