"""Studies with the tuner's samplers, pruners and rungs, whose trials take their losses from a table or a function.

A study is an Optuna study in memory. Trials run one at a time, as with a coordinator with one slot: trials that have
passed a rung first, then new ones, which can be asked for in groups. As in every study, each family of schedules has
one of the first trials.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState

from tuner.config.search_space import Choices, Range, searched
from tuner.config.shares import share_of
from tuner.config.study import StudyConfig
from tuner.storage.pruners import make_pruner
from tuner.storage.rung_record import RUNGS, RungRecord
from tuner.storage.samplers import make_sampler

__all__ = ["Runs", "Search", "Table", "TableRows", "TrainedRuns", "simulate"]

OTHER_CHOICE = 10.0
"""Distance between two rows that differ in a choice, if the length of a range is 1."""


@dataclass(frozen=True)
class Table:
    """Values of training runs.

    Args:
        params: The values of each row, by their names in Optuna.
        losses: The objective after each epoch [rows, epochs], lower is better; not finite once it has diverged.
    """

    params: list[dict[str, Any]]
    losses: NDArray[np.float64]

    @property
    def finals(self) -> NDArray[np.float64]:
        """Return the last value of each row [rows]; infinity if it has diverged."""
        last: NDArray[np.float64] = np.where(np.isfinite(self.losses).all(1), self.losses[:, -1], np.inf)
        return last

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Return the rank of each row by its last value [rows]; 1 is the best."""
        ranks: NDArray[np.int64] = self.finals.argsort(kind="stable").argsort(kind="stable") + 1
        return ranks


@dataclass(frozen=True)
class Search:
    """A study on a table, from its beginning to its end.

    Args:
        trace: The rows that were trained to the end, each with the epochs of all trials by then.
        tried: All rows that were tried.
        spent: The epochs of all trials.
    """

    trace: list[tuple[int, int]]
    tried: list[int]
    spent: int


class Runs(Protocol):
    """Where a study's trials have their losses from.

    Attributes:
        epochs: The number of epochs of a full run.
    """

    epochs: int

    def left(self) -> float:
        """Return how many further runs there are."""

    def take(self, params: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        """Return the number of a run that no other trial has, and its values.

        Args:
            params: The values that the sampler suggested, by their names in Optuna.
        """

    def losses(self, number: int) -> Sequence[float]:
        """Return the losses of a run after each epoch."""


class TableRows:
    """The rows of a table: a trial takes the one that is nearest to its values among those that no other trial has.

    Args:
        table: The table.
        config: The study.
    """

    def __init__(self, table: Table, config: StudyConfig) -> None:
        self.epochs = table.losses.shape[1]
        self._table = table
        self._specs: dict[str, Range | Choices] = dict(searched(config.trial))
        self._places = np.array([self._place(params) for params in table.params])
        self._taken: list[int] = []

    def left(self) -> int:
        return len(self._table.losses) - len(self._taken)

    def take(self, params: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        distances = ((self._places - self._place(params)) ** 2).sum(1)
        distances[self._taken] = np.inf
        row = int(np.argmin(distances))
        self._taken.append(row)
        return row, self._table.params[row]

    def losses(self, number: int) -> NDArray[np.float64]:
        return self._table.losses[number]

    def _place(self, params: Mapping[str, Any]) -> list[float]:
        """Return values as a point: shares of ranges, and a coordinate for each choice."""
        place: list[float] = []
        for name, spec in self._specs.items():
            if isinstance(spec, Choices):
                place += [OTHER_CHOICE * (name in params and params[name] == value) for value in spec.values]
            else:
                place.append(share_of(spec, params[name]) if name in params else 0.0)
        return place


class TrainedRuns:
    """Runs that are trained when a trial asks for them.

    Args:
        train: Trains a run with some values, and returns its losses after each epoch.
        epochs: The number of epochs of a full run.
    """

    def __init__(self, train: Callable[[Mapping[str, Any]], Sequence[float]], epochs: int) -> None:
        self.epochs, self.done = epochs, list[Sequence[float]]()
        self._train = train

    def left(self) -> float:
        return math.inf

    def take(self, params: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
        self.done.append(self._train(params))
        return len(self.done) - 1, params

    def losses(self, number: int) -> Sequence[float]:
        return self.done[number]


class _Study:
    def __init__(self, config: StudyConfig, runs: Runs, pruner: optuna.pruners.BasePruner | None) -> None:
        self.config, self.runs = config, runs
        self.study = optuna.create_study(
            direction="minimize", sampler=make_sampler(config, 0), pruner=pruner or make_pruner(config)
        )
        self.rungs = RungRecord(config.rungs, config.objective.direction) if config.rungs else None
        self.trials: dict[int, optuna.Trial] = {}
        self.rows: dict[int, int] = {}
        self.epochs: dict[int, int] = {}
        self.paused: set[int] = set()

    def run(self, budget: int, group: int, ahead: bool) -> Search:
        """Run it for `budget` epochs, asking for `group` trials at once; with `ahead`, when the group before begins."""
        trace: list[tuple[int, int]] = []
        length = self.runs.epochs
        waiting: list[int] = []
        spent = 0
        while spent < budget:
            for full in (0, group) if ahead else (0,):
                if len(waiting) == full:
                    fitting = min(group, (budget - spent) // length - full, self.runs.left())
                    waiting += [self._ask() for _ in range(int(fitting))]
            if not waiting:
                break
            number = waiting.pop(0)
            spent -= self.epochs[number]
            self._train(number)
            spent += self.epochs[number]
            if self.epochs[number] == length:
                trace.append((spent, self.rows[number]))
            waiting += self._leave_rungs()
        return Search(trace, list(self.rows.values()), spent)

    def _ask(self) -> int:
        number = len(self.trials)
        self.study.sampler = make_sampler(self.config, number, before=self.study.sampler)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.study.enqueue_trial(self.config.fixed(number))
        trial = self.study.ask()
        self.config.suggest(trial)
        row, params = self.runs.take(trial.params)
        stored = self.study._storage._get_trial(trial._trial_id)  # type: ignore[attr-defined]
        stored.params.update({name: params.get(name, value) for name, value in stored.params.items()})
        self.trials[trial.number], self.rows[trial.number], self.epochs[trial.number] = trial, row, 0
        return trial.number

    def _train(self, number: int) -> None:
        trial, losses = self.trials[number], self.runs.losses(self.rows[number])
        for epoch in range(self.epochs[number] + 1, len(losses) + 1):
            self.epochs[number] = epoch
            if not np.isfinite(losses[epoch - 1]):
                trial.set_user_attr("state", "diverged")
                self.study.tell(number, state=TrialState.PRUNED)
                return
            trial.report(losses[epoch - 1], epoch)
            if epoch == len(losses):
                self.study.tell(number, losses[-1])
            elif (decision := self._decision(number, epoch)) == "pause":
                self.paused.add(number)
                return
            elif decision == "prune":
                self.study.tell(number, state=TrialState.PRUNED)
                return

    def _decision(self, number: int, epoch: int) -> str:
        if not self.rungs:
            return "prune" if self.trials[number].should_prune() else "continue"
        trials = self.study.get_trials(deepcopy=False)
        others = [trial for trial in trials if trial.number != number]
        decision, changed = self.rungs.judge(trials[number], epoch, others)
        if changed:
            self.trials[number].set_user_attr(RUNGS, changed)
        return decision

    def _leave_rungs(self) -> list[int]:
        if not self.rungs or not self.paused:
            return []
        trials = self.study.get_trials(deepcopy=False)
        continuing, out = self.rungs.decided(trials)
        for number in out & self.paused:
            self.study.tell(number, state=TrialState.PRUNED)
        going = sorted(continuing & self.paused)
        for number in going:
            self.trials[number].set_user_attr(RUNGS, self.rungs.passing(trials[number]))
        self.paused -= continuing | out
        return going


def simulate(
    config: StudyConfig,
    runs: Runs,
    budget: int,
    seed: int,
    pruner: optuna.pruners.BasePruner | None = None,
    group: int = 1,
    starts: Sequence[Mapping[str, Any]] = (),
    ahead: bool = False,
    has_baseline: bool = False,
) -> Search:
    """Run a study.

    Args:
        config: The study.
        runs: The losses of its trials.
        budget: Epochs of all trials together.
        seed: Seed of the sampler.
        pruner: Its pruner; by default the study's.
        group: Number of trials asked for at once, so that none of them knows the results of the others.
        starts: Values from earlier studies, for the first trials.
        ahead: Whether a group is asked for when the group before begins, rather than when it has ended.
        has_baseline: Whether the first trial is the file's own `trial`, which no table has.
    """
    sampler = replace(config.sampler, arguments={**config.sampler.arguments, "seed": seed})
    first = config.first if has_baseline else replace(config.first, baseline=None)
    study = replace(config, sampler=sampler, first=first).with_earlier(starts)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _Study(study, runs, pruner).run(budget, group, ahead)
