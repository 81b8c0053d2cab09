"""Optimizers as settings: frozen dataclasses that build the torch optimizer when called with parameters.

Pass them to a `Classifier`, or call them in your own ``configure_optimizers``::

    optimizer = Adam(initial_lr=1e-3, eps=1e-4)(self.parameters())

`initial_lr` is torch's ``lr`` argument, the value that a schedule multiplies. A schedule changes nothing else; the
momentum stays constant. Each optimizer uses torch's fused kernels where they exist (also on a CPU, where they are
several times faster), and batched ("foreach") kernels elsewhere.

`eps` is an argument of every optimizer that has one, so that it can be searched together with the lr. The usual default
of 1e-8 does not suit every network: TensorFlow's documentation mentions 1 and 0.1 for Inception on ImageNet. The same
number also means different things: torch adds `eps` to the root of the mean square (bias-corrected in Adam), Keras to
the uncorrected root in Adam (`AdamEpsilonHat`) and *under* the root in Adagrad, RMSprop and Adadelta.
"""

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from lightning_modules._validation import check_types, require

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamEpsilonHat",
    "AdamW",
    "Lion",
    "Optimizer",
    "RMSprop",
]

Built = TypeVar("Built", bound=torch.optim.Optimizer)


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """Settings of an optimizer.

    Args:
        initial_lr: Learning rate that the schedule multiplies, above 0.
    """

    initial_lr: float

    def __post_init__(self) -> None:
        check_types(self)
        require(self, "initial_lr", 0 < self.initial_lr < math.inf, "initial_lr > 0")
        self._check()

    def _check(self) -> None:  # noqa: B027 - an optimizer of nothing but an lr has nothing to check
        """Raise ValueError, naming the rule and the value, if the arguments do not make an optimizer."""

    @abstractmethod
    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Build the torch optimizer of these parameters."""


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

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def _check(self) -> None:
        _check_shares(self, "beta1", "beta2")
        _check_amounts(self, "eps", "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.Adam:
        """Build torch's Adam of these parameters."""
        return _fused(torch.optim.Adam, params, **_adam_arguments(self))


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay: at each step a weight shrinks by the share ``lr * weight_decay`` of itself.

    Args:
        beta1: Decay rate of the mean of the gradients, in [0, 1).
        beta2: Decay rate of the mean of the squared gradients, in [0, 1).
        eps: Added to the denominator, at least 0, as in `Adam`.
        weight_decay: Share of itself that a weight loses per step and unit of lr; the schedule multiplies it too.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    Synonyms: torch ``AdamW``; Keras ``AdamW``, except for its eps, see `AdamEpsilonHat`.

    >>> optimizer = AdamW(initial_lr=1e-3, weight_decay=0.1)([nn.Parameter(torch.zeros(2))])
    >>> optimizer.defaults["lr"], optimizer.defaults["weight_decay"]
    (0.001, 0.1)
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def _check(self) -> None:
        _check_shares(self, "beta1", "beta2")
        _check_amounts(self, "eps", "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.AdamW:
        """Build torch's AdamW of these parameters."""
        return _fused(torch.optim.AdamW, params, **_adam_arguments(self))


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

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def _check(self) -> None:
        _check_shares(self, "beta1", "beta2")
        _check_amounts(self, "eps", "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> "TorchAdamEpsilonHat":
        """Build the torch optimizer of these parameters."""
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

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def _check(self) -> None:
        _check_shares(self, "momentum")
        require(self, "nesterov", not self.nesterov or self.momentum > 0, "momentum > 0 with nesterov")
        _check_amounts(self, "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.SGD:
        """Build torch's SGD of these parameters."""
        return _fused(
            torch.optim.SGD,
            params,
            lr=self.initial_lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )


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

    initial_accumulator: float = 0.0
    eps: float = 1e-10
    weight_decay: float = 0.0

    def _check(self) -> None:
        _check_amounts(self, "initial_accumulator", "eps", "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.Adagrad:
        """Build torch's Adagrad of these parameters."""
        return _fused(
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

    rho: float = 0.99
    momentum: float = 0.0
    centered: bool = False
    eps: float = 1e-8
    weight_decay: float = 0.0

    def _check(self) -> None:
        _check_shares(self, "rho", "momentum")
        _check_amounts(self, "eps", "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.RMSprop:
        """Build torch's RMSprop of these parameters."""
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

    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0

    def _check(self) -> None:
        _check_shares(self, "rho")
        require(self, "eps", 0 < self.eps < math.inf, "eps > 0")
        _check_amounts(self, "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.Adadelta:
        """Build torch's Adadelta of these parameters."""
        return torch.optim.Adadelta(
            params, lr=self.initial_lr, rho=self.rho, eps=self.eps, weight_decay=self.weight_decay, foreach=True
        )


@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """Move every weight by the lr, in the direction of the sign of a mean of the gradients.

    ``lr * sign(beta1 * m + (1 - beta1) * gradient)``, and then ``m = beta2 * m + (1 - beta2) * gradient``. It needs a 3
    to 10 times smaller lr than Adam, and a weight decay that is as many times larger. It has no eps.

    Args:
        beta1: Weight of the mean of the gradients relative to the current gradient, in [0, 1).
        beta2: Decay rate of that mean, in [0, 1).
        weight_decay: Share of itself that a weight loses per step and unit of lr, as in `AdamW`.

    Raises:
        ImportError: When called, if the package pytorch_optimizer is not installed.

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023.
    Synonyms: pytorch_optimizer, timm and Keras ``Lion``; torch does not have it.

    >>> Lion(initial_lr=1e-4).beta2
    0.99
    """

    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    def _check(self) -> None:
        _check_shares(self, "beta1", "beta2")
        _check_amounts(self, "weight_decay")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Build pytorch_optimizer's Lion of these parameters."""
        try:
            library = importlib.import_module("pytorch_optimizer")
        except ImportError as error:
            raise ImportError("Lion needs pytorch_optimizer: pip install pytorch_optimizer") from error
        optimizer = library.Lion(
            params, lr=self.initial_lr, betas=(self.beta1, self.beta2), weight_decay=self.weight_decay
        )
        return cast(torch.optim.Optimizer, optimizer)


def _fused(kind: Callable[..., Built], params: Iterable[nn.Parameter], **arguments: Any) -> Built:
    """Build a torch optimizer with fused kernels that still allows gradient clipping in mixed precision.

    torch's fused optimizers can unscale float16 gradients within the step, so Lightning refuses to clip them before.
    For optimizers that cannot, Lightning unscales the gradients itself; in bfloat16 there is no scale.
    """
    optimizer = kind(params, fused=True, **arguments)
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def _adam_arguments(settings: Adam | AdamW | AdamEpsilonHat) -> dict[str, Any]:
    return {
        "lr": settings.initial_lr,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }


def _check_shares(settings: Optimizer, *fields: str) -> None:
    for field in fields:
        require(settings, field, 0 <= getattr(settings, field) < 1, f"0 <= {field} < 1")


def _check_amounts(settings: Optimizer, *fields: str) -> None:
    for field in fields:
        require(settings, field, 0 <= getattr(settings, field) < math.inf, f"{field} >= 0")


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adadelta": Adadelta,
    "adagrad": Adagrad,
    "adam": Adam,
    "adam_epsilon_hat": AdamEpsilonHat,
    "adamw": AdamW,
    "lion": Lion,
    "rmsprop": RMSprop,
    "sgd": SGD,
}
"""The optimizers by their names in study files."""
