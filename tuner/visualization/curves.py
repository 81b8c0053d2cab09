"""Charts over steps, trials and time: learning rates, accuracies, the best value so far."""

import itertools
from collections.abc import Callable, Sequence

from tuner.analysis.record import Curve, StudyRecord, TrialRecord
from tuner.text import pluralize
from tuner.visualization.figure import COLORS, GREY, Figure, Panel, Series
from tuner.visualization.parts import (
    ACCENT,
    MAX_CURVES,
    family_color,
    hover_text,
    outside_note,
    placed,
    points_by_family,
    value_scale,
    value_window,
)

__all__ = ["best_of_each", "best_so_far", "compare", "lr_curves", "top_trials", "winner"]

TOP = 5
SCHEDULED = {"lr": "Learning rate", "momentum": "Momentum", "weight_decay": "Weight decay"}

Position = Callable[[TrialRecord], float]


def lr_curves(record: StudyRecord) -> Figure:
    """Show the lr of every trial, a panel for each schedule."""
    title = "Learning rates of all trials"
    drawn = [trial for trial in record.trials if trial.curves.get("lr")]
    if not drawn:
        return Figure("lr_curves", title, "No trial has taken a step yet.")
    by_rank = {trial.number: rank for rank, trial in enumerate(record.ranking)}
    drawn.sort(key=lambda trial: by_rank.get(trial.number, len(by_rank)))
    left_out = len(drawn) - MAX_CURVES
    drawn = drawn[:MAX_CURVES]
    scale, best = value_scale(record), record.best
    log, y_range = _lr_axis(drawn)
    panels = []
    for family in [family for family in record.families if any(trial.family == family for trial in drawn)]:
        members = [trial for trial in reversed(drawn) if trial.family == family]  # the best on top
        series = []
        for trial in members:
            color = scale.color(trial.value) if scale and trial.is_complete else GREY
            series.append(_curve(trial, "lr", color, width=1.0, positive=log, hover=hover_text(trial, record)))
        if best in members:
            series.append(
                _curve(best, "lr", ACCENT, width=2.2, positive=log, label=f"best: #{best.number}", hover="the best")
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
        f"Bright curves ended with a good {record.metric}; grey ones were not completed."
        + (" The colour scale begins above the worst quarter." if scale and len(record.ranking) > 3 else "")
        + (f" Not shown: the {left_out} worst trials." if left_out > 0 else "")
    )
    columns = min(3, len(panels))
    return Figure(
        "lr_curves", title, caption, panels, columns, height=2.9, shared_y=True, scale=scale, width=4 + 2.4 * columns
    )


def top_trials(record: StudyRecord) -> Figure:
    """Show lr and objective of the best trials, one above the other."""
    title = f"The best trials: lr above, {record.metric} below"
    caption = f"Where a curve below bends, look at the lr above. {record.metric} is measured at the end of each epoch."
    return _lr_and_value(record, "top_trials", title, caption, record.ranking[:TOP])


def best_of_each(record: StudyRecord) -> Figure:
    """Show lr and objective of the best trial of each schedule, one above the other."""
    title = f"The best trial of each schedule: lr above, {record.metric} below"
    first = {trial.family: trial for trial in reversed(record.ranking)}
    best = sorted(first.values(), key=record.ranking.index)[: len(COLORS)]
    if len(best) == 1:
        return Figure("best_of_each", title, "Only one schedule has a trial that was completed.")
    caption = "One trial each: their differences include the luck of one seed."
    return _lr_and_value(record, "best_of_each", title, caption, best)


def winner(record: StudyRecord) -> Figure:
    """Show how the best trial learned, on training and on validation data."""
    best = record.best
    if best is None:
        return Figure("winner", "The best trial", "No trial was completed.")
    panels = []
    for kind, name in (("acc", "accuracy"), ("loss", "loss")):
        series = [
            _curve(best, f"{part}/{kind}", color, width=1.8, label=label, hover=label)
            for part, color, label in (("train", COLORS[0], "training"), ("val", COLORS[1], "validation"))
            if best.curves.get(f"{part}/{kind}")
        ]
        if series:
            panels.append(Panel(series, name.capitalize(), "step", name))
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
        for metric, color in zip(metrics, (COLORS[2], *COLORS[3:], *COLORS[:2]), strict=False):
            label = (metric.partition("/")[2] or "the rest") if len(metrics) > 1 else ""
            series.append(_curve(trial, metric, color, hover=metric, label=label))
        highest = max(value for metric in metrics for _, value in trial.curves[metric])
        panels.append(Panel(series, title, "step", kind, y_range=(0.0, 1.08 * highest or 1.0)))
    return panels


def best_so_far(record: StudyRecord) -> Figure:
    """Show how the best value improved with trials and with time."""
    title = f"Best {record.metric} so far"
    complete = [trial for trial in record.trials if trial.is_complete]
    if not complete:
        return Figure("best_so_far", title, "No trial was completed.")
    unit, unit_name = _unit(record)
    axes: Sequence[tuple[str, Position]] = (
        ("trials", lambda trial: trial.number + 1.0),
        (f"{unit_name} since the study began", lambda trial: trial.ended / unit),
    )
    panels: list[Panel] = []
    for label, place in axes:
        ordered = sorted(complete, key=place)
        improved = _improved(record, ordered)
        end = max(place(trial) for trial in record.trials)
        best = Series(
            [place(trial) for trial in improved] + [end],
            [trial.value for trial in improved] + [improved[-1].value],
            "steps",
            ACCENT,
            hover=[f"best so far: {hover_text(trial, record)}" for trial in [*improved, improved[-1]]],
            width=2,
            label="best so far",
        )
        points = points_by_family(record, ordered, {trial.number: place(trial) for trial in ordered})
        panels.append(
            Panel(
                [*points, best],
                "",
                label,
                record.metric,
                y_range=value_window([trial.value for trial in ordered], record),
            )
        )
    caption = "After a long flat stretch, more trials are unlikely to improve much." + outside_note(record)
    return Figure("best_so_far", title, caption, panels, columns=2, height=3.4, shared_y=True)


def compare(records: Sequence[StudyRecord]) -> Figure:
    """Show the best value so far of several studies."""
    title = "Best so far"
    if len({(record.metric, record.direction) for record in records}) != 1:
        return Figure("compare", title, "The studies have different objectives.")
    series = []
    for record, color in zip(records, COLORS, strict=False):
        improved = _improved(record, [trial for trial in record.trials if trial.is_complete])
        if improved:
            x = [*(trial.number + 1.0 for trial in improved), max(trial.number for trial in record.trials) + 1.0]
            y = [*(trial.value for trial in improved), improved[-1].value]
            hover = [f"{record.name}: {value:.4f}" for value in y]
            series.append(Series(x, y, "steps", color, record.name, hover, 2))
    values = [value for each in series for value in each.y]
    if not values:
        return Figure("compare", title, "No trial was completed.")
    panel = Panel(series, "", "trials", records[0].metric, y_range=value_window(values, records[0]))
    caption = "Values are comparable only between studies with the same validation data."
    return Figure("compare", title, caption, [panel], height=3.6)


def _lr_and_value(record: StudyRecord, name: str, title: str, caption: str, trials: Sequence[TrialRecord]) -> Figure:
    trials = [trial for trial in trials if trial.curves.get("lr")]
    if not trials:
        return Figure(name, title, "No trial was completed.")
    log, y_range = _lr_axis(trials)
    families = {trial.family for trial in trials}
    distinct = len(families) == len(trials)  # otherwise trials of one family would have the same colour
    upper, lower = [], []
    for trial, next_color in zip(trials, COLORS, strict=False):
        label = f"{trial.name}  {trial.value:.4f}"
        color = family_color(record, trial.family) if distinct else next_color
        upper.append(_curve(trial, "lr", color, label=label, hover=label, positive=log))
        lower.append(_curve(trial, record.metric, color, width=1.8, hover=label))
    later = [value for trial in trials for _, value in list(trial.curves.get(record.metric, ()))[1:]]
    window = value_window(later or [trial.value for trial in trials], record)
    panels = [
        Panel(upper, "", "", "lr", log_y=log, y_range=y_range),
        Panel(lower, "", "step", record.metric, y_range=window),
    ]
    if any(placed(y, window) != y for series in lower for y in series.y):
        caption += " Values beyond the axis are far worse."
    return Figure(name, title, caption, panels, height=2.9, shared_x=True)


def _curve(
    trial: TrialRecord,
    metric: str,
    color: str,
    *,
    hover: str,
    width: float = 1.5,
    label: str = "",
    positive: bool = False,
) -> Series:
    curve: Curve = [(step, value) for step, value in trial.curves.get(metric, ()) if value > 0 or not positive]
    is_scheduled = metric.partition("/")[0] in SCHEDULED
    if is_scheduled:
        curve = _with_jumps(curve)
    steps, values = [step for step, _ in curve], [value for _, value in curve]
    return Series(steps, values, "line", color, label, [hover] * len(steps), width, not is_scheduled)


def _with_jumps(curve: Curve) -> Curve:
    """Return a curve that keeps its value between consecutive steps and then jumps, as the lr does."""
    drawn = list(curve[:1])
    for (step, value), point in itertools.pairwise(curve):
        if point[0] == step + 1 and point[1] != value:
            drawn.append((point[0], value))
        drawn.append(point)
    return drawn


def _improved(record: StudyRecord, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that were the best so far when they ended."""
    improved: list[TrialRecord] = []
    for trial in trials:
        if not improved or record.direction.better(trial.value, improved[-1].value):
            improved.append(trial)
    return improved


def _lr_axis(trials: Sequence[TrialRecord]) -> tuple[bool, tuple[float, float]]:
    """Return whether learning rates need a log scale, because a linear one would hide some, and its limits.

    Many schedules end close to zero; two decades below the highest lr of a trial are shown.
    """
    highest = [max(lr for _, lr in trial.curves["lr"]) for trial in trials]
    rates = [lr for trial in trials for _, lr in trial.curves["lr"] if lr > 0]
    if not rates or max(highest) <= 4 * min(highest):
        return False, (0.0, 1.08 * max(highest) or 1.0)
    lowest = max(min(rates), min(lr for lr in highest if lr > 0) / 100)
    return True, (lowest / 1.5, max(rates) * 1.5)


def _unit(record: StudyRecord) -> tuple[float, str]:
    longest = max((trial.ended for trial in record.trials), default=0.0)
    return next(
        (unit, name)
        for unit, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
        if longest >= 2 * unit or unit == 1.0
    )
