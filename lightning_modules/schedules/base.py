"""The base class of all schedules, and arithmetic with lengths that are not whole."""

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, overload

from lightning_modules._validation import check_types

__all__ = ["ROUNDING", "InSteps", "Schedule", "Steps", "has_reached", "share_of", "steps_since", "whole"]

# Lengths are real numbers with rounding errors: 100 + 100 * 1.2 = 220.00000000000003 means step 220. Twelve digits are
# more precise than needed to distinguish the steps of any training run, and no sum of lengths has larger errors.
ROUNDING = 1e-12


@dataclass(frozen=True)
class InSteps:
    """Marks an argument in optimizer steps, which study files may also give in epochs or percent.

    Args:
        only: Whether every number is a length; False for an argument that can be any number, such as those of a
            formula.
    """

    only: bool = True


Steps = Annotated[int | float, InSteps()]
"""A length in optimizer steps, a real number. In a study file, it may also be "5 epochs" or "25%" of the training."""


class _Array(Protocol):
    """A NumPy array or scalar, or a torch tensor, described without importing either library."""

    def tolist(self) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """A pure function from the step to the factor on the initial lr, which is finite and not negative.

    Schedules can be compared, hashed, pickled and printed. Lists among the arguments become tuples; numbers and arrays
    of NumPy or torch become Python's.
    """

    def __post_init__(self) -> None:
        for field, value in list(vars(self).items()):
            if isinstance(value, list):
                object.__setattr__(self, field, tuple(value))
        check_types(self)
        self._check()

    @overload
    def __call__(self, step: float) -> float: ...
    @overload
    def __call__(self, step: _Array) -> Any: ...
    def __call__(self, step: float | _Array) -> Any:
        """Return the factor at `step`.

        Args:
            step: Number of optimizer updates done before this one, 0 or more; or a NumPy array or torch tensor of such
                numbers, of any shape. It need not be whole, so that smooth curves can be drawn.

        Returns:
            A float; or an array or tensor (float64, on the same device) with the shape of `step` and exactly the
            numbers that single calls return.

        Raises:
            ValueError: If `step` is negative or not finite, or if the factor is, which the formula of a `Lambda` can
                cause.
            TypeError: If `step` is neither a number nor an array.
        """
        if isinstance(step, int | float):
            return self._checked_factor(step)
        numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
        if torch is not None and isinstance(step, torch.Tensor):
            factors = [self._checked_factor(each) for each in step.reshape(-1).tolist()]
            return torch.tensor(factors, dtype=torch.float64, device=step.device).reshape(step.shape)
        if numpy is not None and isinstance(step, numpy.ndarray):
            factors = [self._checked_factor(each) for each in step.reshape(-1).tolist()]
            return numpy.array(factors, dtype=numpy.float64).reshape(step.shape)
        if numpy is not None and isinstance(step, numpy.number):
            return self._checked_factor(step.item())
        raise TypeError(f"step must be a number, a NumPy array or a torch tensor, but got step={step!r}")

    def _checked_factor(self, step: float) -> float:
        if not 0 <= step <= sys.float_info.max:
            raise ValueError(f"step must be finite and >= 0, but got step={step!r}")
        factor = float(self._factor(step))
        if not 0 <= factor < math.inf:
            raise ValueError(f"the factor must be finite and >= 0, but got {factor!r} at step={step!r} from {self!r}")
        return factor

    def _check(self) -> None:  # noqa: B027 - optional for subclasses
        """Raise ValueError, naming the rule and the value, if the arguments are invalid."""

    @abstractmethod
    def _factor(self, step: float) -> float:
        """Return the factor at a valid step."""


def share_of(step: float, length: float) -> float:
    """Return ``step / length``, limited to finite values so that no product with it is NaN.

    >>> share_of(30, 60), share_of(10**9, 1e-300) < math.inf
    (0.5, True)
    """
    return min(step / length, sys.float_info.max)


def whole(share: float) -> int:
    """Return the number of whole lengths in a share, tolerating rounding errors of the length.

    >>> 7 // (0.07 * 100), whole(7 / (0.07 * 100))
    (0.0, 1)
    """
    nearest = round(share)
    return nearest if abs(share - nearest) <= ROUNDING * abs(share) else math.floor(share)


def has_reached(step: float, boundary: float) -> bool:
    """Return whether a step is at or after a boundary, tolerating rounding errors of the boundary.

    >>> 100 * 1.1 <= 110, has_reached(110, 100 * 1.1)
    (False, True)
    """
    return step >= boundary * (1 - ROUNDING)


def steps_since(step: float, start: float) -> float:
    """Return the number of steps since a start that has been reached, tolerating rounding errors of the start.

    >>> 110_007 - 100_000 * 1.1 < 7, steps_since(110_007, 100_000 * 1.1)
    (True, 7)
    """
    since = step - start
    nearest = round(since)
    return nearest if abs(since - nearest) <= ROUNDING * step else since
