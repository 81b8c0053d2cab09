"""Stack networks of the same structure into one whose parameters and buffers have a row for each network."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.fused.attributes import has_identity, is_equal

__all__ = ["CannotFuseError", "check_alike", "rows_of", "stack", "stack_models"]

NORMS = {"_WeightNorm": "weight_norm", "_SpectralNorm": "spectral_norm"}
"""The classes of torch's parametrizations that cannot be stacked."""


class CannotFuseError(ValueError):
    """Networks cannot be trained as one; the text is a sentence that says why."""


def stack(rows: Sequence[Tensor]) -> Tensor:
    """Return the rows as one tensor [K, ...] that keeps their memory layout, such as channels-last."""
    strides = torch.empty_like(rows[0], device="meta").stride()
    stacked = torch.empty_strided(
        (len(rows), *rows[0].shape), (rows[0].numel(), *strides), dtype=rows[0].dtype, device=rows[0].device
    )
    for row, values in zip(stacked, rows, strict=True):
        row.copy_(values.detach())
    return stacked


def rows_of(stacks: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    """Return a copy of one row of each stack [K, ...]."""
    return {key: stacked[row].clone() for key, stacked in stacks.items()}


def check_alike(models: Sequence[nn.Module], names: Sequence[str]) -> None:
    """Reject networks that differ in anything except the values of their parameters and buffers.

    Args:
        models: The networks.
        names: Their names in messages.

    Raises:
        CannotFuseError: If one differs from the first, or has layers that cannot be stacked.
    """
    for path, module in models[0].named_modules():
        kind = type(module).__name__
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            which = f"{path} ({kind})" if path else kind
            raise CannotFuseError(f"recurrent layers cannot be fused: the networks have {which}")
        if kind in NORMS:
            where = path.replace("parametrizations.", "").rpartition(".")[0]
            raise CannotFuseError(f"{NORMS[kind]} cannot be fused: the networks have it in {where}")
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                where = f"{path}.{name}" if path else name
                raise CannotFuseError(f"weights that a hook computes cannot be fused: the networks have {where}")
    for model, name in zip(models[1:], names[1:], strict=True):
        difference = _difference(models[0], model)
        if difference:
            rule = "the networks may differ only in their numbers"
            raise CannotFuseError(f"{rule}, but that of trial {name} {difference}")


def stack_models(models: Sequence[nn.Module], names: Sequence[str]) -> nn.Module:
    """Return a copy of the first model in which all models' parameters and buffers are stacked [K, ...]."""
    check_alike(models, names)
    stacked = copy.deepcopy(models[0])
    modules = [dict(model.named_modules()) for model in models]
    made: dict[Tensor, Tensor] = {}  # a shared parameter stays shared
    for path, module in stacked.named_modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor not in made:
                rows = stack([getattr(each[path], name) for each in modules])
                is_parameter = isinstance(tensor, nn.Parameter)
                made[tensor] = nn.Parameter(rows, tensor.requires_grad) if is_parameter else rows
            setattr(module, name, made[tensor])
    return stacked


def _difference(one: nn.Module, other: nn.Module) -> str | None:
    """Return how a model differs from another, other than in the values of parameters and buffers."""
    modules = dict(one.named_modules()), dict(other.named_modules())
    if modules[0].keys() != modules[1].keys():
        return f"has different modules: {sorted(modules[0].keys() ^ modules[1].keys())}"
    for path, module in modules[0].items():
        described = _description(module), _description(modules[1][path])
        for key in {**described[0], **described[1]}:
            values = [each.get(key) for each in described]
            if not is_equal(*values):
                place = f"{path}.{key}" if path else key
                if kinds := _kinds(values[0]):
                    return f"has different objects as {place} ({kinds}), which cannot be compared"
                if type(values[0]) is type(values[1]) and has_identity(values[0]):
                    return f"has a different object as {place} ({type(values[0]).__name__}), which cannot be compared"
                return f"has {place} = {values[1]} instead of {values[0]}"
    return None


def _kinds(value: Any) -> str:
    """Return the types of a mapping's values that compare by identity, such as hooks."""
    objects = [each for each in value.values() if has_identity(each)] if isinstance(value, Mapping) else []
    return ", ".join(dict.fromkeys(type(each).__name__ for each in objects))


def _description(module: nn.Module) -> dict[str, Any]:
    described = {"class": type(module).__qualname__, **vars(module)}
    del described["_modules"]  # modules are described one by one
    for tensors in (described.pop("_parameters"), described.pop("_buffers")):
        described |= {name: tensor if tensor is None else _form(tensor) for name, tensor in tensors.items()}
    return described


def _form(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}{', trained' if tensor.requires_grad else ''}"
