"""Figures as PNG, drawn by matplotlib without a display and without its global state."""

import io
import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.figure import FigureBase
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from tuner.visualization.figure import FEW_DECADES, Figure, Panel, Scale, Series, even_ticks

__all__ = ["STYLE", "canvas", "empty", "png", "save", "saved", "sheet"]

DPI = 110
LEGEND_COLUMNS = 4
LETTERS = 14.5  # letters of a legend in an inch
GAP = 0.06  # smallest gap between tick labels, in inches
MARGINS = 0.8  # left and right margins of a panel together, in inches
LEVELS = 10  # number of levels of a surface
SURFACE_ALPHA = 0.45
LINE = 0.16  # height of a line of a legend, in inches
DASHES: dict[str, Any] = {
    "solid": "-",
    "dash": (0, (5, 2)),
    "dot": (0, (1.2, 1.6)),
    "dashdot": (0, (6, 2, 1.2, 2)),
    "longdash": (0, (11, 3)),
}
SYMBOLS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "pentagon": "p",
    "triangle-left": "<",
    "triangle-right": ">",
}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "text.parse_math": False,  # so a dollar sign in a name is shown as it is
    "text.color": "#22272e",
    "axes.edgecolor": "#b8bec7",
    "axes.labelcolor": "#4a5059",
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.7,
    "xtick.color": "#4a5059",
    "ytick.color": "#4a5059",
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG image.

    Raises:
        ValueError: If the figure has no panels.
    """
    drawn = canvas(figure)
    with rc_context(STYLE):
        return saved(drawn)


def canvas(figure: Figure) -> Canvas:
    """Return a figure drawn by matplotlib.

    Raises:
        ValueError: If the figure has no panels.
    """
    if not figure.panels:
        raise ValueError(f"{figure.name} has nothing to draw: {figure.caption}")
    with rc_context(STYLE):
        drawn = empty(figure.width, _height(figure))
        drawn.suptitle(figure.title, fontsize=12, fontweight="bold", x=0.01, ha="left")
        _fill(drawn, figure)
        return drawn


def sheet(figures: Sequence[Figure], title: str) -> Canvas:
    """Return several figures of the same width in one picture, each below the last, with its own title and legend.

    Raises:
        ValueError: If a figure has no panels.
    """
    with rc_context(STYLE):
        heights = [_height(figure) for figure in figures]
        drawn = empty(figures[0].width, sum(heights) + 0.4)
        drawn.suptitle(title, fontsize=12, fontweight="bold")
        parts = drawn.subfigures(len(figures), 1, squeeze=False, height_ratios=heights)[:, 0]
        for part, figure in zip(parts, figures, strict=True):
            part.suptitle(figure.title, fontsize=10, x=0.01, ha="left")
            _fill(part, figure)
        return drawn


def save(drawn: Canvas, path: Path) -> None:
    """Write a picture; the suffix of the file determines its format.

    Raises:
        ValueError: If matplotlib does not know the format.
        OSError: If the file cannot be written.
    """
    with rc_context(STYLE):
        drawn.savefig(path, facecolor="white")


def _fill(drawn: FigureBase, figure: Figure) -> None:
    """Add the panels, the legend and the colour bar of a figure."""
    grid = drawn.subplots(
        figure.rows,
        figure.columns,
        squeeze=False,
        sharex="col" if figure.shared_x else False,
        sharey="row" if figure.shared_y else False,
    )
    axes = list(grid.flat)
    for index, (axis, panel) in enumerate(zip(axes, figure.panels, strict=False)):
        _draw(axis, panel, figure.scale, figure.width / figure.columns - MARGINS)
        if figure.shared_y and index % figure.columns:
            axis.set_ylabel("")
    for axis in axes[len(figure.panels) :]:
        axis.remove()
    _add_legend(drawn, axes[: len(figure.panels)], figure.width)
    if figure.scale is not None and not figure.scale.is_point:
        bar = drawn.colorbar(_mappable(figure.scale), ax=axes[: len(figure.panels)], shrink=0.8, pad=0.015)
        bar.set_label(figure.scale.title)
        bar.outline.set_visible(False)


def _height(figure: Figure) -> float:
    """Return the height of a picture in inches, with its title and its legend."""
    labels = list(dict.fromkeys(each.label for panel in figure.panels for each in panel.series if each.label))
    columns, wrapped = _legend(labels, figure.width)
    stacks = np.array_split([text.count("\n") + 1 for text in wrapped], columns)
    lines = max(int(stack.sum()) for stack in stacks) if labels else 0
    return figure.rows * figure.height + 0.34 + LINE * (lines + 1) + LINE * figure.title.count("\n")


class _Shown(Canvas):
    """A figure that every notebook can display."""

    def _repr_png_(self) -> bytes:
        return saved(self)


def empty(width: float, height: float) -> Canvas:
    """Return an empty canvas; width and height are in inches."""
    return _Shown(figsize=(width, height), dpi=DPI, layout="constrained")


def saved(canvas: Canvas) -> bytes:
    """Return a canvas as a PNG image: what `savefig` writes, which draws everything twice to lay it out."""
    file = io.BytesIO()
    canvas.set_facecolor("white")
    FigureCanvasAgg(canvas).print_png(file)  # type: ignore[no-untyped-call]
    return file.getvalue()


def _draw(axis: Axes, panel: Panel, scale: Scale | None, width: float) -> None:
    """Draw a panel; its axes are about so many inches wide."""
    if panel.surface is not None and scale is not None:
        _add_surface(axis, panel, scale)
    for layer, series in enumerate(panel.series, start=2):
        _add(axis, series, layer)
    axis.set_title(panel.title, loc="left")
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    if panel.log_x:
        axis.set_xscale("log")
    if panel.log_y:
        axis.set_yscale("log", nonpositive="mask")
    if panel.x_range:
        axis.set_xlim(*panel.x_range)
    if panel.y_range:
        axis.set_ylim(*panel.y_range)
    if panel.log_x:
        _number_ticks(axis.xaxis, axis.get_xlim())
    else:
        parts = [1, 2, 5, 10] if panel.counts_x else [1, 2, 2.5, 5, 10]  # long labels need room
        axis.xaxis.set_major_locator(MaxNLocator(5, steps=parts, integer=panel.counts_x, min_n_ticks=1))
    if panel.log_y:
        _number_ticks(axis.yaxis, axis.get_ylim())
    elif panel.counts_y:
        axis.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    _name_ticks(axis.xaxis, panel.x_ticks)
    _name_ticks(axis.yaxis, panel.y_ticks)
    if panel.x_ticks:
        _turn_long(axis, panel.x_ticks, width)
    for x, y, text in panel.notes:
        ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
        axis.text(x, y, text, fontsize=7.5, color="#22272e", ha="center", va="center", zorder=100, bbox=ground)
    if (steps := panel.steps_per_epoch) is not None:
        there_and_back: Any = (lambda step: step / steps, lambda epoch: epoch * steps)
        upper = axis.secondary_xaxis("top", functions=there_and_back)
        upper.set_xlabel("epoch", fontsize=8)
        upper.tick_params(labelsize=8)


def _add_surface(axis: Axes, panel: Panel, scale: Scale) -> None:
    if panel.surface is None or scale.is_point:
        return
    low, high = sorted((scale.low, scale.high))
    levels = [low + (high - low) * index / LEVELS for index in range(LEVELS + 1)]
    mapped = _mappable(scale)
    axis.contourf(
        panel.surface.x,
        panel.surface.y,
        np.ma.masked_invalid(panel.surface.values),
        levels=levels,
        cmap=mapped.cmap,
        norm=mapped.norm,
        extend="both",
        alpha=SURFACE_ALPHA,
        zorder=1,
    )


def _add_legend(drawn: FigureBase, axes: Sequence[Axes], width: float) -> None:
    """Add one legend below all panels, whose texts are wrapped to fit into the width."""
    named: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    if named:
        columns, texts = _legend(list(named), width)
        drawn.legend(list(named.values()), texts, loc="outside lower left", ncols=columns)


def _legend(labels: Sequence[str], width: float) -> tuple[int, list[str]]:
    """Return the number of columns of a legend in a picture of a width in inches, and its wrapped texts."""
    longest = max(map(len, labels), default=0)
    fitting = int(width * LETTERS / (longest + 6)) if longest else 1
    columns = max(2 if len(labels) > 1 else 1, min(LEGEND_COLUMNS, fitting))
    letters = int(width * LETTERS / columns) - 6
    return columns, ["\n".join(textwrap.wrap(label, letters)) or label for label in labels]


def _add(axis: Axes, series: Series, layer: int) -> None:
    label = series.label or None
    match series.mark:
        case "line" | "steps":
            axis.plot(
                series.x,
                series.y,
                color=series.color,
                label=label,
                linewidth=series.width,
                linestyle=DASHES[series.dash],
                drawstyle="steps-post" if series.mark == "steps" else "default",
                marker=SYMBOLS[series.symbol] if series.marked else "",
                markersize=3.5,
                zorder=layer,
            )
        case "band":
            axis.fill_between(
                series.x, series.y, series.upper, color=series.color, alpha=0.18, linewidth=0, label=label, zorder=1.5
            )
        case "points":
            axis.scatter(
                series.x,
                series.y,
                color=list(series.colors) or series.color,
                s=26,
                marker=SYMBOLS[series.symbol],
                alpha=0.85,
                linewidths=0.5 if series.colors else 0,
                edgecolors="#22272e" if series.colors else None,
                label=label,
                zorder=layer,
                clip_on=False,
            )
        case "crosses":
            axis.scatter(
                series.x,
                series.y,
                color=series.color,
                s=22,
                marker="x",
                linewidths=1.2,
                label=label,
                zorder=layer,
                clip_on=False,
            )
        case "bars":
            axis.barh(series.y, series.x, color=series.color, height=0.66, label=label, zorder=layer)
        case "box":
            axis.boxplot(
                [list(series.y)],
                positions=[series.x[0]],
                widths=0.5,
                showfliers=False,
                manage_ticks=False,
                patch_artist=True,
                boxprops={"facecolor": series.color + "30", "edgecolor": series.color},
                medianprops={"color": series.color, "linewidth": 2},
                whiskerprops={"color": series.color},
                capprops={"color": series.color},
                zorder=layer,
            )


def _number_ticks(axis: Axis, limits: tuple[float, float]) -> None:
    """Label a log axis with plain numbers; if it covers few decades, with several in each."""
    decades = math.log10(limits[1] / limits[0])
    if decades < FEW_DECADES:
        axis.set_major_locator(FixedLocator(even_ticks(*limits)))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _name_ticks(axis: Axis, names: Mapping[float, str] | None) -> None:
    if names is not None:
        axis.set_ticks(list(names), list(names.values()))
        axis.set_tick_params(length=0)


def _turn_long(axis: Axes, names: Mapping[float, str], width: float) -> None:
    """Turn the names below an axis if they would touch each other."""
    limits = axis.get_xlim()
    inches = width * min((b - a for a, b in itertools.pairwise(sorted(names))), default=math.inf)
    inches /= abs(limits[1] - limits[0])
    lines = [line for name in names.values() for line in name.split("\n") if line.strip()]
    longest = max((TextPath((0, 0), line, size=9).get_extents().width / 72 for line in lines), default=0.0)
    if longest + GAP > inches:
        angle = 35 if inches > 2 * LINE else 90
        axis.tick_params(axis="x", labelrotation=angle, labelsize=min(9.0, 60 * inches))
        for label in axis.get_xticklabels():
            label.set(
                horizontalalignment="right" if angle < 90 else "center",
                rotation_mode="anchor" if angle < 90 else "default",
            )


def _mappable(scale: Scale) -> ScalarMappable:
    rises = scale.low <= scale.high
    colors = LinearSegmentedColormap.from_list("value", Scale.STOPS if rises else Scale.STOPS[::-1])
    return ScalarMappable(Normalize(min(scale.low, scale.high), max(scale.low, scale.high)), colors)
