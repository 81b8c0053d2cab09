"""Performance profiles: how often a configuration reaches a target in little more than the time of the fastest.

Source: Dolan and Moré, "Benchmarking optimization software with performance profiles", Mathematical Programming, 2002,
with the score of Dahl et al., "Benchmarking Neural Network Training Algorithms" (AlgoPerf), 2023, section 4.2. There,
an instance is a workload; in a league it is a seed.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

__all__ = ["MOST", "profile", "ratios_to_fastest", "score"]

MOST = 4.0
"""The largest ratio that counts, as in AlgoPerf."""

Instance = TypeVar("Instance", bound=Hashable)


def ratios_to_fastest(times: Mapping[str, Mapping[Instance, float]]) -> dict[str, list[float]]:
    """Return the time of each configuration on each instance, divided by the shortest there.

    Args:
        times: Times (steps, or seconds) to a target by configuration and instance; infinity if it was not reached. All
            configurations have the same instances.

    >>> ratios_to_fastest({"a": {0: 10, 1: 30}, "b": {0: 20, 1: math.inf}})
    {'a': [1.0, 1.0], 'b': [2.0, inf]}
    """
    instances = list(next(iter(times.values()), {}))
    fastest = {instance: min(each[instance] for each in times.values()) for instance in instances}
    return {
        name: [each[i] / fastest[i] if math.isfinite(each[i]) else math.inf for i in instances]
        for name, each in times.items()
    }


def profile(ratios: Sequence[float], most: float = MOST) -> list[tuple[float, float]]:
    """Return the performance profile as corners of a step function, from 1 to `most`.

    Args:
        ratios: The ratios of a configuration, as `ratios_to_fastest` returns them.
        most: The largest ratio.

    Returns:
        Ratios, and the share of instances whose ratio is at most that.

    >>> profile([1.0, 2.0, math.inf, 2.0])
    [(1.0, 0.25), (2.0, 0.75), (4.0, 0.75)]
    """
    corners = sorted({1.0, most, *(each for each in ratios if each <= most)})
    return [(at, sum(each <= at for each in ratios) / len(ratios)) for at in corners] if ratios else []


def score(ratios: Sequence[float], most: float = MOST) -> float:
    """Return the area under the performance profile from 1 to `most`, as a share of the largest possible one.

    >>> score([1.0, 1.0]), score([2.5, math.inf])
    (1.0, 0.25)
    """
    return fmean(max(0.0, (most - each) / (most - 1)) for each in ratios) if ratios else 0.0
