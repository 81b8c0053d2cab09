"""Studies without trainings: the tuner's samplers, pruners and rungs, and values from a table.

A study is an Optuna study in memory. Each trial has the values that the sampler chose, moved to those of the nearest
row of the table that no other trial has, and reports that row's values. Trials are trained one at a time, as by a
coordinator with one slot: those that have passed a rung first, then new ones.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState

from tuner.config.search_space import Range, searched
from tuner.config.shares import share_of
from tuner.config.study import StudyConfig
from tuner.storage.rung_record import RUNGS, RungRecord
from tuner.storage.samplers import make_pruner, make_sampler

__all__ = ["Table", "simulate"]


@dataclass(frozen=True)
class Table:
    """Values of trainings.

    Args:
        params: The values of each row, by their names in Optuna.
        losses: The objective after each epoch [rows, epochs], lower is better; not finite once it has diverged.
    """

    params: list[dict[str, float]]
    losses: NDArray[np.float64]


class _Study:
    """A study over a table."""

    def __init__(self, config: StudyConfig, table: Table) -> None:
        self.config, self.table = config, table
        self.study = optuna.create_study(
            direction="minimize", sampler=make_sampler(config, 0), pruner=make_pruner(config)
        )
        self.rungs = RungRecord(config.rungs, config.objective.direction) if config.rungs else None
        self.trials: dict[int, optuna.Trial] = {}
        self.rows: dict[int, int] = {}
        self.epochs: dict[int, int] = {}
        self.paused: set[int] = set()
        self.specs = {name: spec for name, spec in searched(config.trial) if isinstance(spec, Range)}
        self.places = np.array([self._place(params) for params in table.params])

    def run(self, budget: int) -> list[tuple[int, int]]:
        """Return the epochs of all trials, and the row, whenever a row was trained to the end."""
        trace: list[tuple[int, int]] = []
        length = self.table.losses.shape[1]
        waiting: list[int] = []
        while (spent := sum(self.epochs.values())) < budget:
            if not waiting and spent + length > budget:
                break
            number = waiting.pop(0) if waiting else self._ask()
            self._train(number)
            if self.epochs[number] == length:
                trace.append((sum(self.epochs.values()), self.rows[number]))
            waiting += self._leave_rungs()
        return trace

    def _place(self, params: dict[str, Any]) -> list[float]:
        return [share_of(spec, params[name]) for name, spec in self.specs.items()]

    def _ask(self) -> int:
        number = len(self.trials)
        self.study.sampler = make_sampler(self.config, number, before=self.study.sampler)
        trial = self.study.ask()
        self.config.suggest(trial)
        distances = ((self.places - self._place(trial.params)) ** 2).sum(1)
        distances[list(self.rows.values())] = np.inf
        row = int(np.argmin(distances))
        self.study._storage._get_trial(trial._trial_id).params.update(self.table.params[row])  # type: ignore[attr-defined]
        self.trials[trial.number], self.rows[trial.number], self.epochs[trial.number] = trial, row, 0
        return trial.number

    def _train(self, number: int) -> None:
        trial, losses = self.trials[number], self.table.losses[self.rows[number]]
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


def simulate(config: StudyConfig, table: Table, budget: int, seed: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Run a study on a table.

    Args:
        config: The study.
        table: The table; its losses have as many epochs as a training of the study.
        budget: Epochs of all trials together.
        seed: Seed of the sampler.

    Returns:
        The rows that were trained to the end, each with the epochs of all trials by then; and all rows that were tried.
    """
    sampler = replace(config.sampler, arguments={**config.sampler.arguments, "seed": seed})
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = _Study(replace(config, sampler=sampler), table)
        return study.run(budget), list(study.rows.values())
