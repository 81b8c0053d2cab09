"""Which generators of random numbers a network or a loss draws from."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lightning_modules.fused.attributes import is_equal

__all__ = ["draws"]

TORCH, PYTHON, NUMPY = "torch", "Python's random", "NumPy"

Generator = tuple[Callable[[], Any], Callable[[Any], Any]]
"""A function that returns the state of a generator, and one that restores it."""


@contextmanager
def draws(device: torch.device | None = None) -> Iterator[list[str]]:
    """Find the global generators of random numbers that a block draws from, and restore them at its end.

    Generators that the block creates or keeps itself are not found.

    Args:
        device: The device whose generator of torch counts, in addition to the CPU's; None to leave out torch.

    Yields:
        The names of their libraries, filled in at the end of the block.
    """
    found: list[str] = []
    generators = _generators(device)
    before = [get() for _, (get, _) in generators]
    yield found
    for (name, (get, restore)), state in zip(generators, before, strict=True):
        if not is_equal(get(), state):
            restore(state)
            if name not in found:
                found.append(name)


def _generators(device: torch.device | None) -> list[tuple[str, Generator]]:
    found: list[tuple[str, Generator]] = [(PYTHON, (random.getstate, random.setstate))]
    if device is not None:
        found.append((TORCH, (torch.get_rng_state, torch.set_rng_state)))
    if device is not None and device.type == "cuda":
        restore = torch.cuda.set_rng_state
        found.append((TORCH, (lambda: torch.cuda.get_rng_state(device), lambda state: restore(state, device))))
    if numpy := sys.modules.get("numpy"):

        def state_of_numpy() -> Any:
            algorithm, key, *position = numpy.random.get_state()
            return (algorithm, key.tolist(), *position)

        found.append((NUMPY, (state_of_numpy, numpy.random.set_state)))
    return found
