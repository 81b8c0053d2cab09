"""Pictures of lr curves: figures, and braille dots for a terminal."""

import math
import textwrap
from collections.abc import Callable, Sequence
from statistics import fmean

from rich.table import Table
from rich.text import Text

from lightning_modules import Plateau
from tuner.analysis.lr_curves import Family, LrCurve
from tuner.visualization.figure import COLORS, Figure, Panel, Series, style

__all__ = ["draw_terminal", "figure_of"]

FAN, INK = "#b5b5b5", "#22272e"
TITLE_LETTERS = 150
DECADES = 6  # decades below the peak that a log axis shows
REDUCTIONS_UNKNOWN = "its reductions depend on the metric, so only the schedule inside is drawn"


def examples(family: Family) -> list[LrCurve]:
    """Return the curves of a fan with the highest, the middle and the lowest mean lr, or the only one."""
    curves = sorted(family.curves, key=lambda curve: fmean(curve.lr), reverse=True)
    return [curves[0], curves[len(curves) // 2], curves[-1]] if len(curves) > 2 else curves


def title(family: Family, how: str) -> str:
    """Return the title of a family's picture, in one line.

    Args:
        family: The family.
        how: How the examples are shown, if there are more curves.
    """
    count = f" ({len(family.curves)} samples)" if len(family.curves) > 1 else ""
    if len(family.curves) > len(shown := examples(family)):
        count = f" ({len(family.curves)} samples, {len(shown)} {how}: highest, middle, lowest mean lr)"
    note = f"; {REDUCTIONS_UNKNOWN}" if isinstance(family.curves[0].schedule, Plateau) else ""
    return f"{family.name}{count}{note}"


def legend(curve: LrCurve) -> str:
    """Return the legend of a curve: its sampled values, or its whole schedule."""
    values = f", {curve.label}" if curve.label else f", {curve.schedule}"
    initial = "initial_lr" if curve.quantity == "lr" else f"initial {curve.quantity}"
    return f"{initial} {curve.initial_lr:.3g}{values}" if "initial_lr" not in values else values[2:]


def figure_of(family: Family) -> Figure:
    """Return a figure of a family, on a linear and on a logarithmic axis."""
    shown = examples(family)
    series = [Series(*_whole(curve), "steps", FAN, width=0.8) for curve in family.curves if curve not in shown]
    for lr in sorted({curve.initial_lr for curve in shown}):
        last = max(curve.steps[-1] for curve in shown) + 1
        label = f"initial {shown[0].quantity}"
        series.append(Series([0, last], [lr, lr], "line", INK, label, width=0.6, dash="dot"))
    for index, curve in enumerate(shown):
        color, dash, _ = style(index)
        series.append(Series(*_whole(curve), "steps", color, legend(curve), width=1.8, dash=dash))
    highest = max(max(curve.lr) for curve in family.curves)
    positive = [lr for curve in family.curves for lr in curve.lr if lr > 0]
    steps = {curve.length.steps_per_epoch for curve in family.curves}
    epochs = max(curve.length.epochs for curve in family.curves)
    panels = []
    for scale in ("linear", "log"):
        is_log = scale == "log" and bool(positive)
        lowest = max(min(positive), highest * 10**-DECADES) / 1.3 if is_log else 0.0
        panels.append(
            Panel(
                series,
                "",
                "step",
                f"{family.curves[0].quantity} ({scale})",
                log_y=is_log,
                y_range=(lowest, highest * 1.3) if is_log else (0.0, highest * 1.08 or 1.0),
                steps_per_epoch=next(iter(steps)) if len(steps) == 1 and epochs > 1 else None,
            )
        )
    heading = "\n".join([title(family, "in colour"), *textwrap.wrap(family.ranges, TITLE_LETTERS)])
    return Figure(family.name, heading, "", panels, columns=2, height=2.7, width=12.0)


def _whole(curve: LrCurve) -> tuple[list[int], list[float]]:
    """Return the corners of a curve up to the end of its last step, at which its lr still is that of the step."""
    return [*curve.steps, curve.steps[-1] + 1], [*curve.lr, curve.lr[-1]]


# -- the terminal ------------------------------------------------------------------------------------------------------


def draw_terminal(family: Family, width: int, height: int = 10) -> Table:
    """Return the examples of a fan for a terminal, on a linear and on a logarithmic axis side by side.

    Args:
        family: The family to draw.
        width: Width of the terminal, in columns.
        height: Height of the axes, in lines.
    """
    shown = examples(family)
    picture = Table.grid(padding=(0, 3, 0, 0))
    picture.add_row(*(_dots(shown, scale, (width - 6) // 2, height) for scale in ("linear", "log")))
    picture.title, picture.title_justify, picture.title_style = (
        Text(title(family, "drawn"), style="bold"),
        "left",
        "",
    )
    picture.caption = Text("\n").join(
        Text.assemble(("━ ", colour), legend(curve)) for curve, colour in zip(shown, COLORS, strict=False)
    )
    picture.caption_justify, picture.caption_style = "left", ""
    return picture


def _dots(curves: Sequence[LrCurve], scale: str, width: int, height: int) -> Text:
    """Return curves and their axes as text; a braille character holds two by four dots."""
    highest = max(max(curve.lr) for curve in curves)
    lowest, share = _scale(curves, scale, highest)
    names = {0: f"{highest:.1e}", height - 1: f"{lowest:.1e}"}
    margin = max(map(len, names.values()))
    columns = width - margin - 2
    steps = max(curve.steps[-1] for curve in curves) + 1
    cells: dict[tuple[int, int], tuple[int, str]] = {}
    for curve, colour in reversed(list(zip(curves, COLORS, strict=False))):  # the first is drawn on top
        before: int | None = None
        for step, end, lr in zip(curve.steps, [*curve.steps[1:], steps], curve.lr, strict=True):
            if not 0 <= share(lr) <= 1:
                before = None
                continue
            left, row = 2 * columns * step // steps, round((1 - share(lr)) * (4 * height - 1))
            fall = range(min(row, row if before is None else before), max(row, before or 0) + 1)
            held = range(left + 1, 2 * columns * end // steps)
            for across, down in [*((left, dot) for dot in fall), *((dot, row) for dot in held)]:
                place = down // 4, across // 2
                cells[place] = cells.get(place, (0, ""))[0] | _DOTS[down % 4][across % 2], colour
            before = row
    text = Text(f"{' ' * margin}  {curves[0].quantity} ({scale})\n", style="")
    for line in range(height):
        text.append(f"{names.get(line, ''):>{margin}} │", style="dim")
        for column in range(columns):
            bits, colour = cells.get((line, column), (0, ""))
            text.append(chr(0x2800 + bits) if bits else " ", style=colour)
        text.append("\n")
    text.append(f"{' ' * margin} └{'─' * columns}\n{' ' * margin}  0{_last_step(steps - 1, columns - 1)}", style="dim")
    return text


def _last_step(step: int, width: int) -> str:
    """Return the label of the last step, placed so that it does not touch the first one."""
    label = f"step {step}" if len(f" step {step}") <= width else f"{step}"
    return f"{label:>{width}}"


def _scale(curves: Sequence[LrCurve], scale: str, highest: float) -> tuple[float, Callable[[float], float]]:
    """Return the lr at the bottom of the axis, and a function from an lr to its height, from 0 to 1."""
    if scale == "linear" or highest == 0:
        return 0.0, lambda lr: lr / (highest or 1)
    positive = [lr for curve in curves for lr in curve.lr if lr > 0]
    lowest = max(min(positive), highest * 10**-DECADES)
    if lowest == highest:
        lowest /= 10
    span = math.log(highest / lowest)
    return lowest, lambda lr: math.log(lr / lowest) / span if lr > 0 else -1.0


_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bits of a braille character's dots, from the top
