"""Pareto fronts: the non-dominated points."""

from collections.abc import Mapping, Sequence

from tuner.direction import Direction

__all__ = ["dominates", "pareto_front"]


def dominates(one: Sequence[float], other: Sequence[float], directions: Sequence[Direction]) -> bool:
    """Return whether a point is at least as good as another in every objective, and better in one.

    Args:
        one: The point, a value for each objective.
        other: The other one.
        directions: The directions of the objectives.

    >>> dominates([0.9, 5], [0.8, 5], [Direction.MAXIMIZE, Direction.MINIMIZE])
    True
    """
    keys = [(d.sort_key(a), d.sort_key(b)) for d, a, b in zip(directions, one, other, strict=True)]
    return all(a <= b for a, b in keys) and any(a < b for a, b in keys)


def pareto_front(points: Mapping[int, Sequence[float]], directions: Sequence[Direction]) -> list[int]:
    """Return the keys of the points that no other dominates: the best in the first objective first.

    Of equal points, all are on the front, in the order of their keys.

    >>> pareto_front({0: [0.8, 5], 1: [0.9, 9], 2: [0.7, 7]}, [Direction.MAXIMIZE, Direction.MINIMIZE])
    [1, 0]
    """

    def rank(key: int) -> tuple[list[float], int]:
        return [d.sort_key(value) for d, value in zip(directions, points[key], strict=True)], key

    front: list[int] = []
    for key in sorted(points, key=rank):  # so that no later point dominates an earlier one
        if not any(dominates(points[each], points[key], directions) for each in front):
            front.append(key)
    return front
