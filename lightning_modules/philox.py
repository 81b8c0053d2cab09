"""Random numbers as a function of a seed and a place alone: the generator Philox4x32-10, in operations on integers.

They are the same on every device, whatever was drawn before, and no state has to be saved.

Source: Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["LEVELS", "are_below", "philox"]

LEVELS = 1 << 16
"""Number of different random numbers."""

_TOGETHER = 1 << 15  # number of elements that are computed together; they can be of several steps
_PER_COUNTER = 8  # number of 16-bit numbers in four 32-bit words
_ROUNDS = 10
_FACTORS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF


def philox(counter: Sequence[Any], key: Sequence[Any], rounds: Any) -> list[Any]:
    """Return four words of random bits, in [0, 2**32).

    The arguments are int64 tensors or int64 NumPy arrays of one dimension or more that can be broadcast, with words in
    [0, 2**32).

    Args:
        counter: Four words.
        key: Two words.
        rounds: The numbers 0 to 9 along a first dimension that the key does not have.
    """
    first, second, third, fourth = counter
    keys = ((word + rounds * step) & _WORD for word, step in zip(key, _KEY_STEPS, strict=True))
    for one, other in zip(*keys, strict=True):
        # An int64 has all 64 bits of a product, the highest as its sign. The second and fourth word may have bits above
        # the 32 of a word, which are masked when they are used.
        products = first * _FACTORS[0], third * _FACTORS[1]
        first, second = ((products[1] >> 32) ^ second ^ one) & _WORD, products[1]
        third, fourth = ((products[0] >> 32) ^ fourth ^ other) & _WORD, products[0]
    return [first, second & _WORD, third, fourth & _WORD]


def are_below(share: float, seeds: Tensor, step: Tensor, call: int, shape: Sequence[int]) -> Tensor:
    """Return whether the random number of each element, in [0, 1), is below a share: bool [*seeds.shape, *shape].

    The number is a multiple of 2**-16, and a function of the seed, the step, the call and the index of the element.

    Args:
        share: A multiple of 2**-16, above 0 and below 1.
        seeds: The seeds, int64.
        step: Number of the step, int64 [].
        call: Number of the call within the step.
        shape: Shape of the elements.
    """
    count = math.prod(shape)
    steps = 1 << min(4, max(0, (_TOGETHER // max(1, count)).bit_length() - 1))
    on_cpu = type(seeds) is type(step) is Tensor and seeds.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and steps > 1 and seeds.ndim == 0:
        place = int(step) % steps
        return _of_steps(share, int(seeds), int(step) - place, steps, call, count)[place].reshape(tuple(shape))
    return _are_below(share, seeds, step.view(1), call, count).reshape(*seeds.shape, *shape)


@functools.lru_cache(maxsize=64)
def _of_steps(share: float, seed: int, first: int, steps: int, call: int, count: int) -> Tensor:
    """Return the result for several steps [steps, count]: for few elements, it takes hardly longer than for one."""
    return _are_below(share, torch.tensor(seed), torch.arange(first, first + steps).unsqueeze(-1), call, count)


def _are_below(share: float, seeds: Tensor, step: Tensor, call: int, count: int) -> Tensor:
    key = seeds.unsqueeze(-1)
    words: list[Any] = [
        torch.arange(-(-count // _PER_COUNTER), device=seeds.device),
        torch.full((1,), call, device=seeds.device),
        *(step & _WORD, (step >> 32) & _WORD),
        *(key & _WORD, (key >> 32) & _WORD),
        torch.arange(_ROUNDS, device=seeds.device).view(-1, *(1,) * key.ndim),
    ]
    if type(seeds) is Tensor and seeds.device.type == "cpu":  # on small arrays, NumPy is several times faster
        words = [word.numpy() for word in words]
    one, two, three, four = map(torch.as_tensor, philox(words[:4], words[4:6], words[6]))
    pairs = torch.stack([one | (two << 32), three | (four << 32)], dim=-1)
    numbers = pairs.view(torch.int16).flatten(-2)  # values start at -LEVELS / 2
    return (numbers < round(share * LEVELS) - LEVELS // 2)[..., :count]
