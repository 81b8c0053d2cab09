"""The points of a run that are already stored, in memory that does not grow with the number of steps."""

from collections.abc import Iterable

__all__ = ["SentPoints"]

MOST_RANGES = 16


class SentPoints:
    """A set of metrics and steps.

    Metrics are logged at every step, at every tenth, or at the end of each epoch, so their steps form a few ranges.
    Irregular steps are stored one by one.

    Args:
        points: Metrics and steps to begin with.
    """

    def __init__(self, points: Iterable[tuple[str, int]] = ()) -> None:
        self._ranges: dict[str, list[range]] = {}
        self._others: dict[str, set[int]] = {}
        for metric, step in points:
            self.add(metric, step)

    def __contains__(self, point: tuple[str, int]) -> bool:
        """Return whether a metric has a point at a step."""
        metric, step = point
        return any(step in each for each in self._ranges.get(metric, ())) or step in self._others.get(metric, ())

    def add(self, metric: str, step: int) -> None:
        """Add a point."""
        if (metric, step) in self:
            return
        ranges = self._ranges.setdefault(metric, [])
        last = ranges[-1] if ranges else None
        if last is not None and len(last) == 1:
            stride = step - last[0]
            ranges[-1] = range(last[0], step + stride, stride)
        elif last is not None and step == last[-1] + last.step:
            ranges[-1] = range(last[0], step + last.step, last.step)
        elif len(ranges) < MOST_RANGES:
            ranges.append(range(step, step + 1))
        else:
            self._others.setdefault(metric, set()).add(step)

    def copy(self) -> "SentPoints":
        """Return a copy."""
        other = SentPoints()
        other._ranges = {metric: list(ranges) for metric, ranges in self._ranges.items()}
        other._others = {metric: set(steps) for metric, steps in self._others.items()}
        return other
