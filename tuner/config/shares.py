"""Values of a search space by the share of their range: 0 is its low end, 1 its high end, on its own scale."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tuner.config.search_space import Choices, Range

__all__ = ["ShareSuggester", "share_of"]


class ShareSuggester:
    """Suggests the values at given shares of the ranges.

    Args:
        share: Takes the name of a parameter in Optuna, and returns the share of its range, in [0, 1).
        fixed: Values that are suggested as they are, by the names in Optuna.

    Attributes:
        drawn: The suggested values, by their names in Optuna.
    """

    def __init__(self, share: Callable[[str], float], fixed: Mapping[str, Any] | None = None) -> None:
        self.drawn: dict[str, Any] = {}
        self._share, self._fixed = share, fixed or {}

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Return a whole number."""
        if name in self._fixed:
            return int(self.drawn.setdefault(name, self._fixed[name]))
        share = self._share(name)
        number = round(low * (high / low) ** share) if log else low + step * int(share * ((high - low) // step + 1))
        return int(self.drawn.setdefault(name, number))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return a number."""
        if name in self._fixed:
            return float(self.drawn.setdefault(name, self._fixed[name]))
        share = self._share(name)
        if log:
            number = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        elif step:
            number = low + step * int(share * (round((high - low) / step) + 1))
        else:
            number = low + share * (high - low)
        return float(self.drawn.setdefault(name, min(max(number, low), high)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices."""
        if name in self._fixed:
            return self.drawn.setdefault(name, self._fixed[name])
        return self.drawn.setdefault(name, choices[int(self._share(name) * len(choices))])


def share_of(spec: Range | Choices, value: Any) -> float:
    """Return the share at which a value lies; of a choice, the middle of its part.

    >>> share_of(Range(1e-4, 1e-2, log=True), 1e-3), share_of(Choices(("a", "b")), "b")
    (0.5, 0.75)
    """
    if isinstance(spec, Choices):
        return (spec.values.index(value) + 0.5) / len(spec.values)
    scale = math.log if spec.log else float
    return (scale(value) - scale(spec.low)) / (scale(spec.high) - scale(spec.low))
