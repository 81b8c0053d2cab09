"""Charts of schedules and of all searched parameters at once: values, importance, parallel coordinates."""

import math
from collections.abc import Mapping
from typing import Any

from tuner.analysis.findings import no_importance, short_name
from tuner.analysis.record import FAMILY, StudyRecord, TrialRecord
from tuner.text import format_metric, format_value, join_names, pluralize
from tuner.visualization.axes import axis_of, parameters_of, unnamed_note
from tuner.visualization.figure import GREY, Figure, Panel, Series
from tuner.visualization.parts import (
    ACCENT,
    MAX_CURVES,
    Position,
    family_color,
    hover_text,
    left_out_note,
    of_trainings,
    outside_note,
    placed,
    points_by_family,
    tie_band,
    too_few,
    value_scale,
    value_window,
)

__all__ = ["importance", "parallel_coordinates", "values_by_family"]

MAX_AXES, FEWEST_LINES = 14, 4


@of_trainings
def values_by_family(record: StudyRecord) -> Figure:
    """Show the values that trials of each schedule reached."""
    title = f"{record.metric} by schedule"
    groups = {family: [trial for trial in record.ranking if trial.family == family] for family in record.families}
    groups = {family: members for family, members in groups.items() if members}
    if not groups:
        return Figure("families", title, "No trial has completed.")
    series = tie_band(record, -0.6, len(groups) - 0.4)
    places: dict[int, float] = {}
    for place, (family, members) in enumerate(groups.items()):
        if len(members) > 4:  # quartiles of fewer values say less than the points
            series.append(Series([place], [trial.value for trial in members], "box", family_color(record, family)))
        places |= {  # spread sideways, by the golden ratio
            trial.number: place + 0.36 * ((index * 0.618034 + 0.5) % 1 - 0.5) for index, trial in enumerate(members)
        }
    series += points_by_family(record, record.ranking, places)
    ticks = {
        float(place): f"{family}\n{pluralize(len(members), 'trial')}"
        for place, (family, members) in enumerate(groups.items())
    }
    panel = Panel(
        series,
        "",
        "",
        record.metric,
        x_range=(-0.6, len(groups) - 0.4),
        y_range=value_window([trial.value for trial in record.ranking], record.direction),
        x_ticks=ticks,
    )
    caption = (
        "Points are completed trials; a box holds the middle half. The search samples more where values are good, so "
        "compare the best of each schedule rather than the means." + outside_note(record)
    )
    return Figure("families", title, caption, [panel], height=3.6, width=max(6.0, min(14.0, 2 + 1.4 * len(groups))))


def importance(record: StudyRecord) -> Figure:
    """Show how much each parameter determines whether a trial is among the best."""
    title = "Hyperparameter importance"
    if not record.importances:
        return Figure("importance", title, no_importance(record))
    ordered = sorted(record.importances.items(), key=lambda item: item[1])
    ticks, series, notes = {}, [], []
    longest = max(share for _, share in ordered) or 1.0
    for place, (parameter, share) in enumerate(ordered):
        count = sum(parameter in trial.params for trial in record.ranking)
        conditional = _is_conditional(parameter)
        ticks[float(place)] = short_name(parameter) + (f"\n({pluralize(count, 'trial')})" if conditional else "")
        color = family_color(record, parameter.split(".")[1]) if conditional else GREY
        series.append(
            Series([share], [place], "bars", color, hover=[f"{parameter}: {share:.0%}, {pluralize(count, 'trial')}"])
        )
        notes.append((share + 0.06 * longest, place, f"{share:.0%}"))
    panel = Panel(series, "", "share", "", x_range=(0, 1.12 * longest), y_ticks=ticks, notes=notes)
    complete = len(record.ranking)
    caption = (
        f"How much each parameter separates the tenth of the trials with the best {record.metric} from the rest "
        "(Optuna's PED-ANOVA). Coloured "
        "parameters belong to one schedule and are compared among its trials; parameters of few trials are left out."
        + (f" {complete} trials give a rough estimate; 50 or more give a reliable one." * (complete < 50))
    )
    return Figure("importance", title, caption, [panel], height=max(1.6, 0.4 * len(ordered) + 0.8), width=8.0)


def parallel_coordinates(record: StudyRecord) -> Figure:
    """Show all values of every trial as a line through the parameters."""
    title = f"Parameters and {record.metric} of each trial"
    ranked = record.ranking[:MAX_CURVES]
    parameters = [name for name in parameters_of(record) if any(name in trial.params for trial in ranked)]
    by_importance = sorted(parameters, key=lambda name: -record.importances.get(name, 0.0))
    least = by_importance[MAX_AXES:]
    parameters = [name for name in parameters if name not in least]
    scale = value_scale(record)
    few = too_few(record, FEWEST_LINES)
    if few or not parameters or scale is None:
        return Figure("parallel_coordinates", title, few or "Nothing is searched.")
    absent = -0.13
    axes: list[tuple[str, Position, Mapping[float, str]]] = []
    for name in parameters:
        axes.append(_vertical(name, {trial.number: trial.params.get(name) for trial in ranked}, record, absent))
    values = [trial.value for trial in ranked]
    window = value_window(values, record.direction)
    shown = {trial.number: placed(trial.value, window) for trial in ranked}
    low, high = min(shown.values()), max(shown.values())
    clipped = (" or less" * (low > min(values)), " or more" * (high < max(values)))
    axes.append(
        (
            record.metric,
            lambda trial: (shown[trial.number] - low) / ((high - low) or 1.0),
            {0.0: f"{format_metric(low)}{clipped[0]}", 1.0: f"{format_metric(high)}{clipped[1]}"},
        )
    )
    series = [Series([place, place], [0, 1], color="#b8bec7", width=1.0) for place in range(len(axes))]
    for trial in reversed(ranked):
        is_best = trial == record.best
        series.append(
            Series(
                list(range(len(axes))),
                [at(trial) for _, at, _ in axes],
                color=ACCENT if is_best else scale.color(trial.value),
                hover=[hover_text(trial, record)] * len(axes),
                width=2.4 if is_best else 1.0,
                label=f"best: #{trial.number}" if is_best else "",
            )
        )
    notes = [
        (place, at + (0.035 if at >= 1 else -0.035 if at <= 0 else 0.0), text)
        for place, (_, _, names) in enumerate(axes)
        for at, text in names.items()
    ]
    panel = Panel(
        series,
        x_ticks={float(place): name.replace(" ", "\n") for place, (name, _, _) in enumerate(axes)},
        y_ticks={absent: "has none"} if any(at(trial) == absent for _, at, _ in axes for trial in ranked) else {},
        x_range=(-0.4, len(axes) - 0.6),
        y_range=(absent - 0.07, 1.09),
        notes=notes,
    )
    caption = "Each line is a trial. Where its schedule has no such parameter, the line runs along the bottom."
    if least:
        caption += f" Left out, as the least important: {join_names(list(map(short_name, least)), len(least))}."
    caption += left_out_note(len(record.ranking) - len(ranked)) + unnamed_note(ranked, parameters)
    return Figure(
        "parallel_coordinates",
        title,
        caption,
        [panel],
        height=4.4,
        width=max(8.0, min(18.0, 1.5 * len(axes) + 1)),
        scale=scale,
    )


def _is_conditional(parameter: str) -> bool:
    return parameter.startswith("schedule.") and parameter.count(".") > 1


def _vertical(
    name: str, values: Mapping[int, Any], record: StudyRecord, absent: float
) -> tuple[str, Position, Mapping[float, str]]:
    """Return an axis of parallel coordinates: its name, a trial's position from 0 to 1, and the tick labels."""
    order = record.families[::-1] if name == FAMILY else ()
    place, ticks = axis_of([value for value in values.values() if value is not None], order)
    if record.searched.get(name, False):
        place = math.log10
    places = {number: place(value) for number, value in values.items() if value is not None}
    low, high = min(places.values()), max(places.values())
    spread = high - low

    def at(trial: TrialRecord) -> float:
        if trial.number not in places:
            return absent
        return 0.5 if low == high else (places[trial.number] - low) / spread

    if ticks is not None and low < high:
        return short_name(name), at, {(tick - low) / spread: text for tick, text in ticks.items()}
    numbers = [value for value in values.values() if value is not None]
    if low == high:
        return short_name(name), at, {0.5: format_value(numbers[0])}
    return short_name(name), at, {0.0: format_value(min(numbers)), 1.0: format_value(max(numbers))}
