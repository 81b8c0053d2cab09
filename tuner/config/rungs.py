"""The pruner ``rungs``: after which epochs trials are compared, and how many of them continue."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tuner.config.budget import Allowance, Limits
from tuner.config.search_space import Range, Template, lowest, searched
from tuner.config.trainer import epochs_of, numbers_of

__all__ = ["Rungs", "default_pruner", "read_rungs", "rung_epochs"]

SHARE = 4
"""The last rung is a quarter of the way through: later, early-decaying schedules look better than they are."""

SPACING = 3
"""Ratio of the epochs of two rungs."""

STARTS_PER_DECADE = 2
"""The least number of first trials for each power of ten in the search space, if the budget allows it."""

WIDE = 6
"""Number of powers of ten above which ranges count as wide."""

FEWEST_VALIDATIONS, FEWEST_TRAININGS = 4, 4
"""Smallest number of validations of a run, and smallest budget in full runs, for rungs by default."""

Fault = Callable[[str, str], None]
"""Takes an option and a message."""


@dataclass(frozen=True)
class Rungs:
    """The rungs of a study.

    Args:
        starts: How many trials wait for each other at each rung, at the beginning of the study.
        epochs: The epoch of each rung.
        reduction_factor: At a rung, 1 in `reduction_factor` trials continues.
        applies_to: Which trials are compared: all, or only the first ones, after which every trial is trained to the
            end.
        whole: The numbers of the trials whose values are given (``enqueue``, ``start``). They are trained to the end
            and never compared: a rung would stop many of them, because good values seldom have the lowest early loss.
    """

    starts: int
    epochs: Sequence[int]
    reduction_factor: int = 4
    applies_to: Literal["all", "starts"] = "all"
    whole: Sequence[int] = ()

    @property
    def first(self) -> int:
        """Return how many trials the study begins with: the ones that wait for each other, and the given ones."""
        return self.starts + len(self.whole)

    def waits(self, number: int) -> bool:
        """Return whether a trial waits for others at a rung."""
        return number < self.first and number not in self.whole

    @property
    def counts(self) -> list[int]:
        """Return how many of the waiting trials are trained to each rung, and how many to the end.

        >>> Rungs(100, [1, 4, 12]).counts
        [100, 25, 6, 1]
        """
        counts = [self.starts]
        for _ in self.epochs:
            counts.append(max(1, counts[-1] // self.reduction_factor))
        return counts

    def cost(self, epochs: int) -> int:
        """Return how many epochs the first trials take together.

        Args:
            epochs: Length of a full run.

        >>> Rungs(16, [2]).cost(8), Rungs(16, [2], whole=[1]).cost(8)
        (56, 64)
        """
        lengths = (end - begin for begin, end in zip([0, *self.epochs], [*self.epochs, epochs], strict=True))
        compared = sum(count * length for count, length in zip(self.counts, lengths, strict=True))
        return compared + len(self.whole) * epochs

    def is_due(self, number: int, judged: Sequence[int], epoch: int) -> bool:
        """Return whether a trial is compared after an epoch.

        Args:
            number: The trial.
            judged: The epochs after which it was compared before.
            epoch: The epoch.
        """
        if number in self.whole or (self.applies_to == "starts" and number >= self.first):
            return False
        return epoch in judged or (len(judged) < len(self.epochs) and epoch >= self.epochs[len(judged)])

    def describe(self, epochs: int) -> str:
        """Return the table of rungs as a line.

        Args:
            epochs: Length of a full run.

        >>> Rungs(16, [2]).describe(8), Rungs(16, [2], whole=[1, 2]).describe(8)
        ('16 trials to epoch 2, 4 to epoch 8', '16 trials to epoch 2, 4 to epoch 8; 2 with given values to epoch 8')
        """
        ends = [*self.epochs, epochs]
        steps = [f"{count} to epoch {end}" for count, end in zip(self.counts, ends, strict=True)]
        given = f"; {len(self.whole)} with given values to epoch {epochs}" if self.whole else ""
        return ", ".join([steps[0].replace(" to", " trials to", 1), *steps[1:]]) + given


def rung_epochs(epochs: int) -> list[int]:
    """Return the epochs of the rungs of a run: a quarter of it, a third of that, and so on.

    Args:
        epochs: Length of the run.

    >>> rung_epochs(50), rung_epochs(8), rung_epochs(3), rung_epochs(1)
    ([1, 4, 12], [2], [1], [])
    """
    if epochs < 2:
        return []
    rungs = [max(1, epochs // SHARE)]
    while rungs[0] > SPACING:
        rungs.insert(0, rungs[0] // SPACING)
    return rungs


def default_pruner(
    sampler: str, template: Template, validations: int, allowance: Allowance | None, given: int
) -> Literal["none", "median", "rungs"]:
    """Return the pruner of a study whose file names none.

    Where ranges are wide, most trials are hopeless from the beginning: rungs find the few others. Where they are not,
    schedules compete, early values mislead, and the sampler `curve` needs to see full runs.

    Args:
        sampler: The sampler.
        template: The template of the trials.
        validations: How often the shortest run is validated.
        allowance: The total training that all trials may use; None for no limit.
        given: How many trials have given values, and are trained to the end.
    """
    if sampler != "curve":
        return "median"
    if decades(template) < WIDE:
        return "none"
    if not allowance or validations < FEWEST_VALIDATIONS:
        return "median"
    return "rungs" if allowance.amount >= (FEWEST_TRAININGS + given) * allowance.longest else "median"


def decades(template: Template) -> float:
    """Return how many powers of ten the log ranges of a search space span, all together.

    >>> decades({"lr": Range(1e-4, 1e-1, log=True), "eps": Range(1e-9, 1e-7, log=True), "dropout": Range(0.0, 0.5)})
    5.0
    """
    ranges = [spec for _, spec in searched(template) if isinstance(spec, Range) and spec.log]
    return round(sum(math.log10(spec.high / spec.low) for spec in ranges), 3)


def read_rungs(
    options: Mapping[str, Any],
    template: Template,
    limits: Limits | None,
    whole: Sequence[int],
    fault: Fault,
) -> Rungs | None:
    """Return the rungs of a study; if an option is wrong, report it and return None.

    Args:
        options: The options of the pruner.
        template: The trial with its search space.
        limits: The budget of the study; None if it is wrong, so that only the epochs are checked.
        whole: The largest set of trials with given values.
        fault: Called for each error.
    """
    trainer = template["trainer"]
    shortest, longest = epochs_of(trainer)
    unit = math.lcm(*numbers_of(trainer.get("check_val_every_n_epoch", 1)))
    epochs = list(options.get("epochs", [unit * epoch for epoch in rung_epochs(shortest // unit)]))
    factor = options.get("reduction_factor", Rungs.reduction_factor)
    if not epochs or shortest < 2:
        need = f"needs runs of at least 2 epochs, and at least one rung (runs have {shortest})"
        fault("epochs", f"{need}; or write pruner: none.")
        return None
    if sorted(set(epochs)) != epochs or epochs[-1] >= shortest:
        fault("epochs", f"must be increasing, and end before the shortest run ({shortest} epochs); got {epochs}.")
        return None
    if odd := [epoch for epoch in epochs if epoch % unit]:
        fault(
            "epochs",
            f"must be multiples of check_val_every_n_epoch ({unit}), at which trials are compared; got {odd[0]}.",
        )
        return None
    if limits is None:
        return None
    trials, allowance = limits.trials, limits.allowance
    affordable = trials - len(whole)
    scale = int(lowest(trainer.get("val_check_interval", 0))) if allowance and allowance.unit == "steps" else 1
    if allowance:
        budget = allowance.amount // scale - len(whole) * longest
        affordable = _most_starts(budget - longest, longest, trials, epochs, factor)
        half = _most_starts(budget // 2, longest, trials, epochs, factor)
        usual = max(half, min(affordable, round(STARTS_PER_DECADE * decades(template))))
    else:
        usual = affordable // 2
    starts = options.get("starts", max(1, usual))
    if starts > affordable:
        least = Rungs(1, epochs, factor).cost(longest) + longest
        fault(*_too_many(starts, affordable, least * scale, limits, len(whole)))
        return None
    return Rungs(starts, epochs, factor, options.get("applies_to", Rungs.applies_to), whole)


def _too_many(starts: int, affordable: int, least: int, limits: Limits, given: int) -> tuple[str, str]:
    """Return the option at fault and the message if the budget does not allow that many first trials.

    Args:
        starts: How many there would be.
        affordable: How many the budget allows.
        least: The smallest budget for rungs: a first trial and a full run, in the budget's unit.
        limits: The budget.
        given: How many trials with given values come first.
    """
    allowance, kept = limits.allowance, limits.kept
    amount, unit = (allowance.amount, allowance.unit) if allowance else (limits.trials, "trials")
    has = f"the budget has {amount + kept} {unit}"
    if kept:
        has += f", of which final takes {kept}, so {amount} are left"
    if given:
        has += f", and trials with given values take {given * (allowance.longest if allowance else 1)}"
    if affordable > 0:
        more = ", and must be enough for a full run as well" if allowance else ""
        return "starts", f"must be at most {affordable} (got {starts}): {has}{more}."
    cheaper = ", lower final.trials or final.seeds" if kept else ""
    need = f"rungs need {least} {unit}, for a first trial and a full run"
    return "name", f"{need}, but {has}. Raise budget.{unit}{cheaper}, or write pruner: median."


def _most_starts(budget: int, longest: int, trials: int, epochs: Sequence[int], factor: int) -> int:
    """Return how many first trials fit into a number of epochs."""
    low, high = 0, trials
    while low < high:
        middle = (low + high + 1) // 2
        fits = Rungs(middle, epochs, factor).cost(longest) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return low
