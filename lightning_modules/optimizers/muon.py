"""Muon for matrices, with AdamW for all other parameters."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from lightning_modules._validation import require, require_to
from lightning_modules.optimizers.base import Optimizer, check_amounts, check_shares

__all__ = ["Muon", "TorchMuon"]

Scale = Literal["match_rms_adamw", "original"]


@dataclass(frozen=True, kw_only=True)
class Muon(Optimizer):
    """Muon for matrices, the parameters of two dimensions, and AdamW for all others.

    A matrix moves by its orthogonalized momentum, whose singular values are all about 1. On a GPU this is torch's Muon;
    on a CPU the iteration that orthogonalizes has the precision of the parameter instead of bfloat16, which is faster.

    Args:
        momentum: Decay rate of the mean of the gradients of matrices, in [0, 1).
        nesterov: Evaluate the gradient ahead of the momentum.
        scale: Factor of the update of a matrix [rows, columns]: "match_rms_adamw" for
            ``0.2 * sqrt(max(rows, columns))``, with which AdamW's lr and weight decay suit Muon too (Liu et al., "Muon
            is Scalable for LLM Training", 2025); "original" for ``sqrt(max(1, rows / columns))``, which needs an lr of
            about 0.02.
        adamw_lr: Learning rate of AdamW, above 0, which the schedule multiplies too; None for `initial_lr`.
        beta1: AdamW's decay rate of the mean of the gradients, in [0, 1).
        beta2: AdamW's decay rate of the mean of the squared gradients, in [0, 1).
        eps: Added to AdamW's denominator, at least 0.
        weight_decay: Fraction by which each weight shrinks per step, per unit of lr, as in `AdamW`; for matrices and
            others.

    Raises:
        ValueError: When called, if no parameter is a matrix.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    Synonyms: torch ``Muon``, which takes matrices only.

    >>> optimizer = Muon(initial_lr=1e-3)([nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2))])
    >>> [len(group["params"]) for group in optimizer.param_groups]
    [1, 1]
    """

    INDEPENDENT_GROUPS = True

    momentum: float = 0.95
    nesterov: bool = True
    scale: Scale = "match_rms_adamw"
    adamw_lr: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    def _check(self) -> None:
        check_shares(self, "momentum", "beta1", "beta2")
        check_amounts(self, "eps", "weight_decay")
        require_to(self, "scale", self.scale in get_args(Scale), f"be one of {', '.join(get_args(Scale))}")
        require(self, "adamw_lr", self.adamw_lr is None or 0 < self.adamw_lr < math.inf, "adamw_lr > 0")

    def __call__(self, params: Iterable[nn.Parameter]) -> "TorchMuon":
        """Build the torch optimizer for these parameters."""
        return TorchMuon(
            params,
            lr=self.initial_lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            nesterov=self.nesterov,
            scale=self.scale,
            adamw_lr=self.adamw_lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
        )


class TorchMuon(torch.optim.Optimizer):
    """The torch optimizer that `Muon` builds: torch's Muon and AdamW, each with its own parameter groups.

    Args:
        params: Parameters, or dicts of parameter groups, each of which is divided into matrices and others.
        lr: Learning rate.
        weight_decay: Coefficient of the decoupled weight decay.
        momentum: Decay rate of the mean of the gradients of matrices.
        nesterov: Whether Muon evaluates the gradient ahead of the momentum.
        scale: The ``adjust_lr_fn`` of torch's Muon.
        adamw_lr: Learning rate of AdamW; None for `lr`.
        betas: AdamW's decay rates of the mean of the gradients and of their squares.
        eps: Added to AdamW's denominator.

    Raises:
        ValueError: If no parameter is a matrix.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        nesterov: bool = True,
        scale: Scale = "match_rms_adamw",
        adamw_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        given = list(params)
        groups = [group if isinstance(group, dict) else {"params": [group]} for group in given]
        if not any(isinstance(group, dict) for group in given):
            groups = [{"params": given}]
        matrices, others = ([_part(group, of_matrices) for group in groups] for of_matrices in (True, False))
        matrices, others = ([group for group in part if group["params"]] for part in (matrices, others))
        if not matrices:
            raise ValueError("Muon needs a parameter of two dimensions, but there is none: use AdamW")
        muon = torch.optim.Muon(
            matrices, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, adjust_lr_fn=scale
        )
        of_adamw = []
        if others:
            adamw = torch.optim.AdamW(
                others, lr=adamw_lr or lr, weight_decay=weight_decay, betas=betas, eps=eps, fused=True
            )
            of_adamw = adamw.param_groups
        super().__init__([*muon.param_groups, *of_adamw], {})
        self.defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "scale": scale,
            "adamw_lr": adamw_lr,
            "betas": betas,
            "eps": eps,
        }
        self._parts = _parts()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._parts = _parts()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, and return what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            of_muon = isinstance(part, torch.optim.Muon)
            part.param_groups = [group for group in self.param_groups if ("ns_steps" in group) == of_muon]
            part.state = self.state
            part.step()
        return loss


def _part(group: dict[str, Any], of_matrices: bool) -> dict[str, Any]:
    """Return a parameter group with only its matrices, or only its other parameters."""
    return {**group, "params": [param for param in group["params"] if (param.ndim == 2) == of_matrices]}


def _parts() -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Return Muon and AdamW, which get parameter groups and states at each step."""
    weight = nn.Parameter(torch.zeros(1, 1))
    return _Muon([weight]), torch.optim.AdamW([weight])


class _Muon(torch.optim.Muon):
    """torch's Muon, except that on a CPU the Newton-Schulz iteration uses the parameter's precision.

    torch iterates in bfloat16, which takes many times as long as float32 on a CPU that has no instructions for it.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        if any(param.device.type != "cpu" for group in self.param_groups for param in group["params"]):
            super().step()  # type: ignore[no-untyped-call]
            return
        for group in self.param_groups:
            lr, momentum = float(group["lr"]), group["momentum"]
            params: list[torch.Tensor] = []
            gradients: list[torch.Tensor] = []
            buffers: list[torch.Tensor] = []
            self._init_group(group, params, gradients, buffers)
            for param, gradient, buffer in zip(params, gradients, buffers, strict=True):
                buffer.lerp_(gradient, 1 - momentum)
                ahead = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
                update = _orthogonalized(ahead, group["ns_coefficients"], group["ns_steps"], group["eps"])
                param.mul_(1 - lr * group["weight_decay"])
                param.add_(update, alpha=-lr * _scale(group["adjust_lr_fn"], *param.shape))


def _orthogonalized(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Return a matrix with the singular vectors of another one, and singular values of about 1, by Newton-Schulz.

    Args:
        matrix: The other one [rows, columns]; the iteration has its precision.
        coefficients: Coefficients of x, x^3 and x^5 in the polynomial that is applied to the singular values.
        steps: How often it is applied.
        eps: Least norm by which the matrix is divided first.
    """
    linear, cubic, quintic = coefficients
    is_tall = matrix.size(0) > matrix.size(1)
    result = matrix.T if is_tall else matrix
    result = result / result.norm().clamp(min=eps)
    for _ in range(steps):
        gram = result @ result.T
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic), result, beta=linear)
    return result.T if is_tall else result


def _scale(name: Scale, rows: int, columns: int) -> float:
    return 0.2 * math.sqrt(max(rows, columns)) if name == "match_rms_adamw" else math.sqrt(max(1, rows / columns))
