"""Pictures of lr curves: a file drawn by matplotlib, and braille dots for a terminal."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from lightning_modules import Plateau
from tuner.analysis.lr_curves import Family, LrCurve
from tuner.visualization.figure import COLORS

__all__ = ["draw_file", "draw_terminal", "make_figure"]

FAN = "#999999"
DECADES = 6  # below the peak, on a log axis
REDUCTIONS_UNKNOWN = "its reductions depend on the metric, so only the schedule inside is drawn"


def examples(family: Family) -> list[LrCurve]:
    """Return the curves of a fan with the highest, the middle and the lowest mean lr, or the only one."""
    curves = sorted(family.curves, key=lambda curve: fmean(curve.lr), reverse=True)
    return [curves[0], curves[len(curves) // 2], curves[-1]] if len(curves) > 2 else curves


def title(family: Family) -> str:
    """Return the title of a family's picture, in one line."""
    count = f" ({len(family.curves)} samples)" if len(family.curves) > 1 else ""
    note = f"; {REDUCTIONS_UNKNOWN}" if isinstance(family.curves[0].schedule, Plateau) else ""
    return f"{family.name}{count}{note}"


def legend(curve: LrCurve) -> str:
    """Return the legend of a curve: its sampled values, or its whole schedule."""
    values = f", {curve.label}" if curve.label else f", {curve.schedule}"
    initial = "initial_lr" if curve.quantity == "lr" else f"initial {curve.quantity}"
    return f"{initial} {curve.initial_lr:.3g}{values}" if "initial_lr" not in values else values[2:]


def draw_file(families: Sequence[Family], name: str, path: Path) -> None:
    """Write a picture.

    Args:
        families: The families to draw.
        name: Name in the title.
        path: File to write; its suffix determines the format.

    Raises:
        ValueError: If matplotlib does not know the format.
        OSError: If the file cannot be written.
    """
    make_figure(families, name).savefig(path)


def make_figure(families: Sequence[Family], name: str) -> Figure:
    """Return a figure with a row for each family, on a linear and on a logarithmic axis."""
    figure = Figure(figsize=(12, 0.8 + 3.2 * len(families)), dpi=120, layout="constrained")
    figure.suptitle(f"{name}: lr of every step", fontsize=13, fontweight="bold")
    rows = figure.subfigures(len(families), 1, squeeze=False)[:, 0]
    for row, family in zip(rows, families, strict=True):
        text = title(family) + (f"\n{family.ranges}" if family.ranges else "")
        row.suptitle(text, fontsize=10, x=0.01, ha="left")
        for axes, scale in zip(row.subplots(1, 2), ("linear", "log"), strict=True):
            _draw_fan(axes, family)
            _finish(axes, family, scale)
        lines = row.axes[0].get_legend_handles_labels()
        row.legend(*lines, loc="outside lower left", ncols=3, fontsize=8, frameon=False)
    return figure


def _draw_fan(axes: Axes, family: Family) -> None:
    shown = examples(family)
    for curve in family.curves:
        if curve not in shown:
            axes.step(curve.steps, curve.lr, where="post", color=FAN, linewidth=0.8, alpha=0.5, zorder=1)
    for curve, colour in zip(shown, COLORS, strict=False):
        axes.step(curve.steps, curve.lr, where="post", color=colour, linewidth=1.8, label=legend(curve), zorder=2)
    initial_lrs = {curve.initial_lr for curve in shown}
    for lr in initial_lrs:
        axes.axhline(lr, color="black", linewidth=0.6, linestyle=":", zorder=0)
    if len(initial_lrs) == 1:  # otherwise they are in the legend
        (lr,), place = initial_lrs, axes.get_yaxis_transform()
        axes.text(
            0.995, lr, f"initial {shown[0].quantity}", transform=place, fontsize=8, ha="right", va="bottom", zorder=3
        )


def _finish(axes: Axes, family: Family, scale: str) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel(f"{family.curves[0].quantity} ({scale})")
    axes.grid(alpha=0.25)
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    highest = max(max(curve.lr) for curve in family.curves)
    positive = [lr for curve in family.curves for lr in curve.lr if lr > 0]
    if scale == "log" and positive:
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylim(max(min(positive), highest * 10**-DECADES) / 1.3, highest * 1.3)
    elif scale == "linear":
        axes.set_ylim(0, highest * 1.08 or 1)
    per_epoch = {curve.length.steps_per_epoch for curve in family.curves}
    epochs = max(curve.length.epochs for curve in family.curves)
    if len(per_epoch) == 1 and epochs > 1:
        (steps,) = per_epoch
        there_and_back: Any = (lambda step: step / steps, lambda epoch: epoch * steps)
        upper = axes.secondary_xaxis("top", functions=there_and_back)
        upper.set_xlabel("epoch", fontsize=8)
        upper.tick_params(labelsize=8)


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
    picture.title, picture.title_justify, picture.title_style = Text(title(family), style="bold"), "left", ""
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
    text.append(f"{' ' * margin} └{'─' * columns}\n{' ' * margin}  0{f'step {steps - 1}':>{columns - 1}}", style="dim")
    return text


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
