"""Layers of K stacked networks inside `vmap`, where the built-in rules fail, or copy or convert more than necessary."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import maybe_current_level, maybe_get_level
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["AutocastUses", "StackedLayers"]

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
POOLINGS: Mapping[Callable[..., Any], int] = {  # poolings, and the number of dimensions of their inputs
    functional.max_pool1d: 3,
    functional.max_pool2d: 4,
    functional.max_pool3d: 5,
    functional.avg_pool1d: 3,
    functional.avg_pool2d: 4,
    functional.avg_pool3d: 5,
    functional.adaptive_avg_pool1d: 3,
    functional.adaptive_avg_pool2d: 4,
    functional.adaptive_avg_pool3d: 5,
}


class StackedLayers(TorchFunctionMode):
    """Context for the forward pass of one of K networks, to be entered inside `vmap` over their stacked parameters.

    - A dense layer computes the gradient of its stacked weight [K, outputs, inputs] in the layout of the weight. With
      the rule of `vmap` it is transposed, and autograd copies every gradient into the layout of its weight.
    - Convolutions, batch norm and pooling have the channels of all K networks side by side, [batch, K * channels, ...],
      which need not be copied in between. A convolution adds its own bias, so with autocast its outputs stay in the
      lower precision; in the rule of `vmap`, the bias converts them to float32. Batch norm works on a GPU, where
      cuDNN's needs a memory layout that `vmap` does not provide.

    Everything else follows the rules of `vmap`, including these layers inside a transform that the network itself
    applies.
    """

    def __init__(self) -> None:
        super().__init__()
        self._level = maybe_current_level()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, by a different rule if it is one of these layers."""
        kwargs = kwargs or {}
        if maybe_current_level() == self._level:
            if func is functional.linear:
                return self._linear(*args, **kwargs)
            if func in CONVOLUTIONS:
                return self._convolution(func, *args, **kwargs)
            if func in POOLINGS:
                return self._pooling(func, *args, **kwargs)
            if func is functional.batch_norm:
                return self._batch_norm(*args, **kwargs)
        return func(*args, **kwargs)

    def _are_stacked(self, *tensors: Tensor | None) -> bool:
        return all(each is None or maybe_get_level(each) == self._level for each in tensors)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        if input.ndim < 2 or not self._are_stacked(weight, bias):
            return functional.linear(input, weight, bias)
        return _ByRule.apply(_linear, input, weight, bias)

    def _convolution(
        self,
        func: Callable[..., Any],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        if input.ndim != weight.ndim or not self._are_stacked(weight, bias):
            return func(input, weight, bias, stride, padding, dilation, groups)
        convolve = partial(func, stride=stride, padding=padding, dilation=dilation)
        return _ByRule.apply(partial(_convolve, convolve, groups), input, weight, bias)

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *further: Any,
        **kwargs: Any,
    ) -> Any:
        own = (running_mean, running_var, weight, bias)
        if input.ndim < 2 or not self._are_stacked(input, *own):
            with torch.backends.cudnn.flags(enabled=False):
                return functional.batch_norm(input, *own, *further, **kwargs)
        return _ByRule.apply(partial(_normalize, further, kwargs), input, *own)

    def _pooling(self, func: Callable[..., Any], input: Tensor, *args: Any, **kwargs: Any) -> Any:
        if input.ndim != POOLINGS[func] or kwargs.get("return_indices") or not self._are_stacked(input):
            return func(input, *args, **kwargs)
        return _ByRule.apply(partial(_pool, lambda stacked: func(stacked, *args, **kwargs)), input)


class AutocastUses(TorchFunctionMode):
    """Context that finds the parameters used only by layers that autocast computes in a lower precision.

    Args:
        parameters: The parameters of a network by name.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()
        self._names = {id(parameter): name for name, parameter in parameters}
        self._uses: dict[str, set[bool]] = {}

    @property
    def names(self) -> list[str]:
        """The names of these parameters."""
        return [name for name, uses in self._uses.items() if uses == {True}]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, and record which parameters it receives."""
        kwargs = kwargs or {}
        rounds = func is functional.linear or func in CONVOLUTIONS
        for given in (*args, *kwargs.values()):
            for each in given if isinstance(given, list | tuple) else (given,):
                if id(each) in self._names:
                    self._uses.setdefault(self._names[id(each)], set()).add(rounds)
        return func(*args, **kwargs)


class _ByRule(torch.autograd.Function):
    """Calls a rule with the number of networks, the dimension of the networks in each tensor, and the tensors."""

    @staticmethod
    def forward(rule: Callable[..., Any], *tensors: Tensor | None) -> Tensor:
        raise NotImplementedError("inside vmap, the rule is used instead")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], rule: Callable[..., Any], *tensors: Tensor | None
    ) -> tuple[Tensor, int]:
        result: tuple[Tensor, int] = rule(info.batch_size, in_dims[1:], *tensors)
        return result


def _linear(
    count: int, dims: Sequence[int | None], inputs: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, int]:
    stacked = inputs.expand(count, *inputs.shape) if dims[0] is None else inputs.movedim(dims[0], 0)
    weights = weight.movedim(dims[1] or 0, 0)
    biases = None if bias is None else bias.movedim(dims[2] or 0, 0)
    outputs = _StackedLinear.apply(stacked.flatten(1, -2), weights, biases)
    return torch.unflatten(outputs, 1, stacked.shape[1:-1]) if stacked.ndim > 3 else outputs, 0


def _convolve(
    convolve: Callable[..., Tensor],
    groups: int,
    count: int,
    dims: Sequence[int | None],
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, int]:
    if dims[0] is not None:
        inputs, groups = inputs.movedim(dims[0], 1).flatten(1, 2), count * groups
    elif groups > 1:  # the inputs belong to all networks, but not to all groups
        inputs, groups = inputs.repeat(1, count, *(1,) * (inputs.ndim - 2)), count * groups
    weights = weight.movedim(dims[1] or 0, 0).flatten(0, 1)
    biases = None if bias is None else bias.movedim(dims[2] or 0, 0).flatten()
    outputs = convolve(inputs, weights, biases, groups=groups)
    return torch.unflatten(outputs, 1, (count, -1)), 1


def _normalize(
    further: Sequence[Any],
    options: Mapping[str, Any],
    count: int,
    dims: Sequence[int | None],
    inputs: Tensor,
    *own: Tensor | None,
) -> tuple[Tensor, int]:
    inputs = inputs.movedim(dims[0] or 0, 1).flatten(1, 2)
    # The running statistics change in place: a view of the stack must be passed.
    mean, variance, weight, bias = (None if each is None else each.view(-1) for each in own)
    outputs = functional.batch_norm(inputs, mean, variance, weight, bias, *further, **options)
    return torch.unflatten(outputs, 1, (count, -1)), 1


def _pool(
    pool: Callable[[Tensor], Tensor], count: int, dims: Sequence[int | None], inputs: Tensor
) -> tuple[Tensor, int]:
    outputs = pool(inputs.movedim(dims[0] or 0, 1).flatten(1, 2))
    return torch.unflatten(outputs, 1, (count, -1)), 1


class _StackedLinear(torch.autograd.Function):
    """K dense layers: inputs [K, n, inputs], weight [K, outputs, inputs], bias [K, outputs] or None."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        inputs, weight = _as_autocast(inputs), _as_autocast(weight)
        ctx.save_for_backward(inputs, weight)
        columns = weight.transpose(1, 2)
        if bias is None:
            return torch.bmm(inputs, columns)
        return torch.baddbmm(_as_autocast(bias).unsqueeze(1), inputs, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        to_inputs = torch.bmm(gradient, weight) if ctx.needs_input_grad[0] else None
        to_weight = torch.bmm(gradient.transpose(1, 2), inputs) if ctx.needs_input_grad[1] else None
        to_bias = gradient.sum(1) if ctx.needs_input_grad[2] else None
        return to_inputs, to_weight, to_bias


def _as_autocast(values: Tensor) -> Tensor:
    """Return values in the type in which autocast computes a dense layer, if it is enabled."""
    kind = values.device.type
    if torch.is_autocast_enabled(kind) and values.dtype != torch.float64:
        return values.to(torch.get_autocast_dtype(kind))
    return values
