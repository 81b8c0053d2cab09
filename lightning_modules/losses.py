"""Losses of a `Classifier`.

To add a loss, write a frozen dataclass with ``examples``, and add its line to `LOSSES`.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules._validation import check_types, require, require_to
from lightning_modules.tasks import TASKS, Task, alike, at_least_float32, mean_of_each

__all__ = [
    "LOSSES",
    "AbsoluteError",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Huber",
    "Loss",
    "OneHotSquaredError",
    "OwnLoss",
    "SquaredError",
    "balanced_weights",
    "the_loss",
]


class Loss(ABC):
    """A loss: called with outputs and labels of a batch, it returns their mean loss."""

    task: ClassVar[Task]

    def __post_init__(self) -> None:
        check_types(self)
        self._check()

    def _check(self) -> None:  # noqa: B027 - most have no rule
        """Raise ValueError if an argument breaks a rule."""

    @abstractmethod
    def examples(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example [n], multiplied by its weight if it has one."""

    def weights(self, labels: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Return the weight of each example [n] in the mean, in a dtype; None if all are equal."""
        return None

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch."""
        return self.of_each(outputs.unsqueeze(0), labels.unsqueeze(0))[0]

    def of_each(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean losses [K] of K batches at once.

        Args:
            outputs: Outputs [K, n, ...].
            labels: Labels [K, n, ...].
        """
        losses = self.examples(outputs.flatten(0, 1), labels.flatten(0, 1)).view(outputs.shape[:2])
        weights = self.weights(labels.flatten(0, 1), losses.dtype)
        return losses.mean(dim=1) if weights is None else losses.sum(dim=1) / weights.view(losses.shape).sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Loss):
    """Cross-entropy of the softmax of the outputs [n, classes] and the classes [n].

    Args:
        class_weights: Weight of each class, a number above 0 for each output; None for equal weights. The mean of a
            batch is divided by the weights of its examples, as in torch. A study replaces "balanced" by the
            `balanced_weights` of its training data; without a study, pass these.
        label_smoothing: Share of the probability that is spread over all classes (Szegedy et al., 2016,
            arXiv:1512.00567).
    """

    class_weights: tuple[float, ...] | Literal["balanced"] | None = None
    label_smoothing: float = 0.0
    task: ClassVar[Task] = "classification"

    def _check(self) -> None:
        if self.class_weights != "balanced":
            _require_weights(self, "class_weights", self.class_weights)
        require(self, "label_smoothing", 0 <= self.label_smoothing < 1, "0 <= label_smoothing < 1")

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch."""
        return self._of(outputs, labels, "mean")

    def examples(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example [n], multiplied by its weight."""
        return self._of(outputs, labels, "none")

    def weights(self, labels: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Return the weight of each example [n], in a dtype."""
        numbers = self._numbers
        return None if numbers is None else _tensor(numbers, labels.device, dtype)[labels]

    @property
    def _numbers(self) -> tuple[float, ...] | None:
        if isinstance(self.class_weights, str):
            rule = "outside a study, class_weights must be balanced_weights(labels) with the training labels"
            raise ValueError(f"{rule}, but got class_weights={self.class_weights!r}")
        return self.class_weights

    def _of(self, outputs: Tensor, labels: Tensor, reduction: str) -> Tensor:
        weight, numbers = None, self._numbers
        if numbers is not None:
            outputs = at_least_float32(outputs)
            hint = "; balanced gives one for each class in the training labels"
            weight = _weights_for("class_weights", numbers, outputs, hint)
        smoothing = self.label_smoothing
        return functional.cross_entropy(outputs, labels, weight, reduction=reduction, label_smoothing=smoothing)


@dataclass(frozen=True, kw_only=True)
class OneHotSquaredError(Loss):
    """Mean squared error of the outputs [n, classes] and the one-hot encoded classes [n].

    Hui and Belkin, "Evaluation of Neural Architectures Trained with Square Loss vs Cross-Entropy in Classification
    Tasks", ICLR 2021.
    """

    task: ClassVar[Task] = "classification"

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch."""
        return self.examples(outputs, labels).mean()

    def examples(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example [n]."""
        targets = functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
        return functional.mse_loss(outputs, targets, reduction="none").mean(dim=1)


@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy(Loss):
    """Mean over the labels of the cross-entropy of the sigmoid of each output; outputs and labels 0 or 1 [n, labels].

    Args:
        positive_weights: Factor on the loss of a 1, a number above 0 for each label; None for no factors.
    """

    positive_weights: tuple[float, ...] | None = None
    task: ClassVar[Task] = "multi_label"

    def _check(self) -> None:
        _require_weights(self, "positive_weights", self.positive_weights)

    def examples(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example [n]."""
        outputs, labels = alike(outputs, labels)
        factors = None
        if self.positive_weights is not None:
            factors = _weights_for("positive_weights", self.positive_weights, outputs)
        losses = functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none", pos_weight=factors)
        return losses.mean(dim=1)


class _OfErrors(Loss):
    """Base of losses that depend on the difference of outputs and numbers, [n] or [n, numbers], alone."""

    task: ClassVar[Task] = "regression"

    @abstractmethod
    def _of(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each number."""

    def examples(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example [n]."""
        return mean_of_each(self._of(*alike(outputs, labels)))


@dataclass(frozen=True, kw_only=True)
class SquaredError(_OfErrors):
    """Mean squared error of the outputs and the numbers to predict, [n] or [n, numbers]."""

    def _of(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.mse_loss(outputs, labels, reduction="none")


@dataclass(frozen=True, kw_only=True)
class AbsoluteError(_OfErrors):
    """Mean absolute error of the outputs and the numbers to predict, [n] or [n, numbers]."""

    def _of(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.l1_loss(outputs, labels, reduction="none")


@dataclass(frozen=True, kw_only=True)
class Huber(_OfErrors):
    """Huber's loss: half the squared error up to `delta`, linear above it (Huber, 1964, doi:10.1214/aoms/1177703732).

    Args:
        delta: The error above which it is linear.
    """

    delta: float = 1.0

    def _check(self) -> None:
        require(self, "delta", self.delta > 0, "delta > 0")

    def _of(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.huber_loss(outputs, labels, reduction="none", delta=self.delta)


LOSSES: dict[str, type[Loss]] = {
    "absolute_error": AbsoluteError,
    "binary_cross_entropy": BinaryCrossEntropy,
    "cross_entropy": CrossEntropy,
    "huber": Huber,
    "mse": OneHotSquaredError,
    "squared_error": SquaredError,
}
"""All losses, by their names in study files."""


class OwnLoss(Loss):
    """A function or module that takes outputs and labels and returns the mean loss of a batch.

    In mixed precision, it gets the outputs in float32, in which torch's losses compute as well: a `log_softmax` in
    bfloat16 has only two to three digits.

    Args:
        function: The function, or a module without parameters to train.
        arguments: Further arguments of a function, by name.
    """

    def __init__(self, function: Callable[..., Any], arguments: Mapping[str, Any] | None = None) -> None:
        if isinstance(function, nn.Module) and next(function.parameters(), None) is not None:
            raise ValueError(
                f"the loss {type(function).__name__} has parameters, but no optimizer would update them: "
                "write a LightningModule that contains the loss and the network"
            )
        self.function, self.arguments = function, dict(arguments or {})
        self._device = torch.device("cpu")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OwnLoss):
            return NotImplemented
        return self.function is other.function and self.arguments == other.arguments

    def __hash__(self) -> int:
        return id(self.function)

    def examples(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Not used: a user's loss is defined for a whole batch."""
        raise NotImplementedError

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch."""
        if isinstance(self.function, nn.Module) and self._device != outputs.device:
            self.function.to(outputs.device)
            self._device = outputs.device
        if isinstance(outputs, Tensor) and outputs.is_floating_point():
            outputs = at_least_float32(outputs)
        loss: Any = self.function(outputs, labels, **self.arguments)
        if not isinstance(loss, Tensor) or loss.ndim:
            found = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise ValueError(f"a loss must return one number, the mean of a batch, as a tensor, but it returns {found}")
        return loss

    def of_each(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the losses [K] of K batches, one after the other."""
        return torch.stack([self(*batch) for batch in zip(outputs, labels, strict=True)])


def balanced_weights(labels: Tensor) -> tuple[float, ...]:
    """Return a weight for each class, so that all classes together weigh the same, and the mean weight is 1.

    The weight of a class with ``c`` of ``n`` labels is ``n / (classes * c)``, as with scikit-learn's
    ``class_weight="balanced"``.

    Args:
        labels: Labels [n], int64 from 0.

    Raises:
        ValueError: If the labels are not such numbers, or if a class has no label.

    >>> balanced_weights(torch.tensor([0, 0, 0, 1]))
    (0.6666666666666666, 2.0)
    """
    rule = "labels must be class indices, int64 [n] from 0"
    if labels.dtype != torch.int64 or labels.ndim != 1 or not len(labels):
        raise ValueError(f"{rule}, but got {str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}")
    if below := labels[labels < 0].tolist():
        raise ValueError(f"{rule}, but got {below[0]} ({len(below)} of {len(labels)} below 0)")
    found, counts = torch.unique(labels, return_counts=True)  # there may be no memory to count up to the largest one
    classes = int(found[-1]) + 1
    if len(found) < classes:
        missing = int((found != torch.arange(len(found))).int().argmax())
        raise ValueError(f"each class needs a label, but class {missing} of {classes} has none")
    return tuple(len(labels) / (classes * count) for count in counts.tolist())


def the_loss(loss: Any, task: Task | None = None) -> tuple[Loss, Task]:
    """Return a loss and its task.

    Args:
        loss: A key of `LOSSES`, a `Loss`, or a user's function or module that takes outputs and labels.
        task: The task; None for the task of the loss, which is classification for a user's loss.

    Raises:
        ValueError: If there is no such loss, or it is for another task.
    """
    if task not in (None, *TASKS):
        raise ValueError(f"task must be one of {', '.join(TASKS)}, but got task={task!r}")
    if isinstance(loss, str) and loss in LOSSES:
        loss = LOSSES[loss]()
    if isinstance(loss, OwnLoss):
        return loss, task or "classification"
    if isinstance(loss, Loss):
        if task not in (None, loss.task):
            raise ValueError(f"the loss {type(loss).__name__} is for {loss.task}, but got task={task!r}")
        return loss, loss.task
    if isinstance(loss, str) or not callable(loss):
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, but got loss={loss!r}")
    return OwnLoss(loss), task or "classification"


def _require_weights(loss: Loss, key: str, weights: tuple[float, ...] | None) -> None:
    require_to(loss, key, weights is None or (len(weights) > 0 and min(weights) > 0), "be numbers above 0")


def _weights_for(key: str, weights: tuple[float, ...], outputs: Tensor, hint: str = "") -> Tensor:
    """Return weights as a tensor.

    Args:
        key: Their argument.
        weights: The weights.
        outputs: The outputs [n, weights].
        hint: The end of the error's message.

    Raises:
        ValueError: If there is not one for each output.
    """
    if len(weights) != outputs.shape[1]:
        rule = f"{key} must have a number for each of the {outputs.shape[1]} outputs"
        raise ValueError(f"{rule}, but has {len(weights)}{hint}")
    return _tensor(weights, outputs.device, outputs.dtype)


@functools.lru_cache(maxsize=16)
def _tensor(numbers: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return numbers as a tensor, the same one at each call: sending them to a GPU waits for it."""
    with torch.inference_mode(False):  # Lightning validates in inference mode
        return torch.tensor(numbers, device=device, dtype=dtype)
