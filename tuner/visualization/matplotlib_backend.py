"""Figures as PNG, drawn by matplotlib without a display and without its global state."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from tuner.visualization.figure import Figure, Panel, Scale, Series

__all__ = ["canvas", "confusion_png", "mistakes_png", "png"]

DPI = 110
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
        return _saved(drawn)


def canvas(figure: Figure) -> Canvas:
    """Return a figure drawn by matplotlib.

    Raises:
        ValueError: If the figure has no panels.
    """
    if not figure.panels:
        raise ValueError(f"{figure.name} has nothing to draw: {figure.caption}")
    with rc_context(STYLE):
        drawn = _canvas(figure.width, figure.rows * figure.height + 0.5)
        drawn.suptitle(figure.title, fontsize=12, fontweight="bold", x=0.01, ha="left")
        grid = drawn.subplots(
            figure.rows,
            figure.columns,
            squeeze=False,
            sharex="col" if figure.shared_x else False,
            sharey="row" if figure.shared_y else False,
        )
        axes = list(grid.flat)
        for index, (axis, panel) in enumerate(zip(axes, figure.panels, strict=False)):
            _draw(axis, panel)
            if figure.shared_y and index % figure.columns:
                axis.set_ylabel("")
        _add_legend(drawn, axes)
        for axis in axes[len(figure.panels) :]:
            axis.remove()
        if figure.scale is not None:
            bar = drawn.colorbar(_mappable(figure.scale), ax=axes[: len(figure.panels)], shrink=0.8, pad=0.015)
            bar.set_label(figure.scale.label)
            bar.outline.set_visible(False)
        return drawn


def confusion_png(counts: Sequence[Sequence[int]], title: str) -> bytes:
    """Return a confusion matrix as a PNG image.

    Args:
        counts: How often each true class (a row) was predicted as each class (a column).
        title: Title above it.
    """
    classes = range(len(counts))
    mistakes = [[0 if row == column else counts[row][column] for column in classes] for row in classes]
    most = max(1, *(max(row) for row in mistakes))
    with rc_context({**STYLE, "axes.grid": False}):
        canvas = _canvas(0.5 * len(counts) + 2.2, 0.46 * len(counts) + 1.6)
        axis = canvas.subplots()
        axis.imshow(mistakes, cmap="Oranges", vmin=0, vmax=most)
        for row in classes:
            for column in classes:
                if counts[row][column]:
                    ink = "white" if 2 * mistakes[row][column] > most else "#22272e"
                    weight = "bold" if row == column else "normal"
                    text = str(counts[row][column])
                    axis.text(column, row, text, ha="center", va="center", color=ink, fontweight=weight)
        axis.set_xticks(classes)
        axis.set_yticks(classes)
        axis.set_xlabel("predicted")
        axis.set_ylabel("true")
        axis.set_title(title, loc="left", fontweight="bold")
        return _saved(canvas)


def mistakes_png(images: Any, texts: Sequence[str], title: str) -> bytes:
    """Return a grid of images, each with its caption, as a PNG image.

    Args:
        images: Array [n, height, width], or [n, height, width, 3], from 0 to 1.
        texts: A caption for each image.
        title: Title above them.
    """
    columns = min(9, len(texts))
    rows = math.ceil(len(texts) / columns)
    with rc_context({**STYLE, "axes.grid": False}):
        canvas = _canvas(1.05 * columns + 0.6, 1.3 * rows + 0.6)
        canvas.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
        for axis in canvas.subplots(rows, columns, squeeze=False).flat:
            axis.set_axis_off()
        for axis, image, text in zip(canvas.axes, images, texts, strict=False):
            axis.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            axis.set_title(text, fontsize=8)
        return _saved(canvas)


class _Shown(Canvas):
    """A figure that every notebook can display."""

    def _repr_png_(self) -> bytes:
        return _saved(self)


def _canvas(width: float, height: float) -> Canvas:
    """Return an empty canvas; width and height are in inches."""
    return _Shown(figsize=(width, height), dpi=DPI, layout="constrained")


def _saved(canvas: Canvas) -> bytes:
    file = io.BytesIO()
    canvas.savefig(file, format="png", facecolor="white")
    return file.getvalue()


def _draw(axis: Axes, panel: Panel) -> None:
    for layer, series in enumerate(panel.series, start=2):
        _add(axis, series, layer)
    axis.set_title(panel.title, loc="left")
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    if panel.x_range:
        axis.set_xlim(*panel.x_range)
    if panel.y_range:
        axis.set_ylim(*panel.y_range)
    if panel.log_x:
        axis.set_xscale("log")
        _number_ticks(axis.xaxis, axis.get_xlim())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))  # long labels of many steps need room
    if panel.log_y:
        axis.set_yscale("log")
        _number_ticks(axis.yaxis, axis.get_ylim())
    _name_ticks(axis.xaxis, panel.x_ticks)
    _name_ticks(axis.yaxis, panel.y_ticks)
    for x, y, text in panel.notes:
        ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
        axis.text(x, y, text, fontsize=7.5, color="#22272e", ha="center", va="center", zorder=100, bbox=ground)


def _add_legend(canvas: Canvas, axes: Sequence[Axes]) -> None:
    """Add one legend below all panels."""
    named: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    if named:
        canvas.legend(handles=list(named.values()), loc="outside lower left", ncols=4)


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
                drawstyle="steps-post" if series.mark == "steps" else "default",
                marker="." if series.marked else "",
                markersize=6,
                zorder=layer,
            )
        case "points":
            axis.scatter(
                series.x, series.y, color=series.color, s=26, alpha=0.85, linewidths=0, label=label, zorder=layer
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
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _name_ticks(axis: Axis, names: Mapping[float, str] | None) -> None:
    if names is not None:
        axis.set_ticks(list(names), list(names.values()))
        axis.set_tick_params(length=0)


def _mappable(scale: Scale) -> ScalarMappable:
    rises = scale.low <= scale.high
    colors = LinearSegmentedColormap.from_list("value", Scale.STOPS if rises else Scale.STOPS[::-1])
    return ScalarMappable(Normalize(min(scale.low, scale.high), max(scale.low, scale.high)), colors)
