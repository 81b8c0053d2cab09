"""Figures for a browser, drawn by plotly: with hover texts, zoom, and curves that can be hidden."""

import html
import math
import statistics
import textwrap
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from tuner.visualization.figure import FEW_DECADES, Figure, Panel, Scale, Series, Surface, even_ticks

__all__ = ["library", "to_div"]

PIXELS = 96
"""Pixels in an inch."""

NARROW, WIDEST_LABEL = 36, 32  # letters that fit below one of several panels in a row
LETTERS, TURNED = 18, 60  # letters of a turned name, and its height in pixels
LEVELS = 10  # number of levels of a surface
MOST_TICKS = 10
INK, GRID = "#7d8590", "rgba(125,133,144,0.25)"  # readable on light and dark backgrounds


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
    if not figure.panels:
        raise ValueError(f"{figure.name} has nothing to draw: {figure.caption}")
    height = figure.rows * figure.height * PIXELS
    between = 0.25 * figure.height * PIXELS
    if figure.rows > 1 and any(_are_long(panel) for panel in figure.panels):
        between += TURNED
        height += (figure.rows - 1) * TURNED
    drawing = make_subplots(
        figure.rows,
        figure.columns,
        shared_xaxes="columns" if figure.shared_x else False,
        shared_yaxes="rows" if figure.shared_y else False,
        subplot_titles=[_escaped(panel.title) for panel in figure.panels] if figure.columns > 1 else None,
        horizontal_spacing=0.06 if figure.shared_y else 0.09,
        vertical_spacing=between / height if not figure.shared_x else 0.05,
    )
    named: set[str] = set()
    for index, panel in enumerate(figure.panels):
        row, column = index // figure.columns + 1, index % figure.columns + 1
        if panel.surface is not None and figure.scale is not None:
            drawing.add_trace(_surface(panel.surface, figure.scale), row, column)
        for series in panel.series:
            drawing.add_trace(_trace(series, series.label not in named), row, column)
            named.add(series.label)
        sharing = figure.panels if figure.shared_x else [panel]
        across = [x for each in sharing for series in each.series for x in series.x]
        _set_axes(drawing, panel, across, row, column, is_first=column == 1 or not figure.shared_y)
        if figure.columns > 1 and panel.x_ticks and _are_long(panel):
            names = [name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…" for name in panel.x_ticks.values()]
            drawing.update_xaxes(ticktext=[_escaped(name) for name in names], tickangle=40, row=row, col=column)
        if figure.columns > 1:
            label = "\n".join(textwrap.wrap(panel.x_label, WIDEST_LABEL))
            drawing.update_xaxes(title_text=_escaped(label), row=row, col=column)
    if figure.scale is not None and not figure.scale.is_point:
        drawing.add_trace(_color_bar(figure.scale), 1, 1)
    for update in (drawing.update_xaxes, drawing.update_yaxes):
        update(gridcolor=GRID, linecolor=GRID, zeroline=False, tickcolor=GRID, exponentformat="e")
    drawing.update_layout(
        template="none",
        height=height + 90,
        margin={"l": 10, "r": 10, "t": 36, "b": 64},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "family": "system-ui, sans-serif", "size": 12},
        legend={"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "x": 0},
        hovermode="closest",
        modebar={"bgcolor": "rgba(0, 0, 0, 0)"},  # it may lie above a title
        hoverlabel={"align": "left"},
    )
    drawing.update_annotations(font={"size": 12})
    markup: str = drawing.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"{page}-{figure.name}",
        config={"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
    )
    return markup


def _set_axes(drawing: go.Figure, panel: Panel, across: Sequence[float], row: int, column: int, is_first: bool) -> None:
    place = {"row": row, "col": column}
    drawing.update_xaxes(title_text=_escaped(panel.x_label), title_standoff=4, automargin=True, **place)
    drawing.update_yaxes(title_text=_escaped(panel.y_label) if is_first else "", automargin=True, **place)
    down = [y for each in panel.series for y in each.y]
    for update, log, limits, ticks, values, is_counted in (
        (drawing.update_xaxes, panel.log_x, panel.x_range, panel.x_ticks, across, panel.counts_x),
        (drawing.update_yaxes, panel.log_y, panel.y_range, panel.y_ticks, down, panel.counts_y),
    ):
        if log:
            ends = limits or (min(values), max(values))
            update(type="log", tickangle=0, **_log_ticks(ends), **place)
        if limits is not None:
            update(range=[math.log10(limit) for limit in limits] if log else list(limits), **place)
        if ticks is not None:
            update(tickvals=list(ticks), ticktext=[_escaped(text) for text in ticks.values()], **place)
        places = limits or [value for value in values if not math.isnan(value)]
        if is_counted and not log and ticks is None and places and max(places) - min(places) <= MOST_TICKS:
            update(dtick=1, **place)  # no halves of an epoch
    for x, y, text in panel.notes:
        drawing.add_annotation(x=x, y=y, text=_escaped(text), showarrow=False, **place)


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


def _trace(series: Series, is_first: bool) -> go.Scatter | go.Bar | go.Box:
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
            return go.Bar(x=series.x, y=series.y, orientation="h", marker_color=series.color, width=0.66, **common)
        case "box":
            # The same method as matplotlib's.
            low, middle, high = statistics.quantiles(series.y, n=4, method="inclusive")
            reach = 1.5 * (high - low)
            return go.Box(
                x=[series.x[0]],
                q1=[low],
                median=[middle],
                q3=[high],
                lowerfence=[min(y for y in series.y if y >= low - reach)],
                upperfence=[max(y for y in series.y if y <= high + reach)],
                fillcolor=_translucent(series.color),
                line_color=series.color,
                line_width=1.5,
                width=0.5,
                hoverinfo="skip",
                showlegend=False,
            )
        case "band":
            return go.Scatter(
                x=[*series.x, *reversed(series.x)],
                y=[*series.y, *reversed(series.upper)],
                mode="lines",
                line={"width": 0, "color": series.color},
                fill="toself",
                fillcolor=_translucent(series.color),
                **{**common, "hoverinfo": "skip"},
            )
        case "points" | "crosses":
            shape = series.symbol if series.mark == "points" else "x-thin"
            edge = {"color": INK if series.colors else series.color, "width": 0.5 if series.colors else 1.5}
            marker = {"color": list(series.colors) or series.color, "symbol": shape, "size": 8, "line": edge}
            return go.Scatter(x=series.x, y=series.y, mode="markers", marker=marker, cliponaxis=False, **common)
        case _:
            return go.Scatter(
                x=series.x,
                y=series.y,
                mode="lines+markers" if series.marked else "lines",
                marker={"symbol": series.symbol, "size": 6},
                line={
                    "color": series.color,
                    "width": series.width,
                    "dash": series.dash,
                    "shape": "hv" if series.mark == "steps" else "linear",
                },
                **common,
            )


def _translucent(color: str) -> str:
    return f"rgba({', '.join(str(int(color[at : at + 2], 16)) for at in (1, 3, 5))}, 0.18)"


def _surface(surface: Surface, scale: Scale) -> go.Contour:
    low, high = sorted((scale.low, scale.high))
    return go.Contour(
        x=surface.x,
        y=surface.y,
        z=surface.values,
        colorscale=_colors(scale),
        zmin=low,
        zmax=high,
        contours={"start": low, "end": high, "size": (high - low) / LEVELS or 1.0},
        line={"width": 0},
        opacity=0.45,
        showscale=False,
        hoverinfo="skip",
    )


def _colors(scale: Scale) -> list[tuple[float, str]]:
    stops = Scale.STOPS if scale.low <= scale.high else Scale.STOPS[::-1]
    return [(index / (len(stops) - 1), stop) for index, stop in enumerate(stops)]


def _color_bar(scale: Scale) -> go.Scatter:
    title = {"text": _escaped(scale.title), "side": "right"}  # above the bar, it would touch the highest tick
    bar = {"title": title, "thickness": 12, "outlinewidth": 0}
    marker = {
        "color": [min(scale.low, scale.high)],
        "cmin": min(scale.low, scale.high),
        "cmax": max(scale.low, scale.high),
        "colorscale": _colors(scale),
        "showscale": True,
        "colorbar": bar,
    }
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, showlegend=False, hoverinfo="skip")


def _escaped(text: str) -> str:
    """Return a text without characters that plotly would take for HTML."""
    return html.escape(text, quote=False).replace("\n", "<br>")
