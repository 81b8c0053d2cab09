"""Optimizers of the package pytorch_optimizer, which is optional."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_modules._validation import require
from lightning_modules.optimizers.base import Optimizer, check_amounts, check_shares, from_library

__all__ = ["SOAP", "AdEMAMix", "Adan", "Lion", "Prodigy"]

LIBRARY = "pytorch_optimizer"


@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """Move every weight by the lr, in the direction of the sign of a mean of the gradients.

    ``lr * sign(beta1 * m + (1 - beta1) * gradient)``, and then ``m = beta2 * m + (1 - beta2) * gradient``. It needs an
    lr 3 to 10 times smaller than Adam's, and a weight decay larger by the same factor. It has no eps.

    Args:
        beta1: Weight of the mean of the gradients relative to the current gradient, in [0, 1).
        beta2: Decay rate of that mean, in [0, 1).
        weight_decay: Fraction by which each weight shrinks per step, per unit of lr, as in `AdamW`.

    Raises:
        ImportError: When called, if the package pytorch_optimizer is not installed.

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.
    Synonyms: pytorch_optimizer, timm and Keras ``Lion``; torch does not have it.

    >>> Lion(initial_lr=1e-4).beta2
    0.99
    """

    INDEPENDENT_GROUPS = True

    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    def _check(self) -> None:
        check_shares(self, "beta1", "beta2")
        check_amounts(self, "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> Any:
        """Build pytorch_optimizer's Lion for these parameters."""
        return from_library(
            LIBRARY, "Lion", self, params, betas=(self.beta1, self.beta2), weight_decay=self.weight_decay
        )


@dataclass(frozen=True, kw_only=True)
class AdEMAMix(Optimizer):
    """AdamW with a second, slow mean of the gradients: ``lr * (m_hat + alpha * m_slow) / (sqrt(v_hat) + eps)``.

    The slow mean remembers gradients of tens of thousands of steps. In a short run, lower `beta3` accordingly: the mean
    should be shorter than the run.

    Args:
        beta1: Decay rate of the fast mean of the gradients, in [0, 1).
        beta2: Decay rate of the mean of the squared gradients, in [0, 1).
        beta3: Decay rate of the slow mean of the gradients, in [0, 1).
        alpha: Weight of the slow mean, at least 0.
        warmup_steps: Steps in which `alpha` and `beta3` rise to their values, at least 0; the paper uses the length of
            the run.
        eps: Added to the denominator, at least 0, as in `Adam`.
        weight_decay: Fraction by which each weight shrinks per step, per unit of lr, as in `AdamW`.

    Raises:
        ImportError: When called, if the package pytorch_optimizer is not installed.

    Source: Pagliardini, Ablin and Grangier, "The AdEMAMix Optimizer: Better, Faster, Older", ICLR 2025.
    Synonyms: pytorch_optimizer ``AdEMAMix`` (t_alpha_beta3 = warmup_steps, weight_decouple=True).

    >>> AdEMAMix(initial_lr=1e-3).alpha
    5.0
    """

    INDEPENDENT_GROUPS = True

    beta1: float = 0.9
    beta2: float = 0.999
    beta3: float = 0.9999
    alpha: float = 5.0
    warmup_steps: int = 0
    eps: float = 1e-8
    weight_decay: float = 0.0

    def _check(self) -> None:
        check_shares(self, "beta1", "beta2", "beta3")
        check_amounts(self, "alpha", "warmup_steps", "eps", "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> Any:
        """Build pytorch_optimizer's AdEMAMix for these parameters."""
        return from_library(
            LIBRARY,
            "AdEMAMix",
            self,
            params,
            betas=(self.beta1, self.beta2, self.beta3),
            alpha=self.alpha,
            t_alpha_beta3=self.warmup_steps or None,
            eps=self.eps,
            weight_decay=self.weight_decay,
            weight_decouple=True,
        )


@dataclass(frozen=True, kw_only=True)
class Adan(Optimizer):
    """Adam with Nesterov momentum, estimated from the differences of successive gradients.

    ``lr * (m + beta2 * d) / (sqrt(n) + eps)``, with the bias-corrected means ``m`` of the gradients ``g``, ``d`` of
    their differences, and ``n`` of the squares of ``g + beta2 * difference``. The weight decay divides the weight by
    ``1 + lr * weight_decay`` after the step.

    Args:
        beta1: Decay rate of the mean of the gradients, in [0, 1).
        beta2: Decay rate of the mean of their differences, in [0, 1).
        beta3: Decay rate of the mean of the squares, in [0, 1).
        eps: Added to the denominator, at least 0.
        weight_decay: Coefficient of the weight decay, at least 0.

    Raises:
        ImportError: When called, if the package pytorch_optimizer is not installed.

    Source: Xie et al., "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models", TPAMI 2024.
    Synonyms: pytorch_optimizer and timm ``Adan``, with decay rates in this form; the paper uses one minus these.

    >>> Adan(initial_lr=1e-3).beta1
    0.98
    """

    INDEPENDENT_GROUPS = True

    beta1: float = 0.98
    beta2: float = 0.92
    beta3: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0

    def _check(self) -> None:
        check_shares(self, "beta1", "beta2", "beta3")
        check_amounts(self, "eps", "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> Any:
        """Build pytorch_optimizer's Adan for these parameters."""
        betas = (self.beta1, self.beta2, self.beta3)
        return from_library(LIBRARY, "Adan", self, params, betas=betas, eps=self.eps, weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class Prodigy(Optimizer):
    """AdamW that estimates its lr while it trains; `initial_lr` and the schedule multiply the estimate.

    Leave `initial_lr` at 1. The estimate ``d`` begins at `d0` and rises with the distance from the initial weights.

    Args:
        beta1: Decay rate of the mean of the gradients, in [0, 1).
        beta2: Decay rate of the mean of the squared gradients, in [0, 1).
        eps: Added to the denominator, times ``d``; at least 0.
        weight_decay: Fraction by which each weight shrinks per step, per unit of lr, as in `AdamW`.
        d0: First estimate, above 0.
        d_coef: Multiplies the estimate, above 0; change this rather than `initial_lr`.
        bias_correction: Correct the bias of the means, as Adam does.
        safeguard_warmup: Leave the lr out of the denominator of the estimate; for schedules with a warmup.

    Raises:
        ImportError: When called, if the package pytorch_optimizer is not installed.

    Source: Mishchenko and Defazio, "Prodigy: An Expeditiously Adaptive Parameter-Free Learner", ICML 2024.
    Synonyms: pytorch_optimizer and prodigyopt ``Prodigy``.

    >>> Prodigy(initial_lr=1.0).d0
    1e-06
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    d0: float = 1e-6
    d_coef: float = 1.0
    bias_correction: bool = False
    safeguard_warmup: bool = False

    def _check(self) -> None:
        check_shares(self, "beta1", "beta2")
        check_amounts(self, "eps", "weight_decay")
        for field in ("d0", "d_coef"):
            require(self, field, 0 < getattr(self, field) < math.inf, f"{field} > 0")

    def __call__(self, params: Iterable[nn.Parameter]) -> Any:
        """Build pytorch_optimizer's Prodigy for these parameters."""
        return from_library(
            LIBRARY,
            "Prodigy",
            self,
            params,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
            d0=self.d0,
            d_coef=self.d_coef,
            bias_correction=self.bias_correction,
            safeguard_warmup=self.safeguard_warmup,
        )


@dataclass(frozen=True, kw_only=True)
class SOAP(Optimizer):
    """Adam in the eigenbases of Shampoo's preconditioners, which are two square matrices for each weight matrix.

    The first step only measures gradients and changes no weight. The time of a step grows with the cube of
    `max_precondition_dim`.

    Args:
        beta1: Decay rate of the mean of the gradients, in [0, 1).
        beta2: Decay rate of the mean of the squared gradients and of the preconditioners, in [0, 1).
        eps: Added to the denominator, at least 0.
        weight_decay: Fraction by which each weight shrinks per step, per unit of lr, as in `AdamW`.
        precondition_frequency: Steps between updates of the eigenbases, at least 1.
        max_precondition_dim: Largest dimension of a weight that gets a preconditioner, at least 1; the paper's 10,000
            need a fast GPU.

    Raises:
        ImportError: When called, if the package pytorch_optimizer is not installed.

    Source: Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", ICLR 2025.
    Synonyms: pytorch_optimizer ``SOAP``.

    >>> SOAP(initial_lr=3e-3).precondition_frequency
    10
    """

    INDEPENDENT_GROUPS = True

    beta1: float = 0.95
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.01
    precondition_frequency: int = 10
    max_precondition_dim: int = 1024

    def _check(self) -> None:
        check_shares(self, "beta1", "beta2")
        check_amounts(self, "eps", "weight_decay")
        for field in ("precondition_frequency", "max_precondition_dim"):
            require(self, field, getattr(self, field) >= 1, f"{field} >= 1")

    def __call__(self, params: Iterable[nn.Parameter]) -> Any:
        """Build pytorch_optimizer's SOAP for these parameters."""
        return from_library(
            LIBRARY,
            "SOAP",
            self,
            params,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
            precondition_frequency=self.precondition_frequency,
            max_precondition_dim=self.max_precondition_dim,
        )
