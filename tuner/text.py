"""Numbers and what they count, as people write them."""

from collections.abc import Sequence
from typing import Any

__all__ = ["brief", "counted", "joined", "number", "percent"]


def counted(number: int, what: str) -> str:
    """Return a number and what it counts.

    >>> counted(1, "trial"), counted(2, "trial")
    ('1 trial', '2 trials')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def joined(names: Sequence[str], most: int = 3) -> str:
    """Return names as in a sentence, the first few of many.

    >>> joined(["a", "b"]), joined(["a", "b", "c", "d", "e"])
    ('a and b', 'a, b, c and 2 more')
    """
    shown = [*names[:most], f"{len(names) - most} more"] if len(names) > most else names
    return " and ".join([*([", ".join(shown[:-1])] if len(shown) > 1 else []), shown[-1]])


def brief(value: Any) -> str:
    """Return the value of a parameter, a number in four digits.

    >>> brief(0.0183156), brief(3.2e-05), brief("same")
    ('0.01832', '3.2e-05', 'same')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def number(value: float | None) -> str:
    """Return a value of a metric, or nothing.

    >>> number(0.98765), number(None)
    ('0.9877', '')
    """
    return "" if value is None else f"{value:.4f}"


def percent(probability: float) -> str:
    """Return a probability for people, never as certain.

    >>> percent(0.873), percent(0.9999), percent(0.0001)
    ('87%', 'more than 99%', 'less than 1%')
    """
    return "more than 99%" if probability > 0.99 else "less than 1%" if probability < 0.01 else f"{probability:.0%}"
