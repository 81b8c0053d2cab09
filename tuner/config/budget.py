"""The budget of a study: a number of trials, their total amount of training, or time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.config.document import Keys
from tuner.config.search_space import highest, lowest
from tuner.text import pluralize

__all__ = [
    "DEFAULT_TRIALS",
    "Allowance",
    "Budget",
    "Final",
    "Limits",
    "Million",
    "Positive",
    "evaluations",
    "longest_training",
    "read_limits",
]

DEFAULT_TRIALS = 20
UNITS: tuple[Literal["epochs"], Literal["steps"]] = ("epochs", "steps")

OPPONENTS = 2  # the study's own trial, and a constant lr
MOST_BY_DEFAULT = 3
"""Unless the file says otherwise, the final runs may take at most 1/N of the budget."""

LESS = "or lower trials or seeds, or do without final runs: --set final.trials=0"

Fault = Callable[[Keys, str], None]
"""Takes the path of a fault and its message."""

Positive = Annotated[int, Field(ge=1)]
Million = Annotated[int, Field(ge=1, le=1_000_000)]
Billion = Annotated[int, Field(ge=1, le=1_000_000_000)]


@dataclass(frozen=True)
class Budget:
    """The section ``budget`` of a study file.

    Args:
        trials: Total number of trials; without `epochs` and `steps`, 20 by default.
        epochs: Epochs of all trials together.
        steps: Optimizer steps of all trials together, if their length is in steps.
        until: Gain in the objective below which the study ends.
        timeout: Time after which no further trial is started.
    """

    trials: Million = 0  # here and below, 0 means not given
    epochs: Million = 0
    steps: Billion = 0
    until: Annotated[float, Field(gt=0)] = 0.0
    timeout: str | int | float | None = None


@dataclass(frozen=True)
class Final:
    """The section ``final`` of a study file: the final runs of a study, with fresh seeds.

    Args:
        trials: How many of the best trials are retrained, in addition to the study's own trial and a constant lr; 0 for
            no final runs.
        seeds: Number of seeds for each.
    """

    trials: Annotated[int, Field(ge=0, le=1000)] = 3
    seeds: Annotated[int, Field(ge=3, le=1000)] = 3  # fewer seeds cannot decide anything

    @property
    def trainings(self) -> int:
        """Return the largest number of runs."""
        return (self.trials + OPPONENTS) * self.seeds if self.trials else 0


@dataclass(frozen=True)
class Allowance:
    """The total training that all trials of a study may use, in epochs or in optimizer steps.

    Args:
        amount: The amount.
        unit: The unit of both numbers.
        longest: The longest run of the search space.
    """

    amount: int
    unit: Literal["epochs", "steps"]
    longest: int

    def cost(self, epochs: int, val_check_interval: int) -> int:
        """Return how much of the allowance a trial has used.

        A trial that ends before its first epoch counts as one epoch, so that the number of trials is limited.

        Args:
            epochs: Number of its epochs.
            val_check_interval: Its steps from one validation to the next; 0 if its length is in epochs.
        """
        return max(1, epochs) * (val_check_interval if self.unit == "steps" else 1)

    def __str__(self) -> str:
        return pluralize(self.amount, self.unit.removesuffix("s"))


def evaluations(max_epochs: int, max_steps: int, val_check_interval: int) -> int:
    """Return the number of validations of a run."""
    return max_epochs or max_steps // val_check_interval


def longest_training(trainer: Mapping[str, Any], unit: Literal["epochs", "steps"] = "epochs") -> int:
    """Return the length of the longest run of a search space.

    Args:
        trainer: The template of the trainer.
        unit: "epochs" for its validations, "steps" for its optimizer steps, which are 0 if its length is in epochs.
    """
    max_epochs, max_steps = (int(highest(trainer.get(key, 0))) for key in ("max_epochs", "max_steps"))
    if unit == "steps":
        return max_steps
    return evaluations(max_epochs, max_steps, int(lowest(trainer.get("val_check_interval", 0))))


@dataclass(frozen=True)
class Limits:
    """The budget of a study.

    Args:
        trials: The largest number of trials.
        allowance: The total training that all trials may use; None for no limit.
        final: The final runs, which the other limits do not include; None if there are none.
    """

    trials: int = DEFAULT_TRIALS
    allowance: Allowance | None = None
    final: Final | None = None

    @property
    def kept(self) -> int:
        """Return what the final runs take, in the unit of the allowance; without an allowance, in trials."""
        trainings = self.final.trainings if self.final else 0
        return trainings * (self.allowance.longest if self.allowance else 1)


def read_limits(budget: Mapping[str, Any], final: Final | None, trainer: Mapping[str, Any], fault: Fault) -> Limits:
    """Return the limits of a study.

    Args:
        budget: The section ``budget``.
        final: The section ``final``; None if there is none.
        trainer: The template of the trainer.
        fault: Called for each fault.
    """
    if "until" in budget and not budget.keys() & {"trials", *UNITS}:
        fault(("budget", "until"), "needs trials, epochs or steps as well, as an upper limit.")
    allowance = _read_allowance(budget, trainer, fault)
    trials = budget.get("trials", allowance.amount if allowance else DEFAULT_TRIALS)
    if final is None:
        final = Final()
        cost = final.trainings * (allowance.longest if allowance else 1)
        fits = trials >= MOST_BY_DEFAULT * final.trainings or "trials" not in budget
        if allowance is None or allowance.amount < MOST_BY_DEFAULT * cost or not fits:
            return Limits(trials, allowance)
    if not final.trainings:
        return Limits(trials, allowance)
    if allowance:
        cost, least = final.trainings * allowance.longest, (final.trainings + 1) * allowance.longest
        if allowance.amount < least:
            need = f"takes {cost} {allowance.unit}, so budget.{allowance.unit} must be at least {least}"
            fault(("final",), f"{need} (got {allowance.amount}); {LESS}.")
        allowance = replace(allowance, amount=max(allowance.amount - cost, allowance.longest))
    if allowance is None or "trials" in budget:
        if trials <= final.trainings:
            need = f"takes {final.trainings} trials, so budget.trials must be above that"
            fault(("final",), f"{need} (got {trials}); {LESS}.")
        trials = max(1, trials - final.trainings)
    else:
        trials = allowance.amount
    return Limits(trials, allowance, final)


def _read_allowance(budget: Mapping[str, Any], trainer: Mapping[str, Any], fault: Fault) -> Allowance | None:
    limits = {unit: budget[unit] for unit in UNITS if unit in budget}
    if len(limits) > 1:
        fault(("budget", "steps"), "remove it or epochs: the total training has a single limit.")
        return None
    for unit, amount in limits.items():
        longest = longest_training(trainer, unit)
        if not longest:
            fault(("budget", unit), "write epochs: the length of a run is in epochs (max_epochs).")
        elif amount < longest:
            fault(("budget", unit), f"must be at least the {longest} {unit} of one full run (got {amount}).")
        return Allowance(amount, unit, max(1, longest))
    return None
