"""Dropout of K trials in one vectorized network, with the same masks as in each trial alone.

`torch.func.vmap` has one generator for everything, so a trial's masks would depend on the trials that it is fused with.
Here, each dropout call inside the vectorized network gets noise that the same torch function draws, for the same shape
and memory layout, from the trial's own generator.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["DropoutRecorder", "RandomStreams", "TrialDropout"]

Drop = Callable[[Tensor], Tensor]
Strides = tuple[int, ...]

DROPOUTS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)


class RandomStreams:
    """The random numbers of K trials: each trial's are those that follow ``torch.manual_seed`` of its seed.

    Trials with equal seeds draw equal numbers, so these are drawn once.

    Args:
        seeds: Seed of each trial.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seed(seeds)

    def seed(self, seeds: Sequence[int]) -> None:
        """Restart the trials' random numbers from their seeds."""
        self._seeds = list(seeds)
        self._states: dict[int, Tensor | None] = dict.fromkeys(seeds)  # None: nothing drawn yet

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only the trials of these rows."""
        self._seeds = [self._seeds[row] for row in rows]
        self._states = {seed: self._states[seed] for seed in self._seeds}

    def draw(self, like: Tensor, drop: Drop) -> tuple[Tensor, int | None]:
        """Return the random numbers of each trial.

        Args:
            like: Tensor that `drop` is called with, once for each distinct seed.
            drop: Draws from the global generator of the tensor's device.

        Returns:
            The draws and their trial dimension: 0, or None if all trials draw the same.
        """
        device, draws = like.device, {}
        with _global_generators_kept(device):
            for seed, state in self._states.items():
                if state is None:
                    torch.manual_seed(seed)
                else:
                    _set_state(device, state)
                draws[seed] = drop(like)
                self._states[seed] = _get_state(device)
        if len(draws) == 1:
            return draws[self._seeds[0]], None
        return torch.stack([draws[seed] for seed in self._seeds]), 0


class _DropoutMode(TorchFunctionMode):
    """Redirects dropout calls that would drop anything to `_dropout`; other calls are unchanged."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in DROPOUTS:
            values, share, training, inplace = _arguments(*args, **kwargs)
            if training and share > 0:
                return self._dropout(values, lambda ones: func(ones, share), inplace)
        return func(*args, **kwargs)

    @abstractmethod
    def _dropout(self, values: Tensor, drop: Drop, inplace: bool) -> Tensor:
        """Return the result of the dropout call."""


class DropoutRecorder(_DropoutMode):
    """Skips dropout calls, and records the memory layout of their inputs.

    Attributes:
        layouts: Strides of the input of each call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layouts: list[Strides] = []

    def _dropout(self, values: Tensor, drop: Drop, inplace: bool) -> Tensor:
        self.layouts.append(torch.empty_like(values, device="meta").stride())
        return values


class TrialDropout(_DropoutMode):
    """Inside `vmap` over the trials: gives each trial its own dropout masks, and makes batch norm work on a GPU.

    Args:
        streams: The trials' random numbers.
        trial: The index that `vmap` maps over, 0 to K - 1; it distinguishes trials that share a batch.
        layouts: The layouts that a `DropoutRecorder` found in a single trial.
    """

    def __init__(self, streams: RandomStreams, trial: Tensor, layouts: Sequence[Strides]) -> None:
        super().__init__()
        self._streams, self._trial, self._layouts = streams, trial, iter(layouts)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.batch_norm:  # cuDNN's needs the memory layout, which vmap does not provide
            with torch.backends.cudnn.flags(enabled=False):
                return func(*args, **kwargs or {})
        return super().__torch_function__(func, types, args, kwargs)

    def _dropout(self, values: Tensor, drop: Drop, inplace: bool) -> Tensor:
        noise: Tensor = _Noise.apply(values, self._trial, self._streams, drop, next(self._layouts))
        return values.mul_(noise) if inplace else values * noise


class _Noise(torch.autograd.Function):
    """Dropout noise: 0 where an element is dropped, else the reciprocal of the kept share. Defines a vmap rule."""

    @staticmethod
    def forward(values: Tensor, trial: Tensor, streams: RandomStreams, drop: Drop, layout: Strides) -> Tensor:
        raise NotImplementedError("under vmap, its rule is used instead")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, None, None, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        values: Tensor,
        trial: Tensor,
        streams: RandomStreams,
        drop: Drop,
        layout: Strides,
    ) -> tuple[Tensor, int | None]:
        one = values if in_dims[0] is None else values.select(in_dims[0], 0)
        # The order in which elements get their random numbers depends on the memory layout.
        ones = torch.empty_strided(one.shape, layout, dtype=one.dtype, device=one.device).fill_(1)
        return streams.draw(ones, drop)


def _arguments(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> tuple[Tensor, float, bool, bool]:
    return input, p, training, inplace


@contextmanager
def _global_generators_kept(device: torch.device) -> Iterator[None]:
    on_cpu = device.type == "cpu"
    with torch.random.fork_rng([] if on_cpu else [device], device_type=None if on_cpu else device.type):
        yield


def _get_state(device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.get_rng_state()
    state: Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def _set_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)
