"""Priors: where good values of a range are expected, and the first random trials are drawn."""

import hashlib
import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from tuner.config.component import Component
from tuner.config.search_space import Range, Template, searched, snapped

__all__ = ["PRIOR_SAMPLERS", "draws_of_priors"]

PRIOR_SAMPLERS: Mapping[str, float] = {"tpe": 10, "curve": 4, "gp": 10, "cmaes": 1, "nsga2": 50, "random": math.inf}
"""The samplers that begin with random trials, and how many, unless ``n_startup_trials`` says otherwise.

With ``nsga2`` they are the first generation, so ``population_size`` decides; with ``curve`` they come after the study's
own `trial`.
"""

NEARLY_ONE = 1 - 1e-15


def draws_of_priors(
    template: Template, sampler: Component, number: int, random_trials: int | None = None, attempt: int = 0
) -> dict[str, Any]:
    """Return the values of a trial that are drawn from priors, by their names in Optuna; none after the random trials.

    Args:
        template: The template of the trials.
        sampler: The sampler.
        number: The trial.
        random_trials: The number of random trials; None for the sampler's default.
        attempt: Which draw it is, if earlier ones do not satisfy the constraints.
    """
    if number >= (PRIOR_SAMPLERS.get(sampler.name, 0) if random_trials is None else random_trials):
        return {}
    seed = sampler.arguments.get("seed", 0)
    return {
        name: _draw(spec, _uniform(f"prior:{seed}:{number}:{name}" + (f":{attempt}" if attempt else "")))
        for name, spec in searched(template)
        if isinstance(spec, Range) and spec.prior
    }


def _uniform(key: str) -> float:
    """Return a number between 0 and 1 that depends only on a text."""
    return (int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") + 0.5) / 2**48


def _draw(spec: Range, share: float) -> float:
    """Return a quantile of the normal distribution around a range's prior, cut at the ends of the range."""
    if spec.prior is None:
        raise ValueError("the range has no prior")
    center, width = spec.prior
    scale, back = (math.log, math.exp) if spec.log else (float, float)
    normal = NormalDist(scale(center), scale(width))
    low, high = (normal.cdf(scale(bound)) for bound in (spec.low, spec.high))
    probability = min(max(low + share * (high - low), 1 - NEARLY_ONE), NEARLY_ONE)
    return snapped(spec, back(normal.inv_cdf(probability)))
