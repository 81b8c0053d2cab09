"""Triton kernels that update stacked parameters [K, ...] of K networks, each network with its own numbers.

One launch updates a parameter of all networks. It reads gradients in a lower precision as they are, and writes the
rounded weights for the next forward pass, so all of them pass through memory once.

Source: Tillet, Kung and Cox, "Triton: An Intermediate Language and Compiler for Tiled Neural Network Computations",
MAPL 2019.
"""

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_modules.kernels.fused_updates import has_fused_update
from lightning_modules.optimizers.adam import TorchAdamEpsilonHat

__all__ = ["Kind", "kind_of", "run_on", "update"]

BLOCK = 1024


@dataclass(frozen=True)
class Kind:
    """A kernel with what it needs.

    Args:
        kernel: The kernel.
        states: Names of the tensors of a parameter's state.
        variants: Arguments that are compiled into the kernel.
        numbers: Takes a parameter group and the number of its update, from 1; returns the numbers of the update.
    """

    kernel: Any
    states: tuple[str, ...]
    variants: tuple[tuple[str, bool], ...]
    numbers: Callable[[Mapping[str, Any], int], tuple[float, ...]]


@functools.cache
def run_on(device: torch.device) -> bool:
    """Return whether the kernels run on a device, found by running one; warn if they do not.

    Triton needs a GPU that it knows and a C compiler. On a CPU, it can interpret kernels.
    """
    kind = Kind(_adam, _ADAM_STATES, (("DECOUPLED", False), ("MAXIMIZE", False)), _adam_numbers)
    weights, means, squares = (torch.full((1, 3), value, device=device) for value in (1.0, 0.0, 0.0))
    rows = torch.zeros(1, 2, dtype=torch.int32, device=device)
    numbers = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0]], device=device)  # moves by half of the gradient
    try:
        update(kind, weights, -torch.ones_like(weights).bfloat16(), None, (means, squares), rows, numbers)
        found: Any = weights.tolist()
    except Exception as error:  # Triton, its compiler and the driver raise many kinds
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if found == [[1.5] * 3]:
        return True
    warnings.warn(
        f"Triton does not work on {device}, so torch's optimizers update fused trials, more slowly: {found}",
        stacklevel=2,
    )
    return False


def kind_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> Kind | None:
    """Return the kernel that updates a parameter group as its optimizer does from its second step on; None for none."""
    if isinstance(group["lr"], Tensor):
        return None
    if type(optimizer) is TorchAdamEpsilonHat:
        return Kind(_adam, _ADAM_STATES, (("DECOUPLED", False), ("MAXIMIZE", False)), _epsilon_hat_numbers)
    if not has_fused_update(optimizer, group):
        return None
    maximize = ("MAXIMIZE", bool(group["maximize"]))
    if type(optimizer) is torch.optim.SGD:
        momentum = bool(group["momentum"])
        states = ("momentum_buffer",) if momentum else ()
        return Kind(_sgd, states, (("MOMENTUM", momentum), ("NESTEROV", group["nesterov"]), maximize), _sgd_numbers)
    decoupled = bool(group["decoupled_weight_decay"])
    return Kind(_adam, _ADAM_STATES, (("DECOUPLED", decoupled), maximize), _adam_numbers)


def update(
    kind: Kind,
    weights: Tensor,
    gradients: Tensor,
    rounded: Tensor | None,
    states: Sequence[Tensor],
    rows: Tensor,
    numbers: Tensor,
) -> None:
    """Update a parameter of several networks.

    All tensors of weights have the same strides, and the first is the number of weights of one network.

    Args:
        kind: The kernel.
        weights: Weights [K, ...].
        gradients: Gradients [K, ...], in any precision.
        rounded: Weights [K, ...] in a lower precision, which are written too; None for none.
        states: The tensors [R, ...] of the state.
        rows: The networks to update, int32 [n, 2]: a row of the K, and one of the R.
        numbers: The numbers of the update [R, ...], in the precision of the weights.
    """
    count = weights[0].numel()
    kind.kernel[(triton.cdiv(count, BLOCK), len(rows))](
        *(weights, gradients, weights if rounded is None else rounded, *(states or [weights]), rows, numbers, count),
        **dict(kind.variants),
        ROUNDS=rounded is not None,
        BLOCK=BLOCK,
    )


@triton.jit
def _adam(
    weights,
    gradients,
    rounded,
    means,
    squares,
    rows,
    numbers,
    count,
    DECOUPLED: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    ROUNDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.load(rows + 2 * tl.program_id(1)).to(tl.int64)
    slot = tl.load(rows + 2 * tl.program_id(1) + 1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    here = row * count + index
    stored = slot * count + index
    weight = tl.load(weights + here, mask=inside, other=0.0)
    gradient = tl.load(gradients + here, mask=inside, other=0.0).to(weight.dtype)
    mean = tl.load(means + stored, mask=inside, other=0.0)
    square = tl.load(squares + stored, mask=inside, other=0.0)
    numbers += slot * 7
    decay = tl.load(numbers + 6)
    if MAXIMIZE:
        gradient = -gradient
    if DECOUPLED:
        weight -= decay * weight
    else:
        gradient += decay * weight
    mean += tl.load(numbers + 3) * (gradient - mean)
    square = tl.load(numbers + 4) * square + tl.load(numbers + 5) * gradient * gradient
    weight -= tl.load(numbers) * mean / (tl.sqrt(square) / tl.load(numbers + 1) + tl.load(numbers + 2))
    tl.store(means + stored, mean, mask=inside)
    tl.store(squares + stored, square, mask=inside)
    tl.store(weights + here, weight, mask=inside)
    if ROUNDS:
        tl.store(rounded + here, weight.to(rounded.dtype.element_ty), mask=inside)


@triton.jit
def _sgd(
    weights,
    gradients,
    rounded,
    buffers,
    rows,
    numbers,
    count,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    ROUNDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.load(rows + 2 * tl.program_id(1)).to(tl.int64)
    slot = tl.load(rows + 2 * tl.program_id(1) + 1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < count
    here = row * count + index
    stored = slot * count + index
    weight = tl.load(weights + here, mask=inside, other=0.0)
    gradient = tl.load(gradients + here, mask=inside, other=0.0).to(weight.dtype)
    numbers += slot * 4
    if MAXIMIZE:
        gradient = -gradient
    gradient += tl.load(numbers + 3) * weight
    if MOMENTUM:
        momentum = tl.load(numbers + 1)
        buffer = momentum * tl.load(buffers + stored, mask=inside, other=0.0) + tl.load(numbers + 2) * gradient
        tl.store(buffers + stored, buffer, mask=inside)
        if NESTEROV:
            gradient += momentum * buffer
        else:
            gradient = buffer
    weight -= tl.load(numbers) * gradient
    tl.store(weights + here, weight, mask=inside)
    if ROUNDS:
        tl.store(rounded + here, weight.to(rounded.dtype.element_ty), mask=inside)


_ADAM_STATES = ("exp_avg", "exp_avg_sq")


def _adam_numbers(group: Mapping[str, Any], update: int) -> tuple[float, ...]:
    lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
    if group.get("decoupled_weight_decay"):
        decay *= lr
    root = math.sqrt(1 - beta2**update)
    return lr / (1 - beta1**update), root, group["eps"], 1 - beta1, beta2, 1 - beta2, decay


def _epsilon_hat_numbers(group: Mapping[str, Any], update: int) -> tuple[float, ...]:
    step_size, root, eps, *others = _adam_numbers(group, update)
    return step_size, root, eps / root, *others


def _sgd_numbers(group: Mapping[str, Any], update: int) -> tuple[float, ...]:
    return group["lr"], group["momentum"], 1 - group["dampening"], group["weight_decay"]
