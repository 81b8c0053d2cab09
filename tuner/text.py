"""Numbers, names, values and durations as text; durations from text."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "cut",
    "fitting",
    "format_interval",
    "format_metric",
    "format_objective",
    "format_probability",
    "format_value",
    "join_names",
    "parse_duration",
    "pluralize",
    "shown",
    "two_columns",
]

SMALL, LARGE = 1e-3, 1e6  # below and from which a metric has no fixed number of decimals
COUNT, INEXACT = 10, 1e15  # whole numbers from the first to the second are shown as counts
MAX_SHOWN = 60
MAX_SECONDS = 1e9
NARROW = 30  # columns; the minimum width of a text next to its key


def pluralize(number: int, what: str) -> str:
    """Return a number and a noun, in the plural unless the number is 1.

    >>> pluralize(1, "trial"), pluralize(2, "trial")
    ('1 trial', '2 trials')
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


def join_names(names: Sequence[str], most: int = 3) -> str:
    """Return names joined as in a sentence; only the first of many.

    >>> join_names(["a", "b"]), join_names(["a", "b", "c", "d", "e"]), join_names(["a", "b, twice", "c"])
    ('a and b', 'a, b, c and 2 more', 'a; b, twice and c')
    """
    shown = [*names[:most], f"{len(names) - most} more"] if len(names) > most else names
    separator = "; " if any(", " in name for name in shown) else ", "
    return " and ".join([*([separator.join(shown[:-1])] if len(shown) > 1 else []), shown[-1]])


def format_value(value: Any) -> str:
    """Return the value of a parameter; a number has four significant digits.

    >>> format_value(0.0183156), format_value(3.2e-05), format_value("same")
    ('0.01832', '3.2e-05', 'same')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_metric(value: float | None) -> str:
    """Return the value of a metric: with four decimals, or three significant digits if it is very small or large.

    None is an empty string.

    >>> format_metric(0.98765), format_metric(0.000123), format_metric(4.26e-16), format_metric(-12345678.9)
    ('0.9877', '0.000123', '4.26e-16', '-1.23e+07')
    >>> format_metric(0.0), format_metric(None)
    ('0.0000', '')
    """
    if value is None:
        return ""
    return f"{value:.3g}" if 0 < abs(value) < SMALL or abs(value) >= LARGE else f"{value:.4f}"


def format_interval(bounds: Sequence[float]) -> str:
    """Return the bounds of an interval of a metric.

    >>> format_interval([0.8, 1.0])
    '0.8000 to 1.0000'
    """
    return " to ".join(map(format_metric, bounds))


def format_objective(value: float) -> str:
    """Return the value of an objective: a count as a whole number, anything else as a metric.

    >>> format_objective(0.98765), format_objective(12850.0), format_objective(1.0), format_objective(1e308)
    ('0.9877', '12,850', '1.0000', '1e+308')
    """
    return f"{value:,.0f}" if value.is_integer() and COUNT <= abs(value) < INEXACT else format_metric(value)


def format_probability(probability: float) -> str:
    """Return a probability in percent, never 0% or 100%.

    >>> format_probability(0.873), format_probability(0.9999), format_probability(0.0001)
    ('87%', 'more than 99%', 'less than 1%')
    """
    return "more than 99%" if probability > 0.99 else "less than 1%" if probability < 0.01 else f"{probability:.0%}"


def shown(value: Any) -> str:
    """Return a value for a message, as it can be written in a study file; a long one is cut.

    >>> shown(["a", 1e-3, None])
    '["a", 0.001, null]'
    """
    return cut(json.dumps(value, ensure_ascii=False, default=repr))


def cut(text: str) -> str:
    """Return a text, or the beginning of a long one."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def fitting(widths: Sequence[int], importances: Sequence[int], available: int) -> list[int]:
    """Return the columns of a table that fit into a width, with two spaces between them.

    Args:
        widths: The width of each column; empty columns take no space.
        importances: 0 for columns that are always shown; columns with the largest number are dropped first.
        available: The width.

    >>> fitting([4, 10, 6], [0, 2, 1], 80), fitting([4, 10, 6], [0, 2, 1], 20), fitting([4, 10, 6], [0, 2, 1], 5)
    ([0, 1, 2], [0, 2], [0])
    """
    kept = [index for index, width in enumerate(widths) if width]
    while kept and sum(widths[index] for index in kept) + 2 * (len(kept) - 1) > available:
        least = max(kept, key=lambda index: (importances[index], index))
        if importances[least] == 0:
            break
        kept.remove(least)
    return kept


def two_columns(rows: Mapping[str, str], available: int) -> list[str]:
    """Return the lines of a table of keys and texts.

    The texts are wrapped at words, next to the keys or, if that leaves little room, below them. Keys are not wrapped.

    Args:
        rows: The texts by their keys.
        available: The width.

    >>> two_columns({"show x": "its findings", "report x": ""}, 80), two_columns({"show x": "its findings"}, 20)
    (['  show x    its findings', '  report x'], ['  show x', '      its findings'])
    """
    space, available = max(map(len, rows)) + 2, max(1, available)
    is_narrow = available - space - 2 < max(map(len, rows.values())) and available - space < NARROW
    lines = []
    for key, text in rows.items():
        if is_narrow:
            lines += [f"  {key}", *textwrap.wrap(text, available, initial_indent=" " * 6, subsequent_indent=" " * 6)]
        else:
            first, *others = textwrap.wrap(text, max(1, available - space - 2)) or [""]
            lines += [f"  {key:<{space}}{first}".rstrip(), *(" " * (space + 2) + other for other in others)]
    return lines


def parse_duration(value: str | int | float, may_be_zero: bool = False) -> float:
    """Return a duration in seconds, which is above 0 unless `may_be_zero`.

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
