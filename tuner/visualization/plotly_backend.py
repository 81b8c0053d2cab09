"""Figures for a browser, drawn by plotly: with hover texts, zoom, and curves that can be hidden."""

import html
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.io
from plotly.offline import get_plotlyjs

from tuner.visualization.figure import FEW_DECADES, Figure, Panel, Scale, Series, Surface, even_ticks

__all__ = ["drawing", "library", "to_div"]

PIXELS = 96
"""Pixels in an inch."""

NARROW, WIDEST_LABEL = 36, 32  # letters that fit below one of several panels in a row
LETTERS, TURNED = 18, 60  # letters of a turned name, and its height in pixels
LEVELS = 10  # number of levels of a surface
MOST_TICKS = 10
INK, GRID = "#7d8590", "rgba(125,133,144,0.25)"  # readable on light and dark backgrounds
AXIS = {
    "gridcolor": GRID,
    "linecolor": GRID,
    "tickcolor": GRID,
    "zeroline": False,
    "exponentformat": "e",
    "automargin": True,
}
CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}


def library() -> str:
    """Return plotly's JavaScript library, several MB, which a page includes once."""
    source: str = get_plotlyjs()
    return source


def to_div(figure: Figure, page: str = "plot") -> str:
    """Return a figure as an HTML element with its data, for a page that includes `library`.

    Args:
        figure: The figure.
        page: Prefix of the element's id: letters, digits and hyphens.

    Raises:
        ValueError: If the figure has no panels.
    """
    markup: str = plotly.io.to_html(
        drawing(figure),
        config=CONFIG,
        include_plotlyjs=False,
        full_html=False,
        validate=False,  # building plotly's objects takes longer than everything else
        div_id=f"{page}-{figure.name}",
    )
    return markup


def drawing(figure: Figure) -> dict[str, Any]:
    """Return a figure as plotly's data and layout.

    Raises:
        ValueError: If the figure has no panels.
    """
    if not figure.panels:
        raise ValueError(f"{figure.name} has nothing to draw: {figure.caption}")
    height = figure.rows * figure.height * PIXELS
    between = 0.25 * figure.height * PIXELS
    if figure.rows > 1 and any(_are_long(panel) for panel in figure.panels):
        between += TURNED
        height += (figure.rows - 1) * TURNED
    columns = _parts(figure.columns, 0.06 if figure.shared_y else 0.09)
    rows = _parts(figure.rows, between / height if not figure.shared_x else 0.05)[::-1]
    traces: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    notes: list[dict[str, Any]] = []
    named: set[str] = set()
    for index, panel in enumerate(figure.panels):
        row, column = divmod(index, figure.columns)
        x_name, y_name = _name("x", index), _name("y", index)
        names = {"xaxis": x_name, "yaxis": y_name}
        if panel.surface is not None and figure.scale is not None:
            traces.append(_surface(panel.surface, figure.scale) | names)
        for series in panel.series:
            traces.append(_trace(series, series.label not in named) | names)
            named.add(series.label)
        x_axis, y_axis = _axes(figure, index)
        axes[_name("xaxis", index)] = x_axis | {"domain": columns[column], "anchor": y_name}
        axes[_name("yaxis", index)] = y_axis | {"domain": rows[row], "anchor": x_name}
        notes += [_note(text, x=x, y=y, xref=x_name, yref=y_name) for x, y, text in panel.notes]
        if figure.columns > 1 and panel.title:
            above = {"xref": "paper", "yref": "paper", "xanchor": "center", "yanchor": "bottom"}
            notes.append(_note(panel.title, x=sum(columns[column]) / 2, y=rows[row][1], **above))
    if figure.scale is not None and not figure.scale.is_point:
        traces.append(_color_bar(figure.scale) | {"xaxis": "x", "yaxis": "y"})
    layout = {
        **axes,
        "annotations": notes,
        "height": height + 90,
        "margin": {"l": 10, "r": 10, "t": 36, "b": 64},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "family": "system-ui, sans-serif", "size": 12},
        "legend": {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "x": 0},
        "hovermode": "closest",
        "modebar": {"bgcolor": "rgba(0, 0, 0, 0)"},  # it may lie above a title
        "hoverlabel": {"align": "left"},
    }
    return {"data": traces, "layout": layout}


def _parts(count: int, gap: float) -> list[list[float]]:
    """Return the beginnings and ends of equal parts of the interval from 0 to 1."""
    size = (1 - gap * (count - 1)) / count
    return [[index * (size + gap), min(1.0, index * (size + gap) + size)] for index in range(count)]


def _name(kind: str, index: int) -> str:
    """Return plotly's name of an axis."""
    return f"{kind}{index + 1 if index else ''}"


def _note(text: str, **place: Any) -> dict[str, Any]:
    return {"text": _escaped(text), "showarrow": False, "font": {"size": 12}, **place}


def _axes(figure: Figure, index: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the axes of a panel, without their places."""
    panel = figure.panels[index]
    column = index % figure.columns
    sharing = figure.panels if figure.shared_x else [panel]
    across = [x for each in sharing for series in each.series for x in series.x]
    down = [y for each in panel.series for y in each.y]
    x_axis = _axis(panel.log_x, panel.x_range, panel.x_ticks, across, panel.counts_x)
    y_axis = _axis(panel.log_y, panel.y_range, panel.y_ticks, down, panel.counts_y)
    label, y_label = panel.x_label, panel.y_label
    if figure.columns > 1:
        label = "\n".join(textwrap.wrap(label, WIDEST_LABEL))
        if panel.x_ticks and _are_long(panel):
            names = [name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…" for name in panel.x_ticks.values()]
            x_axis |= {"ticktext": [_escaped(name) for name in names], "tickangle": 40}
    lowest = (figure.rows - 1) * figure.columns + column
    if figure.shared_x and index != lowest < len(figure.panels):
        x_axis |= {"matches": _name("x", lowest), "showticklabels": False}
    if figure.shared_y and column:
        y_axis |= {"matches": _name("y", index - column), "showticklabels": False}
        y_label = ""
    x_axis["title"] = {"text": _escaped(label), "standoff": 4}
    y_axis["title"] = {"text": _escaped(y_label)}
    return x_axis, y_axis


def _axis(
    log: bool,
    limits: tuple[float, float] | None,
    ticks: Mapping[float, str] | None,
    values: Sequence[float],
    is_counted: bool,
) -> dict[str, Any]:
    axis: dict[str, Any] = dict(AXIS)
    if log:
        axis |= {"type": "log", "tickangle": 0, **_log_ticks(limits or (min(values), max(values)))}
    if limits is not None:
        axis["range"] = [math.log10(limit) for limit in limits] if log else list(limits)
    if ticks is not None:
        texts = [_escaped(text) for text in ticks.values()]
        axis |= {"tickvals": list(ticks), "ticktext": texts, "ticklabeloverflow": "allow"}
    places = limits or [value for value in values if not math.isnan(value)]
    if is_counted and not log and ticks is None and places and max(places) - min(places) <= MOST_TICKS:
        axis["dtick"] = 1  # no halves of an epoch
    return axis


def _are_long(panel: Panel) -> bool:
    """Return whether the names below a panel, one of several in a row, have no room next to each other."""
    names = list((panel.x_ticks or {}).values())
    return bool(names) and max(map(len, names)) + 1 > NARROW / len(names)


def _log_ticks(limits: tuple[float, float]) -> dict[str, Any]:
    """Return plotly's settings for the ticks of a log axis: several in each decade if there are few decades."""
    low, high = (math.log10(limit) for limit in limits)
    if high - low >= 2:
        return {"dtick": math.ceil((high - low) / 5)}
    if high - low < FEW_DECADES:
        inside = even_ticks(*limits)
    else:
        digits = (1, 2, 5) if high - low < 1 else (1, 3)
        places = [digit * 10.0**power for power in range(math.floor(low), math.ceil(high)) for digit in digits]
        inside = [place for place in places if limits[0] <= place <= limits[1]]
    return {"tickvals": inside, "ticktext": [f"{place:g}" for place in inside]}


def _trace(series: Series, is_first: bool) -> dict[str, Any]:
    name = _escaped(series.label)
    hover = [_escaped(text) for text in series.hover]
    common = {
        "name": name,
        "legendgroup": name,
        "showlegend": bool(name) and is_first,
        "hovertext": hover[0] if len(set(hover)) == 1 else hover,  # once for a curve, not for each of its points
        "hoverinfo": "text" if series.hover else "skip",
    }
    match series.mark:
        case "bars":
            bars = {"type": "bar", "orientation": "h", "marker": {"color": series.color}, "width": 0.66}
            return {**common, **bars, "x": series.x, "y": series.y}
        case "box":
            # The same method as matplotlib's.
            low, middle, high = statistics.quantiles(series.y, n=4, method="inclusive")
            reach = 1.5 * (high - low)
            return {
                "type": "box",
                "x": [series.x[0]],
                "q1": [low],
                "median": [middle],
                "q3": [high],
                "lowerfence": [min(y for y in series.y if y >= low - reach)],
                "upperfence": [max(y for y in series.y if y <= high + reach)],
                "fillcolor": _translucent(series.color),
                "line": {"color": series.color, "width": 1.5},
                "width": 0.5,
                "hoverinfo": "skip",
                "showlegend": False,
            }
        case "band":
            return {
                **common,
                "type": "scatter",
                "x": [*series.x, *reversed(series.x)],
                "y": [*series.y, *reversed(series.upper)],
                "mode": "lines",
                "line": {"width": 0, "color": series.color},
                "fill": "toself",
                "fillcolor": _translucent(series.color),
                "hoverinfo": "skip",
            }
        case "points" | "crosses":
            shape = series.symbol if series.mark == "points" else "x-thin"
            edge = {"color": INK if series.colors else series.color, "width": 0.5 if series.colors else 1.5}
            marker = {"color": list(series.colors) or series.color, "symbol": shape, "size": 8, "line": edge}
            points = {"type": "scatter", "mode": "markers", "marker": marker, "cliponaxis": False}
            return {**common, **points, "x": series.x, "y": series.y}
        case _:
            return {
                **common,
                "type": "scatter",
                "x": series.x,
                "y": series.y,
                "mode": "lines+markers" if series.marked else "lines",
                "marker": {"symbol": series.symbol, "size": 6},
                "line": {
                    "color": series.color,
                    "width": series.width,
                    "dash": series.dash,
                    "shape": "hv" if series.mark == "steps" else "linear",
                },
            }


def _translucent(color: str) -> str:
    return f"rgba({', '.join(str(int(color[at : at + 2], 16)) for at in (1, 3, 5))}, 0.18)"


def _surface(surface: Surface, scale: Scale) -> dict[str, Any]:
    low, high = sorted((scale.low, scale.high))
    return {
        "type": "contour",
        "x": surface.x,
        "y": surface.y,
        "z": surface.values,
        "colorscale": _colors(scale),
        "zmin": low,
        "zmax": high,
        "contours": {"start": low, "end": high, "size": (high - low) / LEVELS or 1.0},
        "line": {"width": 0},
        "opacity": 0.45,
        "showscale": False,
        "hoverinfo": "skip",
    }


def _colors(scale: Scale) -> list[tuple[float, str]]:
    stops = Scale.STOPS if scale.low <= scale.high else Scale.STOPS[::-1]
    return [(index / (len(stops) - 1), stop) for index, stop in enumerate(stops)]


def _color_bar(scale: Scale) -> dict[str, Any]:
    title = {"text": _escaped(scale.title), "side": "right"}  # above the bar, it would touch the highest tick
    marker = {
        "color": [min(scale.low, scale.high)],
        "cmin": min(scale.low, scale.high),
        "cmax": max(scale.low, scale.high),
        "colorscale": _colors(scale),
        "showscale": True,
        "colorbar": {"title": title, "thickness": 12, "outlinewidth": 0},
    }
    hidden = {"x": [None], "y": [None], "showlegend": False, "hoverinfo": "skip"}
    return {"type": "scatter", "mode": "markers", "marker": marker, **hidden}


def _escaped(text: str) -> str:
    """Return a text without characters that plotly would take for HTML."""
    return html.escape(text, quote=False).replace("\n", "<br>")
