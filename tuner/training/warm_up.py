"""Prepares a training process before it knows its trials: opens the GPU and loads libraries."""

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn

from lightning_modules.fused.stacked_update import kernels_run_on

__all__ = ["warm_up"]


def warm_up(device: str) -> None:
    """Open a device, and load the libraries of convolutions, products, and kernels for stacked weights.

    Random numbers stay where they are, and the memory is freed.

    Args:
        device: "cpu" or "cuda".
    """
    with isolate_rng():
        network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 8)).to(device)
        with torch.autocast(device, torch.bfloat16):
            loss = network(torch.zeros(4, 1, 8, 8, device=device)).square().mean()
        loss.backward()
        loss.item()
        kernels_run_on(torch.device(device))
    del network, loss
    if device == "cuda":
        torch.cuda.empty_cache()
