"""The multi-power law: the loss of a run as a function of its lr curve.

Luo et al., "A Multi-Power Law for Loss Curve Prediction Across Learning Rate Schedules" (ICLR 2025, arXiv:2503.12811):
the loss is a power law of the sum of the lrs ``S(t)``, minus a term for each reduction of the lr:

``L(t) = L0 + A * S(t) ** -alpha - B * sum_k (lr[k-1] - lr[k]) * (1 - (1 + C * lr[k] ** -gamma * S_k(t)) ** -beta)``,

where ``S_k(t)`` is the sum of the lrs since step ``k``. Here lrs are in units of the highest lr of all runs, and their
sums in units of that times the longest run, so that all constants are near 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

__all__ = ["LossCurve", "PowerLaw"]

Array = NDArray[np.float64]

SMALLEST_LR = 1e-3
"""Lowest lr in the law, in units of the highest."""

CENTERS = np.log([0.8, 0.3, 0.3, 0.1, 5.0, 0.5, 0.5])  # L0 (over the lowest loss), A, alpha, B, C, beta, gamma
WIDTHS = np.array([0.3, 1.0, 0.7, 1.5, 2.0, 0.5, 0.7])
FIRST_SHARE = 0.1
ERROR = 0.002
"""Relative error of a loss that the law describes well."""

HIGHEST_LOGS = np.array([8.0, 8.0, 2.0, 8.0, 8.0, 2.0, 2.0])

MOST_LOSSES = 16
"""Largest number of losses of a run that the law is fitted to, evenly spaced."""

MAX_EVALUATIONS = 60


@dataclass(frozen=True)
class LossCurve:
    """A run, as far as it was trained.

    Args:
        lr: The lr at evenly spaced steps of the whole training [steps].
        steps: The number of its steps.
        shares: The part of the training after which each loss was measured [losses], above 0 and up to 1.
        losses: The losses [losses], above 0.
    """

    lr: Array
    steps: int
    shares: Array
    losses: Array

    @property
    def is_whole(self) -> bool:
        """Whether its last loss was measured at its end, so that it was not stopped before."""
        return bool(self.shares[-1] > 1 - 1e-9)


class PowerLaw:
    """The law with the constants that fit some runs best.

    Args:
        curves: The runs; at least one.
    """

    def __init__(self, curves: Sequence[LossCurve]) -> None:
        self._unit = max(float(curve.lr.max()) for curve in curves)
        self._longest = max(curve.steps for curve in curves)
        chosen = [(curve, _after_warmup(curve)) for curve in curves]
        inputs = [_Inputs(self._scaled(curve), curve.shares[places]) for curve, places in chosen]
        losses = np.concatenate([curve.losses[places] for curve, places in chosen])
        self._lowest = float(losses.min())

        def residuals(logs: Array) -> Array:
            predicted = np.concatenate([self._losses(logs, each) for each in inputs])
            return np.concatenate([np.log(predicted / losses) / ERROR, (logs - CENTERS) / WIDTHS])

        self._logs: Array = scipy.optimize.least_squares(residuals, CENTERS, loss="soft_l1", max_nfev=MAX_EVALUATIONS).x

    def final(self, curve: LossCurve) -> float:
        """Return the loss that the law predicts for the end of a run, whatever its losses were so far."""
        return float(self._losses(self._logs, _Inputs(self._scaled(curve), np.ones(1)))[0])

    def _scaled(self, curve: LossCurve) -> tuple[Array, float]:
        return curve.lr / self._unit, curve.steps / self._longest

    def _losses(self, logs: Array, inputs: "_Inputs") -> Array:
        lowest, scale, power, drop, rate, decay, height = np.exp(np.clip(logs, -8.0, HIGHEST_LOGS))
        gone = 1 - (1 + rate * inputs.heights**-height * inputs.sums_since) ** -decay
        losses = self._lowest * (lowest + scale * inputs.sums**-power - drop * (inputs.drops * gone).sum(1))
        bounded: Array = np.clip(losses, 0.1 * self._lowest, 1e6 * self._lowest)
        return bounded


class _Inputs:
    """The quantities that the law depends on.

    Args:
        scaled: The lr of a run [steps] and its length, in the units of the law.
        shares: Parts of the training [shares].

    Attributes:
        sums: The sum of the lrs up to each share [shares].
        drops: The reduction of the lr at each step [1, steps]; below 0 where it rises.
        heights: The lr after it [1, steps].
        sums_since: The sum of the lrs from each step to each share [shares, steps]; 0 for later steps.
    """

    def __init__(self, scaled: tuple[Array, float], shares: Array) -> None:
        lr, length = scaled
        count = len(lr)
        starts = np.arange(count) / count
        totals = np.concatenate([[0.0], np.cumsum(lr)]) * length / count
        at = np.interp(shares, np.append(starts, 1.0), totals)
        self.sums = np.maximum(at, 1e-6)
        self.drops = np.concatenate([[0.0], -np.diff(lr)])[None]
        self.drops[:, : int(np.argmax(lr)) + 1] = 0.0  # the warm-up
        self.heights = np.maximum(lr, SMALLEST_LR)[None]
        self.sums_since = np.maximum(at[:, None] - totals[None, :-1], 0.0)


def _after_warmup(curve: LossCurve) -> NDArray[np.int64]:
    """Return the places of losses that the law describes: not the warm-up, nor the first tenth."""
    late = np.flatnonzero(curve.shares >= max(FIRST_SHARE, int(np.argmax(curve.lr)) / len(curve.lr)))
    if not len(late):
        return np.array([len(curve.losses) - 1])
    chosen: NDArray[np.int64] = late[np.unique(np.linspace(0, len(late) - 1, MOST_LOSSES).round().astype(int))]
    return chosen
