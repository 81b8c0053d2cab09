"""Panels of curves, points, bands, bars, boxes and surfaces, for any library to draw.

The modules of charts, such as ``curves.py`` and ``parameters.py``, fill them; ``matplotlib_backend.py`` and
``plotly_backend.py`` draw them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "COLORS",
    "DASHES",
    "FEW_DECADES",
    "GREY",
    "SYMBOLS",
    "Dash",
    "Figure",
    "Mark",
    "Panel",
    "Scale",
    "Series",
    "Surface",
    "Symbol",
    "drawable",
    "even_ticks",
    "style",
]

GREY = "#8a919c"
COLORS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b5ea7", "#8c6d31")
"""Colours of categories: Okabe and Ito's, which colour-blind readers can distinguish, without vermilion.

Vermilion marks the best trial.
"""

Mark = Literal["line", "steps", "points", "crosses", "bars", "box", "band"]
Dash = Literal["solid", "dash", "dot", "dashdot", "longdash"]
Symbol = Literal[
    "circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "triangle-left", "triangle-right"
]

DASHES: Sequence[Dash] = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS: Sequence[Symbol] = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon")


LARGEST, SMALLEST = 1e150, 1e-150
"""Coordinates of a larger or smaller magnitude are drawn as these; the libraries square and divide coordinates."""

FEW_DECADES = 0.7
"""The length of a log axis below which its ticks are as even as on a linear axis: hardly a power of ten is on it."""


def drawable(value: float) -> float:
    """Return a coordinate that the libraries can draw; NaN and infinity stay as they are.

    >>> drawable(0.5), drawable(-1.7e308), drawable(5e-324)
    (0.5, -1e+150, 1e-150)
    """
    magnitude = abs(value)
    if SMALLEST <= magnitude <= LARGEST or value == 0 or not math.isfinite(value):
        return value
    return math.copysign(LARGEST if magnitude > LARGEST else SMALLEST, value)


def _limits(ends: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the limits of an axis within those of coordinates; None if there are none."""
    return ends and (max(drawable(ends[0]), -LARGEST), min(drawable(ends[1]), LARGEST))


def even_ticks(low: float, high: float) -> list[float]:
    """Return two to six round numbers from `low` to `high`; `low` alone if they are equal.

    >>> even_ticks(0.81, 1.15)
    [0.9, 1.0, 1.1]
    """
    if low == high:
        return [low]
    least = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(least))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= least * (1 - 1e-9))
    return [float(f"{step * index:.12g}") for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def style(index: int) -> tuple[str, Dash, Symbol]:
    """Return colour, dashes and symbol of a category; of the first 35, no two have the same.

    >>> style(0), style(8)
    (('#0072b2', 'solid', 'circle'), ('#009e73', 'dashdot', 'diamond'))
    """
    return COLORS[index % len(COLORS)], DASHES[index % len(DASHES)], SYMBOLS[index % len(SYMBOLS)]


@dataclass(frozen=True)
class Series:
    """Points and their style.

    Args:
        x: Their x; the lengths of bars; the position of a box, once.
        y: Their y; the positions of bars.
        mark: "steps" keeps a value until the next point; "box" shows the quartiles of `y`; "band" fills the area
            between `y` and `upper`. A NaN interrupts a line.
        color: ``#rrggbb``.
        label: Name in the legend; empty for none.
        hover: A description of each point.
        width: Width of a line, in points.
        marked: Whether the points of a line are shown.
        dash: Dashes of a line.
        symbol: Shape of points, and of the marked points of a line.
        colors: A colour for each of the points; empty if all have `color`.
        upper: The upper edge of a band.
    """

    x: Sequence[float]
    y: Sequence[float]
    mark: Mark = "line"
    color: str = GREY
    label: str = ""
    hover: Sequence[str] = ()
    width: float = 1.5
    marked: bool = False
    dash: Dash = "solid"
    symbol: Symbol = "circle"
    colors: Sequence[str] = ()
    upper: Sequence[float] = ()

    def __post_init__(self) -> None:
        """Limit the coordinates to those that can be drawn."""
        for name in ("x", "y", "upper"):
            object.__setattr__(self, name, [drawable(value) for value in getattr(self, name)])


@dataclass(frozen=True)
class Scale:
    """Values as colours, from dull to bright.

    Args:
        label: Name of the values.
        low: Value of the dullest colour, which worse values have as well.
        high: Value of the brightest colour.
        note: What the scale leaves out; empty for nothing.
    """

    label: str
    low: float
    high: float
    note: str = ""

    STOPS = ("#7a4fa3", "#4f6bb0", "#21918c", "#5ec962", "#dde318")  # like viridis, but visible on black and on white

    def __post_init__(self) -> None:
        """Limit the values to those that can be drawn."""
        for name in ("low", "high"):
            object.__setattr__(self, name, drawable(getattr(self, name)))

    @property
    def title(self) -> str:
        """Return the title of a colour bar."""
        return f"{self.label}, {self.note}" if self.note else self.label

    @property
    def is_point(self) -> bool:
        """Return whether all values are the same, so that a colour bar would say nothing."""
        return self.low == self.high

    def color(self, value: float) -> str:
        """Return the colour of a value.

        >>> Scale("val/acc", 0.0, 1.0).color(0.25), Scale("val/acc", 0.0, 1.0).color(7.0)
        ('#4f6bb0', '#dde318')
        """
        share = 0.5 if self.high == self.low else (drawable(value) - self.low) / (self.high - self.low)
        place = min(1.0, max(0.0, share)) * (len(self.STOPS) - 1)
        index = min(int(place), len(self.STOPS) - 2)
        left, right = ([int(stop[at : at + 2], 16) for at in (1, 3, 5)] for stop in self.STOPS[index : index + 2])
        mixed = (round(a + (b - a) * (place - index)) for a, b in zip(left, right, strict=True))
        return "#" + "".join(f"{part:02x}" for part in mixed)


@dataclass(frozen=True)
class Surface:
    """Values over a grid, shown as areas in the colours of the figure's scale.

    Args:
        x: The columns of the grid.
        y: Its rows.
        values: The values, row by row; NaN where there is none.
    """

    x: Sequence[float]
    y: Sequence[float]
    values: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Args:
        series: The series; the last is drawn on top.
        title: Title above it.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        log_x: Whether x is on a log scale.
        log_y: Whether y is on a log scale.
        x_range: Limits of the x axis; None to show everything.
        y_range: Limits of the y axis; None to show everything.
        x_ticks: Tick labels of x, in the place of numbers.
        y_ticks: Tick labels of y, in the place of numbers.
        notes: Texts and their x and y.
        surface: An area below the series.
        counts_y: Whether y numbers trials, so that its ticks are whole numbers.
        steps_per_epoch: Steps in an epoch, for an axis of epochs above a picture; None for none.
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
    surface: Surface | None = None
    counts_y: bool = False
    steps_per_epoch: float | None = None

    def __post_init__(self) -> None:
        """Limit the coordinates to those that can be drawn."""
        object.__setattr__(self, "x_range", _limits(self.x_range))
        object.__setattr__(self, "y_range", _limits(self.y_range))
        notes = [(drawable(x), drawable(y), text) for x, y, text in self.notes]
        object.__setattr__(self, "notes", notes)

    @property
    def counts_x(self) -> bool:
        """Return whether x has whole numbers only."""
        return all(float(x).is_integer() for series in self.series for x in series.x if not math.isnan(x))


@dataclass(frozen=True)
class Figure:
    """Panels that belong together.

    Args:
        name: Name of its file.
        title: Its title.
        caption: How to read it, in a sentence or two.
        panels: The panels, row by row; empty if there is nothing to draw, and then `caption` says why.
        columns: Panels in a row.
        height: Height of a row, in inches.
        width: Width of the figure, in inches.
        shared_x: Whether the panels of a column share their x axis.
        shared_y: Whether the panels of a row share their y axis.
        scale: The scale of the colours, if they stand for values.
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
