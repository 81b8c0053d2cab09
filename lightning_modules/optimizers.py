"""Optimizers as settings: frozen dataclasses that, called with parameters, build the torch optimizer.

They fit wherever an "optimizer callable" is wanted, a `Classifier` or one's own ``configure_optimizers``::

    optimizer = Adam(initial_lr=1e-3, eps=1e-4)(self.parameters())

`initial_lr` is torch's ``lr`` argument: the value that a schedule multiplies. Each uses torch's fused kernels where the
parameters allow, on a CPU too, where they are several times faster.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from lightning_modules.checks import require

__all__ = ["OPTIMIZERS", "SGD", "Adam", "Optimizer"]


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """Settings of an optimizer.

    Args:
        initial_lr: Learning rate that the schedule multiplies, above 0.
    """

    initial_lr: float

    def __post_init__(self) -> None:
        require(self, "initial_lr", 0 < self.initial_lr < math.inf, "initial_lr > 0")
        self._check()

    def _check(self) -> None:
        """Raise ValueError, naming the rule and the value, if the arguments do not make an optimizer."""

    @abstractmethod
    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Build the torch optimizer of these parameters."""


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam, as torch does it: ``lr * m_hat / (sqrt(v_hat) + eps)`` with bias-corrected moments.

    Args:
        beta1: Decay rate of the mean of the gradients, in [0, 1).
        beta2: Decay rate of the mean of the squared gradients, in [0, 1).
        eps: Added to the denominator, at least 0. Far larger values than the default (0.1 to 1) suit some networks;
            it trades off with the lr, so search the two together.
        weight_decay: Coefficient of an L2 penalty ``weight_decay / 2 * |w|**2`` that is added to the loss.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    >>> optimizer = Adam(initial_lr=1e-3, eps=0.1)([nn.Parameter(torch.zeros(2))])
    >>> optimizer.defaults["lr"], optimizer.defaults["eps"]
    (0.001, 0.1)
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def _check(self) -> None:
        require(self, "beta1", 0 <= self.beta1 < 1, "0 <= beta1 < 1")
        require(self, "beta2", 0 <= self.beta2 < 1, "0 <= beta2 < 1")
        require(self, "eps", 0 <= self.eps < math.inf, "eps >= 0")
        require(self, "weight_decay", 0 <= self.weight_decay < math.inf, "weight_decay >= 0")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.Adam:
        return torch.optim.Adam(
            params,
            lr=self.initial_lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    Args:
        momentum: Share of the last update that is kept, in [0, 1).
        nesterov: Evaluate the gradient ahead of the momentum; needs a `momentum` above 0.
        weight_decay: Coefficient of an L2 penalty ``weight_decay / 2 * |w|**2`` that is added to the loss.

    >>> SGD(initial_lr=0.1, momentum=0.9)([nn.Parameter(torch.zeros(2))]).defaults["momentum"]
    0.9
    """

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def _check(self) -> None:
        require(self, "momentum", 0 <= self.momentum < 1, "0 <= momentum < 1")
        require(self, "nesterov", not self.nesterov or self.momentum > 0, "momentum > 0 with nesterov")
        require(self, "weight_decay", 0 <= self.weight_decay < math.inf, "weight_decay >= 0")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.SGD:
        return torch.optim.SGD(
            params,
            lr=self.initial_lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=True,
        )


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "sgd": SGD}
