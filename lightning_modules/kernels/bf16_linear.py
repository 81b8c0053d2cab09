"""Large dense layers in bfloat16 on a CPU, with rounded weights that are kept between steps."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from lightning_modules.classifier import Classifier
from lightning_modules.kernels.fused_updates import fused_update, has_fused_update

__all__ = ["Bf16LinearSpeedup", "RoundedWeights", "gradients_are_read"]

_HOOKS = ("on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")  # hooks that can read gradients


class Bf16LinearSpeedup(pl.Callback):
    """Trains the large dense layers of a `Classifier` faster in bfloat16 on a CPU, with identical weights.

    ``Trainer(precision="bf16-mixed", callbacks=[Bf16LinearSpeedup()])``; see `RoundedWeights`. It does nothing in
    another precision, on another device, with several processes, with gradient clipping, for a subclass of
    `Classifier`, or if another callback reads gradients.
    """

    def __init__(self) -> None:
        self._rounded: RoundedWeights | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start, if no other code can see a difference."""
        self._restore()  # an interrupted run may have left it
        if isinstance(module, Classifier) and self._applies(trainer, module):
            self._rounded = RoundedWeights(module.model, trainer.optimizers[0])

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Make the forward pass use the rounded weights."""
        if self._rounded is not None:
            self._rounded.__enter__()

    def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, loss: Tensor) -> None:
        """Restore the layers."""
        if self._rounded is not None:
            self._rounded.__exit__()

    def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Compute the gradients that the optimizer needs."""
        if self._rounded is not None:
            self._rounded.after_backward()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Restore layers and optimizer."""
        self._restore()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Restore layers and optimizer."""
        self._restore()

    def _restore(self) -> None:
        if self._rounded is not None:
            self._rounded.__exit__()
            self._rounded.close()
            self._rounded = None

    def _applies(self, trainer: pl.Trainer, module: Classifier) -> bool:
        is_watched = gradients_are_read(trainer, except_by=self)
        is_plain = type(module) is Classifier and isinstance(trainer.strategy, SingleDeviceStrategy)
        on_cpu = module.device.type == "cpu" and trainer.precision == "bf16-mixed"
        return on_cpu and is_plain and not is_watched and not trainer.gradient_clip_val


def gradients_are_read(trainer: pl.Trainer, except_by: pl.Callback | None = None) -> bool:
    """Return whether a callback may read the gradients during training."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    others = [callback for callback in callbacks if callback is not except_by]
    return any(is_overridden(hook, callback) for hook in _HOOKS for callback in others)


class RoundedWeights:
    """Trains the large dense layers of a network in bfloat16 with less memory traffic on a CPU.

    ``torch.autocast`` rounds every weight at every step, and a gradient is written in bfloat16, written again in the
    weight's precision, and read by the optimizer. In a layer with millions of weights, the CPU waits for memory
    meanwhile. This class keeps the rounded weight between steps. The gradient is a matrix product, of which backward
    stores only the two small factors. The update processes the weight in blocks that fit into the CPU's cache: each is
    multiplied, updated and rounded before the next one. Weights and optimizer state are identical to those without it.

    In a Lightning Trainer, use `Bf16LinearSpeedup`. In your own training loop::

        rounded = RoundedWeights(model, optimizer)
        for inputs, labels in batches:
            with torch.autocast("cpu", torch.bfloat16), rounded:
                loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            rounded.after_backward()
            optimizer.step()  # also updates the large layers

    Applies to every ``nn.Linear`` with at least 2**20 weights that `optimizer` updates, an Adam, AdamW or SGD of torch
    with ``fused=True``; without any, nothing changes. Such a layer has no second derivatives. If a weight is changed
    through its ``.data``, which torch's version counter does not see, it is rounded again only at the next update.

    Args:
        model: Network on the CPU.
        optimizer: Its optimizer.
    """

    SMALLEST = 1 << 20  # fewest weights of a layer; a smaller layer would gain nothing
    BLOCK = 1 << 19  # weights per block of the update

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        groups: Mapping[Tensor, Mapping[str, Any]] = _groups(optimizer)
        owners: Mapping[Tensor, int] = Counter(weight for _, weight in model.named_parameters(remove_duplicate=False))

        def applies(weight: Tensor) -> bool:
            is_large = weight.dtype == torch.float32 and weight.numel() >= self.SMALLEST
            is_watched = weight._backward_hooks or weight._post_accumulate_grad_hooks
            is_alone = owners[weight] == 1 and not is_watched
            return is_large and is_alone and weight in groups and has_fused_update(optimizer, groups[weight])

        layers = [layer for layer in model.modules() if type(layer) is nn.Linear and layer.weight.requires_grad]
        self._dense = [_Dense(layer, optimizer) for layer in layers if applies(layer.weight)]
        self._hook = optimizer.register_step_post_hook(lambda *_: self._after_step())

    def __enter__(self) -> None:
        """Make the layers use their rounded weights."""
        for dense in self._dense:
            dense.layer.forward = dense.forward  # type: ignore[assignment, method-assign]

    def __exit__(self, *_: object) -> None:
        """Restore the layers."""
        for dense in self._dense:
            vars(dense.layer).pop("forward", None)

    def after_backward(self) -> None:
        """Turn factors into gradients where the optimizer needs them; call it between backward and step."""
        for dense in self._dense:
            if not dense.can_wait:
                dense.settle()

    def close(self) -> None:
        """Restore the optimizer."""
        self._hook.remove()

    @torch.no_grad()
    def _after_step(self) -> None:
        for dense in self._dense:
            dense.update(self.BLOCK)


def _groups(optimizer: torch.optim.Optimizer) -> dict[Tensor, dict[str, Any]]:
    """Return the parameter group of each parameter. Not cached: loading a state creates new groups."""
    return {parameter: group for group in optimizer.param_groups for parameter in group["params"]}


@dataclass
class _Dense:
    layer: nn.Linear
    optimizer: torch.optim.Optimizer
    factors: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # output gradients and inputs of each backward
    has_state: bool = False  # whether the optimizer has created its state of this weight

    def __post_init__(self) -> None:
        self.weight = self.layer.weight
        self.rounded = torch.empty_like(self.weight, dtype=torch.bfloat16, requires_grad=False)
        self.version = -1  # version of the weight when it was rounded

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the same as ``nn.Linear`` under autocast."""
        weight = self.layer.weight
        is_own = weight is self.weight  # not one that `torch.func.functional_call` has put there
        in_bfloat16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        if inputs.ndim < 2 or not is_own or not in_bfloat16:
            return nn.Linear.forward(self.layer, inputs)
        if weight._version != self.version:  # other code has changed it
            with torch.no_grad():
                self.rounded.copy_(weight)
            self.version = weight._version
        bias = None if self.layer.bias is None else self.layer.bias.bfloat16()
        outputs: Tensor = _Product.apply(inputs.bfloat16(), weight, bias, self.rounded, self.factors)
        return outputs

    @property
    def can_wait(self) -> bool:
        """Whether the factors are the whole gradient, so that the update can use them."""
        return self.has_state and len(self.factors) == 1 and self.weight.grad is None

    def settle(self) -> None:
        """Add the product of the factors to the gradient."""
        weight = self.weight
        for outputs, inputs in self.factors:
            gradient = (outputs.t() @ inputs).to(weight.dtype)
            weight.grad = gradient if weight.grad is None else weight.grad + gradient
        self.factors.clear()

    def update(self, block: int) -> None:
        """Update this weight from its factors, as the optimizer's step has updated the other weights."""
        if not self.factors:
            self.has_state = self.has_state or self.weight.grad is not None
            self.version = -1  # torch's fused kernels do not increment the version
            return
        (outputs, inputs), weight = self.factors.pop(), self.weight
        group, state = _groups(self.optimizer)[weight], self.optimizer.state[weight]
        # torch's kernels process 16 weights at a time, and round a remainder differently. So only the last block may
        # have a remainder, which is then the remainder of the whole weight.
        rows = max(16, block // weight.shape[1] // 16 * 16)
        of_weight = {key: value for key, value in state.items() if getattr(value, "shape", None) == weight.shape}
        if "step" in state:
            state["step"] += 1
        blocks = zip(
            *(
                torch.split(whole, rows)
                for whole in (outputs.t().contiguous(), weight.detach(), self.rounded, *of_weight.values())
            ),
            strict=True,
        )
        for factor, part, rounded, *values in blocks:
            gradient = (factor @ inputs).to(part.dtype)
            of_part = state | dict(zip(of_weight, values, strict=True))
            fused_update(self.optimizer, group, [part], [of_part])([gradient])
            rounded.copy_(part)
        self.version = weight._version


class _Product(torch.autograd.Function):
    """A dense layer with a rounded weight, whose backward stores the factors of the weight's gradient."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, rounded: Tensor, factors: list[Any]
    ) -> Tensor:
        ctx.save_for_backward(inputs, rounded)
        ctx.factors = factors
        return functional.linear(inputs, rounded, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, rounded = ctx.saved_tensors
        outputs = gradient.flatten(0, -2)
        if ctx.needs_input_grad[1]:
            ctx.factors.append((outputs, inputs.detach().flatten(0, -2)))
        to_inputs = gradient @ rounded if ctx.needs_input_grad[0] else None
        to_bias = outputs.sum(0) if ctx.needs_input_grad[2] else None
        return to_inputs, None, to_bias, None, None
