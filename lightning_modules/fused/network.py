"""Probes a network's behaviour by calling one of the K copies."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_modules.dropout import DropoutBySeed
from lightning_modules.fused.attributes import attributes, changed
from lightning_modules.fused.layers import AutocastUses

__all__ = ["Findings", "look_at"]


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
    """Call a copy of one network, without affecting the networks or torch's generator.

    Args:
        model: K networks, with stacked parameters and buffers.
        inputs: A batch of one of them.
        dropout: The noise of the dropout.

    Raises:
        ValueError: If the network replaces its buffers by new tensors, which `vmap` would lose.
    """
    stacks = [*model.parameters(), *model.buffers()]
    rows = {id(stack): stack.detach()[0].clone() for stack in stacks}
    alone = copy.deepcopy(model, dict(rows))
    before, buffers = attributes(alone, buffers=False), dict(alone.named_buffers())
    uses = AutocastUses(alone.named_parameters())
    with torch.no_grad(), dropout, uses:
        alone(inputs)
    for name, buffer in alone.named_buffers():
        if buffer is not buffers[name]:
            raise ValueError(f"{name} is replaced in the forward pass: change buffers in place to fuse trials")
    trained = [name for name, stack in model.named_parameters() if stack.requires_grad]
    return Findings([name for name in trained if name in uses.names], changed(before, attributes(alone, buffers=False)))
