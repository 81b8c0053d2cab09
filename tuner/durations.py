"""Durations as people write them."""

import re

from tuner.document import shown

__all__ = ["parse_duration"]

MAX_SECONDS = 1e9


def parse_duration(value: str | int | float) -> float:
    """Return a duration in seconds.

    Raises:
        ValueError: If it is not a number of seconds or a text such as ``90s``, ``30m`` or ``1h30m``.

    >>> parse_duration("1h30m"), parse_duration(90)
    (5400.0, 90.0)
    """
    number = r"([0-9]+(?:\.[0-9]+)?)"
    text = str(value).strip()
    parts = re.fullmatch(rf"(?:{number}d)?(?:{number}h)?(?:{number}m)?(?:{number}s)?|{number}", text)
    amounts = [float(part or 0) for part in parts.groups()] if parts else []
    seconds = sum(amount * unit for amount, unit in zip(amounts, (86400, 3600, 60, 1, 1), strict=False))
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"{shown(value)} is not a duration; write 90s, 30m, 2h or 1h30m")
    return seconds
