"""The messages and interfaces between coordinator, engines and training processes: plain data, no libraries.

The coordinator is the `Handler` of an `Engine`. The engine takes groups from it whenever a slot is free, passes on
reports and decisions, and reports how each group ended; it uses neither Optuna nor MLflow. A training process talks to
the coordinator through a `Channel`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

if TYPE_CHECKING:
    from tuner.config.function_trial import FunctionTrial
    from tuner.config.study import Objective
    from tuner.config.trial import AnyTrial, TrialConfig

__all__ = [
    "Assignment",
    "Channel",
    "ChannelClosedError",
    "Decision",
    "Engine",
    "EngineName",
    "EpochReport",
    "EvaluationGroup",
    "EvaluationResult",
    "Group",
    "Handler",
    "MeasurementGroup",
    "MeasurementResult",
    "Point",
    "Points",
    "RehearsalGroup",
    "RehearsalResult",
    "Result",
    "Slot",
    "State",
    "StepReport",
    "TrainingGroup",
    "TrialResult",
]

EngineName = Literal["local", "ray", "inline"]
"""The engines, the default first; `tuner.engines.make_engine` creates them."""

Decision = Literal["continue", "prune", "pause", "stop", "forget"]
"""The answer to a report.

"stop" means to save and end, to be continued later. "pause" means to save and end at a rung, to be continued only if
other trials turn out to be worse. "forget", after the last epoch, means that a better trial is known,
so the weights are not needed.
"""

State = Literal["complete", "pruned", "paused", "diverged", "failed", "interrupted"]
"""How a trial ended; "paused" and "interrupted" ones can continue."""

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
        further: The further objectives of the study.
    """

    number: int
    config: "AnyTrial"
    objective: "Objective"
    directory: Path
    further: "Sequence[Objective]" = ()

    @property
    def training(self) -> "TrialConfig":
        """Return the configuration of a trial that is a training run."""
        return cast("TrialConfig", self.config)

    @property
    def call(self) -> "FunctionTrial":
        """Return the configuration of a trial that is a call of an objective function."""
        return cast("FunctionTrial", self.config)


@dataclass(frozen=True)
class Group:
    """Trials that one process works on together; the class determines what it does with them."""

    trials: tuple[Assignment, ...]


@dataclass(frozen=True)
class TrainingGroup(Group):
    """Trials to train, as one model if there are several. Each gets a `TrialResult`.

    Args:
        trials: The trials.
        checkpoint_every: Seconds between checkpoints; 0 for one after every epoch.
        as_group: Whether a single trial may be trained as a group of one, where its steps can be recorded.
    """

    checkpoint_every: float = 0.0
    as_group: bool = True


@dataclass(frozen=True)
class EvaluationGroup(Group):
    """Trained trials to evaluate on their test data. Each gets an `EvaluationResult`."""


@dataclass(frozen=True)
class MeasurementGroup(Group):
    """A trial whose copies are trained as one model, to measure which number is fastest; it gets a `MeasurementResult`.

    Args:
        trials: The trial.
        most: Largest number to try.
    """

    most: int = 1


@dataclass(frozen=True)
class RehearsalGroup(Group):
    """Trials to train for a few steps, to find errors early. Each gets a `RehearsalResult`."""


@dataclass(frozen=True)
class Slot:
    """A place that trains one group at a time.

    Args:
        index: Number of the slot, from 0.
        gpus: Its GPUs, as in CUDA_VISIBLE_DEVICES; empty for the CPU.
        threads: CPU threads for each training process in it.
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
        total_steps: Optimizer steps of the whole run; 0 if unknown.
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
        is_last: Whether training ends here, after its last epoch or because it stopped on its own.
    """

    epoch: int
    value: float | None
    points: Points
    lr_rose: bool
    step: StepReport
    is_last: bool = False


@dataclass(frozen=True)
class TrialResult:
    """The result of training a trial.

    Args:
        state: "interrupted" can be continued; the other states are final.
        value: The objective metric of the last (or best) epoch; None if there is none.
        epochs: Number of finished epochs.
        seconds: Time it took; for a resumed trial, since it was last resumed.
        message: The error, on one line; empty if there is none. If "interrupted", the reason why no trial can continue
            now; if "complete", a remark such as that it stopped on its own.
        traceback: Traceback of the error.
        diverged_at: Step of the first loss that was not finite; None if all were.
        points: All points that were logged.
        params: Parameters that its module logged itself.
        tags: Tags that its module set itself.
        device: Display name of the device.
        setup: The conditions that the result depends on, other than the trial's configuration; see
            `training_conditions`.
        further: The values of the further objectives.
    """

    state: State
    value: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    message: str = ""
    traceback: str = ""
    diverged_at: int | None = None
    points: Points = ()
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    setup: Mapping[str, str | int] = field(default_factory=dict)
    further: Sequence[float] = ()


@dataclass(frozen=True)
class EvaluationResult:
    """The test metrics of a trained trial.

    Args:
        metrics: Values by name; empty if its module has no `test_step`, or its data no `test_dataloader`.
        message: The error, on one line; empty if there is none.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True)
class MeasurementResult:
    """The number of trials that are trained fastest as one model.

    Args:
        count: The number.
        speedup: Their throughput as a multiple of the throughput of one trial at a time.
        message: The reason why the trials cannot be fused; empty if they can.
        as_group: Whether one trial at a time is trained faster as a group of one, with recorded steps.
    """

    count: int = 1
    speedup: float = 1.0
    message: str = ""
    as_group: bool = False


@dataclass(frozen=True)
class RehearsalResult:
    """The result of a few steps of a trial.

    Args:
        message: The error, on one line; empty if there is none.
        parameters: Number of parameters of its network; 0 if unknown.
        seconds: Time of a step; 0 if unknown.
    """

    message: str = ""
    parameters: int = 0
    seconds: float = 0.0


Result = TrialResult | EvaluationResult | MeasurementResult | RehearsalResult
"""The result of one trial of a group."""


class ChannelClosedError(Exception):
    """The coordinator can no longer be reached. The process must exit; its trial is resumed later.

    Only a `Channel` raises it, so an OSError or EOFError during training always comes from user code.
    """


class Channel(Protocol):
    """The connection of a training process to the coordinator; every method may raise `ChannelClosedError`."""

    def report(self, reports: Mapping[int, EpochReport]) -> Mapping[int, Decision]:
        """Report an epoch of each trial, by number, and return the decisions."""

    def progress(self, number: int, report: StepReport) -> None:
        """Report the progress of a trial."""

    def fuse_at_most(self, count: int, reason: str) -> None:
        """Report how many trials can be trained as one model, and why not more."""

    def note(self, text: str) -> None:
        """Show a note in the terminal."""


class Handler(Channel, Protocol):
    """The coordinator, as an engine sees it. Its methods are called from the thread that called `Engine.run`."""

    def next_group(self, slot: Slot) -> Group | None:
        """Return the next group for a free slot; None if there is none."""

    def done(self, group: Group, results: Sequence[Result]) -> None:
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
