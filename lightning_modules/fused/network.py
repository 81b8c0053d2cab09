"""Probes a network's behaviour by calling one of the K copies."""

import copy
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_modules.dropout import DropoutBySeed
from lightning_modules.fused.attributes import attributes, changed
from lightning_modules.fused.layers import AutocastUses
from lightning_modules.fused.randomness import draws
from lightning_modules.fused.stacking import CannotFuseError

__all__ = ["Findings", "look_at", "why_not"]

REASONS = {
    r"aten::(\w+)": r"torch.vmap cannot vectorize {}, which the networks use",
    r"random operation": "the networks draw random numbers in their forward pass, other than by layers of dropout",
    r"data-dependent control flow": "the forward pass branches on values of a tensor (data-dependent control flow)",
    r"\.item\(\)": "the forward pass reads numbers out of tensors (.item())",
}
"""Explanations of errors of torch.vmap, by a part of their text."""


@dataclass(frozen=True)
class Findings:
    """The behaviour of a network.

    Args:
        rounded: Names of the trained weights that autocast rounds wherever they are used.
        changed: An attribute that a call changes, such as a counter; empty if there is none.
    """

    rounded: list[str]
    changed: str


def look_at(model: nn.Module, inputs: Tensor, dropout: DropoutBySeed) -> Findings:
    """Call a copy of one network, without affecting the networks or the generators of random numbers.

    Args:
        model: K networks, with stacked parameters and buffers.
        inputs: A batch of one of them.
        dropout: The noise of the dropout.

    Raises:
        CannotFuseError: If the network draws from a generator that all copies would share, and that `vmap` does not
            know of; or if it replaces its buffers by new tensors, which `vmap` would lose.
    """
    stacks = [*model.parameters(), *model.buffers()]
    rows = {id(stack): stack.detach()[0].clone() for stack in stacks}
    alone = copy.deepcopy(model, dict(rows))
    before, buffers = attributes(alone, buffers=False), dict(alone.named_buffers())
    uses = AutocastUses(alone.named_parameters())
    shared = attributes(model, buffers=False)
    with draws() as drawn, torch.no_grad(), dropout, uses:  # vmap refuses what draws from torch
        alone(inputs)
    if name := changed(shared, attributes(model, buffers=False)):  # of an attribute of a class, for example
        raise CannotFuseError(f"the networks share {name}, which changes when they are called")
    if drawn:
        raise CannotFuseError(f"the networks draw random numbers from {' and '.join(drawn)} in their forward pass")
    for name, buffer in alone.named_buffers():
        if buffer is not buffers[name]:
            raise CannotFuseError(f"{name} is replaced in the forward pass: change buffers in place to fuse trials")
    trained = [name for name, stack in model.named_parameters() if stack.requires_grad]
    return Findings([name for name in trained if name in uses.names], changed(before, attributes(alone, buffers=False)))


def why_not(error: BaseException) -> str:
    """Return in one line why networks cannot be called as one; empty if the error does not say it.

    Args:
        error: The error of the attempt, from `vmap` or from the networks.
    """
    text = " ".join(str(error).split())
    if isinstance(error, CannotFuseError):
        return text
    if isinstance(error, RuntimeError | NotImplementedError) and re.search(r"vmap|[Bb]atching rule", text):
        for part, meaning in REASONS.items():
            if found := re.search(part, text):
                return meaning.format(*found.groups())
    return ""
