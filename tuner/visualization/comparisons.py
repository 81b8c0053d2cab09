"""Figures of configurations that were trained with the same seeds."""

from collections.abc import Mapping
from statistics import fmean

from tuner.analysis.comparison import Comparison
from tuner.analysis.standings import Standings
from tuner.visualization.figure import COLORS, GREY, Figure, Panel, Series

__all__ = ["of_comparison", "of_standings"]


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
    series: list[Series] = []
    for place, each in enumerate(ranking):
        color = colors.get(each.name, GREY)
        values = list(each.values.values())
        series.append(Series(values, [place] * len(values), "points", color))
        if bounds := comparison.interval(each):
            series.append(Series(bounds, (place, place), "line", color, width=2.5))
        series.append(Series([each.mean], [place + 0.2], "crosses", color))
    panels = [
        Panel(
            series,
            x_label=comparison.metric,
            y_ticks={place: each.name for place, each in enumerate(ranking)},
            y_range=(-0.7, len(ranking) - 0.3),
        )
    ]
    caption = "Points are seeds, lines are 95% confidence intervals of the mean, crosses are means."
    return Figure("confirmation", title, caption, panels if ranking else [], height=1 + 0.4 * len(ranking))


def of_standings(standings: Standings) -> Figure:
    """Return a figure of the means with their intervals, and of the sweeps of the initial lr."""
    metric = standings.comparison.metric
    ranking = [each.name for each in standings.comparison.ranking]
    colors = dict(zip(ranking, COLORS[:-1], strict=False)) | {"constant": COLORS[-1]}
    left = of_comparison(standings.comparison, "", colors).panels
    members = {member.name: member for member in standings.members}
    named = sorted(ranking, key=lambda name: name in colors)  # grey curves lie below the others
    sweeps = [
        Series(
            sorted(means),
            [means[lr] for lr in sorted(means)],
            "line",
            colors.get(name, GREY),
            name if name in colors else "the others",
            marked=True,
        )
        for name in named
        if (means := {lr: fmean(values) for lr, values in members[name].sweep.items() if values})
    ]
    right = Panel(sweeps, "the best of each with another initial_lr", "initial_lr", metric, log_x=True)
    panels = [*left, *([right] if sweeps else [])]
    height = 1.5 + 0.35 * len(ranking)
    return Figure("league", standings.name, standings.conditions, panels, columns=2, height=height, width=13)
