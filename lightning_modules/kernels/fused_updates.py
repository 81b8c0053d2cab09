"""Direct calls of the fused kernels of torch's Adam, AdamW and SGD, with their arguments collected in advance."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["FusedUpdate", "fused_update", "has_fused_update", "is_unusual"]

FusedUpdate = Callable[[list[Tensor]], None]
"""Takes the gradients of some parameters and updates these parameters."""

_UNUSUAL = ("amsgrad", "capturable", "differentiable")


def is_unusual(group: Mapping[str, Any]) -> bool:
    """Return whether a parameter group has options for which there is no kernel."""
    return any(group.get(key) for key in _UNUSUAL)


def has_fused_update(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> bool:
    """Return whether there is a `fused_update` for a parameter group."""
    is_usual = type(optimizer) in _KERNELS and group["fused"] and not is_unusual(group)
    # SGD has no momentum buffers while a scheduled momentum is 0.
    return is_usual and not (type(optimizer) is torch.optim.SGD and "initial_momentum" in group)


def fused_update(
    optimizer: torch.optim.Optimizer,
    group: Mapping[str, Any],
    params: list[Tensor],
    states: Sequence[Mapping[str, Any]],
) -> FusedUpdate:
    """Return a function that updates parameters as the optimizer does from their second step on.

    The caller increments the step counters.

    Args:
        optimizer: An optimizer for which `has_fused_update` is true.
        group: The parameter group, with its options.
        params: Parameters of the group, or slices of them.
        states: The optimizer's state of each, or the same slices of it.
    """
    return _KERNELS[type(optimizer)](group, params, states)


def _adam(group: Mapping[str, Any], params: list[Tensor], states: Sequence[Mapping[str, Any]]) -> FusedUpdate:
    kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    means, squares, steps = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step"))

    def update(gradients: list[Tensor]) -> None:
        kernel(
            params,
            gradients,
            means,
            squares,
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )

    return update


def _sgd(group: Mapping[str, Any], params: list[Tensor], states: Sequence[Mapping[str, Any]]) -> FusedUpdate:
    buffers = [state["momentum_buffer"] for state in states] if group["momentum"] else []

    def update(gradients: list[Tensor]) -> None:
        torch._fused_sgd_(
            params,
            gradients,
            buffers,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            is_first_step=False,
        )

    return update


_KERNELS: Mapping[type[torch.optim.Optimizer], Callable[..., FusedUpdate]] = {
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.SGD: _sgd,
}
