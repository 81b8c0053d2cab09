"""The base of the settings of optimizers, and parts that several of them use."""

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from lightning_modules._validation import check_types, require

__all__ = ["Optimizer", "check_amounts", "check_shares", "from_library", "fused"]

Built = TypeVar("Built", bound=torch.optim.Optimizer)


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """Settings of an optimizer.

    Args:
        initial_lr: Learning rate that the schedule multiplies, above 0.
    """

    INDEPENDENT_GROUPS: ClassVar[bool] = False
    """Whether no parameter group of its torch optimizer affects another, so that one can update several networks."""

    initial_lr: float

    def __post_init__(self) -> None:
        check_types(self)
        require(self, "initial_lr", 0 < self.initial_lr < math.inf, "initial_lr > 0")
        self._check()

    def _check(self) -> None:  # noqa: B027 - an optimizer of nothing but an lr has nothing to check
        """Raise ValueError, naming the rule and the value, if the arguments do not make an optimizer."""

    @abstractmethod
    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Build the torch optimizer for these parameters."""


def fused(kind: Callable[..., Built], params: Iterable[nn.Parameter], **arguments: Any) -> Built:
    """Build a torch optimizer with fused kernels that still allows gradient clipping in mixed precision.

    torch's fused optimizers can unscale float16 gradients within the step, so Lightning refuses to clip them before.
    For optimizers that cannot, Lightning unscales the gradients itself; in bfloat16 there is no scale.
    """
    optimizer = kind(params, fused=True, **arguments)
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def from_library(package: str, name: str, settings: Optimizer, params: Iterable[nn.Parameter], **arguments: Any) -> Any:
    """Build the torch optimizer of an optional package, with the lr of its settings.

    Args:
        package: Name of the package, to import and to install.
        name: Name of its class.
        settings: The settings, whose name is in the message.
        params: The parameters.
        arguments: Further arguments of the class.

    Raises:
        ImportError: If the package is not installed.
    """
    try:
        library = importlib.import_module(package)
    except ImportError as error:
        hint = 'pip install "lr-tuner[optimizers]"'
        raise ImportError(f"{type(settings).__name__} needs {package}: {hint}") from error
    return getattr(library, name)(params, lr=settings.initial_lr, **arguments)


def check_shares(settings: Optimizer, *fields: str) -> None:
    """Reject a value that is not in [0, 1)."""
    for field in fields:
        require(settings, field, 0 <= getattr(settings, field) < 1, f"0 <= {field} < 1")


def check_amounts(settings: Optimizer, *fields: str) -> None:
    """Reject a value that is negative, infinite or NaN."""
    for field in fields:
        require(settings, field, 0 <= getattr(settings, field) < math.inf, f"{field} >= 0")
