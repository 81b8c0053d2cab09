"""Dropout whose noise is a function of a seed, the step, the call and the element, instead of a generator's state."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from lightning_modules.philox import LEVELS, are_below

__all__ = ["DropoutBySeed", "SeededDropout", "as_int64", "step_number"]

ALPHA = (functional.alpha_dropout, functional.feature_alpha_dropout)
CHANNELS = (functional.dropout1d, functional.dropout2d, functional.dropout3d, functional.feature_alpha_dropout)
DROPOUTS = frozenset((functional.dropout, *ALPHA, *CHANNELS))
BATCHED = {functional.dropout1d: 3, functional.dropout3d: 5}  # dimensions of a batch; others are single inputs
LOWEST = -1.7580993408473766  # lower limit of SELU, the value that alpha dropout replaces elements with


class SeededDropout(pl.Callback):
    """Makes dropout a function of a seed, the step, the call within the step, and the element.

    So the same elements are dropped on a CPU and on a GPU, alone and in a `FusedClassifier`, with any number of
    threads, and after a run was resumed. ``Trainer(callbacks=[SeededDropout(seed)])``; see `DropoutBySeed` for what is
    replaced. For other random functions, add `EpochSeed`.

    A step is a training batch: its number within the epoch counts, and the epoch's. The processes of one run draw
    different noise, since they have different inputs.

    Args:
        seed: The seed, any integer.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._step = ExitStack()

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Replace torch's dropout from here to the end of the step."""
        self._step.close()
        seed = as_int64(self.seed + 1_000_000_007 * trainer.global_rank)
        step = step_number(trainer.current_epoch, batch_idx)
        numbers = [torch.full((), number, device=module.device) for number in (seed, step)]
        self._step.enter_context(DropoutBySeed(*numbers))

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Restore torch's dropout."""
        self._step.close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Restore torch's dropout."""
        self._step.close()

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Restore torch's dropout."""
        self._step.close()


class DropoutBySeed(TorchFunctionMode):
    """Context in which torch's dropout functions take their noise from a seed, the step, the call and the element.

    Replaces every dropout function of ``torch.nn.functional`` and their modules, wherever they are called, also inside
    `torch.func.vmap`, where each example can have its own seed. An element counts by its index in the tensor's
    shape, whatever its memory layout. The share is rounded to a multiple of 2**-16, and the values that remain are
    scaled by the rounded one, so their mean is exact.

    Dropout that torch's kernels apply inside a larger operation keeps torch's generator: in
    ``scaled_dot_product_attention`` and ``nn.MultiheadAttention``, whose fast kernels draw their own noise, and of
    ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``. So does dropout in ``torch.utils.checkpoint``, which repeats the forward
    pass from a saved state of that generator, and in scripted modules.

    Args:
        seeds: The seed, int64 []; inside `vmap` over the seeds, the example's.
        step: Number of the step, int64 [].
    """

    def __init__(self, seeds: Tensor, step: Tensor) -> None:
        super().__init__()
        self._seeds, self._step = seeds, step
        self._calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, with other noise if it is a dropout function."""
        kwargs = kwargs or {}
        if func in DROPOUTS and not _will_be_repeated():
            return self._dropout(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(
        self,
        func: Callable[..., Any],
        input: Tensor,
        p: float = 0.5,
        training: bool | None = None,
        inplace: bool = False,
    ) -> Tensor:
        values, unchanged = input, func(input, p, training=False)  # torch's function also checks the arguments
        if not (func not in ALPHA if training is None else training):
            return cast(Tensor, unchanged)
        share = round(p * LEVELS) / LEVELS
        if share == 0:
            return cast(Tensor, unchanged)
        scale, shift, fill = _numbers(func, share)
        scaled = values.mul_(scale) if inplace else values * scale
        if share == 1:
            return scaled
        if shift:
            scaled = scaled.add_(shift) if inplace else scaled + shift
        shape: Sequence[int] = values.shape
        if func in CHANNELS:
            kept = 2 if values.ndim == BATCHED.get(func, values.ndim) else 1
            shape = (*shape[:kept], *(1 for _ in shape[kept:]))
        seeds, step = self._seeds.to(values.device), self._step.to(values.device)
        dropped: Tensor = _Dropped.apply(seeds, step, share, self._calls, shape)
        self._calls += 1
        return scaled.masked_fill_(dropped, fill) if inplace else torch.where(dropped, fill, scaled)


def _numbers(func: Callable[..., Any], share: float) -> tuple[float, float, float]:
    """Return the factor and the summand of the kept values, and the value of the dropped ones."""
    if share == 1:
        return 0.0, 0.0, 0.0
    if func not in ALPHA:
        return 1 / (1 - share), 0.0, 0.0
    scale: float = ((1 + share * LOWEST**2) * (1 - share)) ** -0.5
    return scale, -share * scale * LOWEST, (1 - share) * scale * LOWEST


class _Dropped(torch.autograd.Function):
    """Whether each element is dropped. Defines a rule for `vmap`, in which integers have no views of other sizes."""

    @staticmethod
    def forward(seeds: Tensor, step: Tensor, share: float, call: int, shape: Sequence[int]) -> Tensor:
        return are_below(share, seeds, step, call, shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], seeds: Tensor, step: Tensor, share: float, call: int, shape: Any
    ) -> tuple[Tensor, int]:
        return _Dropped.apply(seeds.movedim(in_dims[0] or 0, 0), step, share, call, shape), 0


def step_number(epoch: int, batch: int) -> int:
    """Return the number of a step for `DropoutBySeed`: the batch in the lower half, the epoch in the upper half."""
    return (epoch << 32) + batch


def as_int64(number: int) -> int:
    """Return the int64 with the same lowest 64 bits."""
    return (number + 2**63) % 2**64 - 2**63


def _will_be_repeated() -> bool:
    """Return whether the caller is inside ``torch.utils.checkpoint``, which repeats it in the backward pass."""
    if torch.compiler.is_compiling():
        return False  # it has its own frames, and repeats operations, not calls
    frame = sys._getframe()
    while frame.f_back is not None:
        if frame.f_code.co_filename == checkpoint.__file__:
            return True
        frame = frame.f_back
    return False
