"""The tasks of networks, and the metrics of each.

To add a metric, compute it in `metrics_of`, and add its name to `METRICS`.
"""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = [
    "METRICS",
    "RISING",
    "TASKS",
    "Task",
    "alike",
    "at_least_float32",
    "logged_metrics",
    "mean_of_each",
    "metrics_of",
    "of_one_shape",
]

Task = Literal["classification", "multi_label", "regression"]
TASKS: tuple[Task, ...] = get_args(Task)

METRICS: Mapping[Task, tuple[str, ...]] = {
    "classification": ("acc",),
    "multi_label": ("f1", "exact_match", "hamming_loss"),
    "regression": ("mae", "rmse"),
}
"""The metrics of each task, in addition to the loss."""

RISING = frozenset({"acc", "f1", "exact_match"})
"""The metrics that are better when they rise."""


def logged_metrics(task: Task) -> tuple[str, ...]:
    """Return the metrics that a `Classifier` logs while it is trained.

    >>> logged_metrics("regression")
    ('train/loss', 'train/mae', 'train/rmse', 'val/loss', 'val/mae', 'val/rmse')
    """
    return tuple(f"{stage}/{key}" for stage in ("train", "val") for key in sorted(("loss", *METRICS[task])))


def at_least_float32(values: Tensor) -> Tensor:
    """Return values in float32 or float64, in which many of them can be summed."""
    return values if values.dtype == torch.float64 else values.float()


def metrics_of(task: Task, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the metrics of a task for each example [n], by name; of "rmse", its square.

    Args:
        task: The task.
        outputs: Outputs [n, ...].
        labels: Labels [n, ...].
    """
    if task == "classification":
        return {"acc": outputs.argmax(dim=1) == labels}
    if task == "regression":
        outputs, labels = alike(outputs, labels)
        errors = outputs - labels
        return {"mae": mean_of_each(errors.abs()), "rmse": mean_of_each(errors.square())}
    found, true = outputs > 0, labels > 0
    both = 2 * (found & true).sum(dim=1)
    count = found.sum(dim=1) + true.sum(dim=1)
    return {
        "f1": torch.where(count > 0, both / count.clamp(min=1), 1.0),  # without any label, there is nothing to find
        "exact_match": (found == true).all(dim=1),
        "hamming_loss": at_least_float32(found != true).mean(dim=1),
    }


def of_one_shape(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    """Return outputs that have the shape of the labels, if the task wants that: a single output [n, 1] becomes [n].

    Raises:
        ValueError: If the shapes differ.
    """
    if task == "classification":
        return outputs
    if outputs.ndim == labels.ndim + 1 and outputs.shape[-1] == 1:
        outputs = outputs.squeeze(-1)
    if outputs.shape != labels.shape:
        found = f"{list(outputs.shape)} and labels {list(labels.shape)}"
        raise ValueError(f"outputs must have the shape of the labels, but got outputs {found}")
    return outputs


def alike(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs and labels of one shape and type."""
    outputs = of_one_shape("regression", at_least_float32(outputs), labels)
    return outputs, labels.to(outputs.dtype)


def mean_of_each(values: Tensor) -> Tensor:
    """Return the mean over all dimensions but the first [n]."""
    return values.flatten(1).mean(dim=1) if values.ndim > 1 else values
