"""Schedule-free optimizers, of the package schedulefree, which is optional.

They train at one point and evaluate at another, an average of the weights so far. `EvaluationWeights` switches between
the two.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_modules._validation import require
from lightning_modules.optimizers.base import Optimizer, check_amounts, check_shares, from_library

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeSGD"]

LIBRARY = "schedulefree"


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeAdamW(Optimizer):
    """AdamW that averages its weights instead of decaying its lr.

    A schedule is not needed, except for a warmup, and still works: the average gives a step the weight of the square of
    the highest lr so far. Its lr is 1 to 10 times AdamW's. `Classifier` evaluates and saves the average; in a
    LightningModule of your own, add the callback `EvaluationWeights`: without it, the first step raises an error.

    Args:
        beta1: Share of the average in the point at which the gradient is taken, in (0, 1).
        beta2: Decay rate of the mean of the squared gradients, in [0, 1).
        eps: Added to the denominator, at least 0, as in `Adam`.
        weight_decay: Fraction by which each weight shrinks per step, per unit of lr, as in `AdamW`.

    Raises:
        ImportError: When called, if the package schedulefree is not installed.

    Source: Defazio et al., "The Road Less Scheduled", NeurIPS 2024.
    Synonyms: schedulefree ``AdamWScheduleFree`` (its warmup_steps are the schedule `Warmup`); pytorch_optimizer
    ``ScheduleFreeAdamW``.

    >>> ScheduleFreeAdamW(initial_lr=2.5e-3).beta1
    0.9
    """

    INDEPENDENT_GROUPS = True

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def _check(self) -> None:
        require(self, "beta1", 0 < self.beta1 < 1, "0 < beta1 < 1")
        check_shares(self, "beta2")
        check_amounts(self, "eps", "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> Any:
        """Build schedulefree's AdamWScheduleFree for these parameters."""
        betas, name = (self.beta1, self.beta2), "AdamWScheduleFree"
        return from_library(LIBRARY, name, self, params, betas=betas, eps=self.eps, weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class ScheduleFreeSGD(Optimizer):
    """SGD that averages its weights instead of decaying its lr; see `ScheduleFreeAdamW`.

    Its lr is 10 to 50 times that of SGD with the same momentum.

    Args:
        momentum: Share of the average in the point at which the gradient is taken, in (0, 1).
        weight_decay: Coefficient of an L2 penalty ``weight_decay / 2 * |w|**2`` that is added to the loss.

    Raises:
        ImportError: When called, if the package schedulefree is not installed.

    Source: Defazio et al., "The Road Less Scheduled", NeurIPS 2024.
    Synonyms: schedulefree ``SGDScheduleFree`` (its warmup_steps are the schedule `Warmup`); pytorch_optimizer
    ``ScheduleFreeSGD``.

    >>> ScheduleFreeSGD(initial_lr=1.0).momentum
    0.9
    """

    INDEPENDENT_GROUPS = True

    momentum: float = 0.9
    weight_decay: float = 0.0

    def _check(self) -> None:
        require(self, "momentum", 0 < self.momentum < 1, "0 < momentum < 1")
        check_amounts(self, "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> Any:
        """Build schedulefree's SGDScheduleFree for these parameters."""
        return from_library(
            LIBRARY, "SGDScheduleFree", self, params, momentum=self.momentum, weight_decay=self.weight_decay
        )
