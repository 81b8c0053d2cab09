"""Measure how many trials are trained fastest as one model, by building groups of them and training a few steps."""

import gc
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_modules import FusedClassifier
from lightning_modules.fused.network import why_not
from tuner.config.trial import TrialConfig
from tuner.errors import in_a_line
from tuner.protocol import Assignment, MeasurementResult
from tuner.training import recording
from tuner.training.build import build_classifiers, build_data, build_trainer

__all__ = ["StopWatch", "fastest", "fastest_together", "free_memory", "is_out_of_memory"]

ENOUGH = 0.9  # share of the highest throughput that is enough


def fastest(most: int, seconds: Callable[[int], float | None]) -> tuple[int, float]:
    """Return how many trials to train as one model, and the speed-up over training them one by one.

    Tries 1, 2, 4 ... until two steps in a row bring no gain, and returns the smallest number whose throughput comes
    near the best: trials that are sampled together cannot learn from each other's results.

    Args:
        most: Largest number to try.
        seconds: Returns how long the whole training of a number of trials takes; None if they do not fit into memory.
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

    Args:
        assignment: The trial; nothing of its training is kept.
        most: Largest number to try.
        device: "cpu" or "cuda".
    """
    config, as_group, start = assignment.training, False, 0.0

    def seconds(count: int) -> float | None:
        nonlocal as_group, start
        try:
            if count > 1:
                return start + _timed(assignment, lambda: _fused(config, count, device), device).whole
            first, alone = (_timed(assignment, lambda: build_classifiers([config])[0], device) for _ in range(2))
            start = max(0.0, first.delay - alone.delay)  # what a process spends once: each group has its own process
            if not recording.may_be_recorded(assignment, device):
                return start + alone.whole
            group = _timed(assignment, lambda: _fused(config, 1, device), device)
            as_group = group.is_recorded and group.whole < alone.whole
            return start + (group.whole if as_group else alone.whole)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        finally:
            free_memory(device)
        return None

    try:
        count, speedup = fastest(most, seconds)
        return MeasurementResult(count, speedup, as_group=as_group)
    except Exception as error:  # vmap or the network failed; an error of the network will fail the trial as well
        return MeasurementResult(message=f"they cannot be fused: {why_not(error) or in_a_line(error)}")


def _fused(config: TrialConfig, count: int, device: str) -> FusedClassifier:
    recorder = recording.recorder_for(device)
    return FusedClassifier(build_classifiers([config] * count), recorder=recorder, note=_ignore)


def _timed(assignment: Assignment, build: Callable[[], pl.LightningModule], device: str) -> "StopWatch":
    """Time the beginning of a run, which also validates a batch: that needs memory too."""
    watch = StopWatch()
    trainer = build_trainer(assignment.training, device, assignment.directory, [watch], None, limit_val_batches=1)
    trainer.fit(build(), datamodule=build_data(assignment.training))
    return watch


def _ignore(reason: str) -> None:
    """Ignore why steps are not recorded: the run will report it."""


class StopWatch(pl.Callback):
    """Times the setup and the steps of a run, and ends it after a third of a second of steps, or the last one.

    Attributes:
        delay: Seconds from the creation of this object to the first step that is timed: building and the first steps.
        seconds: Of a step.
        whole: Seconds that the whole run would take, without validation.
        is_recorded: Whether the steps were recorded.
    """

    WARM_UP = 3  # number of steps that are not timed; at most half of all steps
    RECORDING = 12  # largest number of further steps until it is known whether steps are recorded
    STEPS, SECONDS = 5, 0.3

    def __init__(self) -> None:
        self.delay = self.seconds = self.whole = 0.0
        self.is_recorded = False
        self._first = self._latest = self._done = 0
        self._created, self._began = time.perf_counter(), 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Determine the first step to time."""
        self._latest = int(trainer.estimated_stepping_batches) // 2
        self._first = min(self.WARM_UP, self._latest)
        self._look(trainer, module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the clock."""
        self._done += 1
        can_wait = self._done < self.WARM_UP + self.RECORDING
        if isinstance(module, FusedClassifier) and not module.is_settled and can_wait:  # its steps will become faster
            self._first = min(max(self._first, self._done + 1), self._latest)
        self._look(trainer, module)

    def _look(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        timed = self._done - self._first
        if timed == 0:
            _wait_for(module.device)
            self._began = time.perf_counter()
        if timed <= 0:
            return
        is_last = trainer.global_step == trainer.estimated_stepping_batches
        if is_last or (timed >= self.STEPS and time.perf_counter() - self._began >= self.SECONDS):
            _wait_for(module.device)
            self.delay = self._began - self._created
            self.seconds = (time.perf_counter() - self._began) / timed
            self.whole = self.delay + (trainer.estimated_stepping_batches - self._first) * self.seconds
            self.is_recorded = isinstance(module, FusedClassifier) and module.is_recorded
            trainer.should_stop = True


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out."""
    text = in_a_line(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in text for words in ("can't allocate memory", "out of memory", "alloc_failed")
    )


def free_memory(device: str) -> None:
    """Free the memory that a run has left on the device."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
