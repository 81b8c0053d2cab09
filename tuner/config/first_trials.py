"""The first trials of a study: its baseline, values that are known to be good, then one trial for each family.

With every sampler, a study starts with its baseline, the `trial` of the study file, if that is a point of the search
space. Then come the values that the file enqueues (``enqueue``), the best trials of earlier studies (``start``), and
values that were added since (`Study.enqueue`). Then each option of every `one_of`, including nested ones, has a trial,
unless one of the earlier ones has it. Options of independent choices, such as optimizers and schedules, share trials,
so that small budgets reach all of them; the options of the baseline are last. The sampler suggests all other values.
The first trials depend only on the study file, on the values that were read from earlier studies when the study began,
on the added values, and on their numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tuner.config.given_values import Default, Misfit, given_values
from tuner.config.search_space import Template, searched, turns

__all__ = ["FirstTrials", "first_trials"]

Params = Mapping[str, Any]
"""Fixed values of a trial, by their names in Optuna."""


@dataclass(frozen=True)
class FirstTrials:
    """The fixed values of the first trials of a study.

    Args:
        baseline: The values of the file's own `trial`; None if it is outside the search space, or nothing is searched.
        queued: The values that the file enqueues.
        earlier: The values of the best trials of earlier studies.
        families: Values that together have each option of every choice once.
        further: Values that were added after the study was defined, for the next trials, but not before the baseline
            and the values that are known to be good.
        outside: Why `trial` is not one of the first trials; empty if it is, or if nothing is searched.
    """

    baseline: Params | None = None
    queued: Sequence[Params] = ()
    earlier: Sequence[Params] = ()
    families: Sequence[Params] = ()
    further: Sequence[Params] = ()
    outside: str = ""

    @cached_property
    def params(self) -> Sequence[Params]:
        """The fixed values of each trial; the values of no two trials are the same."""
        baseline = [] if self.baseline is None else [self.baseline]
        known = self._known
        covered = [turn for turn in self.families if _is_in(turn, known)]
        families = [turn for turn in self.families if turn not in covered and turn != self.baseline]
        return [*baseline, *known, *families]

    @property
    def known(self) -> range:
        """Return the numbers of the trials whose values come from the queue or from earlier studies."""
        first = 0 if self.baseline is None else 1
        return range(first, first + len(self._known))

    @cached_property
    def _known(self) -> Sequence[Params]:
        known: list[Params] = []
        for params in (*self.queued, *self.earlier):
            if params not in known and params != self.baseline:
                known.append(params)
        return known

    def of(self, place: int) -> Params:
        """Return the fixed values of one of the first trials; none for a later trial.

        Args:
            place: Its place among them.
        """
        return self.params[place] if place < len(self.params) else {}

    def place(self, before: Iterable[tuple[Params, bool]]) -> int:
        """Return the place of a trial among the first ones, which is its number as long as nothing was added.

        Args:
            before: The values of the trials before it, and whether they were added. They take no place, and a family
                that they have is left out.
        """
        added: list[Params] = []

        def next_left(place: int) -> int:
            while self.known.stop <= place < len(self.params) and _is_in(self.params[place], added):
                place += 1
            return place

        place = 0
        for params, is_added in before:
            if place >= len(self.params):
                break
            if is_added:
                added.append(params)
            else:
                place = next_left(place) + 1
        return next_left(place)

    def next_further(self, place: int, drawn: Sequence[Params]) -> Params:
        """Return the next of the further values, if a trial is to have them; none if it is not.

        Args:
            place: The trial's place among the first ones.
            drawn: The values of the trials before it.
        """
        if place < self.known.stop:
            return {}
        return next((each for each in self.further if not _is_in(each, drawn)), {})


def _is_in(params: Params, drawn: Sequence[Params]) -> bool:
    return any(params.items() <= each.items() for each in drawn)


def first_trials(template: Template, trial: Mapping[str, Any], default: Default) -> FirstTrials:
    """Return the first trials of a study.

    Args:
        template: The template of its trials.
        trial: The `trial` of the study file.
        default: Returns the default values of arguments that are not in `trial`.
    """
    if next(searched(template), None) is None:
        return FirstTrials()
    baseline: dict[str, Any] = {}
    for found in given_values(template, trial, default):
        if isinstance(found, Misfit):
            return FirstTrials(families=turns(template, {}), outside=str(found))
        baseline |= {found.name: found.value} if found.name else {}
    return FirstTrials(baseline, families=turns(template, baseline))
