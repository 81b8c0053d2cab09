"""Charts of the course of a study: the values of its trials epoch by epoch, the best value so far, its time."""

import math
from collections.abc import Sequence

from tuner.analysis.findings import duration
from tuner.analysis.record import StudyRecord, TrialRecord
from tuner.text import format_metric
from tuner.visualization.figure import COLORS, GREY, Dash, Figure, Panel, Series, Symbol, style
from tuner.visualization.parts import (
    ACCENT,
    MAX_CURVES,
    Position,
    beyond_note,
    hover_text,
    is_outside,
    left_out_note,
    outside_note,
    placed,
    points_by_family,
    tie_band,
    value_axis,
    value_scale,
)

__all__ = ["best_so_far", "compare", "intermediate_values", "timeline"]

ENDS: dict[str, tuple[str, Dash, Symbol]] = {
    "complete": (COLORS[0], "solid", "circle"),
    "pruned": (COLORS[3], "dash", "triangle-down"),
    "diverged": (COLORS[2], "dot", "diamond"),
    "failed": (GREY, "dashdot", "square"),
}
"""Colour, dashes and symbol of a trial, by how it ended."""


def intermediate_values(record: StudyRecord) -> Figure:
    """Show the objective of every trial after each of its epochs."""
    unit = "step" if record.of_function else "epoch"
    title = f"{record.metric} of each trial after each {unit}"
    ordered = [*record.ranking, *(trial for trial in record.trials if not trial.is_complete)]
    ordered = [trial for trial in ordered if trial.reported]
    if not ordered:
        return Figure(
            "intermediate_values",
            title,
            "No trial has reported a value." if record.of_function else "No trial has completed an epoch yet.",
        )
    drawn, scale, best = ordered[:MAX_CURVES], value_scale(record), record.best
    shown = [value for trial in drawn for _, value in trial.reported]
    window, is_log = value_axis(shown, record.direction, len(drawn))
    series = []
    for trial in reversed(drawn):  # the best is drawn on top
        is_best = trial == best
        color = ACCENT if is_best else scale.color(trial.value) if scale and trial.is_complete else GREY
        series.append(
            Series(
                [epoch for epoch, _ in trial.reported],
                [value for _, value in trial.reported],
                color=color,
                label=f"best: #{trial.number}" if is_best else "",
                hover=[
                    f"{hover_text(trial, record)}\n{unit} {epoch}: {format_metric(value)}"
                    for epoch, value in trial.reported
                ],
                width=2.2 if is_best else 1.0,
                marked=is_best or len(trial.reported) == 1,
                dash="solid" if trial.is_complete else ENDS[trial.state][1],
            )
        )
    for state, (_, _, symbol) in ENDS.items():
        ends = [trial for trial in drawn if trial.state == state != "complete"]
        places = [placed(trial.reported[-1][1], window) for trial in ends]
        hover = [hover_text(trial, record) for trial in ends]
        if ends:
            epochs = [trial.reported[-1][0] for trial in ends]
            series.append(Series(epochs, places, "points", GREY, state, hover, symbol=symbol))
    panel = Panel(series, "", unit, record.metric, y_range=window, log_y=is_log)
    caption = f"Bright lines ended with a good {record.metric}; dashed grey ones were not trained to the end."
    if any(is_outside(value, window) for trial in drawn for _, value in trial.reported):
        caption += beyond_note("values that are far worse")
    caption += left_out_note(len(ordered) - len(drawn))
    return Figure("intermediate_values", title, caption, [panel], height=3.6, scale=scale)


def timeline(record: StudyRecord) -> Figure:
    """Show when each trial ran."""
    title = "Timeline of the trials"
    if not record.trials:
        return Figure("timeline", title, "No trial has ended yet.")
    unit, unit_name = _unit(record)
    series, width = [], max(1.0, min(3.5, 160 / len(record.trials)))
    for state, (color, _, symbol) in ENDS.items():
        trials = [trial for trial in record.trials if trial.state == state]
        if not trials:
            continue
        parts = [(trial.number, *span) for trial in trials for span in _spans(trial)]
        times = [time for _, began, ended in parts for time in (began / unit, ended / unit, math.nan)]
        places = [place for number, *_ in parts for place in (number, number, math.nan)]
        series.append(Series(times, places, "line", color, width=width))
        hover = [f"{hover_text(trial, record)}\ntrained for {duration(trial.seconds)}" for trial in trials]
        ends, numbers = [_spans(trial)[-1][1] / unit for trial in trials], [trial.number for trial in trials]
        series.append(Series(ends, numbers, "points", color, state, hover, symbol=symbol))
    if best := record.best:
        label = f"best: #{best.number}"
        times = [time for began, ended in _spans(best) for time in (began / unit, ended / unit, math.nan)]
        places = [place for _ in _spans(best) for place in (best.number, best.number, math.nan)]
        series.append(Series(times, places, "line", ACCENT, label, [label] * len(times), width + 1))
    last = max(trial.number for trial in record.trials)
    end = max(_spans(trial)[-1][1] for trial in record.trials) / unit
    x_range = (0.0, 1.03 * end) if end > 0 else None
    panel = Panel(
        series,
        "",
        f"{unit_name} since the study began",
        "trial",
        x_range=x_range,
        y_range=(last + 0.8, -0.8),
        counts_y=True,
    )
    caption = (
        "Each line is a run; in its gaps, the trial waited at a rung, or the study was interrupted. Trials "
        "that are trained as one model run at the same time."
    )
    height = max(2.2, min(7.0, 1.2 + 0.1 * len(record.trials)))
    return Figure("timeline", title, caption, [panel], height=height)


def _spans(trial: TrialRecord) -> Sequence[tuple[float, float]]:
    return trial.spans or [(trial.began, trial.ended)]


def best_so_far(record: StudyRecord) -> Figure:
    """Show how the best value improved with trials and with time."""
    title = f"Best {record.metric} so far"
    complete = [trial for trial in record.trials if trial.is_complete]
    if not complete:
        return Figure("best_so_far", title, "No trial has completed.")
    unit, unit_name = _unit(record)
    axes: Sequence[tuple[str, Position]] = (
        ("trials", lambda trial: trial.number + 1.0),
        (f"{unit_name} since the study began", lambda trial: trial.ended / unit),
    )
    panels: list[Panel] = []
    window, is_log = value_axis([trial.value for trial in complete], record.direction)
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
        points = points_by_family(record, ordered, {trial.number: place(trial) for trial in ordered}, log=is_log)
        band = tie_band(record, min(map(place, ordered)), end)
        panels.append(
            Panel(
                [*band, *points, best],
                "",
                label,
                record.metric,
                log_y=is_log,
                y_range=window,
            )
        )
    caption = "After a long flat stretch, more trials are unlikely to improve much." + (
        "" if is_log else outside_note(record)
    )
    return Figure("best_so_far", title, caption, panels, columns=2, height=3.4, shared_y=True)


def compare(records: Sequence[StudyRecord]) -> Figure:
    """Show the best value so far of studies with the same objectives."""
    title, series = "Best so far", []
    for index, record in enumerate(records):
        color, dash, _ = style(index)
        improved = _improved(record, [trial for trial in record.trials if trial.is_complete])
        if improved:
            x = [*(trial.number + 1.0 for trial in improved), max(trial.number for trial in record.trials) + 1.0]
            y = [*(trial.value for trial in improved), improved[-1].value]
            hover = [f"{record.name}: {format_metric(value)}" for value in y]
            series.append(Series(x, y, "steps", color, record.name, hover, 2, dash=dash))
    values = [value for each in series for value in each.y]
    if not values:
        return Figure("compare", title, "No trial has completed.")
    window, is_log = value_axis(values, records[0].direction)
    panel = Panel(series, "", "trials", records[0].metric, y_range=window, log_y=is_log)
    caption = "Values are comparable only between studies with the same validation data."
    return Figure("compare", title, caption, [panel], height=3.6)


def _improved(record: StudyRecord, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that were the best so far when they ended."""
    improved: list[TrialRecord] = []
    for trial in trials:
        if not improved or record.direction.better(trial.value, improved[-1].value):
            improved.append(trial)
    return improved


def _unit(record: StudyRecord) -> tuple[float, str]:
    longest = max((trial.ended for trial in record.trials), default=0.0)
    return next(
        (unit, name)
        for unit, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
        if longest >= 2 * unit or unit == 1.0
    )
