"""Schedules that decay from the initial lr to an end."""

import hashlib
import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

from lightning_modules._validation import require, require_to
from lightning_modules.schedules.base import ROUNDING, Schedule, Steps, has_reached, share_of, whole

__all__ = [
    "Constant",
    "CosineDecay",
    "LinearCosineDecay",
    "NoisyLinearCosineDecay",
    "PiecewiseConstant",
    "PolynomialDecay",
    "Rex",
    "SqrtDecay",
]


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The initial lr at every step.

    ``factor(s) = 1``

    Synonyms: torch ``ConstantLR(factor=1)``.

    >>> [Constant()(step) for step in (0, 10, 10**9)]
    [1.0, 1.0, 1.0]
    """

    def _factor(self, step: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class PiecewiseConstant(Schedule):
    """Piecewise-constant factor that changes at given steps.

    ``factor(s) = factors[number of boundaries below s]``: *at* a boundary, the old value still holds. ``factors[0]`` at
    step 0, ``factors[-1]`` beyond the last boundary.

    Args:
        boundaries: Last step of each interval but the last, increasing.
        factors: Factor on each interval, at least 0; one more than boundaries.

    Synonyms: TensorFlow ``piecewise_constant`` and Keras ``PiecewiseConstantDecay`` (values = initial_lr * factors);
    torch ``MultiStepLR``, which changes one step sooner, at the milestone (boundaries = milestones - 1); timm
    ``MultiStepLRScheduler``, which changes one step before the milestone (boundaries = milestones - 2).

    >>> schedule = PiecewiseConstant(boundaries=(100, 200), factors=(1.0, 0.5, 0.1))
    >>> [schedule(step) for step in (0, 100, 101, 200, 201)]
    [1.0, 1.0, 0.5, 0.5, 0.1]
    """

    boundaries: tuple[Steps, ...]
    factors: tuple[float, ...]

    def _check(self) -> None:
        require(self, "boundaries", all(0 <= each < math.inf for each in self.boundaries), "boundaries >= 0")
        rising = all(left < right for left, right in pairwise(self.boundaries))
        require_to(self, "boundaries", rising, "be increasing")
        require_to(self, "factors", len(self.factors) == len(self.boundaries) + 1, "have one item more than boundaries")
        require(self, "factors", all(0 <= each < math.inf for each in self.factors), "factors >= 0")

    def _factor(self, step: float) -> float:
        # With a tolerance: a boundary of 0.29 * 100, a little less than 29, means step 29.
        return self.factors[bisect_left(self.boundaries, step * (1 - ROUNDING))]


@dataclass(frozen=True, kw_only=True)
class PolynomialDecay(Schedule):
    """Decay to `end_factor` with a power of the remaining time, once or in cycles.

    ``factor(s) = (1 - end_factor) * (1 - min(s, D) / D) ** power + end_factor``, with ``D = decay_steps``. 1 at step 0,
    `end_factor` at step `decay_steps` and beyond. With `cycle`, ``D = decay_steps * ceil(s / decay_steps)``: at each
    multiple of `decay_steps` the factor is exactly `end_factor`, and at the next step it jumps up to a decay that is
    longer by `decay_steps`.

    Args:
        decay_steps: Steps of the (first) decay.
        end_factor: Factor at the end, at least 0; above 1 the lr rises.
        power: Exponent, above 0; 1 is a straight line.
        cycle: Restart after each multiple of `decay_steps`, each time from a lower factor.

    Source: for a straight line to an `end_factor` of 0, Bergsma et al., "Straight to Zero: Why Linearly Decaying the
    Learning Rate to Zero Works Best for LLMs", ICLR 2025.
    Synonyms: linear decay to zero (D2Z) with an `end_factor` of 0; TensorFlow ``polynomial_decay`` and Keras
    ``PolynomialDecay`` (end_learning_rate = initial_lr * end_factor); torch ``PolynomialLR(total_iters=decay_steps)``
    (only with an end_factor of 0, and no cycle) and ``LinearLR(start_factor=1, end_factor=end_factor)``; timm
    ``PolyLRScheduler``.

    >>> schedule = PolynomialDecay(decay_steps=100, end_factor=0.2)
    >>> [round(schedule(step), 6) for step in (0, 50, 100, 1000)]
    [1.0, 0.6, 0.2, 0.2]
    >>> schedule = PolynomialDecay(decay_steps=100, end_factor=0.0, cycle=True)
    >>> [round(schedule(step), 6) for step in (100, 101, 150, 200)]
    [0.0, 0.495, 0.25, 0.0]
    """

    decay_steps: Steps
    end_factor: float
    power: float = 1.0
    cycle: bool = False

    def _check(self) -> None:
        require(self, "decay_steps", 0 < self.decay_steps < math.inf, "decay_steps > 0")
        require(self, "end_factor", 0 <= self.end_factor < math.inf, "end_factor >= 0")
        require(self, "power", 0 < self.power < math.inf, "power > 0")

    def _factor(self, step: float) -> float:
        share = share_of(step, self.decay_steps)
        if self.cycle:
            share /= max(1, -whole(-share))
        left = 0.0 if has_reached(share, 1.0) else 1 - share  # a small power would amplify a rounding error
        return float((1 - self.end_factor) * left**self.power + self.end_factor)


@dataclass(frozen=True, kw_only=True)
class CosineDecay(Schedule):
    """Decay to `min_factor` along half a cosine wave (cosine annealing), or a power of one.

    ``factor(s) = (1 - min_factor) * ((1 + cos(pi * min(s, decay_steps) / decay_steps)) / 2) ** exponent + min_factor``.
    1 at step 0, `min_factor` at step `decay_steps` and beyond.

    Args:
        decay_steps: Steps of the decay.
        min_factor: Factor at the end, between 0 and 1.
        exponent: Exponent of the wave, above 0; below 1 the lr stays high for longer, above 1 it falls sooner.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017; the exponent as in
    the generalized cosine of Naganuma et al., "What do near-optimal learning rate schedules look like?", 2026.
    Synonyms: TensorFlow ``cosine_decay`` and Keras ``CosineDecay`` (alpha = min_factor); torch
    ``CosineAnnealingLR(T_max=decay_steps, eta_min=initial_lr * min_factor)``, which rises again beyond ``T_max``; timm
    ``CosineLRScheduler``; optax ``cosine_decay_schedule``, which has the exponent.

    >>> schedule = CosineDecay(decay_steps=100, min_factor=0.1)
    >>> [round(schedule(step), 6) for step in (0, 50, 100, 1000)]
    [1.0, 0.55, 0.1, 0.1]
    >>> CosineDecay(decay_steps=100, exponent=2)(50)
    0.25
    """

    decay_steps: Steps
    min_factor: float = 0.0
    exponent: float = 1.0

    def _check(self) -> None:
        require(self, "decay_steps", 0 < self.decay_steps < math.inf, "decay_steps > 0")
        require(self, "min_factor", 0 <= self.min_factor <= 1, "0 <= min_factor <= 1")
        require(self, "exponent", 0 < self.exponent < math.inf, "exponent > 0")

    def _factor(self, step: float) -> float:
        progress = min(1.0, step / self.decay_steps)
        wave = 0.5 * (1 + math.cos(math.pi * progress))
        return float((1 - self.min_factor) * wave**self.exponent + self.min_factor)


@dataclass(frozen=True, kw_only=True)
class SqrtDecay(Schedule):
    """Decay to `min_factor` along a quarter of a circle, slow at first and steep at the end, or a power of one.

    With ``t = min(s, decay_steps) / decay_steps``:

    ``factor(s) = (1 - min_factor) * sqrt(1 - t**2) ** exponent + min_factor``. 1 at step 0, `min_factor` at step
    `decay_steps` and beyond.

    Args:
        decay_steps: Steps of the decay.
        exponent: Exponent of the root, above 0; 2 is ``1 - t**2``.
        min_factor: Factor at the end, between 0 and 1.

    Source: Naganuma et al., "What do near-optimal learning rate schedules look like?", 2026, "sqrt".
    Synonyms: none. The cool-down ``1 - sqrt(t)`` is a `WarmupStableDecay` with a `shape` of "sqrt"; the decay with
    ``1 / sqrt(s)`` is `InverseSqrt`.

    >>> schedule = SqrtDecay(decay_steps=100)
    >>> [round(schedule(step), 6) for step in (0, 60, 80, 100)]
    [1.0, 0.8, 0.6, 0.0]
    """

    decay_steps: Steps
    exponent: float = 1.0
    min_factor: float = 0.0

    def _check(self) -> None:
        require(self, "decay_steps", 0 < self.decay_steps < math.inf, "decay_steps > 0")
        require(self, "exponent", 0 < self.exponent < math.inf, "exponent > 0")
        require(self, "min_factor", 0 <= self.min_factor <= 1, "0 <= min_factor <= 1")

    def _factor(self, step: float) -> float:
        share = share_of(step, self.decay_steps)
        left = 0.0 if has_reached(share, 1.0) else (1 - share) * (1 + share)
        return float((1 - self.min_factor) * math.sqrt(left) ** self.exponent + self.min_factor)


@dataclass(frozen=True, kw_only=True)
class Rex(Schedule):
    """Decay to `min_factor` as a reflected exponential (REX): slow at first, and steeper and steeper.

    With ``t = min(s, decay_steps) / decay_steps``:

    ``factor(s) = (1 - min_factor) * (1 - t) / (1 - (1 - beta) * t) + min_factor``. 1 at step 0, `min_factor` at step
    `decay_steps` and beyond.

    Args:
        decay_steps: Steps of the decay.
        beta: Shape of the decay, above 0: 0.5 is the schedule of the paper, 1 a straight line; below 1 the curve lies
            above the line, above 1 below it.
        min_factor: Factor at the end, between 0 and 1.

    Source: Chen, Wolfe and Kyrillidis, "REX: Revisiting Budgeted Training with an Improved Schedule", MLSys 2022; the
    free beta as in Naganuma et al., "What do near-optimal learning rate schedules look like?", 2026.
    Synonyms: pytorch_optimizer ``REXScheduler``.

    >>> schedule = Rex(decay_steps=100)
    >>> [round(schedule(step), 6) for step in (0, 50, 80, 100)]
    [1.0, 0.666667, 0.333333, 0.0]
    """

    decay_steps: Steps
    beta: float = 0.5
    min_factor: float = 0.0

    def _check(self) -> None:
        require(self, "decay_steps", 0 < self.decay_steps < math.inf, "decay_steps > 0")
        require(self, "beta", 0 < self.beta < math.inf, "beta > 0")
        require(self, "min_factor", 0 <= self.min_factor <= 1, "0 <= min_factor <= 1")

    def _factor(self, step: float) -> float:
        share = share_of(step, self.decay_steps)
        left = 0.0 if has_reached(share, 1.0) else 1 - share  # a small beta would amplify a rounding error
        return (1 - self.min_factor) * left / (left + self.beta * min(1.0, share)) + self.min_factor


@dataclass(frozen=True, kw_only=True)
class LinearCosineDecay(Schedule):
    """Linear decay multiplied by a cosine wave, plus a constant.

    With ``t = min(s, decay_steps) / decay_steps``:

    ``factor(s) = (alpha + 1 - t) * (1 + cos(2 * pi * num_periods * t)) / 2 + beta``

    ``1 + alpha + beta`` at step 0 (1.001 by default, a little *above* the initial lr); with the default `num_periods`
    `beta` at step `decay_steps` and beyond.

    Args:
        decay_steps: Steps of the decay.
        num_periods: Periods of the cosine in `decay_steps`, at least 0; with 0.5 it only falls.
        alpha: Added to the linear decay, at least 0.
        beta: Added to the product, at least 0.

    Source: Bello et al., "Neural Optimizer Search with Reinforcement Learning", ICML 2017.
    Synonyms: TensorFlow 1 ``linear_cosine_decay``; neither torch, Keras 3 nor timm has it.

    >>> schedule = LinearCosineDecay(decay_steps=100, beta=0.0)
    >>> [round(schedule(step), 6) for step in (0, 50, 100, 1000)]
    [1.0, 0.25, 0.0, 0.0]
    """

    decay_steps: Steps
    num_periods: float = 0.5
    alpha: float = 0.0
    beta: float = 0.001

    def _check(self) -> None:
        require(self, "decay_steps", 0 < self.decay_steps < math.inf, "decay_steps > 0")
        require(self, "num_periods", 0 <= self.num_periods < math.inf, "num_periods >= 0")
        require(self, "alpha", 0 <= self.alpha < math.inf, "alpha >= 0")
        require(self, "beta", 0 <= self.beta < math.inf, "beta >= 0")

    def _factor(self, step: float) -> float:
        progress = min(1.0, step / self.decay_steps)
        wave = 0.5 * (1 + math.cos(2 * math.pi * math.fmod(self.num_periods * progress, 1)))
        return (self.alpha + 1 - progress + self._noise(step)) * wave + self.beta

    def _noise(self, step: float) -> float:
        return 0.0


@dataclass(frozen=True, kw_only=True)
class NoisyLinearCosineDecay(LinearCosineDecay):
    """`LinearCosineDecay` with noise on the linear decay; the variance of the noise decreases.

    With ``t = min(s, decay_steps) / decay_steps``:

    ``factor(s) = max(0, (alpha + 1 - t + noise) * (1 + cos(2 * pi * num_periods * t)) / 2 + beta)``

    where ``noise`` is drawn for each step from a normal distribution with the variance ``initial_variance / (1 + min(s,
    decay_steps)) ** variance_decay``. The noise depends on `seed` and the step alone, so a curve can be plotted,
    resumed and repeated anywhere: the first 8 bytes of the BLAKE2b hash of "seed:step" are the uniform number that the
    inverse normal distribution maps to the noise. ``max(0, 1 + alpha + beta + noise)`` at step 0, which by default is 0
    for about every sixth seed; with the default `num_periods`, `beta` at step `decay_steps` and beyond. TensorFlow
    draws new noise at every call, and its lr can become negative.

    Args:
        decay_steps: Steps of the decay.
        num_periods: Periods of the cosine in `decay_steps`, at least 0; with 0.5 it only falls.
        alpha: Added to the linear decay, at least 0.
        beta: Added to the product, at least 0.
        initial_variance: Variance of the noise at step 0, at least 0.
        variance_decay: Exponent of the decrease of the variance, at least 0.
        seed: Seed of the noise, a whole number.

    Source: Bello et al., "Neural Optimizer Search with Reinforcement Learning", ICML 2017.
    Synonyms: TensorFlow 1 ``noisy_linear_cosine_decay``; neither torch nor Keras 3 has it. timm adds noise of a limited
    range to its schedules (``noise_range_t``).

    >>> schedule = NoisyLinearCosineDecay(decay_steps=100, beta=0.0, seed=0)
    >>> [round(schedule(step), 6) for step in (1, 2, 50, 100)]
    [2.31711, 1.627193, 0.137816, 0.0]
    """

    initial_variance: float = 1.0
    variance_decay: float = 0.55
    seed: int

    def _check(self) -> None:
        super()._check()
        require(self, "initial_variance", 0 <= self.initial_variance < math.inf, "initial_variance >= 0")
        require(self, "variance_decay", 0 <= self.variance_decay < math.inf, "variance_decay >= 0")

    def _factor(self, step: float) -> float:
        return max(0.0, super()._factor(step))

    def _noise(self, step: float) -> float:
        digest = hashlib.blake2b(f"{self.seed}:{math.floor(step)}".encode(), digest_size=8).digest()
        # 52 bits plus a half: never 0 or 1, where the inverse normal distribution is infinite.
        uniform = ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52
        variance = self.initial_variance * (1 + min(step, self.decay_steps)) ** -self.variance_decay
        return math.sqrt(variance) * NormalDist().inv_cdf(uniform)
