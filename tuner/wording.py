"""Numbers and what they count, as people write them."""

from typing import Any

__all__ = ["brief", "counted"]


def counted(number: int, what: str) -> str:
    """Return a number and what it counts.

    >>> counted(1, "trial"), counted(2, "trial")
    ('1 trial', '2 trials')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def brief(value: Any) -> str:
    """Return the value of a parameter, a number in four digits.

    >>> brief(0.0183156), brief(3.2e-05), brief("same")
    ('0.01832', '3.2e-05', 'same')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)
