"""The budget of a study: a number of trials, the training of all of them together, or time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from tuner.config.search_space import highest, lowest
from tuner.text import pluralize

__all__ = [
    "DEFAULT_TRIALS",
    "Allowance",
    "Budget",
    "Million",
    "Positive",
    "evaluations",
    "longest_training",
    "read_allowance",
]

DEFAULT_TRIALS = 20
UNITS: tuple[Literal["epochs"], Literal["steps"]] = ("epochs", "steps")

Fault = Callable[[str, str], None]
"""Takes a key of the section and a message."""

Positive = Annotated[int, Field(ge=1)]
Million = Annotated[int, Field(ge=1, le=1_000_000)]
Billion = Annotated[int, Field(ge=1, le=1_000_000_000)]


@dataclass(frozen=True)
class Budget:
    """The section ``budget`` of a study file.

    Args:
        trials: Number of trials in all; without `epochs` and `steps`, 20 by default.
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
class Allowance:
    """The training that all trials of a study may have together, in epochs or in optimizer steps.

    Args:
        amount: How much it is.
        unit: The unit of both numbers.
        longest: The longest training of the search space.
    """

    amount: int
    unit: Literal["epochs", "steps"]
    longest: int

    def cost(self, epochs: int, val_check_interval: int) -> int:
        """Return what a trial has used of the allowance.

        A trial that ends before its first epoch counts as one epoch, so that the number of trials is limited.

        Args:
            epochs: Number of its epochs.
            val_check_interval: Its steps from one validation to the next; 0 if its length is in epochs.
        """
        return max(1, epochs) * (val_check_interval if self.unit == "steps" else 1)

    def __str__(self) -> str:
        return pluralize(self.amount, self.unit.removesuffix("s"))


def evaluations(max_epochs: int, max_steps: int, val_check_interval: int) -> int:
    """Return the number of validations of a training."""
    return max_epochs or max_steps // val_check_interval


def longest_training(trainer: Mapping[str, Any], unit: Literal["epochs", "steps"] = "epochs") -> int:
    """Return the length of the longest training of a search space.

    Args:
        trainer: The template of the trainer.
        unit: "epochs" for its validations, "steps" for its optimizer steps, which are 0 if its length is in epochs.
    """
    max_epochs, max_steps = (int(highest(trainer.get(key, 0))) for key in ("max_epochs", "max_steps"))
    if unit == "steps":
        return max_steps
    return evaluations(max_epochs, max_steps, int(lowest(trainer.get("val_check_interval", 0))))


def read_allowance(budget: Mapping[str, Any], trainer: Mapping[str, Any], fault: Fault) -> Allowance | None:
    """Return the training that all trials may have together; None if the budget does not limit it.

    Args:
        budget: The section ``budget``.
        trainer: The template of the trainer.
        fault: Called with a key of the section and the fault of its value.
    """
    if "until" in budget and not budget.keys() & {"trials", *UNITS}:
        fault("until", "needs trials, epochs or steps as well: the most that the study may take.")
    limits = {unit: budget[unit] for unit in UNITS if unit in budget}
    if len(limits) > 1:
        fault("steps", "leave it out, or epochs: the training of all trials has one limit.")
        return None
    for unit, amount in limits.items():
        longest = longest_training(trainer, unit)
        if not longest:
            fault(unit, "write epochs: the length of a training is in epochs (max_epochs).")
        elif amount < longest:
            fault(unit, f"must be at least the {longest} {unit} of one whole training (got {amount}).")
        return Allowance(amount, unit, max(1, longest))
    return None
