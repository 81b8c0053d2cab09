"""The direction of an objective: whether large or small values are better."""

from enum import StrEnum
from typing import Literal

__all__ = ["Direction"]


class Direction(StrEnum):
    """Whether large or small values of a metric are better.

    >>> Direction.MINIMIZE.better(0.1, 0.2), Direction.MAXIMIZE.advantage(0.75, 0.5)
    (True, 0.25)
    """

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"

    def sort_key(self, value: float) -> float:
        """Return a number by which values are sorted, the best first."""
        return -value if self is Direction.MAXIMIZE else value

    def better(self, one: float, other: float) -> bool:
        """Return whether one value is better than another."""
        return self.sort_key(one) < self.sort_key(other)

    def advantage(self, one: float, other: float) -> float:
        """Return by how much one value is better than another; below zero if it is worse."""
        return self.sort_key(other) - self.sort_key(one)

    def worsened(self, value: float, amount: float) -> float:
        """Return a value that is worse by an amount.

        >>> Direction.MINIMIZE.worsened(0.25, 0.5), Direction.MAXIMIZE.worsened(0.75, 0.5)
        (0.75, 0.25)
        """
        return self.sort_key(self.sort_key(value) + amount)

    @property
    def mode(self) -> Literal["max", "min"]:
        """Return the name that Lightning gives to the direction."""
        return "max" if self is Direction.MAXIMIZE else "min"
