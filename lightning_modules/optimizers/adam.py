"""Adam, as in torch and as in TensorFlow, and AdamW."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from lightning_modules.optimizers.base import Optimizer, check_amounts, check_shares, fused

__all__ = ["Adam", "AdamEpsilonHat", "AdamW", "TorchAdamEpsilonHat"]


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam as in torch: ``lr * m_hat / (sqrt(v_hat) + eps)`` with bias-corrected moments.

    Args:
        beta1: Decay rate of the mean of the gradients, in [0, 1).
        beta2: Decay rate of the mean of the squared gradients, in [0, 1).
        eps: Added to the denominator, at least 0. Far larger values than the default (0.1 to 1) suit some networks;
            it trades off with the lr, so search the two together.
        weight_decay: Coefficient of an L2 penalty ``weight_decay / 2 * |w|**2`` that is added to the loss.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    Synonyms: torch ``Adam``. Keras's ``Adam`` is `AdamEpsilonHat`.

    >>> optimizer = Adam(initial_lr=1e-3, eps=0.1)([nn.Parameter(torch.zeros(2))])
    >>> optimizer.defaults["lr"], optimizer.defaults["eps"]
    (0.001, 0.1)
    """

    INDEPENDENT_GROUPS = True
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def _check(self) -> None:
        check_shares(self, "beta1", "beta2")
        check_amounts(self, "eps", "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.Adam:
        """Build torch's Adam for these parameters."""
        return fused(torch.optim.Adam, params, **_adam_arguments(self))


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay: at each step a weight shrinks by the share ``lr * weight_decay`` of itself.

    Args:
        beta1: Decay rate of the mean of the gradients, in [0, 1).
        beta2: Decay rate of the mean of the squared gradients, in [0, 1).
        eps: Added to the denominator, at least 0, as in `Adam`.
        weight_decay: Fraction by which each weight shrinks per step, per unit of lr; the schedule multiplies it too.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    Synonyms: torch ``AdamW``; Keras ``AdamW``, except for its eps, see `AdamEpsilonHat`.

    >>> optimizer = AdamW(initial_lr=1e-3, weight_decay=0.1)([nn.Parameter(torch.zeros(2))])
    >>> optimizer.defaults["lr"], optimizer.defaults["weight_decay"]
    (0.001, 0.1)
    """

    INDEPENDENT_GROUPS = True
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def _check(self) -> None:
        check_shares(self, "beta1", "beta2")
        check_amounts(self, "eps", "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.AdamW:
        """Build torch's AdamW for these parameters."""
        return fused(torch.optim.AdamW, params, **_adam_arguments(self))


@dataclass(frozen=True, kw_only=True)
class AdamEpsilonHat(Optimizer):
    """Adam as in TensorFlow and Keras: eps is added before the bias correction.

    With the means ``m`` of the gradients and ``v`` of their squares, at update ``t``, counted from 1:

    ``lr_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)``, and the weight moves by ``-lr_t * m / (sqrt(v) + eps)``

    This `eps` ("epsilon hat" in the paper) acts like an eps of ``eps / sqrt(1 - beta2**t)`` in `Adam`: 31.6 times as
    large at the first update, 10 times at the 10th, 3.2 times at the 100th and 1.26 times at the 1000th. With an eps of
    1e-8 the difference is invisible. With 0.1, `Adam` starts at full speed and this optimizer starts slowly, as if with
    warmup: for gradients of 0.01 and an lr of 1, the first update of `Adam` is 0.01 / (0.01 + 0.1), and the first one
    of this optimizer is 0.01 / (0.01 + 3.16)::

        >>> def first_update(settings):
        ...     weight = nn.Parameter(torch.zeros(1))
        ...     weight.grad = torch.full((1,), 0.01)
        ...     settings([weight]).step()
        ...     return round(weight.item(), 4)
        >>> first_update(Adam(initial_lr=1.0, eps=0.1)), first_update(AdamEpsilonHat(initial_lr=1.0, eps=0.1))
        (-0.0909, -0.0032)

    So an eps from a paper or program that used TensorFlow, like the 0.1 and 1 of Inception, belongs here.

    Args:
        beta1: Decay rate of the mean of the gradients, in [0, 1).
        beta2: Decay rate of the mean of the squared gradients, in [0, 1).
        eps: Added to the root of the uncorrected mean square, at least 0. TensorFlow 1 had 1e-8, Keras has 1e-7.
        weight_decay: Coefficient of an L2 penalty ``weight_decay / 2 * |w|**2`` that is added to the loss.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, the last lines of section 2.
    Synonyms: Keras ``Adam`` (beta_1, beta_2, epsilon); TensorFlow 1 ``AdamOptimizer``. torch does not have it.
    """

    INDEPENDENT_GROUPS = True
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def _check(self) -> None:
        check_shares(self, "beta1", "beta2")
        check_amounts(self, "eps", "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> "TorchAdamEpsilonHat":
        """Build the torch optimizer for these parameters."""
        return TorchAdamEpsilonHat(params, **_adam_arguments(self))


class TorchAdamEpsilonHat(torch.optim.Optimizer):
    """The torch optimizer that `AdamEpsilonHat` builds; every argument can differ between parameter groups.

    Args:
        params: Parameters, or dicts of parameter groups.
        lr: Learning rate.
        betas: Decay rates of the mean of the gradients and of their squares.
        eps: Added to the root of the uncorrected mean square.
        weight_decay: Coefficient of an L2 penalty.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, and return what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                self._update(params, **{key: group[key] for key in ("lr", "betas", "eps", "weight_decay")})
        return loss

    def _update(
        self, params: list[Tensor], lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        alike: dict[tuple[int, torch.device], list[Tensor]] = {}
        for param in params:
            state = self.state[param]
            if not state:
                state["step"] = 0
                state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            state["step"] += 1
            # A parameter that sometimes had no gradient has made fewer steps than the others.
            alike.setdefault((state["step"], param.device), []).append(param)
        for (step, device), members in alike.items():
            states = [self.state[param] for param in members]
            # torch's fused kernel, with the eps of this step; it increments the step itself.
            adam(
                members,
                [cast(Tensor, param.grad) for param in members],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                list(torch.full((len(members),), step - 1.0, dtype=torch.float32, device=device).unbind()),
                fused=True,
                amsgrad=False,
                beta1=betas[0],
                beta2=betas[1],
                lr=float(lr),
                weight_decay=weight_decay,
                eps=eps / math.sqrt(1 - betas[1] ** step),
                maximize=False,
            )


def _adam_arguments(settings: Adam | AdamW | AdamEpsilonHat) -> dict[str, Any]:
    return {
        "lr": settings.initial_lr,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }
