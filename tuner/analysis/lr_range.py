"""An lr range test: short runs at many lrs with several seeds, and the range of lrs that is worth searching.

The idea comes from Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017), who raises the lr during
a single run. Here each lr has its own runs, so an lr is not credited with the progress that smaller ones made before
it, and several seeds show how much is chance.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner.direction import Direction
from tuner.text import format_value, pluralize

__all__ = ["LrRange"]

ENOUGH_BELOW, ENOUGH_ABOVE = 0.1, 0.5  # required share of the progress at the best lr
AGREEING = 10.0  # seeds agree if their best lrs differ by at most this factor


@dataclass(frozen=True)
class LrRange:
    """The results of an lr range test.

    Args:
        metric: The metric by which the lrs are judged.
        direction: Whether large or small values of it are better.
        values: For each lr, in ascending order, the metric of each seed; None if that run diverged.
        untrained: The metric of each seed without training.
    """

    metric: str
    direction: Direction
    values: Mapping[float, Sequence[float | None]]
    untrained: Sequence[float]

    def progress(self, lr: float) -> list[float]:
        """Return by how much each seed became better at an lr; 0 if it diverged or became worse."""
        pairs = zip(self.values[lr], self.untrained, strict=True)
        return [0.0 if value is None else max(0.0, self.direction.advantage(value, before)) for value, before in pairs]

    @property
    def best_of_seeds(self) -> list[float]:
        """Return the lr at which each seed made the most progress; empty if one made none at any lr."""
        progress = {lr: self.progress(lr) for lr in self.values}
        best = [max(self.values, key=lambda lr: progress[lr][seed]) for seed in range(len(self.untrained))]
        return best if all(progress[lr][seed] > 0 for seed, lr in enumerate(best)) else []

    @property
    def best(self) -> float | None:
        """Return the median of the seeds' best lrs; None if a seed made no progress."""
        return statistics.median_low(self.best_of_seeds) if self.best_of_seeds else None

    @property
    def seeds_agree(self) -> bool:
        """Return whether the seeds' best lrs are near each other."""
        best = self.best_of_seeds
        return bool(best) and max(best) <= AGREEING * min(best)

    @property
    def edge(self) -> float | None:
        """Return the smallest lr above the best one at which a seed diverged or made no progress; None if none did."""
        best = self.best
        if best is None:
            return None
        return next((lr for lr in self.values if lr > best and not all(self.progress(lr))), None)

    @property
    def range(self) -> tuple[float, float] | None:
        """Return the range to search: the lrs around the best one at which every seed made enough progress.

        Below the best lr, a tenth of the seed's progress at its best lr is enough, because a full run has the time to
        make up for a small lr; above it, a half is required. The range reaches at least to the tested lrs on both sides
        of the best ones, since the true best may lie between. None if a seed made no progress.
        """
        best, lrs = self.best, list(self.values)
        if best is None:
            return None
        bests = self.best_of_seeds if self.seeds_agree else [best]
        low, high = lrs.index(min(bests)), lrs.index(max(bests))
        next_below, next_above = max(0, low - 1), min(high + 1, len(lrs) - 1)
        while low > 0 and self._comes_far(lrs[low - 1], ENOUGH_BELOW):
            low -= 1
        while high + 1 < len(lrs) and self._comes_far(lrs[high + 1], ENOUGH_ABOVE):
            high += 1
        return lrs[min(low, next_below)], lrs[max(high, next_above)]

    def _comes_far(self, lr: float, share: float) -> bool:
        """Return whether every seed makes at least a share of the progress that it makes at its best lr."""
        most = [max(self.progress(each)[seed] for each in self.values) for seed in range(len(self.untrained))]
        return all(progress >= share * best for progress, best in zip(self.progress(lr), most, strict=True))

    def findings(self) -> list[str]:
        """Return sentences about the best lr, the edge of divergence and the range to search."""
        seeds = pluralize(len(self.untrained), "seed")
        if all(value is None for values in self.values.values() for value in values):
            return ["No range can be suggested: every run diverged. Test lower lrs with --low and --high."]
        bounds = self.range
        if self.best is None or bounds is None:
            return ["No range can be suggested: no lr improved the network with every seed. Train longer (--share)."]
        best = f"The best initial_lr is {format_value(self.best)}"
        if len(self.untrained) == 1:
            sentences = [f"{best}, with one seed."]
        elif len(set(self.best_of_seeds)) == 1:
            sentences = [f"{best} for each of the {seeds}."]
        else:
            agree = "agree" if self.seeds_agree else "do not agree: use more seeds (--seeds) or train longer (--share)"
            lowest, highest = format_value(min(self.best_of_seeds)), format_value(max(self.best_of_seeds))
            sentences = [f"{best}; the best lrs of {seeds}, from {lowest} to {highest}, {agree}."]
        if self.edge is None:
            sentences.append(f"No run diverged up to lr {format_value(max(self.values))}.")
        else:
            how = "diverged" if None in self.values[self.edge] else "made no progress"
            edge = format_value(self.edge)
            sentences.append(f"The edge is {edge}, the lowest lr above the best one at which at least one seed {how}.")
        low, high = bounds
        between = "next to the best lrs, since the true best may lie between"
        why_low = "the lowest tested lr" if low == min(self.values) else between
        why_high = "the highest tested lr" if high == max(self.values) else between
        if self._comes_far(low, ENOUGH_BELOW):
            why_low = "every seed made at least a tenth of its best progress; a full run makes up the rest"
        if self._comes_far(high, ENOUGH_ABOVE):
            why_high = "the highest lr with at least half"
        sentences.append(f"Search from {format_value(low)} ({why_low}) to {format_value(high)} ({why_high}).")
        if low == min(self.values) or high == max(self.values):
            sentences.append("The range ends where the test ended: test further lrs with --low and --high.")
        return sentences

    def yaml(self) -> str:
        """Return the range as a value of a study file; empty if there is none.

        >>> LrRange("val/loss", Direction.MINIMIZE, {1e-3: [0.2], 1e-2: [0.1], 1: [None]}, [1.0]).yaml()
        '{low: 0.001, high: 0.01, log: true}'
        """
        return "" if self.range is None else "{{low: {:.3g}, high: {:.3g}, log: true}}".format(*self.range)
