"""Parts that the charts share: hover texts, colours, and the range of values that is shown."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

from tuner.analysis.findings import short_name, standard_error, tie_margin
from tuner.analysis.record import FAMILY, Curve, StudyRecord, TrialRecord, resolution
from tuner.direction import Direction
from tuner.text import format_metric, format_value, pluralize
from tuner.visualization.figure import GREY, Dash, Figure, Mark, Scale, Series, Symbol, drawable, style

__all__ = [
    "ACCENT",
    "MAX_CURVES",
    "OF_TRAININGS",
    "Position",
    "beyond_note",
    "error_band",
    "family_color",
    "family_style",
    "hover_text",
    "is_outside",
    "left_out_note",
    "of_trainings",
    "outside_note",
    "placed",
    "points_by_family",
    "tie_band",
    "too_few",
    "value_axis",
    "value_scale",
    "value_window",
]

ACCENT = "#d55e00"
"""The colour of the best trial, used for nothing else."""

MAX_CURVES = 300
"""More curves in one picture are unreadable, and make a page unresponsive."""

Position = Callable[[TrialRecord], float]
"""Returns the place of a trial on an axis, or its value."""

DECADES = 1e3
"""Positive values with a larger ratio are drawn on a log axis."""


def hover_text(trial: TrialRecord, record: StudyRecord) -> str:
    """Return the description of a trial that is shown under the pointer, in lines."""
    reached = "" if math.isnan(trial.value) else f"  {record.metric} {format_metric(trial.value)}"
    how = "" if trial.state == "complete" else f", {trial.state}"
    params = [f"{short_name(name)} {format_value(value)}" for name, value in trial.params.items() if name != FAMILY]
    return "\n".join([f"{trial.name}{reached}{how}", *params])


OF_TRAININGS: set[Callable[[StudyRecord], Figure]] = set()
"""The charts of lr and schedules, which the calls of an objective function do not have."""


def of_trainings(plot: Callable[[StudyRecord], Figure]) -> Callable[[StudyRecord], Figure]:
    """Return a chart of lr and schedules, which has no panels for the calls of an objective function."""

    @functools.wraps(plot)
    def drawn(record: StudyRecord) -> Figure:
        if record.of_function:
            return Figure(plot.__name__, record.name, "the trials are calls of an objective function, without an lr.")
        return plot(record)

    OF_TRAININGS.add(drawn)
    return drawn


def family_style(record: StudyRecord, family: str) -> tuple[str, Dash, Symbol]:
    """Return the colour, the dashes and the symbol that a schedule has in all charts."""
    names = sorted(
        {trial.family for trial in record.trials} | {family}
    )  # so the style stays the same while a study continues
    return style(names.index(family))


def family_color(record: StudyRecord, family: str) -> str:
    """Return the colour that a schedule has in all charts."""
    return family_style(record, family)[0]


def tie_band(record: StudyRecord, low: float, high: float) -> list[Series]:
    """Return the area of values that tie with the best one, from `low` to `high` on the x axis.

    Empty if the standard error is unknown.
    """
    best, error = record.best, standard_error(record)
    if best is None or error is None or low == high:
        return []
    edge = _share(record.direction.worsened(best.value, tie_margin(error)))
    ends = sorted((best.value, edge))
    if ends[0] == ends[1]:
        return []
    label = "a tie with the best: within 2 standard errors"
    return [Series([low, high], [ends[0]] * 2, "band", GREY, label, upper=[ends[1]] * 2)]


def error_band(record: StudyRecord, metric: str, curve: Curve, color: str) -> list[Series]:
    """Return the area of one standard error around an accuracy on the validation images; empty if it is unknown."""
    values = [value for _, value in curve]
    images, step = record.validation_images, resolution(metric, values, record.validation_images)
    if len(values) < 2 or not images or not step:
        return []
    errors = [max(math.sqrt(value * (1 - value) / images), step) for value in values]
    pairs = list(zip(values, errors, strict=True))
    lower, upper = ([_share(value + sign * error) for value, error in pairs] for sign in (-1.0, 1.0))
    return [Series([step for step, _ in curve], lower, "band", color, "± one standard error", upper=upper)]


def _share(value: float) -> float:
    """Return the end of an interval of an accuracy, which reaches from 0 to 1 at most."""
    return min(1.0, max(0.0, value))


def points_by_family(
    record: StudyRecord, trials: Sequence[TrialRecord], places: Mapping[int, float], *, log: bool = False
) -> list[Series]:
    """Return trials as points in the colours of their schedules; those far worse than the others as crosses.

    On a log axis, no trial is far worse.
    """
    series = []
    window = None if log else value_window([trial.value for trial in record.ranking], record.direction)
    for family in record.families:
        members = [trial for trial in trials if trial.family == family]
        inside = [trial for trial in members if not is_outside(trial.value, window)]
        outside = [trial for trial in members if is_outside(trial.value, window)]
        color, _, symbol = family_style(record, family)
        marks: Sequence[tuple[Mark, list[TrialRecord]]] = (("points", inside), ("crosses", outside))
        for mark, group in marks:
            series.append(
                Series(
                    [places[trial.number] for trial in group],
                    [placed(trial.value, window) for trial in group],
                    mark,
                    color,
                    family if group is inside or not inside else "",
                    [hover_text(trial, record) for trial in group],
                    symbol=symbol,
                )
            )
    return [each for each in series if each.x]


def value_scale(record: StudyRecord) -> Scale | None:
    """Return the colour scale of the objective, from the limit of the worst quarter (dull) to the best (bright)."""
    values = sorted((trial.value for trial in record.ranking), key=record.direction.sort_key)
    if not values:
        return None
    worst = values[min(len(values) - 1, math.ceil(0.75 * (len(values) - 1)))]
    return Scale(record.metric, worst, values[0], "" if worst == values[-1] else "without the worst quarter")


def too_few(record: StudyRecord, least: int) -> str:
    """Return a sentence that there are too few completed trials for a figure; empty if there are enough."""
    complete = len(record.ranking)
    return f"Too few trials: this needs {least} completed ones, and there are {complete}." if complete < least else ""


def value_window(
    values: Sequence[float], direction: Direction, trials: int | None = None
) -> tuple[float, float] | None:
    """Return the range of values to show, such that a few very bad ones do not squeeze the others.

    Args:
        values: The values.
        direction: Whether low or high values are good.
        trials: Number of trials that they belong to; None for one value of each trial.
    """
    ranked = sorted((drawable(value) for value in values if math.isfinite(value)), key=direction.sort_key)
    if not ranked or ranked[0] == ranked[-1]:
        return None
    best, worst, median = ranked[0], ranked[-1], ranked[len(ranked) // 2]
    if best != median:
        room = 3 if (len(ranked) if trials is None else trials) >= 8 else 10  # with few trials, each one matters
        worst = min(worst, best - room * (best - median), key=direction.sort_key)
    margin = 0.07 * abs(best - worst)
    return (min(best, worst) - margin, max(best, worst) + margin)


def _log_window(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the limits of a log axis if values need one, because a linear one would hide the smallest; else None.

    >>> _log_window([0.5, 0.1]), _log_window([0.0, 0.1]), _log_window([1e-8, 10.0])
    (None, None, (5e-09, 20.0))
    """
    finite = [drawable(value) for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    return (low / 2, high * 2) if low > 0 and high > DECADES * low else None


def value_axis(
    values: Sequence[float], direction: Direction, trials: int | None = None
) -> tuple[tuple[float, float] | None, bool]:
    """Return the limits of an axis of values, and whether it is a log axis; for the arguments, see `value_window`."""
    window = _log_window(values)
    return (value_window(values, direction, trials), False) if window is None else (window, True)


def beyond_note(*what: str) -> str:
    """Return a sentence about what lies beyond the axes; empty if there is nothing."""
    there = [each for each in what if each]
    if not there:
        return ""
    text = f" Beyond the axes: {' and '.join(there)}; a double-click on the chart shows them."
    return text if len(there) > 1 else text.replace("axes", "axis")


def placed(value: float, window: tuple[float, float] | None) -> float:
    """Return the position of a value: the edge of the window if it lies outside."""
    value = drawable(value)
    return value if window is None else min(window[1], max(window[0], value))


def is_outside(value: float, window: tuple[float, float] | None) -> bool:
    """Return whether a value lies outside the window."""
    return window is not None and not window[0] <= drawable(value) <= window[1]


def outside_note(record: StudyRecord) -> str:
    """Return a sentence that explains the crosses; empty if there are none."""
    values = [trial.value for trial in record.ranking]
    window = value_window(values, record.direction)
    count = sum(is_outside(value, window) for value in values)
    if not count:
        return ""
    text = f" Crosses at the edge: {pluralize(count, 'trial')} far worse than the others; "
    return text + "point at them for their values."


def left_out_note(count: int) -> str:
    """Return a sentence about trials without a curve in a chart; empty if there are none."""
    if count <= 0:
        return ""
    return f" Not shown: the {pluralize(count, 'worst trial')} (see the trials page in MLflow)."
