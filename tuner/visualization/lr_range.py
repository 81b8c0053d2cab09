"""The figure of an lr range test."""

import statistics

from tuner.analysis.lr_range import LrRange
from tuner.visualization.figure import COLORS, GREY, Figure, Panel, Series

__all__ = ["of_range"]

VERMILION = "#d55e00"
MARGIN = 0.15  # room beyond the untrained network's value, as a share of its distance from the best one


def of_range(found: LrRange, title: str) -> Figure:
    """Return a figure of the metric at each lr: every seed, their mean, the range and the edge of divergence.

    Runs that diverged, or ended worse than untrained, are crosses; those that diverged or ended far worse are at the
    worse end of the axis.
    """
    measured = [value for values in found.values.values() for value in values if value is not None]
    best = min((*measured, *found.untrained), key=found.direction.sort_key)
    before = max(found.untrained, key=found.direction.sort_key)
    worst = before + MARGIN * (before - best)

    def is_drawn(value: float | None) -> bool:
        return value is not None and not found.direction.better(worst, value)

    points: list[tuple[float, float]] = []
    crosses: list[tuple[float, float]] = []
    for lr, values in found.values.items():
        for value, without in zip(values, found.untrained, strict=True):
            if value is None or not is_drawn(value):
                crosses.append((lr, worst))
            else:
                (crosses if found.direction.better(without, value) else points).append((lr, value))
    means = {
        lr: statistics.fmean(value for value in values if value is not None)
        for lr, values in found.values.items()
        if all(map(is_drawn, values))
    }
    lrs, ends = list(found.values), (min(best, worst), max(best, worst))
    untrained = statistics.fmean(found.untrained)
    series = [
        Series([lrs[0], lrs[-1]], [untrained, untrained], "line", GREY, "untrained", width=1.0),
        Series([lr for lr, _ in points], [value for _, value in points], "points", GREY, "seeds"),
        Series(list(means), list(means.values()), "line", COLORS[0], "mean", width=2.0, marked=True),
    ]
    if crosses:
        label = "diverged, or worse than untrained"
        series.append(Series([lr for lr, _ in crosses], [end for _, end in crosses], "crosses", VERMILION, label))
    for index, end in enumerate(found.range or ()):
        series.append(Series([end, end], ends, "line", COLORS[1], "" if index else "range to search"))
    if found.edge is not None:
        series.append(Series([found.edge, found.edge], ends, "line", VERMILION, "edge"))
    panel = Panel(series, x_label="initial_lr", y_label=found.metric, log_x=True)
    return Figure("range", title, " ".join(found.findings()), [panel], height=4.0, width=8.0)
