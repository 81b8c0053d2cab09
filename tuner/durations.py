"""Durations as people write them."""

import re

from tuner.config.document import shown

__all__ = ["parse_duration"]

MAX_SECONDS = 1e9


def parse_duration(value: str | int | float, may_be_zero: bool = False) -> float:
    """Return a duration in seconds, more than none unless it may be zero.

    Raises:
        ValueError: If it is not a number of seconds or a text such as ``90s``, ``30m`` or ``1h30m``.

    >>> parse_duration("1h30m"), parse_duration(90)
    (5400.0, 90.0)
    """
    number = r"([0-9]+(?:\.[0-9]+)?)"
    text = str(value).strip()
    parts = re.fullmatch(rf"(?:{number}d)?(?:{number}h)?(?:{number}m)?(?:{number}s)?|{number}", text)
    amounts = [float(part or 0) for part in parts.groups()] if parts else []
    is_given = parts is not None and any(parts.groups())
    seconds = sum(amount * unit for amount, unit in zip(amounts, (86400, 3600, 60, 1, 1), strict=False))
    if not is_given or seconds > MAX_SECONDS or (seconds == 0 and not may_be_zero):
        raise ValueError(f"{shown(value)} is not a duration; write 90s, 30m, 2h or 1h30m")
    return seconds
