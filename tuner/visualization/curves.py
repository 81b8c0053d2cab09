"""Charts of the learning rates and metrics of trials over their steps."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from tuner.analysis.record import Curve, StudyRecord, TrialRecord
from tuner.text import format_metric, pluralize
from tuner.visualization.figure import COLORS, DASHES, GREY, Dash, Figure, Panel, Series, style
from tuner.visualization.parts import (
    ACCENT,
    MAX_CURVES,
    beyond_note,
    error_band,
    family_style,
    hover_text,
    is_outside,
    left_out_note,
    of_trainings,
    value_scale,
    value_window,
)

__all__ = ["best_of_each", "lr_curves", "top_trials", "winner"]

TOP = 5
SCHEDULED = {"lr": "Learning rate", "momentum": "Momentum", "weight_decay": "Weight decay"}
SMOOTH = 0.25  # a step whose neighbours' slopes are below this share of its own is a jump
RATIO = 1.15  # ratio of neighbouring points of a straight line, which is a curve on a log axis
METRICS = {
    "acc": "accuracy",
    "f1": "F1",
    "exact_match": "exact match",
    "hamming_loss": "Hamming loss",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "loss": "loss",
}
"""Metrics of training and validation that are drawn, and their names."""


@of_trainings
def lr_curves(record: StudyRecord) -> Figure:
    """Show the lr of every trial, a panel for each schedule."""
    title = "Learning rates of all trials"
    drawn = [trial for trial in record.trials if trial.curves.get("lr")]
    if not drawn:
        return Figure("lr_curves", title, "No trial has taken a step yet.")
    by_rank = {trial.number: rank for rank, trial in enumerate(record.ranking)}
    drawn.sort(key=lambda trial: by_rank.get(trial.number, len(by_rank)))
    drawn = drawn[:MAX_CURVES]  # curves of further trials are not read
    left_out = sum(trial.epochs > 0 for trial in record.trials) - len(drawn) if len(drawn) == MAX_CURVES else 0
    scale, best = value_scale(record), record.best
    log, y_range = _lr_axis(drawn)
    lowest = y_range[0] if log else None
    panels = []
    for family in [family for family in record.families if any(trial.family == family for trial in drawn)]:
        members = [trial for trial in reversed(drawn) if trial.family == family]  # the best is drawn on top
        series = []
        for trial in members:
            color = scale.color(trial.value) if scale and trial.is_complete else GREY
            dash: Dash = "solid" if trial.is_complete else "dot"
            hover = hover_text(trial, record)
            series.append(_curve(trial, "lr", color, width=1.0, lowest=lowest, hover=hover, dash=dash))
        if best in members:
            series.append(
                _curve(best, "lr", ACCENT, width=2.2, lowest=lowest, label=f"best: #{best.number}", hover="the best")
            )
        panels.append(
            Panel(
                series,
                f"{family} ({pluralize(len(members), 'trial')})",
                "step",
                "lr",
                log_y=log,
                y_range=y_range,
            )
        )
    caption = (
        f"Bright curves ended with a good {record.metric}; grey, dotted ones are of trials that did not complete."
        + left_out_note(left_out)
        + beyond_note(_below(drawn, lowest))
    )
    columns = min(3, len(panels))
    return Figure(
        "lr_curves", title, caption, panels, columns, height=2.9, shared_y=True, scale=scale, width=4 + 2.4 * columns
    )


@of_trainings
def top_trials(record: StudyRecord) -> Figure:
    """Show lr and objective of the best trials, one above the other."""
    count = f"{TOP} " if len(record.by_value) > TOP else ""
    by = f" by {record.metric}" if record.further else ""
    title = f"The {count}best trials{by}: lr above, {record.metric} below"
    caption = f"Where a curve below bends, look at the lr above. {record.metric} is measured at the end of each epoch."
    return _lr_and_value(record, "top_trials", title, caption, record.by_value[:TOP])


@of_trainings
def best_of_each(record: StudyRecord) -> Figure:
    """Show lr and objective of the best trial of each schedule, one above the other."""
    by = f" by {record.metric}" if record.further else ""
    title = f"The best trial of each schedule{by}: lr above, {record.metric} below"
    ranking = record.by_value
    first = {trial.family: trial for trial in reversed(ranking)}
    best = sorted(first.values(), key=ranking.index)
    if len(best) == 1:
        return Figure("best_of_each", title, "Only one schedule has a completed trial.")
    caption = "One trial per schedule, so the differences include the luck of a single seed."
    return _lr_and_value(record, "best_of_each", title, caption, best)


@of_trainings
def winner(record: StudyRecord) -> Figure:
    """Show how the best trial learned, on training and on validation data."""
    best = record.best
    if best is None:
        return Figure("winner", "The best trial", "No trial has completed.")
    panels = []
    for kind, name in METRICS.items():
        series = error_band(record, f"val/{kind}", best.curves.get(f"val/{kind}", ()), COLORS[1])
        for part, index, label in (("train", 0, "training"), ("val", 1, "validation")):
            if best.curves.get(f"{part}/{kind}"):
                color, dash, _ = style(index)
                series.append(_curve(best, f"{part}/{kind}", color, width=1.8, label=label, hover=label, dash=dash))
        if series:
            panels.append(Panel(series, f"{name[0].upper()}{name[1:]}", "step", name))
    panels += _scheduled_panels(best)
    caption = (
        "Training values are means over an epoch, while the weights change and dropout is on; validation values are "
        "from its end. So the validation curve can be better than the training curve."
    )
    title = f"How the best trial learned: {best.name}"
    return Figure("winner", title, caption, panels, columns=min(3, max(1, len(panels))), height=3.0)


def _scheduled_panels(trial: TrialRecord) -> list[Panel]:
    """Return a panel for the lr, and one each for a scheduled momentum and weight decay, with the values of groups."""
    panels = []
    for kind, title in SCHEDULED.items():
        metrics = [metric for metric in trial.curves if metric.partition("/")[0] == kind and trial.curves[metric]]
        if not metrics:
            continue
        series = []
        for index, metric in enumerate(metrics):
            color, dash, _ = style(index + 2) if len(metrics) > 1 else (COLORS[2], DASHES[0], "")
            label = (metric.partition("/")[2] or "the rest") if len(metrics) > 1 else ""
            series.append(_curve(trial, metric, color, hover=metric, label=label, dash=dash))
        highest = max(value for metric in metrics for _, value in trial.curves[metric])
        panels.append(Panel(series, title, "step", kind, y_range=(0.0, 1.08 * highest or 1.0)))
    return panels


def _lr_and_value(record: StudyRecord, name: str, title: str, caption: str, trials: Sequence[TrialRecord]) -> Figure:
    trials = [trial for trial in trials if trial.curves.get("lr")]
    if not trials:
        return Figure(name, title, "No trial has completed.")
    log, y_range = _lr_axis(trials)
    lowest = y_range[0] if log else None
    families = {trial.family for trial in trials}
    distinct = len(families) == len(trials)  # otherwise trials of one family would have the same style
    upper, lower = [], []
    for index, trial in enumerate(trials):
        label = f"{trial.name}  {format_metric(trial.value)}"
        color, dash, symbol = family_style(record, trial.family) if distinct else style(index)
        upper.append(_curve(trial, "lr", color, label=label, hover=label, lowest=lowest, dash=dash))
        shown = _curve(trial, record.metric, color, width=1.8, hover=label, dash=dash)
        lower.append(replace(shown, symbol=symbol))
    band = error_band(record, record.metric, trials[0].curves.get(record.metric, ()), lower[0].color)
    values = [value for trial in trials for _, value in trial.curves.get(record.metric, ())]
    bounds = [value for each in band for value in (*each.y, *each.upper)]
    window = value_window([*values, *bounds] or [trial.value for trial in trials], record.direction, len(trials))
    panels = [
        Panel(upper, "", "", "lr", log_y=log, y_range=y_range),
        Panel([*band, *lower], "", "step", record.metric, y_range=window),
    ]
    has_outside = any(is_outside(y, window) for series in lower for y in series.y)
    caption += beyond_note("values that are far worse" if has_outside else "", _below(trials, lowest))
    return Figure(name, title, caption, panels, height=2.9, shared_x=True)


def _below(trials: Sequence[TrialRecord], lowest: float | None) -> str:
    """Return a name for the learning rates below a log axis; empty if there are none."""
    below = lowest is not None and any(0 < lr < lowest for trial in trials for _, lr in trial.curves["lr"])
    return f"learning rates below {lowest:.1g}" if below else ""


def _curve(
    trial: TrialRecord,
    metric: str,
    color: str,
    *,
    hover: str,
    width: float = 1.5,
    label: str = "",
    lowest: float | None = None,
    dash: Dash = "solid",
) -> Series:
    """Return a metric of a trial as a line; `lowest` is the lower end of a log axis, None for a linear one."""
    curve: Curve = trial.curves.get(metric, ())
    is_scheduled = metric.partition("/")[0] in SCHEDULED
    if is_scheduled:
        curve = _with_jumps(curve)
    drawn = curve if lowest is None else _on_log_axis(curve, lowest)
    steps, values = [step for step, _ in drawn], [value for _, value in drawn]
    return Series(steps, values, "line", color, label, [hover] * len(steps), width, not is_scheduled, dash)


def _on_log_axis(curve: Curve, lowest: float) -> list[tuple[float, float]]:
    """Return a curve of straight lines for a log axis, where these are curved, without its values of zero.

    >>> [(round(step, 1), round(lr, 4)) for step, lr in _on_log_axis([(0, 0.001), (10, 0.0)], 0.0007)]
    [(0, 0.001), (1.1, 0.0009), (2.1, 0.0008), (3.0, 0.0007)]
    """
    drawn: list[tuple[float, float]] = []
    for (step, value), (next_step, next_value) in itertools.pairwise(curve):
        drawn.append((step, value))
        begin, end = max(value, lowest), max(next_value, lowest)
        count = math.ceil(abs(math.log(end / begin)) / math.log(RATIO)) if next_step > step else 0
        for index in range(count + 1):
            height = begin * (end / begin) ** (index / count) if count else begin
            if min(value, next_value) < height < max(value, next_value):
                drawn.append((step + (next_step - step) * (height - value) / (next_value - value), height))
    return [point for point in (*drawn, *curve[-1:]) if point[1] > 0]


def _with_jumps(curve: Curve) -> Curve:
    """Return a curve that keeps its value up to a jump: a change within a step, with hardly any before and after.

    >>> _with_jumps([(0, 0.4), (9, 0.4), (10, 0.2), (19, 0.2)])
    [(0, 0.4), (9, 0.4), (10, 0.4), (10, 0.2), (19, 0.2)]
    >>> _with_jumps([(0, 0.4), (2, 0.2), (3, 0.1), (4, 0.0)])
    [(0, 0.4), (2, 0.2), (3, 0.1), (4, 0.0)]
    """
    slopes = [(value - before) / max(1, step - last) for (last, before), (step, value) in itertools.pairwise(curve)]
    drawn = list(curve[:1])
    for index, ((step, value), point) in enumerate(itertools.pairwise(curve)):
        near = [*slopes[max(0, index - 1) : index], *slopes[index + 1 : index + 2]]
        if point[0] == step + 1 and slopes[index] and all(each / slopes[index] < SMOOTH for each in near):
            drawn.append((point[0], value))
        drawn.append(point)
    return drawn


def _lr_axis(trials: Sequence[TrialRecord]) -> tuple[bool, tuple[float, float]]:
    """Return whether learning rates need a log scale, because a linear one would hide some, and its limits.

    Many schedules end close to zero; two decades below the highest lr of a trial are shown.
    """
    highest = [max(lr for _, lr in trial.curves["lr"]) for trial in trials]
    if max(highest) <= 4 * min(highest):
        return False, (0.0, 1.08 * max(highest) or 1.0)
    smallest = min(lr for trial in trials for _, lr in trial.curves["lr"])
    lowest = max(smallest, min(lr for lr in highest if lr > 0) / 100)
    return True, (lowest / 1.5, max(highest) * 1.5)
