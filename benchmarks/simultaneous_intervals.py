"""How often the intervals of a league call the best of equal contenders better than another.

    python benchmarks/simultaneous_intervals.py

Contenders have equal means, normal values and the same seeds, and the values of a seed share a component. The intervals
come from `tuner.analysis.simultaneous`, with quantiles interpolated between whole degrees of freedom, because SciPy
takes a fifth of a second for each.
"""

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
FREEDOMS = np.array([1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 60])
ROUNDS = 3000


def wrong(contenders: int, seeds: int, spreads: list[float], draws: np.random.Generator) -> float:
    """Return the share of leagues in which some contender is called worse than the first."""
    quantiles = [stats.studentized_range.ppf(CONFIDENCE, contenders, freedom) for freedom in FREEDOMS]
    shrinkage, found = 1 - 1 / contenders, 0
    for _ in range(ROUNDS):
        values = draws.normal(size=(contenders, seeds)) * np.array(spreads)[:, None] + 2 * draws.normal(size=seeds)
        means = values.mean(axis=1)
        best = means.argmin()
        others = np.arange(contenders) != best
        squares = (values - values.mean(axis=0)).var(axis=1, ddof=1) / seeds
        total = squares[others] + squares[best]
        freedom = shrinkage * total**2 / ((squares[others] ** 2 + squares[best] ** 2) / (seeds - 1))
        room = np.interp(freedom, FREEDOMS, quantiles) * np.sqrt(total / shrinkage / 2)
        found += bool((means[others] - means[best] > room).any())
    return found / ROUNDS


if __name__ == "__main__":
    generator = np.random.default_rng(0)
    for count, size in ((2, 5), (4, 5), (11, 6), (10, 10)):
        cases = {
            "equal spreads": [1.0] * count,
            "one six times as wide": [1.0] * (count - 1) + [6.0],
            "half three times as wide": [1.0] * (count // 2) + [3.0] * (count - count // 2),
        }
        shares = {name: wrong(count, size, spreads, generator) for name, spreads in cases.items()}
        print(count, "contenders,", size, "seeds:", ", ".join(f"{name} {each:.1%}" for name, each in shares.items()))
