"""Trains a few steps of each network in the search space before the first trial, to find most errors early."""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.analysis.findings import duration
from tuner.config.search_space import corners
from tuner.config.study import StudyConfig
from tuner.config.trainings import as_training
from tuner.config.trial import TrialConfig
from tuner.errors import BadInputError
from tuner.interrupts import temporary_folder
from tuner.protocol import (
    Assignment,
    Decision,
    Engine,
    EpochReport,
    Group,
    RehearsalGroup,
    RehearsalResult,
    Result,
    Slot,
    StepReport,
)
from tuner.storage.database import state_directory
from tuner.text import pluralize

__all__ = ["Rehearsal", "networks", "rehearse"]

MOST_NETWORKS = 16
LONG_SECONDS = 60  # a network that takes longer for its few steps is named to the user


def networks(config: StudyConfig) -> list[TrialConfig]:
    """Return a trial for each network at the corners of the search space, and for each data set and optimizer.

    If there are more than `MOST_NETWORKS`, an evenly spaced part of them is returned; none if trials are not training
    runs.
    """
    if not config.kind.trains:
        return []
    axes = {key: corners(template) for key, template in config.trial.items()}
    first = {key: values[0] for key, values in axes.items()}
    trials = [{**first, key: value} for key in ("model", "data", "optimizer", "trainer", "loss") for value in axes[key]]
    distinct: dict[str, Mapping[str, Any]] = {}
    for trial in trials:
        distinct.setdefault(_network(trial), trial)
    chosen = list(distinct.values())[:: -(-len(distinct) // MOST_NETWORKS)]
    return [as_training(config.trial_of(values)) for values in chosen]


def _network(trial: Mapping[str, Any]) -> str:
    """Return a key for trials that fail in the same way: it leaves out the arguments of the optimizer."""
    optimizer, precision = trial["optimizer"]["name"], trial["trainer"].get("precision")
    return json.dumps([trial["data"], trial["model"], optimizer, trial["loss"], precision], sort_keys=True)


@dataclass(frozen=True)
class Rehearsal:
    """The findings of a rehearsal.

    Args:
        faults: A sentence for each error.
        parameters: Number of parameters of the smallest and of the largest network.
        seconds: Time of a step of the slowest network.
        deaths: A sentence for each network whose process died.
    """

    faults: Sequence[str]
    parameters: tuple[int, int]
    seconds: float
    deaths: Sequence[str] = ()

    def described(self, config: StudyConfig, slots: int) -> str:
        """Return the size of the networks, the length of a trial and the least time of the whole study."""
        if not config.kind.trains:
            return "the function is not called before the first trial"
        fewest, most = self.parameters
        size = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
        sentences = [f"a network of {size} parameters"]
        try:
            steps = _steps(config)
        except BadInputError:  # the data module does not report its number of batches
            return sentences[0]
        sentences.append(f"{pluralize(steps, 'step')} per trial")
        whole = config.fewest_trials + (config.final.trainings if config.final else 0)
        if config.whole_allowance and not config.limits_trials:  # pruned trials leave their epochs to others
            turns, amount, uncounted = max(1.0, whole / slots), str(config.whole_allowance), "validation"
        else:
            turns, amount, uncounted = -(-whole // slots), pluralize(whole, "trial"), "validation or pruning"
        total = duration(max(1.0, turns * steps * self.seconds))
        but = f"including the final runs but not {uncounted}" if config.final else f"not including {uncounted}"
        sentences.append(f"at least {total} for {amount}, {but}")
        return ", ".join(sentences)


def _steps(config: StudyConfig) -> int:
    return max(config.probe.length(trial.values()).steps for trial in networks(config))


def rehearse(
    config: StudyConfig,
    engine: Engine,
    storage: str,
    note: Callable[[str], None],
    tell: Callable[[str], None] | None = None,
) -> Rehearsal:
    """Train a few steps of each network, validate a batch, save and load a checkpoint, on the engine's devices.

    Args:
        config: The study.
        engine: Its slots do the work; it can be used again.
        storage: URL of Optuna's database. With several machines, checkpoints are written where all of them can read
            them.
        note: Called with a warning that does not stop the study.
        tell: Called with a sentence about what takes long, to be shown at once; None for `note`.

    Raises:
        BadInputError: If none of the networks can be trained.
    """
    trials = networks(config)
    with _folder(config, engine, storage) as folder:
        handler = _RehearsalHandler(
            [_assignment(config, trial, number, folder) for number, trial in enumerate(trials)], note, tell or note
        )
        engine.run(handler)
    results = [handler.results[number] for number in range(len(trials)) if number in handler.results]
    failed = [result for result in results if result.message]
    named = [(trials[number].model.name, result.message.rstrip(".")) for number, result in handler.results.items()]
    faults = list(dict.fromkeys(f"trial with {name}: {message}." for name, message in named if message))
    if failed and len(failed) == len(trials) and not all("out of memory" in each.message for each in failed):
        raise BadInputError(faults)
    for fault in faults:
        note(f"some trials will fail: {fault.removeprefix('trial ')}")
    counts = [result.parameters for result in results if result.parameters]
    seconds = max((result.seconds for result in results), default=0.0)
    return Rehearsal(faults, (min(counts, default=0), max(counts, default=0)), seconds, handler.deaths)


def _assignment(config: StudyConfig, trial: TrialConfig, number: int, folder: Path) -> Assignment:
    return Assignment(number, trial, config.objective, folder / str(number), config.further)


@contextmanager
def _folder(config: StudyConfig, engine: Engine, storage: str) -> Iterator[Path]:
    """Create a folder that every slot sees, and remove it afterwards."""
    shared = None
    if any(slot.host for slot in engine.slots):
        shared = state_directory(storage, config.name)
        shared.mkdir(parents=True, exist_ok=True, mode=0o700)
    with temporary_folder(shared) as folder:
        yield folder


class _RehearsalHandler:
    """An engine's `Handler` that gives each slot one network at a time."""

    def __init__(
        self, assignments: Sequence[Assignment], note: Callable[[str], None], tell: Callable[[str], None]
    ) -> None:
        self.results: dict[int, RehearsalResult] = {}
        self.deaths: list[str] = []
        self._waiting = list(assignments)
        self._note, self._tell = note, tell
        self._shown: set[str] = set()
        self._tried: dict[int, tuple[float, str]] = {}  # networks in progress: when it takes long, and the name

    def next_group(self, slot: Slot) -> Group | None:
        """Return the next network."""
        if not self._waiting:
            return None
        assignment = self._waiting.pop(0)
        self._tried[assignment.number] = time.monotonic() + LONG_SECONDS, assignment.training.model.name
        return RehearsalGroup((assignment,))

    def report(self, reports: Mapping[int, EpochReport]) -> dict[int, Decision]:
        """Not used: a rehearsal answers its own reports."""
        return dict.fromkeys(reports, "continue")

    def progress(self, number: int, report: StepReport) -> None:
        """Not used: a rehearsal takes only a moment."""

    def fuse_at_most(self, count: int, reason: str) -> None:
        """Not used: each network is trained alone."""

    def note(self, text: str) -> None:
        """Show a remark once, even if several networks make it."""
        remark = re.sub(r"^trial #\d+", "a trial", text)
        if remark not in self._shown:
            self._shown.add(remark)
            self._note(remark)

    def done(self, group: Group, results: Sequence[Result]) -> None:
        """Store the result of a network."""
        self._end(group)
        for assignment, result in zip(group.trials, results, strict=True):
            if isinstance(result, RehearsalResult):
                self.results[assignment.number] = result

    def died(self, group: Group, reason: str) -> None:
        """Warn that a process died. The study goes on, because its trials may survive."""
        self._end(group)
        death = f"the process that tried {group.trials[0].training.model.name} before the first trial {reason}"
        self.deaths.append(f"{death}.")
        self.note(death)

    def returned(self, group: Group) -> None:
        """Put back a network whose slot was lost."""
        self._end(group)
        self._waiting += group.trials

    def tick(self) -> bool:
        """Say once which network takes long, and go on."""
        for number, (late, name) in list(self._tried.items()):
            if time.monotonic() > late:
                del self._tried[number]
                self._tell(
                    f"still training {name} for a few steps before the first trial, after {LONG_SECONDS:g} s; "
                    "once it has been idle for --stall-timeout, it is killed"
                )
        return True

    def _end(self, group: Group) -> None:
        for assignment in group.trials:
            self._tried.pop(assignment.number, None)
