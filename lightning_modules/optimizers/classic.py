"""SGD, Adagrad, RMSprop and Adadelta."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lightning_modules._validation import require
from lightning_modules.optimizers.base import Optimizer, check_amounts, check_shares, fused

__all__ = ["SGD", "Adadelta", "Adagrad", "RMSprop"]


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    ``b = momentum * b + gradient``, and the weight moves by ``-lr * b``, or with `nesterov` by
    ``-lr * (gradient + momentum * b)``.

    Args:
        momentum: Share of the last update that is kept, in [0, 1).
        nesterov: Evaluate the gradient ahead of the momentum; needs a `momentum` above 0.
        weight_decay: Coefficient of an L2 penalty ``weight_decay / 2 * |w|**2`` that is added to the loss.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013.
    Synonyms: torch and Keras ``SGD``. Keras multiplies by the lr before it adds to ``b``; at a constant lr that is the
    same.

    >>> SGD(initial_lr=0.1, momentum=0.9)([nn.Parameter(torch.zeros(2))]).defaults["momentum"]
    0.9
    """

    INDEPENDENT_GROUPS = True
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def _check(self) -> None:
        check_shares(self, "momentum")
        require(self, "nesterov", not self.nesterov or self.momentum > 0, "momentum > 0 with nesterov")
        check_amounts(self, "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.SGD:
        """Build torch's SGD for these parameters."""
        optimizer = fused(
            torch.optim.SGD,
            params,
            lr=self.initial_lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )
        optimizer.register_step_pre_hook(_with_late_buffers)
        return optimizer


def _with_late_buffers(
    optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Add the momentum buffers that are missing in a step, which gets its gradients from a closure or has them."""
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        _add_late_buffers(optimizer)
        return None

    def with_buffers() -> Any:
        loss = closure()
        _add_late_buffers(optimizer)
        return loss

    return (optimizer, with_buffers), {}


def _add_late_buffers(optimizer: torch.optim.Optimizer) -> None:
    """Add a momentum buffer of 0 to parameters that get their first gradient later than others of their group.

    torch's fused kernel creates the buffers of either all parameters or none. Without dampening, it makes no difference
    whether a buffer starts at 0 or as the first gradient.
    """
    for group in optimizer.param_groups:
        if not group["momentum"] or group["dampening"]:
            continue
        updated = [param for param in group["params"] if param.grad is not None]
        late = [param for param in updated if optimizer.state[param].get("momentum_buffer") is None]
        if len(late) < len(updated):
            for param in late:
                optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param.grad)


@dataclass(frozen=True, kw_only=True)
class Adagrad(Optimizer):
    """Divide by the root of the sum of all squared gradients so far: ``lr * gradient / (sqrt(sum) + eps)``.

    Args:
        initial_accumulator: Initial value of the sum, at least 0.
        eps: Added to the denominator, at least 0.
        weight_decay: Coefficient of an L2 penalty ``weight_decay / 2 * |w|**2`` that is added to the loss.

    Source: Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
    JMLR 12, 2011.
    Synonyms: torch ``Adagrad`` (its lr_decay is the schedule `InverseTimeDecay`); Keras ``Adagrad``, which divides by
    ``sqrt(sum + epsilon)`` and starts with a sum of 0.1.

    >>> Adagrad(initial_lr=0.1)([nn.Parameter(torch.zeros(2))]).defaults["eps"]
    1e-10
    """

    INDEPENDENT_GROUPS = True
    initial_accumulator: float = 0.0
    eps: float = 1e-10
    weight_decay: float = 0.0

    def _check(self) -> None:
        check_amounts(self, "initial_accumulator", "eps", "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.Adagrad:
        """Build torch's Adagrad for these parameters."""
        return fused(
            torch.optim.Adagrad,
            params,
            lr=self.initial_lr,
            initial_accumulator_value=self.initial_accumulator,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """Divide by the root of a running mean of the squared gradients: ``lr * gradient / (sqrt(mean) + eps)``.

    Args:
        rho: Decay rate of the mean of the squared gradients, in [0, 1).
        momentum: Share of the last update that is kept, in [0, 1).
        centered: Subtract the square of the mean of the gradients, so that it divides by their standard deviation.
        eps: Added to the denominator, at least 0.
        weight_decay: Coefficient of an L2 penalty ``weight_decay / 2 * |w|**2`` that is added to the loss.

    Source: Tieleman and Hinton, "Lecture 6.5: rmsprop", Coursera, 2012.
    Synonyms: torch ``RMSprop`` (alpha = rho); Keras ``RMSprop``, which divides by ``sqrt(mean + epsilon)``, has a rho
    of 0.9 by default, and with momentum multiplies by the lr before it adds up.

    >>> RMSprop(initial_lr=1e-3, rho=0.9)([nn.Parameter(torch.zeros(2))]).defaults["alpha"]
    0.9
    """

    INDEPENDENT_GROUPS = True
    rho: float = 0.99
    momentum: float = 0.0
    centered: bool = False
    eps: float = 1e-8
    weight_decay: float = 0.0

    def _check(self) -> None:
        check_shares(self, "rho", "momentum")
        check_amounts(self, "eps", "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.RMSprop:
        """Build torch's RMSprop for these parameters."""
        return torch.optim.RMSprop(
            params,
            lr=self.initial_lr,
            alpha=self.rho,
            momentum=self.momentum,
            centered=self.centered,
            eps=self.eps,
            weight_decay=self.weight_decay,
            foreach=True,
        )


@dataclass(frozen=True, kw_only=True)
class Adadelta(Optimizer):
    """Scale the gradient by the ratio of the sizes of recent updates and recent gradients.

    ``lr * gradient * sqrt(mean of squared updates + eps) / sqrt(mean of squared gradients + eps)``. The paper has no
    lr, which is an `initial_lr` of 1.

    Args:
        rho: Decay rate of both means, in [0, 1).
        eps: Added under both roots, above 0; it alone determines the size of the first update.
        weight_decay: Coefficient of an L2 penalty ``weight_decay / 2 * |w|**2`` that is added to the loss.

    Source: Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012.
    Synonyms: torch and Keras ``Adadelta`` (in Keras with a rho of 0.95, an eps of 1e-7 and an lr of 0.001 by default).

    >>> Adadelta(initial_lr=1.0, rho=0.95)([nn.Parameter(torch.zeros(2))]).defaults["rho"]
    0.95
    """

    INDEPENDENT_GROUPS = True
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0

    def _check(self) -> None:
        check_shares(self, "rho")
        require(self, "eps", 0 < self.eps < math.inf, "eps > 0")
        check_amounts(self, "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.Adadelta:
        """Build torch's Adadelta for these parameters."""
        return torch.optim.Adadelta(
            params, lr=self.initial_lr, rho=self.rho, eps=self.eps, weight_decay=self.weight_decay, foreach=True
        )
