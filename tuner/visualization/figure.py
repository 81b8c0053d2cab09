"""Panels of curves, points, bars and boxes, for any library to draw.

``charts.py`` fills them, ``matplotlib_backend.py`` and ``plotly_backend.py`` draw them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["COLORS", "GREY", "Figure", "Mark", "Panel", "Scale", "Series"]

GREY = "#8a919c"
COLORS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b5ea7", "#8c6d31")
"""For things that have no order: Okabe and Ito's, told apart by the colour-blind too, on light and dark ground.

Their vermilion is left out: it is for the best trial.
"""

Mark = Literal["line", "steps", "points", "crosses", "bars", "box"]


@dataclass(frozen=True)
class Series:
    """Points, and how they are drawn.

    Args:
        x: Where they are; of bars, their lengths; of a box, its place, once.
        y: Where they are; of bars, their places.
        mark: "steps" keeps a value until the next point; "box" shows the quartiles of `y`.
        color: ``#rrggbb``.
        label: Name in the legend; empty for none.
        hover: What a point is, for each.
        width: Of a line, in points.
        marked: Whether the points of a line are shown.
    """

    x: Sequence[float]
    y: Sequence[float]
    mark: Mark = "line"
    color: str = GREY
    label: str = ""
    hover: Sequence[str] = ()
    width: float = 1.5
    marked: bool = False


@dataclass(frozen=True)
class Scale:
    """Values as colours, from dull to bright.

    Args:
        label: What the values are.
        low: Value of the dullest colour; those beyond it have it too.
        high: Value of the brightest.
    """

    label: str
    low: float
    high: float

    STOPS = ("#7a4fa3", "#4f6bb0", "#21918c", "#5ec962", "#dde318")  # like viridis, to be seen on black and on white

    def color(self, value: float) -> str:
        """Return the colour of a value.

        >>> Scale("val/acc", 0.0, 1.0).color(0.25), Scale("val/acc", 0.0, 1.0).color(7.0)
        ('#4f6bb0', '#dde318')
        """
        share = 0.5 if self.high == self.low else (value - self.low) / (self.high - self.low)
        place = min(1.0, max(0.0, share)) * (len(self.STOPS) - 1)
        index = min(int(place), len(self.STOPS) - 2)
        left, right = ([int(stop[at : at + 2], 16) for at in (1, 3, 5)] for stop in self.STOPS[index : index + 2])
        mixed = (round(a + (b - a) * (place - index)) for a, b in zip(left, right, strict=True))
        return "#" + "".join(f"{part:02x}" for part in mixed)


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Args:
        series: What is drawn, the last on top.
        title: Above it.
        x_label: What x is.
        y_label: What y is.
        log_x: Whether x is on a log scale.
        log_y: Whether y is.
        x_range: From where to where x is shown; all if None.
        y_range: From where to where y is shown; all if None.
        x_ticks: Names of places of x, instead of numbers.
        y_ticks: Names of places of y, instead of numbers.
        notes: Texts, and where they stand.
    """

    series: Sequence[Series]
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_ticks: Mapping[float, str] | None = None
    y_ticks: Mapping[float, str] | None = None
    notes: Sequence[tuple[float, float, str]] = ()


@dataclass(frozen=True)
class Figure:
    """Panels that belong together.

    Args:
        name: Name of its file.
        title: What it shows.
        caption: How to read it, in a sentence or two.
        panels: Row after row; empty if there is nothing to draw, and then `caption` says why.
        columns: Panels in a row.
        height: Of a row, in inches.
        width: Of the whole, in inches.
        shared_x: Whether the panels of a column have one x axis.
        shared_y: Whether the panels of a row have one y axis.
        scale: What the colours mean, if they mean a value.
    """

    name: str
    title: str
    caption: str
    panels: Sequence[Panel] = field(default_factory=tuple)
    columns: int = 1
    height: float = 3.2
    width: float = 10.0
    shared_x: bool = False
    shared_y: bool = False
    scale: Scale | None = None

    @property
    def rows(self) -> int:
        """Return how many rows of panels there are."""
        return math.ceil(len(self.panels) / self.columns)
