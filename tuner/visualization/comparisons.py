"""Figures of configurations that were trained with the same seeds."""

import math
from collections.abc import Mapping, Sequence

from tuner.analysis.comparison import Comparison
from tuner.analysis.profiles import MOST, profile
from tuner.analysis.standings import Standings
from tuner.text import format_interval, format_metric, join_names, pluralize
from tuner.visualization.figure import COLORS, GREY, Figure, Panel, Series, Symbol
from tuner.visualization.parts import beyond_note, is_outside, placed, value_window

__all__ = ["of_comparison", "of_standings"]

ARROWS: tuple[Symbol, Symbol] = ("triangle-left", "triangle-right")


def of_comparison(comparison: Comparison, title: str, colors: Mapping[str, str] | None = None) -> Figure:
    """Return a figure of every value, with means and confidence intervals.

    Args:
        comparison: The configurations.
        title: Its title.
        colors: Colours of some configurations, by name; by default only the winner has one. The others are grey.
    """
    ranking = comparison.ranking[::-1]
    if colors is None:
        colors = {ranking[-1].name: COLORS[0]} if ranking else {}
    window = _window(comparison)
    nowhere = [math.nan]
    series = [  # entries of the legend
        Series(nowhere, nowhere, "points", GREY, "a seed"),
        Series(nowhere, nowhere, "crosses", GREY, "mean"),
        Series(nowhere, nowhere, "line", GREY, "95% interval of this mean alone", width=2.5),
    ]
    for place, each in enumerate(ranking):
        color = colors.get(each.name, GREY)
        seeds = [(value, f"{each.name}\nseed {seed}: {format_metric(value)}") for seed, value in each.values.items()]
        series.append(_points([pair for pair in seeds if not is_outside(pair[0], window)], place, color, "circle"))
        if bounds := comparison.interval(each):
            ends = [placed(bound, window) for bound in bounds]
            series.append(Series(ends, (place, place), "line", color, width=2.5))
            seeds += [(bound, f"{each.name}\n95% interval: {format_interval(bounds)}") for bound in bounds]
        seeds.append((each.mean, f"{each.name}\nmean: {format_metric(each.mean)}"))
        beyond = [(placed(value, window), hover) for value, hover in seeds if is_outside(value, window)]
        for edge, symbol in zip(window or (), ARROWS, strict=False):
            if there := [pair for pair in beyond if pair[0] == edge]:
                series.append(_points(there, place, color, symbol))
        if not is_outside(each.mean, window):
            series.append(Series([each.mean], [place + 0.2], "crosses", color))
    panels = [
        Panel(
            series,
            x_label=comparison.metric,
            x_range=window,
            y_ticks={place: each.name for place, each in enumerate(ranking)},
            y_range=(-0.7, len(ranking) - 0.3),
        )
    ]
    if arrow := next((each.symbol for each in series if each.symbol in ARROWS), None):
        series.insert(3, Series(nowhere, nowhere, "points", GREY, "beyond the axis", symbol=arrow))
    caption = "Points are seeds, lines are 95% confidence intervals of each mean alone, crosses are means."
    caption += _edge_note(comparison)
    return Figure("confirmation", title, caption, panels if ranking else [], height=1 + 0.4 * len(ranking))


def _points(pairs: Sequence[tuple[float, str]], place: int, color: str, symbol: Symbol) -> Series:
    """Return points on a line of the figure, from their positions and descriptions."""
    values, hover = [value for value, _ in pairs], [text for _, text in pairs]
    return Series(values, [place] * len(pairs), "points", color, hover=hover, symbol=symbol)


def of_standings(standings: Standings) -> Figure:
    """Return a figure of means with intervals, of the sweeps of the base lr, and of the steps to the target."""
    metric = standings.comparison.metric
    ranking = [each.name for each in standings.comparison.ranking]
    colors = dict(zip(ranking, COLORS[:-1], strict=False)) | {"constant": COLORS[-1]}
    left = of_comparison(standings.comparison, "", colors).panels
    members = {member.name: member for member in standings.members}
    named = sorted(ranking, key=lambda name: name in colors)  # grey curves lie below the others
    sweeps = []
    for name in named:
        sweep = members[name].sweep
        lrs = [lr for lr in sorted(sweep.values) if math.isfinite(sweep.median(lr))]
        medians = [sweep.median(lr) for lr in lrs]
        label = name if name in colors else "the others"
        sweeps.append(Series(lrs, medians, "line", colors.get(name, GREY), label, marked=True))
    medians = [value for each in sweeps for value in each.y]
    window = value_window(medians, standings.comparison.direction, len(sweeps))
    beyond = beyond_note("base lrs that are far worse" if any(is_outside(each, window) for each in medians) else "")
    profiles = []
    for name in named:
        corners = profile(standings.ratios[name])
        profiles.append(
            Series([at for at, _ in corners], [share for _, share in corners], "steps", colors.get(name, GREY))
        )
    right = [
        Panel(
            sweeps,
            "the chosen shapes at other base lrs",
            "initial_lr",
            f"median {metric}",
            log_x=True,
            y_range=window,
        ),
        Panel(
            profiles,
            f"performance profile to {standings.target:.4g}",
            "steps relative to the fastest",
            "share of the seeds",
            x_range=(1.0, MOST),
            y_range=(-0.02, 1.02),
        ),
    ]
    panels = [*left, *(right if left else [])]
    height = 1.5 + 0.35 * len(ranking)
    caption = standings.conditions + _edge_note(standings.comparison) + beyond
    return Figure("league", standings.name, caption, panels, columns=3, height=height, width=17)


def _window(comparison: Comparison) -> tuple[float, float] | None:
    """Return the range of values to show, such that a few very bad seeds do not squeeze the others."""
    values = [value for each in comparison.configurations for value in each.values.values()]
    bounds = [bound for each in comparison.configurations for bound in comparison.interval(each) or ()]
    return value_window([*values, *bounds], comparison.direction)


def _edge_note(comparison: Comparison) -> str:
    """Return a sentence about the seeds at the edge of the axis; empty if there are none."""
    window = _window(comparison)
    outside = [
        each.name for each in comparison.configurations for value in each.values.values() if is_outside(value, window)
    ]
    if not outside:
        return ""
    names = join_names(list(dict.fromkeys(outside)))
    return f" At the edge: {pluralize(len(outside), 'seed')} of {names}, far worse than the others."
