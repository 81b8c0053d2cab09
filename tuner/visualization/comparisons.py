"""Figures of configurations that were trained with the same seeds."""

import math
from collections.abc import Mapping

from tuner.analysis.comparison import Comparison
from tuner.analysis.profiles import MOST, profile
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
    nowhere = [math.nan]
    series = [  # entries of the legend
        Series(nowhere, nowhere, "points", GREY, "a seed"),
        Series(nowhere, nowhere, "crosses", GREY, "mean"),
        Series(nowhere, nowhere, "line", GREY, "95% interval of this mean alone", width=2.5),
    ]
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
    caption = "Points are seeds, lines are 95% confidence intervals of each mean alone, crosses are means."
    return Figure("confirmation", title, caption, panels if ranking else [], height=1 + 0.4 * len(ranking))


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
    profiles = []
    for name in named:
        corners = profile(standings.ratios[name])
        profiles.append(
            Series([at for at, _ in corners], [share for _, share in corners], "steps", colors.get(name, GREY))
        )
    right = [
        Panel(sweeps, "the chosen shapes at other base lrs", "initial_lr", f"median {metric}", log_x=True),
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
    return Figure("league", standings.name, standings.conditions, panels, columns=3, height=height, width=17)
