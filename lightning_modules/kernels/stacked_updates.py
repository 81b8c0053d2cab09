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

from lightning_modules.kernels.fused_updates import has_fused_update, is_unusual
from lightning_modules.optimizers.adam import TorchAdamEpsilonHat

__all__ = ["Kind", "kind_of", "run_on", "runs", "update"]

BLOCK = 1024


@dataclass(frozen=True)
class Kind:
    """A kernel, and what it gets from an optimizer.

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
    found = _tried(kind, device, (1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0))  # it moves weights by half of the gradient
    if found == [[1.5] * 3]:
        return True
    _warn(device, found)
    return False


@functools.cache
def runs(kind: Kind, device: torch.device) -> bool:
    """Return whether a kernel runs on a device where others do, found by running it; warn if it does not."""
    found = _tried(kind, device, (1.0,) * 8)
    if isinstance(found, list):
        return True
    _warn(device, found)
    return False


def _tried(kind: Kind, device: torch.device, numbers: Sequence[float]) -> list[list[float]] | str:
    """Return three weights of 1 after an update by gradients of -1, or the error."""
    weights = torch.ones(1, 3, device=device)
    states = [torch.zeros_like(weights) for _ in kind.states]
    rows = torch.zeros(1, 2, dtype=torch.int32, device=device)
    table = torch.tensor([[numbers]], device=device)
    step = torch.zeros((), dtype=torch.int64, device=device)
    try:
        update(kind, weights, -torch.ones_like(weights).bfloat16(), None, states, rows, table, step)
        found: list[list[float]] = weights.tolist()
        return found
    except Exception as error:  # Triton, its compiler and the driver raise many kinds
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _warn(device: torch.device, found: object) -> None:
    warnings.warn(
        f"Triton does not work on {device}, so torch's optimizers update fused trials, more slowly: {found}",
        stacklevel=3,
    )


def kind_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> Kind | None:
    """Return the kernel that updates a parameter group like its optimizer from its second step on, or None."""
    if isinstance(group["lr"], Tensor):
        return None
    if type(optimizer) is TorchAdamEpsilonHat:
        return Kind(_adam, _ADAM_STATES, (("DECOUPLED", False), ("MAXIMIZE", False)), _epsilon_hat_numbers)
    maximize = ("MAXIMIZE", bool(group.get("maximize")))
    if type(optimizer) in (torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta):
        return None if is_unusual(group) else _classic_kind(optimizer, group, maximize)
    if not has_fused_update(optimizer, group):
        return None
    if type(optimizer) is torch.optim.SGD:
        momentum = bool(group["momentum"])
        states = ("momentum_buffer",) if momentum else ()
        return Kind(_sgd, states, (("MOMENTUM", momentum), ("NESTEROV", group["nesterov"]), maximize), _sgd_numbers)
    decoupled = bool(group["decoupled_weight_decay"])
    return Kind(_adam, _ADAM_STATES, (("DECOUPLED", decoupled), maximize), _adam_numbers)


def _classic_kind(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], maximize: tuple[str, bool]
) -> Kind | None:
    if type(optimizer) is torch.optim.Adagrad:
        return Kind(_adagrad, ("sum",), (maximize,), _adagrad_numbers)
    if type(optimizer) is torch.optim.Adadelta:
        return Kind(_adadelta, ("square_avg", "acc_delta"), (maximize,), _adadelta_numbers)
    if "initial_momentum" in group:  # there are no buffers while a scheduled momentum is 0
        return None
    centered, momentum = bool(group["centered"]), bool(group["momentum"])
    # An unused tensor is passed in place of one that does not exist.
    states = "square_avg", "grad_avg" if centered else "square_avg", "momentum_buffer" if momentum else "square_avg"
    return Kind(_rmsprop, states, (("CENTERED", centered), ("MOMENTUM", momentum), maximize), _rmsprop_numbers)


def update(
    kind: Kind,
    weights: Tensor,
    gradients: Tensor,
    rounded: Tensor | None,
    states: Sequence[Tensor],
    rows: Tensor,
    table: Tensor,
    step: Tensor,
) -> None:
    """Update a parameter of several networks.

    All tensors of weights have the same strides, and the first is the number of weights of one network.

    Args:
        kind: The kernel.
        weights: Weights [K, ...].
        gradients: Gradients [K, ...], in any precision.
        rounded: Weights [K, ...] in a lower precision, which are written too; None if there is none.
        states: The tensors [R, ...] of the state.
        rows: The networks to update, int32 [n, 2]: a row of the K, or -1 for none, and one of the R.
        table: The numbers of several updates [steps, R, ...], in the precision of the weights.
        step: Which of these updates it is, int64 [].
    """
    count = weights[0].numel()
    kind.kernel[(triton.cdiv(count, BLOCK), len(rows))](
        *(weights, gradients, weights if rounded is None else rounded, *(states or [weights])),
        *(rows, table, step, count, table.shape[1]),
        **dict(kind.variants),
        ROUNDS=rounded is not None,
        BLOCK=BLOCK,
    )


@triton.jit
def _place(rows, table, step, trials, count, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Return where a program works: a mask, indices in the weights and in the states, and the address of its numbers.

    An update has WIDTH numbers.
    """
    row = tl.load(rows + 2 * tl.program_id(1)).to(tl.int64)
    slot = tl.load(rows + 2 * tl.program_id(1) + 1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    numbers = table + (tl.load(step) * trials + slot) * WIDTH
    return (index < count) & (row >= 0), row * count + index, slot * count + index, numbers


@triton.jit
def _load(weights, gradients, here, inside, decay, MAXIMIZE: tl.constexpr):
    """Return weights and gradients, including the gradients of an L2 penalty."""
    weight = tl.load(weights + here, mask=inside, other=0.0)
    gradient = tl.load(gradients + here, mask=inside, other=0.0).to(weight.dtype)
    if MAXIMIZE:
        gradient = -gradient
    return weight, gradient + decay * weight


@triton.jit
def _store(weights, rounded, here, inside, weight, ROUNDS: tl.constexpr):
    """Write weights, and their rounded copies if there are some."""
    tl.store(weights + here, weight, mask=inside)
    if ROUNDS:
        tl.store(rounded + here, weight.to(rounded.dtype.element_ty), mask=inside)


@triton.jit
def _adam(
    weights,
    gradients,
    rounded,
    means,
    squares,
    rows,
    table,
    step,
    count,
    trials,
    DECOUPLED: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    ROUNDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    inside, here, stored, numbers = _place(rows, table, step, trials, count, 7, BLOCK)
    decay = tl.load(numbers + 6)
    if DECOUPLED:
        weight, gradient = _load(weights, gradients, here, inside, 0.0, MAXIMIZE)
        weight -= decay * weight
    else:
        weight, gradient = _load(weights, gradients, here, inside, decay, MAXIMIZE)
    mean = tl.load(means + stored, mask=inside, other=0.0)
    square = tl.load(squares + stored, mask=inside, other=0.0)
    mean += tl.load(numbers + 3) * (gradient - mean)
    square = tl.load(numbers + 4) * square + tl.load(numbers + 5) * gradient * gradient
    weight -= tl.load(numbers) * mean / (tl.sqrt(square) / tl.load(numbers + 1) + tl.load(numbers + 2))
    tl.store(means + stored, mean, mask=inside)
    tl.store(squares + stored, square, mask=inside)
    _store(weights, rounded, here, inside, weight, ROUNDS)


@triton.jit
def _sgd(
    weights,
    gradients,
    rounded,
    buffers,
    rows,
    table,
    step,
    count,
    trials,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    ROUNDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    inside, here, stored, numbers = _place(rows, table, step, trials, count, 4, BLOCK)
    weight, gradient = _load(weights, gradients, here, inside, tl.load(numbers + 3), MAXIMIZE)
    if MOMENTUM:
        momentum = tl.load(numbers + 1)
        buffer = momentum * tl.load(buffers + stored, mask=inside, other=0.0) + tl.load(numbers + 2) * gradient
        tl.store(buffers + stored, buffer, mask=inside)
        if NESTEROV:
            gradient += momentum * buffer
        else:
            gradient = buffer
    weight -= tl.load(numbers) * gradient
    _store(weights, rounded, here, inside, weight, ROUNDS)


@triton.jit
def _rmsprop(
    weights,
    gradients,
    rounded,
    squares,
    means,
    buffers,
    rows,
    table,
    step,
    count,
    trials,
    CENTERED: tl.constexpr,
    MOMENTUM: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    ROUNDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    inside, here, stored, numbers = _place(rows, table, step, trials, count, 6, BLOCK)
    weight, gradient = _load(weights, gradients, here, inside, tl.load(numbers + 4), MAXIMIZE)
    rest = tl.load(numbers + 2)
    square = tl.load(squares + stored, mask=inside, other=0.0)
    square = tl.load(numbers + 1) * square + rest * gradient * gradient
    tl.store(squares + stored, square, mask=inside)
    if CENTERED:
        mean = tl.load(means + stored, mask=inside, other=0.0)
        mean += rest * (gradient - mean)
        tl.store(means + stored, mean, mask=inside)
        square -= mean * mean
    gradient /= tl.sqrt(square) + tl.load(numbers + 3)
    if MOMENTUM:
        gradient += tl.load(numbers + 5) * tl.load(buffers + stored, mask=inside, other=0.0)
        tl.store(buffers + stored, gradient, mask=inside)
    weight -= tl.load(numbers) * gradient
    _store(weights, rounded, here, inside, weight, ROUNDS)


@triton.jit
def _adagrad(
    weights,
    gradients,
    rounded,
    sums,
    rows,
    table,
    step,
    count,
    trials,
    MAXIMIZE: tl.constexpr,
    ROUNDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    inside, here, stored, numbers = _place(rows, table, step, trials, count, 3, BLOCK)
    weight, gradient = _load(weights, gradients, here, inside, tl.load(numbers + 2), MAXIMIZE)
    total = tl.load(sums + stored, mask=inside, other=0.0) + gradient * gradient
    tl.store(sums + stored, total, mask=inside)
    weight -= tl.load(numbers) * gradient / (tl.sqrt(total) + tl.load(numbers + 1))
    _store(weights, rounded, here, inside, weight, ROUNDS)


@triton.jit
def _adadelta(
    weights,
    gradients,
    rounded,
    squares,
    updates,
    rows,
    table,
    step,
    count,
    trials,
    MAXIMIZE: tl.constexpr,
    ROUNDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    inside, here, stored, numbers = _place(rows, table, step, trials, count, 5, BLOCK)
    weight, gradient = _load(weights, gradients, here, inside, tl.load(numbers + 4), MAXIMIZE)
    rho, rest, eps = tl.load(numbers + 1), tl.load(numbers + 2), tl.load(numbers + 3)
    square = rho * tl.load(squares + stored, mask=inside, other=0.0) + rest * gradient * gradient
    moved = tl.load(updates + stored, mask=inside, other=0.0)
    change = tl.sqrt(moved + eps) / tl.sqrt(square + eps) * gradient
    tl.store(squares + stored, square, mask=inside)
    tl.store(updates + stored, rho * moved + rest * change * change, mask=inside)
    weight -= tl.load(numbers) * change
    _store(weights, rounded, here, inside, weight, ROUNDS)


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


def _rmsprop_numbers(group: Mapping[str, Any], update: int) -> tuple[float, ...]:
    rho = group["alpha"]
    return group["lr"], rho, 1 - rho, group["eps"], group["weight_decay"], group["momentum"]


def _adagrad_numbers(group: Mapping[str, Any], update: int) -> tuple[float, ...]:
    return group["lr"] / (1 + (update - 1) * group["lr_decay"]), group["eps"], group["weight_decay"]


def _adadelta_numbers(group: Mapping[str, Any], update: int) -> tuple[float, ...]:
    return group["lr"], group["rho"], 1 - group["rho"], group["eps"], group["weight_decay"]
