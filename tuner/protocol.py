"""What the coordinator, the engines and the trainings say to each other: plain data, no libraries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from tuner.config.study import TrialConfig

__all__ = [
    "Assignment",
    "Channel",
    "ChannelClosedError",
    "EpochReport",
    "Group",
    "Point",
    "Points",
    "Slot",
    "StepReport",
    "TrialResult",
    "Verdict",
]

Verdict = Literal["continue", "prune", "stop", "forget"]
"""The answer to a report.

"stop" means: save, and end, to be continued another time; "forget", after a last epoch: a better trial is known, so the
weights are not wanted.
"""

Point = tuple[str, int, float]
"""Metric, step and value."""

Points = Sequence[Point]


@dataclass(frozen=True)
class Assignment:
    """One trial to train.

    Args:
        number: Its number in the study.
        config: Its values.
        metric: The objective metric.
        directory: Where its checkpoints, its result and its output belong.
        best_epoch: In which direction the metric of its best epoch is looked for, whose value and weights then count;
            None if those of its last epoch do.
    """

    number: int
    config: "TrialConfig"
    metric: str
    directory: Path
    best_epoch: Literal["maximize", "minimize"] | None = None


@dataclass(frozen=True)
class Group:
    """Trials that one process works on together.

    Args:
        trials: The trials.
        task: What it does with them. "measure" finds out how many trials like the first are trained fastest as one
            model; "rehearse" takes a few steps of each, to find out what is wrong with it.
        checkpoint_every: Seconds that a training goes on without a checkpoint; 0 for one after every epoch.
        fuse: How many are tried at most, if that is to be found out.
    """

    trials: tuple[Assignment, ...]
    task: Literal["train", "test", "measure", "rehearse"] = "train"
    checkpoint_every: float = 0.0
    fuse: int = 1


@dataclass(frozen=True)
class Slot:
    """A place that trains one group at a time.

    Args:
        index: Number of the slot, from 0.
        gpus: The GPUs that it uses, by the names that CUDA_VISIBLE_DEVICES takes; none for the CPU.
        threads: CPU threads that each process of a training in it may use.
        cores: CPU cores that it is kept on; none for any.
        ranks: Processes that train one trial together; with GPUs, one on each.
        host: The machine, if there are several.
    """

    index: int
    gpus: tuple[str, ...]
    threads: int
    cores: tuple[int, ...] = ()
    ranks: int = 1
    host: str = ""

    @property
    def kind(self) -> Literal["cpu", "cuda"]:
        """Return the device's kind, as torch calls it."""
        return "cuda" if self.gpus else "cpu"

    @property
    def device(self) -> str:
        """Return the device's name, for people."""
        name = "cpu" if self.ranks == 1 else f"{self.ranks} x cpu"
        if self.gpus:
            name = f"cuda:{','.join(self.gpus)}"
        return f"{name} on {self.host}" if self.host else name


@dataclass(frozen=True)
class StepReport:
    """How far a trial is.

    Args:
        epoch: Epochs that are over.
        step: Optimizer steps done.
        total_steps: Optimizer steps in the whole training; 0 if that is not known.
        lr: Learning rate of the last one.
    """

    epoch: int
    step: int
    total_steps: int
    lr: float


@dataclass(frozen=True)
class EpochReport:
    """What an epoch brought.

    Args:
        epoch: The epoch, counted from 1.
        value: The objective metric at its end; None if it was not logged in this epoch.
        points: Every metric logged since the last report; since the beginning, in the first after a resume.
        lr_rose: Whether the epoch ended at a higher lr than it began with, as after a restart. The metric then says
            little about the schedule, so it is no time to prune.
        step: Where the trial is.
        is_last: Whether the training ends here, after all of its epochs or because it stops itself.
    """

    epoch: int
    value: float | None
    points: Points
    lr_rose: bool
    step: StepReport
    is_last: bool = False


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended.

    Args:
        state: "interrupted" means that it can be continued; the others are final.
        value: Objective metric at the end of the last epoch; None if there is none.
        epochs: Epochs that are over.
        seconds: Time it took; if it was cut short, since it was last continued.
        message: What went wrong, in a line; empty if nothing did. With "interrupted": why no trial can go on now; with
            "complete": that it stopped itself before its last epoch.
        traceback: Where it went wrong.
        diverged_at: Step of the first loss that was not finite.
        metrics: What a test gave; or a measurement: "fuse", how many trials, and "gain", in throughput; or a rehearsal:
            "parameters" of the network, and "seconds" of a step.
        points: Every metric that was logged.
        params: Parameters that its module recorded itself.
        tags: Tags that its module set itself.
        device: Name of what it was trained on.
        setup: What the result depends on beside the trial's values; see `conditions.training_conditions`.
    """

    state: Literal["complete", "pruned", "diverged", "failed", "interrupted"]
    value: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    message: str = ""
    traceback: str = ""
    diverged_at: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    points: Points = ()
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    setup: Mapping[str, str | int] = field(default_factory=dict)


class ChannelClosedError(Exception):
    """The coordinator cannot be reached any more: the training's process is to end, and its trial goes on later.

    Only a `Channel` raises it. An OSError or EOFError in a training is therefore always the user's own.
    """


class Channel(Protocol):
    """How a training speaks to the coordinator, wherever it runs; every method may raise `ChannelClosedError`."""

    def report(self, number: int, report: EpochReport) -> Verdict:
        """Tell about an epoch and return what to do."""

    def progress(self, number: int, report: StepReport) -> None:
        """Tell how far a trial is."""

    def fuse_at_most(self, count: int, reason: str) -> None:
        """Tell how many trials can be trained as one model, and why not more."""

    def note(self, text: str) -> None:
        """Show a remark in the terminal."""
