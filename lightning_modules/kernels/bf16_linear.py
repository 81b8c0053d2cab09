"""Large dense layers in bfloat16 on a CPU: the rounded weights are kept from one step to the next."""

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

__all__ = ["Bf16LinearSpeedup", "RoundedWeights"]

_HOOKS = ("on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")  # in which a callback sees gradients


class Bf16LinearSpeedup(pl.Callback):
    """Train the large dense layers of a `Classifier` in bfloat16 on a CPU in less time, with the very same weights.

    ``Trainer(precision="bf16-mixed", callbacks=[Bf16LinearSpeedup()])``; see `RoundedWeights`. It does nothing in
    another precision, on another device, with several processes, with gradient clipping, for a subclass of
    `Classifier`, or where another callback looks at gradients.
    """

    def __init__(self) -> None:
        self._rounded: RoundedWeights | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin, if nobody can see a difference."""
        self._leave()  # a training that was cut short
        if isinstance(module, Classifier) and self._applies(trainer, module):
            self._rounded = RoundedWeights(module.model, trainer.optimizers[0])

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Let the forward pass use the rounded weights."""
        if self._rounded is not None:
            self._rounded.__enter__()

    def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, loss: Tensor) -> None:
        """Leave the layers as they were."""
        if self._rounded is not None:
            self._rounded.__exit__()

    def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Have the gradients ready that the optimizer needs."""
        if self._rounded is not None:
            self._rounded.after_backward()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Leave the optimizer as it was."""
        self._leave()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Leave layers and optimizer as they were."""
        self._leave()

    def _leave(self) -> None:
        if self._rounded is not None:
            self._rounded.__exit__()
            self._rounded.close()
            self._rounded = None

    def _applies(self, trainer: pl.Trainer, module: Classifier) -> bool:
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        others = [callback for callback in callbacks if callback is not self]
        is_watched = any(is_overridden(hook, callback) for hook in _HOOKS for callback in others)
        is_plain = type(module) is Classifier and isinstance(trainer.strategy, SingleDeviceStrategy)
        on_cpu = module.device.type == "cpu" and trainer.precision == "bf16-mixed"
        return on_cpu and is_plain and not is_watched and not trainer.gradient_clip_val


class RoundedWeights:
    """Train the large dense layers of a network in bfloat16 with less traffic to a CPU's memory.

    ``torch.autocast`` rounds every weight at every step, and a gradient is written in bfloat16, written again in the
    precision of the weight, and read by the optimizer. Where a layer has millions of weights, a CPU waits for its
    memory meanwhile. Here the rounded weight stays; of the gradient, which is a product, backward leaves only the two
    small factors; and the update goes over the weight in blocks that fit into the CPU's cache, each of which is
    multiplied, updated and rounded before the next. Weights and the optimizer's state are what they are without this.

    `Bf16LinearSpeedup` does it in a Lightning Trainer. In a training loop of your own::

        rounded = RoundedWeights(model, optimizer)
        for inputs, labels in batches:
            with torch.autocast("cpu", torch.bfloat16), rounded:
                loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            rounded.after_backward()
            optimizer.step()  # and the layers' own update after it

    Applies to every ``nn.Linear`` with at least 2**20 weights that `optimizer` updates, an Adam, AdamW or SGD of torch
    with ``fused=True``; if there is none, nothing changes. Such a layer has no second derivatives, and if a weight is
    changed through its ``.data``, which torch does not count as a change, the next update rounds it again.

    Args:
        model: Network on the CPU.
        optimizer: Its optimizer.
    """

    SMALLEST = 1 << 20  # weights; below, there is nothing to be won
    BLOCK = 1 << 19  # weights that are updated at a time

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        groups: Mapping[Tensor, Mapping[str, Any]] = _groups(optimizer)
        owners: Mapping[Tensor, int] = Counter(weight for _, weight in model.named_parameters(remove_duplicate=False))

        def is_concerned(weight: Tensor) -> bool:
            is_large = weight.dtype == torch.float32 and weight.numel() >= self.SMALLEST
            is_watched = weight._backward_hooks or weight._post_accumulate_grad_hooks
            is_alone = owners[weight] == 1 and not is_watched
            return is_large and is_alone and weight in groups and has_fused_update(optimizer, groups[weight])

        layers = [layer for layer in model.modules() if type(layer) is nn.Linear and layer.weight.requires_grad]
        self._dense = [_Dense(layer, optimizer) for layer in layers if is_concerned(layer.weight)]
        self._hook = optimizer.register_step_post_hook(lambda *_: self._after_step())

    def __enter__(self) -> None:
        """Begin to go through the layers by their rounded weights."""
        for dense in self._dense:
            dense.layer.forward = dense.forward  # type: ignore[assignment, method-assign]

    def __exit__(self, *_: object) -> None:
        """Leave the network as it was."""
        for dense in self._dense:
            vars(dense.layer).pop("forward", None)

    def after_backward(self) -> None:
        """Turn factors into gradients where the optimizer needs those: to be called between backward and step."""
        for dense in self._dense:
            if not dense.can_wait:
                dense.settle()

    def close(self) -> None:
        """Leave the optimizer as it was."""
        self._hook.remove()

    @torch.no_grad()
    def _after_step(self) -> None:
        for dense in self._dense:
            dense.update(self.BLOCK)


def _groups(optimizer: torch.optim.Optimizer) -> dict[Tensor, dict[str, Any]]:
    """Return the parameter group of each parameter; to load a state makes new ones."""
    return {parameter: group for group in optimizer.param_groups for parameter in group["params"]}


@dataclass
class _Dense:
    layer: nn.Linear
    optimizer: torch.optim.Optimizer
    factors: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # of outputs and inputs, for each backward
    has_state: bool = False  # the optimizer has made its state of this weight

    def __post_init__(self) -> None:
        self.weight = self.layer.weight
        self.rounded = torch.empty_like(self.weight, dtype=torch.bfloat16, requires_grad=False)
        self.version = -1  # of the weight, when it was rounded

    def forward(self, inputs: Tensor) -> Tensor:
        """Do what ``nn.Linear`` does under autocast."""
        weight = self.layer.weight
        is_own = weight is self.weight  # and not one that `torch.func.functional_call` has put there
        in_bfloat16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        if inputs.ndim < 2 or not is_own or not in_bfloat16:
            return nn.Linear.forward(self.layer, inputs)
        if weight._version != self.version:  # somebody else has changed it
            with torch.no_grad():
                self.rounded.copy_(weight)
            self.version = weight._version
        bias = None if self.layer.bias is None else self.layer.bias.bfloat16()
        outputs: Tensor = _Product.apply(inputs.bfloat16(), weight, bias, self.rounded, self.factors)
        return outputs

    @property
    def can_wait(self) -> bool:
        """Whether the factors are all that there is of the gradient, and the update can be done from them."""
        return self.has_state and len(self.factors) == 1 and self.weight.grad is None

    def settle(self) -> None:
        """Make the factors a part of the gradient."""
        weight = self.weight
        for outputs, inputs in self.factors:
            gradient = (outputs.t() @ inputs).to(weight.dtype)
            weight.grad = gradient if weight.grad is None else weight.grad + gradient
        self.factors.clear()

    def update(self, block: int) -> None:
        """Do for this weight what the optimizer's step has done for the others."""
        if not self.factors:
            self.has_state = self.has_state or self.weight.grad is not None
            self.version = -1  # torch's fused kernels do not count as a change
            return
        (outputs, inputs), weight = self.factors.pop(), self.weight
        group, state = _groups(self.optimizer)[weight], self.optimizer.state[weight]
        # torch's kernels take 16 weights at a time, and round those that are left over otherwise. So only the last
        # block may leave some over, which the whole weight does as well.
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
    """A dense layer by its rounded weight, whose backward leaves the factors of the weight's gradient."""

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
