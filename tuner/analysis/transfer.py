"""Compares a short study with longer runs: does the ranking of its configurations hold, and do their lrs?"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import scipy

from tuner.analysis.comparison import FEWEST_SEEDS, Comparison, Repeated
from tuner.text import format_metric, format_probability, pluralize

__all__ = ["Transfer"]

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]

FEWEST_CONFIGURATIONS = 3
RESAMPLES = 2000
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Transfer:
    """Configurations of a study in longer runs, each with several initial lrs.

    Args:
        comparison: The longer runs.
        variants: Names in the comparison of each configuration's variants, by the factor of its initial lr.
        before: The value of each configuration in the study, if it was trained there.
    """

    comparison: Comparison
    variants: Mapping[str, Mapping[float, str]]
    before: Mapping[str, float] = field(default_factory=dict)

    def findings(self) -> list[str]:
        """Return whether the ranking held, and which initial lr is the best for each configuration, in sentences."""
        ranking = self._ranking() if self.before else []
        return [*ranking, *filter(None, (self._lr(name) for name in self.variants))]

    def best_of(self, name: str) -> str:
        """Return the name of a configuration's best variant; its own name if none has values."""
        found = self._best(name)
        return found[1].name if found else name

    def _best(self, name: str) -> tuple[float, Repeated] | None:
        """Return the best variant of a configuration and its factor; None if none has values."""
        factors = {variant: factor for factor, variant in self.variants[name].items()}
        ranking = [each for each in self.comparison.ranking if each.name in factors]
        return (factors[ranking[0].name], ranking[0]) if ranking else None

    def _ranking(self) -> list[str]:
        pairs = {name: found[1] for name in self.before if name in self.variants and (found := self._best(name))}
        if len(pairs) < FEWEST_CONFIGURATIONS:
            return [f"At least {FEWEST_CONFIGURATIONS} configurations are needed to tell whether the ranking held."]
        sort_key = self.comparison.direction.sort_key
        old = np.array([sort_key(self.before[name]) for name in pairs])
        seeds = sorted(set.intersection(*(set(each.values) for each in pairs.values())))
        table = np.array([[sort_key(each.values[seed]) for seed in seeds] for each in pairs.values()])
        if not seeds:
            return ["No seed has values of all configurations, so it is unknown whether the ranking of the study held."]
        correlation = float(_correlations(old, table.mean(axis=1)[np.newaxis])[0])
        among = f"among {len(pairs)} configurations"
        text = f"the rank correlation of its values and the means here is {correlation:+.2f} {among}"
        if len(seeds) < FEWEST_SEEDS:
            few = f"with {pluralize(len(seeds), 'seed')} this may be chance"
            return [f"It is unclear whether the ranking of the study held: {text}; {few}."]
        means = _resampled_means(table)
        low, high = np.percentile(_correlations(old, means), PERCENTILES)
        first = float(np.mean(means.argmin(axis=1) == old.argmin()))
        held = "held" if low > 0 else "did not hold" if high < 0 else "may or may not have held"
        return [
            f"The ranking of the study {held}: {text} (95% interval {low:+.2f} to {high:+.2f} over "
            f"{pluralize(len(seeds), 'seed')}). Its best is the best here with a probability of "
            f"{format_probability(first)}."
        ]

    def _lr(self, name: str) -> str:
        """Return which initial lr of a configuration is the best; empty if it has only one."""
        found, factors = self._best(name), sorted(self.variants[name])
        if found is None or len(factors) < 2:
            return ""
        factor, best = found
        others = [each for each in self.comparison.ranking if each.name in self.variants[name].values()][1:]
        text = f"{name} is best with its initial_lr x {factor:g} ({format_metric(best.mean)})"
        if others:
            difference = self.comparison.difference(best, others[0])
            mean = format_metric(others[0].mean)
            is_noise, is_level = difference is None or difference.is_noise, mean == format_metric(best.mean)
            place = "level with" if is_level else "ahead of"
            tie = ", which may be chance" if is_noise and not is_level else ""
            other = next(each for each, variant in self.variants[name].items() if variant == others[0].name)
            text += f", {place} initial_lr x {other:g} ({mean}){tie}"
        edge = "smaller" if factor == factors[0] else "larger" if factor == factors[-1] else ""
        return f"{text}; an even {edge} one was not tried." if edge else f"{text}."


def _correlations(old: Vector, means: Matrix) -> Vector:
    """Return Spearman's rank correlations.

    Args:
        old: A value of each configuration, shape [configurations].
        means: Other values, shape [draws, configurations].

    Returns:
        The correlation of each draw, shape [draws]; 0 where all values are equal.
    """
    ranks = scipy.stats.rankdata(means, axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    reference = scipy.stats.rankdata(old) - (len(old) + 1) / 2
    scale = np.sqrt((ranks**2).sum(axis=1) * (reference**2).sum())
    correlations: Vector = np.divide(ranks @ reference, scale, out=np.zeros(len(means)), where=scale > 0)
    return correlations


def _resampled_means(table: Matrix) -> Matrix:
    """Return the means over seeds that are drawn with replacement, the same for all configurations.

    Args:
        table: Values, shape [configurations, seeds].

    Returns:
        Means, shape [draws, configurations].
    """
    generator, count = random.Random(0), table.shape[1]
    drawn = [[generator.randrange(count) for _ in range(count)] for _ in range(RESAMPLES)]
    means: Matrix = table[:, np.array(drawn)].mean(axis=2).T
    return means
