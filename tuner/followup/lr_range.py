"""Run an lr range test: the trial of a study file, trained for a short time at many constant lrs with several seeds.

The runs are ordinary groups of an engine: a slot trains as many as fit at a time, as one model. They record nothing in
Optuna or MLflow.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.analysis.lr_range import LrRange
from tuner.config.component import Component
from tuner.config.loader import load_default, load_study
from tuner.config.study import StudyConfig
from tuner.config.trainer import TrainerConfig
from tuner.config.trainings import as_training
from tuner.config.trial import TrialConfig
from tuner.direction import Direction
from tuner.errors import StudyFailedError
from tuner.interrupts import temporary_folder
from tuner.protocol import (
    Assignment,
    Decision,
    Engine,
    EpochReport,
    Group,
    MeasurementGroup,
    MeasurementResult,
    Result,
    Slot,
    StepReport,
    TrainingGroup,
    TrialResult,
)
from tuner.runner.group_size import GroupSize, GroupSizeSearch, alike, fuse_of
from tuner.runner.rehearsal import networks
from tuner.storage.reader import config_of
from tuner.storage.replicates import fresh_seeds

__all__ = ["INITIAL_LR", "RangePlan", "plan_range", "test_range"]

INITIAL_LR = "initial_lr"
FEWEST_STEPS = 10
NO_LR = 1e-12  # lr of the runs that show how the network performs untrained
USUAL_LRS, MOST_LRS = 15, 64
MOST_DEATHS = 2


@dataclass(frozen=True)
class RangePlan:
    """An lr range test, ready to be run.

    Args:
        config: The study.
        trial: The trial, whose initial lr is replaced.
        low: The lowest lr.
        high: The highest lr.
        count: Number of lrs; 0 for as many as fill the slots, at least `USUAL_LRS`.
        seeds: The seeds.
        steps: Optimizer steps of each run.
        all_steps: Optimizer steps of a full run of the study.
        fuse: Number of runs in a slot at a time, as one model.
    """

    config: StudyConfig
    trial: TrialConfig
    low: float
    high: float
    count: int
    seeds: Sequence[int]
    steps: int
    all_steps: int
    fuse: GroupSize

    @property
    def metric(self) -> str:
        """Return the metric by which the lrs are judged: a classifier's loss is less noisy than its accuracy."""
        return "val/loss" if self.trial.loss is not None else self.config.objective.metric

    @property
    def direction(self) -> Direction:
        """Return whether large or small values of the metric are better."""
        return Direction.MINIMIZE if self.trial.loss is not None else self.config.objective.direction

    def lrs(self, together: int) -> list[float]:
        """Return the lrs, evenly spaced on a log scale.

        Args:
            together: Number of runs in all slots at a time.
        """
        count = self.count or min(MOST_LRS, max(USUAL_LRS, together // len(self.seeds) - 1))
        low, high = math.log(self.low), math.log(self.high)
        return [float(f"{math.exp(low + (high - low) * index / (count - 1)):.3g}") for index in range(count)]


def plan_range(
    source: str,
    overrides: Sequence[str],
    low: float,
    high: float,
    count: int,
    seeds: int,
    share: float,
    fuse: str,
    slots: Sequence[Slot],
) -> RangePlan:
    """Check the study file and the options, and return what to train.

    Args:
        source: Study file, or the name of a shipped study.
        overrides: ``dotted.path=value`` each, which replace values of the file.
        low: The lowest lr.
        high: The highest lr.
        count: Number of lrs; 0 for as many as fit.
        seeds: Number of seeds.
        share: Length of the runs, in percent of the study's.
        fuse: The option ``--fuse``.
        slots: The slots.

    Raises:
        BadInputError: If the file or an option is wrong.
    """
    config = load_study(source, overrides)
    config.check_trains("range trains a network")
    # The study's default; if it is incomplete without the search space, the first of its corners.
    fixed = load_default(source, overrides)
    trial = as_training(config_of(fixed, {})) if fixed else networks(load_study(source, overrides))[0]
    length = config.probe.length(trial.values())
    steps = min(length.steps, max(FEWEST_STEPS, round(length.steps * share / 100)))
    epochs = math.ceil(steps / length.steps_per_epoch)  # a data module's epoch must not be longer
    interval = math.ceil(steps / epochs)
    trainer = dataclasses.replace(
        TrainerConfig(max_steps=interval * epochs, val_check_interval=interval),
        precision=trial.trainer.precision,
        gradient_clip_val=trial.trainer.gradient_clip_val,
        gradient_clip_algorithm=trial.trainer.gradient_clip_algorithm,
        accumulate_grad_batches=trial.trainer.accumulate_grad_batches,
    )
    trial = dataclasses.replace(trial, trainer=trainer, schedule=Component("constant"), relative={})
    return RangePlan(
        config=config,
        trial=trial,
        low=low,
        high=high,
        count=count,
        seeds=fresh_seeds(trial.seed, seeds, ()),
        steps=trainer.max_steps,
        all_steps=length.steps,
        fuse=fuse_of(config, fuse, slots, (count or MOST_LRS) * seeds, is_search=False),
    )


def test_range(
    plan: RangePlan, engine: Engine, note: Callable[[str], None], show: Callable[[int, int], None]
) -> LrRange:
    """Train at each lr with each seed, and return the results.

    Args:
        plan: The test.
        engine: Trains.
        note: Called with remarks for the user.
        show: Called with the number of completed runs, and of all.

    Raises:
        StudyFailedError: If the runs fail.
    """
    with temporary_folder() as folder:
        handler = _RangeHandler(plan, folder, len(engine.slots), note, show)
        engine.run(handler)
    return handler.found()


test_range.__test__ = False  # type: ignore[attr-defined] # not a test of pytest


class _RangeHandler:
    """An engine's `Handler` that trains at all lrs, in groups as large as a study's."""

    def __init__(
        self,
        plan: RangePlan,
        folder: Path,
        slots: int,
        note: Callable[[str], None],
        show: Callable[[int, int], None],
    ) -> None:
        self._plan, self._folder, self._slots, self.note, self._show = plan, folder, slots, note, show
        self._size = GroupSizeSearch(plan.fuse, note)
        self._lrs: list[float] = []
        self._waiting: list[Assignment] | None = None
        self._results: dict[int, TrialResult] = {}
        self._deaths: dict[int, int] = {}
        self._total = 0

    def found(self) -> LrRange:
        """Return the results.

        Raises:
            StudyFailedError: If a run failed in a way other than diverging.
        """
        failed = [result.message for result in self._results.values() if result.state == "failed"]
        if failed or len(self._results) < self._total:
            raise StudyFailedError(failed[0] if failed else "the runs of the range test have no result.")
        seeds = len(self._plan.seeds)
        values = [self._value(self._results[number]) for number in range(self._total)]
        untrained = [value for value in values[:seeds] if value is not None]
        if len(untrained) < seeds:
            raise StudyFailedError(f"{self._plan.metric} is not finite even without training.")
        return LrRange(
            self._plan.metric,
            self._plan.direction,
            {lr: values[seeds * at : seeds * (at + 1)] for at, lr in enumerate(self._lrs, start=1)},
            untrained,
        )

    def _value(self, result: TrialResult) -> float | None:
        points = [value for metric, _, value in result.points if metric == self._plan.metric]
        return points[-1] if result.state == "complete" and points and math.isfinite(points[-1]) else None

    def _assignment(self, number: int, lr: float, seed: int) -> Assignment:
        trial = self._plan.trial
        optimizer = Component(trial.optimizer.name, {**trial.optimizer.arguments, INITIAL_LR: lr})
        config = dataclasses.replace(trial, optimizer=optimizer, seed=seed)
        return Assignment(number, config, self._plan.config.objective, self._folder / str(number))

    def next_group(self, slot: Slot) -> Group | None:
        """Return the measurement of the group size, and then the next runs."""
        if not self._size.is_over:
            return self._size.next_group(self._assignment(0, self._plan.low, self._plan.seeds[0]))
        if self._waiting is None:
            self._lrs = self._plan.lrs(self._size.count * self._slots)
            pairs = [(lr, seed) for lr in (NO_LR, *self._lrs) for seed in self._plan.seeds]
            self._waiting = [self._assignment(number, *pair) for number, pair in enumerate(pairs)]
            self._total = len(pairs)
        share = -(-len(self._waiting) // self._slots)
        size = max(1, min(self._size.count, share))
        group = [each for each in self._waiting if alike(each.config, self._waiting[0].config)][:size]
        self._waiting = [each for each in self._waiting if each not in group]
        return TrainingGroup(tuple(group), math.inf, self._size.as_group) if group else None

    def report(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        """Let each run go on; no weights are needed."""
        return {number: "forget" if report.is_last else "continue" for number, report in reports.items()}

    def progress(self, number: int, report: StepReport) -> None:
        """Not used: the runs are short."""

    def fuse_at_most(self, count: int, reason: str) -> None:
        """Train fewer at a time from now on."""
        self._size.limit(count, reason)

    def done(self, group: Group, results: Sequence[Result]) -> None:
        """Store the results."""
        for assignment, result in zip(group.trials, results, strict=True):
            if isinstance(result, MeasurementResult):
                self._size.done(result)
            elif isinstance(result, TrialResult):
                self._results[assignment.number] = result
        self._show(len(self._results), self._total)

    def died(self, group: Group, reason: str) -> None:
        """Retry the runs of a dead process, one by one."""
        if isinstance(group, MeasurementGroup):
            self._size.died(reason)
            return
        self._size.limit(1, f"a process {reason}")
        for assignment in group.trials:
            self._deaths[assignment.number] = self._deaths.get(assignment.number, 0) + 1
            if self._deaths[assignment.number] < MOST_DEATHS:
                self.returned(Group((assignment,)))
            else:
                self._results[assignment.number] = TrialResult("failed", message=f"the run {reason}")

    def returned(self, group: Group) -> None:
        """Give a group to another slot, since its slot was lost."""
        if isinstance(group, MeasurementGroup):
            self._size.returned()
        else:
            self._waiting = [*group.trials, *(self._waiting or ())]

    def tick(self) -> bool:
        """Go on: a signal ends the command at once, as nothing is stored."""
        return True
