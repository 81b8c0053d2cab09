"""The messages and interfaces between coordinator, engines and trainings: plain data, no libraries.

The coordinator is the `Handler` of an `Engine`. The engine takes groups from it whenever a slot is free, passes reports
and verdicts on, and says how each group ended; it uses neither Optuna nor MLflow. A training talks to the coordinator
through a `Channel`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from tuner.config.study import Objective, TrialConfig

__all__ = [
    "Assignment",
    "Channel",
    "ChannelClosedError",
    "Engine",
    "EpochReport",
    "Group",
    "Handler",
    "Point",
    "Points",
    "Slot",
    "StepReport",
    "TrialResult",
    "Verdict",
]

Verdict = Literal["continue", "prune", "stop", "forget"]
"""The answer to a report.

"stop" means to save and end, to be continued later. "forget", after the last epoch, means that a better trial is known,
so the weights are not needed.
"""

Point = tuple[str, int, float]
"""Metric, step and value."""

Points = Sequence[Point]


@dataclass(frozen=True)
class Assignment:
    """One trial to train.

    Args:
        number: Its number in the study.
        config: Its configuration.
        objective: The objective of the study.
        directory: Directory of its checkpoints, result and output.
    """

    number: int
    config: "TrialConfig"
    objective: "Objective"
    directory: Path


@dataclass(frozen=True)
class Group:
    """A task for one process: trials, and what to do with them.

    Args:
        trials: The trials.
        task: "train" or "test" them; "measure" how many trials like the first are trained fastest as one model; or
            "rehearse" a few steps of each, to find errors early.
        checkpoint_every: Seconds between checkpoints; 0 for one after every epoch.
        fuse: Largest number of trials to "measure".
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
        gpus: Its GPUs, as in CUDA_VISIBLE_DEVICES; empty for the CPU.
        threads: CPU threads for each process of a training in it.
        cores: CPU cores that it is pinned to; empty for any.
        ranks: Processes that train one trial together; with GPUs, one for each GPU.
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
        """Return torch's name for the kind of device."""
        return "cuda" if self.gpus else "cpu"

    @property
    def device(self) -> str:
        """Return the display name of the device."""
        name = "cpu" if self.ranks == 1 else f"{self.ranks} x cpu"
        if self.gpus:
            name = f"cuda:{','.join(self.gpus)}"
        return f"{name} on {self.host}" if self.host else name


@dataclass(frozen=True)
class StepReport:
    """The progress of a trial.

    Args:
        epoch: Number of finished epochs.
        step: Optimizer steps done.
        total_steps: Optimizer steps of the whole training; 0 if unknown.
        lr: Learning rate of the last step.
    """

    epoch: int
    step: int
    total_steps: int
    lr: float


@dataclass(frozen=True)
class EpochReport:
    """The metrics and the progress of a trial after an epoch.

    Args:
        epoch: The epoch, counted from 1.
        value: The objective metric at its end; None if it was not logged in this epoch.
        points: All points since the last report; in the first report after a resume, since the beginning.
        lr_rose: Whether the epoch ended at a higher lr than it began with, as after a restart. The metric then says
            little about the schedule, so the trial is not pruned here.
        step: The progress.
        is_last: Whether the training ends here, after its last epoch or because it stopped by itself.
    """

    epoch: int
    value: float | None
    points: Points
    lr_rose: bool
    step: StepReport
    is_last: bool = False


@dataclass(frozen=True)
class TrialResult:
    """The result of a task for one trial.

    Args:
        state: "interrupted" can be continued; the other states are final.
        value: The objective metric of the last (or best) epoch; None if there is none.
        epochs: Number of finished epochs.
        seconds: Time it took; for a resumed trial, since it was last resumed.
        message: The error, on one line; empty if there is none. If "interrupted", the reason why no trial can continue
            now; if "complete", a remark such as that it stopped by itself.
        traceback: Traceback of the error.
        diverged_at: Step of the first loss that was not finite; None if all were.
        metrics: Of a test, the test metrics; of a measurement, the number of trials "fuse" and the speed-up "gain"; of
            a rehearsal, the number of "parameters" and the "seconds" of a step.
        points: All points that were logged.
        params: Parameters that its module logged itself.
        tags: Tags that its module set itself.
        device: Display name of the device.
        setup: The conditions that the result depends on, besides the trial's configuration; see `training_conditions`.
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
    """The coordinator cannot be reached any more. The training's process has to end, and its trial is continued later.

    Only a `Channel` raises it, so an OSError or EOFError in a training always comes from user code.
    """


class Channel(Protocol):
    """A training's connection to the coordinator; every method may raise `ChannelClosedError`."""

    def report(self, number: int, report: EpochReport) -> Verdict:
        """Report an epoch and return the verdict."""

    def progress(self, number: int, report: StepReport) -> None:
        """Report how far a trial is."""

    def fuse_at_most(self, count: int, reason: str) -> None:
        """Report how many trials can be trained as one model, and why not more."""

    def note(self, text: str) -> None:
        """Show a note in the terminal."""


class Handler(Channel, Protocol):
    """The coordinator, as an engine sees it. Its methods are called from the thread that called `Engine.run`."""

    def next_group(self, slot: Slot) -> Group | None:
        """Return the next group for a free slot; None if there is none."""

    def done(self, group: Group, results: Sequence[TrialResult]) -> None:
        """Handle the results of a finished group."""

    def died(self, group: Group, reason: str) -> None:
        """Handle a group whose process has ended without results."""

    def returned(self, group: Group) -> None:
        """Take back a group that was not started, because its slot was lost."""

    def tick(self) -> bool:
        """Do periodic work, several times a second; return False to have all groups killed."""


class Engine(Protocol):
    """Runs groups in slots."""

    @property
    def slots(self) -> Sequence[Slot]:
        """Return the current slots; they may change later."""

    def run(self, handler: Handler) -> None:
        """Run groups until no slot is busy and the handler has no more."""

    def close(self) -> None:
        """End all processes that were started."""
