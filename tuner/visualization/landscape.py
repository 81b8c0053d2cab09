"""Charts of the objective over one parameter, and over two."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tuner.analysis.findings import short_name
from tuner.analysis.record import FAMILY, MIN_FOR_IMPORTANCE, StudyRecord, TrialRecord
from tuner.text import format_metric, format_value, join_names
from tuner.visualization.axes import axis_of, parameters_of, room_for, unnamed_note
from tuner.visualization.figure import COLORS, GREY, SYMBOLS, Figure, Mark, Panel, Scale, Series, Surface, Symbol
from tuner.visualization.parts import (
    ACCENT,
    Position,
    hover_text,
    is_outside,
    outside_note,
    placed,
    points_by_family,
    tie_band,
    too_few,
    value_scale,
    value_window,
)

__all__ = ["contour", "isolation", "rank", "slices"]

BINS = 10
MOST_OF_PAIRS = 3  # largest number of parameters in pairs, and of pairs
LEAST_OF_PAIR, LEAST_FOR_SURFACE = 4, 8  # fewest trials for a pair, and for its surface
GRID = 24
NEAR = 2.0  # kernel widths from a trial within which the surface is drawn
SMOOTHED = 300  # largest number of trials for a surface: more take long and change little


def slices(record: StudyRecord) -> Figure:
    """Show the objective over each searched parameter."""
    title = f"{record.metric} over each parameter"
    ranked = record.ranking
    parameters = [name for name in parameters_of(record) if name != FAMILY]
    parameters = [name for name in parameters if sum(name in trial.params for trial in ranked) > 1]
    few = too_few(record, LEAST_OF_PAIR)
    if not parameters or few:
        return Figure("slices", title, few or "This needs two completed trials that have a parameter in common.")
    panels: list[Panel] = []
    for name in parameters:
        members = [trial for trial in ranked if name in trial.params]
        place, ticks = axis_of([trial.params[name] for trial in members])
        log = record.searched.get(name, False)
        at = {trial.number: place(trial.params[name]) for trial in members}
        room = room_for(ticks, at.values())
        ends = room or (min(at.values()), max(at.values()))
        series = tie_band(record, *ends) + points_by_family(record, members, at)
        panels.append(
            Panel(
                series,
                "",
                short_name(name),
                record.metric,
                log_x=log and ticks is None,
                x_range=room,
                x_ticks=ticks,
                y_range=value_window([trial.value for trial in ranked], record.direction),
            )
        )
    caption = (
        "Points are completed trials; their other parameters differ as well."
        + outside_note(record)
        + unnamed_note(ranked, parameters)
    )
    columns = min(3, len(panels))
    return Figure("slices", title, caption, panels, columns, height=2.8, width=3.4 * columns + 1, shared_y=True)


def isolation(record: StudyRecord) -> Figure:
    """Show the best objective at each value of a parameter, whatever the other parameters are."""
    title = f"The best {record.metric} at each value of a parameter"
    ranked = record.ranking
    parameters = [name for name in parameters_of(record) if sum(name in trial.params for trial in ranked) > 1]
    few = too_few(record, MIN_FOR_IMPORTANCE)
    if not parameters or few:
        return Figure("isolation", title, few or "This needs two completed trials that have a parameter in common.")
    window = value_window([trial.value for trial in ranked], record.direction)
    panels: list[Panel] = []
    for name in parameters:
        axis = _Axis.of(name, record)
        best = {axis.bin(trial): trial for trial in reversed(axis.trials)}  # the best trial of each bin
        chosen = sorted(best.values(), key=axis.place)
        others = [trial for trial in axis.trials if trial not in chosen]
        series = tie_band(record, *(axis.room or axis.ends))
        line: Mark = "line" if axis.ticks is None else "points"
        groups: Sequence[tuple[Sequence[TrialRecord], Mark, str, Symbol, str]] = (
            (others, "points", GREY, SYMBOLS[0], "other trials"),
            (chosen, line, COLORS[0], SYMBOLS[2], "the best in each part of the range"),
        )
        for trials, mark, color, symbol, label in groups:
            series.append(
                Series(
                    [axis.place(trial) for trial in trials],
                    [placed(trial.value, window) for trial in trials],
                    mark,
                    color,
                    label,
                    [hover_text(trial, record) for trial in trials],
                    marked=True,
                    symbol=symbol,
                )
            )
        panels.append(
            Panel(
                [each for each in series if each.x],
                "",
                short_name(name),
                record.metric,
                log_x=axis.is_log,
                x_range=axis.room,
                x_ticks=axis.ticks,
                y_range=window,
            )
        )
    caption = (
        f"The line joins the trials with the best {record.metric} in each {BINS}th of the range, whatever their other "
        "values: a flat line means that the parameter matters little, given enough trials."
    )
    if any(is_outside(trial.value, window) for trial in ranked):
        caption += " Trials at the edge are far worse than the others; point at them for their values."
    caption += unnamed_note(ranked, parameters)
    columns = min(3, len(panels))
    return Figure("isolation", title, caption, panels, columns, height=2.8, width=3.4 * columns + 1, shared_y=True)


def contour(record: StudyRecord, x: str | None = None, y: str | None = None) -> Figure:
    """Show the objective over pairs of parameters.

    Args:
        record: The study.
        x: A parameter, by its name in Optuna; by default there is a panel for each pair of the most important ones.
        y: Another one.
    """
    scale, title = value_scale(record), f"{record.metric} over two parameters"
    caption = (
        "Points are completed trials; the area is the mean of the trials nearby, drawn from "
        f"{LEAST_FOR_SURFACE} trials on, and between numbers only."
    )
    return _pairs(record, "contour", title, caption, scale, lambda trial: trial.value, x, y)


def rank(record: StudyRecord, x: str | None = None, y: str | None = None) -> Figure:
    """Show the ranks of the trials over pairs of parameters; the arguments are those of `contour`."""
    places = {trial.number: place for place, trial in enumerate(record.by_value, start=1)}
    scale = Scale("rank", float(len(places)), 1.0)
    caption = f"Points are completed trials; bright ones have a good rank in {record.metric}, however small their lead."
    title = "Rank of the trials over two parameters"
    return _pairs(record, "rank", title, caption, scale, lambda trial: float(places[trial.number]), x, y)


def _pairs(
    record: StudyRecord,
    name: str,
    title: str,
    caption: str,
    scale: Scale | None,
    value: Position,
    x: str | None,
    y: str | None,
) -> Figure:
    """Return a figure with a panel for each pair of parameters; see `contour`."""
    known, panels, least = parameters_of(record), [], LEAST_OF_PAIR
    if scale is None:
        return Figure(name, title, "No trial has completed.")
    if x is None or y is None:
        if few := too_few(record, MIN_FOR_IMPORTANCE):
            return Figure(name, title, few)
        axes = [_Axis.of(each, record) for each in known]
        numbers = [each.name for each in axes if each.ticks is None and len(each.trials) >= least]
        chosen = sorted(numbers, key=lambda each: -record.importances.get(each, 0.0))[:MOST_OF_PAIRS]
        pairs = list(itertools.combinations(chosen, 2))
        left_out = [short_name(each) for each in known if each not in chosen]
    else:
        pairs, left_out, least = [(x, y)], [], 2
    shown = []
    for pair in pairs:
        trials = [trial for trial in record.by_value if set(pair) <= trial.params.keys()]
        if len(trials) >= least:
            left, right = (_Axis.of(each, record) for each in pair)
            panel = _pair(left, right, trials, scale, value, marks_best=not record.further)
            if name == "contour" and not left.ticks and not right.ticks and len(trials) >= LEAST_FOR_SURFACE:
                panel = replace(panel, surface=_surface(left, right, trials[:SMOOTHED], value, scale))
            panels.append(panel)
            shown.append(pair)
    if not panels:
        return Figure(name, title, f"This needs two searched numbers that {least} completed trials have in common.")
    if left_out:
        caption += f" For other pairs, including {join_names(left_out, len(left_out))}: result.plot_{name}(x, y)."
    caption += unnamed_note(record.ranking, {each for pair in shown for each in pair})
    columns = min(3, len(panels))
    return Figure(name, title, caption, panels, columns, height=3.0, width=3.4 * columns + 1.6, scale=scale)


def _pair(
    x: "_Axis", y: "_Axis", trials: Sequence[TrialRecord], scale: Scale, value: Position, marks_best: bool
) -> Panel:
    """Return the trials, the best first, as points with the colours of their values."""
    count = 1 if marks_best else 0
    best, others = trials[:count], trials[count:]
    series = [
        Series(
            [x.place(trial) for trial in members],
            [y.place(trial) for trial in members],
            "points",
            ACCENT,
            label,
            [f"{trial.name}  {format_metric(trial.value)}\n{x.text(trial)}\n{y.text(trial)}" for trial in members],
            symbol=symbol,
            colors=colors,
        )
        for members, label, symbol, colors in (
            (others, "", SYMBOLS[0], [scale.color(value(trial)) for trial in others]),
            (best, "the best", SYMBOLS[2], ()),
        )
    ]
    return Panel(
        [each for each in series if each.x],
        "",
        short_name(x.name),
        short_name(y.name),
        log_x=x.is_log,
        log_y=y.is_log,
        x_range=x.room,
        y_range=y.room,
        x_ticks=x.ticks,
        y_ticks=y.ticks,
    )


@dataclass(frozen=True)
class _Axis:
    """The axis of a parameter: its trials from the best, the position of each, and the labels if it has no numbers."""

    name: str
    trials: Sequence[TrialRecord]
    places: Mapping[int, float]
    ticks: Mapping[float, str] | None
    is_log: bool

    @classmethod
    def of(cls, name: str, record: StudyRecord) -> "_Axis":
        trials = [trial for trial in record.by_value if name in trial.params]
        at, ticks = axis_of([trial.params[name] for trial in trials], record.families if name == FAMILY else ())
        places = {trial.number: at(trial.params[name]) for trial in trials}
        is_log = record.searched.get(name, False) and ticks is None
        return cls(name, trials, places, ticks, is_log)

    def text(self, trial: TrialRecord) -> str:
        """Return name and value of a trial."""
        return f"{short_name(self.name)} {format_value(trial.params[self.name])}"

    def place(self, trial: TrialRecord) -> float:
        """Return the position of a trial."""
        return self.places[trial.number]

    def share(self, trial: TrialRecord) -> float:
        """Return the position of a trial between the lowest and the highest, from 0 to 1."""
        low, high = (self._even(end) for end in self.ends)
        return 0.5 if low == high else (self._even(self.place(trial)) - low) / (high - low)

    def at(self, share: float) -> float:
        """Return the position with a share, as `share` counts."""
        low, high = (self._even(end) for end in self.ends)
        return 10 ** (low + share * (high - low)) if self.is_log else low + share * (high - low)

    def bin(self, trial: TrialRecord) -> float:
        """Return the part of the range in which a trial lies; each choice is a separate part."""
        return self.place(trial) if self.ticks is not None else min(BINS - 1, int(self.share(trial) * BINS))

    @property
    def ends(self) -> tuple[float, float]:
        """Return the lowest and the highest position."""
        return min(self.places.values()), max(self.places.values())

    @property
    def room(self) -> tuple[float, float] | None:
        """Return the limits of the axis if it has names; None if it has numbers."""
        return room_for(self.ticks, self.places.values())

    def _even(self, place: float) -> float:
        return math.log10(place) if self.is_log else place


def _surface(x: _Axis, y: _Axis, trials: Sequence[TrialRecord], value: Position, scale: Scale) -> Surface:
    """Return the mean of the trials nearby at each point of a grid, weighted by a Gaussian kernel."""
    low, high = sorted((scale.low, scale.high))
    points = [(x.share(trial), y.share(trial), min(high, max(low, value(trial)))) for trial in trials]
    width = 0.3 * len(points) ** (-1 / 6)  # Scott's rule, for points spread evenly from 0 to 1
    least = math.exp(-0.5 * NEAR**2)
    shares = [(index + 0.5) / GRID for index in range(GRID)]
    rows = []
    for down in shares:
        row = []
        for across in shares:
            weights = [math.exp(-((across - a) ** 2 + (down - b) ** 2) / (2 * width**2)) for a, b, _ in points]
            near = sum(weights)
            mean = sum(weight * each for weight, (_, _, each) in zip(weights, points, strict=True)) / (near or 1.0)
            row.append(mean if near >= least else math.nan)
        rows.append(row)
    return Surface([x.at(share) for share in shares], [y.at(share) for share in shares], rows)
