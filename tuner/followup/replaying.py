"""Train one trial again under its recorded conditions, and compare every metric with the stored values."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.analysis.record import Curve
from tuner.engines.local import LocalEngine
from tuner.engines.machine import visible_gpus
from tuner.errors import BadInputError, StudyFailedError
from tuner.protocol import (
    Assignment,
    Decision,
    EpochReport,
    Group,
    Point,
    Result,
    Slot,
    StepReport,
    TrainingGroup,
    TrialResult,
)
from tuner.storage.trial_ends import end_of, setup_of, state_of
from tuner.text import pluralize
from tuner.training.conditions import on_cpu
from tuner.training.lightning_cli import as_trained

if TYPE_CHECKING:
    from tuner.storage.reader import Trial
    from tuner.storage.stored_study import StoredStudy

__all__ = ["different_points", "different_setup", "how_trained", "train_again"]

STALL_SECONDS = 1800.0
LARGEST = 1.7976931348623157e308  # MLflow's databases store it in place of infinity


def train_again(past: "StoredStudy", trial: "Trial", directory: Path, note: Callable[[str], None]) -> TrialResult:
    """Train a trial again in a new process, with the same threads, precision and ranks.

    Args:
        past: The study.
        trial: The trial. A pruned trial ends at the same epoch.
        directory: Directory for checkpoints, weights and result.
        note: Called with messages for the user.

    Raises:
        BadInputError: If it was trained on GPUs that this machine does not have.
        StudyFailedError: If its process dies.
    """
    setup = setup_of(trial)
    config = as_trained(past.training_of(trial), setup, end_of(trial).epochs)
    ranks, threads = int(setup.get("ranks", 1)), int(setup.get("threads", 1))
    gpus = () if on_cpu(setup) else _gpus(ranks)
    epochs = end_of(trial).epochs if state_of(trial) == "pruned" else None
    assignment = Assignment(trial.number, config, past.config.objective, directory, past.config.further)
    handler = _OneTrial(assignment, epochs, note)
    engine = LocalEngine([Slot(0, gpus, threads, ranks=ranks)], STALL_SECONDS)
    try:
        engine.run(handler)
    finally:
        engine.close()
    if handler.result is None:
        raise StudyFailedError(f"the process that trained trial #{trial.number} again {handler.reason}.")
    return handler.result


def _gpus(count: int) -> tuple[str, ...]:
    found = visible_gpus()
    if count > len(found):
        raise BadInputError([f"the trial was trained on {pluralize(count, 'GPU')}, and this machine has {len(found)}."])
    return tuple(found[:count])


class _OneTrial:
    """The handler of an engine that trains one trial.

    Args:
        assignment: The trial.
        epochs: The epoch after which to prune it; None for never.
        note: Called with messages for the user.
    """

    def __init__(self, assignment: Assignment, epochs: int | None, note: Callable[[str], None]) -> None:
        self.result: TrialResult | None = None
        self.reason = ""
        self._waiting: Assignment | None = assignment
        self._epochs, self._note = epochs, note

    def next_group(self, slot: Slot) -> Group | None:
        """Return the trial, once."""
        assignment, self._waiting = self._waiting, None
        return TrainingGroup((assignment,), checkpoint_every=math.inf) if assignment else None

    def report(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        """Prune the trial after the same epoch as before."""
        return {number: "prune" if each.epoch == self._epochs else "continue" for number, each in reports.items()}

    def progress(self, number: int, report: StepReport) -> None:
        """Do nothing."""

    def fuse_at_most(self, count: int, reason: str) -> None:
        """Do nothing: there is only one trial."""

    def done(self, group: Group, results: Sequence[Result]) -> None:
        """Store the result."""
        (self.result,) = (result for result in results if isinstance(result, TrialResult))

    def died(self, group: Group, reason: str) -> None:
        """Store the reason why there is no result."""
        self.reason = reason

    def returned(self, group: Group) -> None:
        """Queue the trial again."""
        (self._waiting,) = group.trials

    def note(self, text: str) -> None:
        """Pass the note on."""
        self._note(text)

    def tick(self) -> bool:
        """Continue."""
        return True


def how_trained(setup: Mapping[str, Any]) -> str:
    """Return sentences on how a trial was trained, and how exactly a replay can match it."""
    if not setup:
        return "The training conditions were not recorded, so the replay may differ."
    where = f"trained on {setup['device']}, {pluralize(setup['threads'], 'thread')}, {setup['precision']}"
    if setup["fused"] > 1:
        others = pluralize(setup["fused"] - 1, "other")
        return f"It was {where}, as one model with {others}. Trained alone, results match up to rounding."
    if setup["ranks"] > 1:
        text = f"It was {where}, by {setup['ranks']} processes that split its batches, and so is the replay."
        return f"{text} Sums may be rounded differently."
    if not on_cpu(setup):
        return f"It was {where}. A GPU may sum in a different order, so expect small differences."
    return f"It was {where}. On the same processor, with the same versions, the replay is the same to the last bit."


def different_setup(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the training conditions that differ, each as a clause."""
    return [
        f"{key}: was {before.get(key, 'not recorded')}, now {now.get(key, 'missing')}"
        for key in dict.fromkeys([*before, *now])
        if before and before.get(key) != now.get(key)
    ]


def different_points(before: Mapping[str, Curve], now: Sequence[Point]) -> list[str]:
    """Return sentences on the metrics that differ from the stored ones: from which step on, and by how much.

    Args:
        before: The stored curves by metric.
        now: The points of the replay.
    """
    again: dict[str, dict[int, float]] = {}
    for key, step, value in now:
        again.setdefault(key, {})[step] = math.copysign(LARGEST, value) if math.isinf(value) else value
    sentences = []
    for key in sorted({*before, *again}):
        old, new = dict(before.get(key, ())), again.get(key, {})
        if missing := sorted(old.keys() ^ new.keys()):
            side = "stored only" if missing[0] in old else "not stored"
            sentences.append(f"{key}: {pluralize(len(missing), 'point')} {side}, from step {missing[0]} on")
        other = [step for step in sorted(old.keys() & new.keys()) if not _same(old[step], new[step])]
        if other:
            gap = max(abs(new[step] - old[step]) for step in other)
            first = f"was {old[other[0]]!r}, now {new[other[0]]!r}"
            count = f"{len(other)} of {pluralize(len(old), 'point')}"
            sentences.append(f"{key}: differs from step {other[0]} on ({first}), in {count}, by at most {gap:.3g}")
    return sentences


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
