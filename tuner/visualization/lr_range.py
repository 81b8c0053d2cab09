"""The figure of an lr range test."""

import statistics

from tuner.analysis.lr_range import LrRange
from tuner.visualization.figure import COLORS, GREY, Figure, Panel, Series

__all__ = ["of_range"]

VERMILION = "#d55e00"


def of_range(found: LrRange, title: str) -> Figure:
    """Return a figure of the metric at each lr: every seed, their mean, the range and the edge of divergence."""
    points = [(lr, value) for lr, values in found.values.items() for value in values if value is not None]
    means = {
        lr: statistics.fmean(whole)
        for lr, values in found.values.items()
        if len(whole := [value for value in values if value is not None]) == len(values)
    }
    series = [
        Series([lr for lr, _ in points], [value for _, value in points], "points", GREY, "seeds"),
        Series(list(means), list(means.values()), "line", COLORS[0], "mean", width=2.0, marked=True),
    ]
    values = [*found.untrained, *(value for _, value in points)]
    low, high = min(values), max(values)
    if found.range is not None:
        for end in found.range:
            series.append(Series([end, end], [low, high], "line", COLORS[1], "range" if end == found.range[0] else ""))
    if found.edge is not None:
        series.append(Series([found.edge, found.edge], [low, high], "line", VERMILION, "edge of divergence"))
    series.append(
        Series(
            [min(found.values), max(found.values)],
            [statistics.fmean(found.untrained)] * 2,
            "line",
            GREY,
            "untrained",
            width=1.0,
        )
    )
    panel = Panel(series, x_label="initial_lr", y_label=found.metric, log_x=True)
    return Figure("range", title, " ".join(found.findings()), [panel], height=4.0, width=8.0)
