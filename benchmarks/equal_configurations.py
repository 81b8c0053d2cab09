"""How often a table of equal configurations calls one of them worse than the winner.

    python benchmarks/equal_configurations.py

Configurations have equal means, normal values and the same seeds. The probabilities are those of
`tuner.analysis.comparison`: the p value of the one-sided paired t test against the winner, times the number of others.
Also shown: a correction for all pairs in both directions, and how often either finds a configuration that is better by
1.5 standard deviations of a value really better than a given other.
"""

import numpy as np
from scipy import stats

from tuner.analysis.intervals import CONFIDENCE

TABLES, SEEDS, AHEAD = 20_000, 10, 1.5


def tables(configurations: int, ahead: float, draws: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the p values against the winner, shape [tables, configurations], and the winners; the first is ahead."""
    values = draws.normal(size=(TABLES, configurations, SEEDS))
    values[:, 0] += ahead
    winners = values.mean(axis=2).argmax(axis=1)
    every = np.arange(TABLES)
    leads = values[every, winners][:, None] - values
    errors = leads.std(axis=2, ddof=1) / np.sqrt(SEEDS)
    errors[every, winners] = 1.0
    found = stats.t.sf(leads.mean(axis=2) / errors, SEEDS - 1)
    found[every, winners] = 1.0
    return found, winners


if __name__ == "__main__":
    generator = np.random.default_rng(0)
    for count in (2, 3, 5, 7, 11):
        equal, _ = tables(count, 0.0, generator)
        better, winners = tables(count, AHEAD, generator)
        for name, factor in (("the winner", count - 1), ("all pairs", count * (count - 1))):
            worse = factor * equal <= 1 - CONFIDENCE
            shown = (factor * better[:, 1] <= 1 - CONFIDENCE) & (winners == 0)
            print(
                f"{count:2} configurations, corrected for {name}: worse: a given one {worse[:, 0].mean():.1%}, "
                f"any {worse.any(axis=1).mean():.1%}; really better: {shown.mean():.0%}"
            )
