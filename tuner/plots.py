"""Pictures of lr curves: a file by matplotlib, and the terminal by plotext. The only module that draws."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import plotext
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_modules import Plateau
from tuner.curves import Curve, Family

__all__ = ["COLOURS", "draw_file", "draw_terminal", "examples"]

COLOURS = ("#0072b2", "#d55e00", "#009e73")  # Okabe and Ito: told apart by all kinds of colour vision
FAN = "#999999"
DECADES = 6  # below the peak, on a log axis
UNTOLD = "its reductions depend on the metric, so only the schedule inside is drawn"


def examples(family: Family) -> list[Curve]:
    """Return the curves of a fan with the highest, the middle and the lowest mean lr, or the only one."""
    curves = sorted(family.curves, key=lambda curve: fmean(curve.lr), reverse=True)
    return [curves[0], curves[len(curves) // 2], curves[-1]] if len(curves) > 2 else curves


def title(family: Family) -> str:
    """Return what a person should know of a family's picture, in a line."""
    count = f" ({len(family.curves)} samples)" if len(family.curves) > 1 else ""
    note = f"; {UNTOLD}" if isinstance(family.curves[0].schedule, Plateau) else ""
    return f"{family.name}{count}{note}"


def legend(curve: Curve) -> str:
    """Return what tells a curve from others: what was drawn for it, or all of it."""
    values = f", {curve.label}" if curve.label else f", {curve.schedule}"
    return f"initial_lr {curve.initial_lr:.3g}{values}" if "initial_lr" not in values else values[2:]


def draw_file(families: Sequence[Family], name: str, path: Path) -> None:
    """Write a picture: a row for each family, on a linear and on a logarithmic axis.

    Args:
        families: What is drawn.
        name: What the title calls it.
        path: File to write; its ending says the format.

    Raises:
        ValueError: If matplotlib does not know the format.
        OSError: If the file cannot be written.
    """
    figure = Figure(figsize=(12, 0.8 + 3.2 * len(families)), dpi=120, layout="constrained")
    figure.suptitle(f"{name}: lr of every step", fontsize=13, fontweight="bold")
    rows = figure.subfigures(len(families), 1, squeeze=False)[:, 0]
    for row, family in zip(rows, families, strict=True):
        text = title(family) + (f"\n{family.ranges}" if family.ranges else "")
        row.suptitle(text, fontsize=10, x=0.01, ha="left")
        for axes, scale in zip(row.subplots(1, 2), ("linear", "log"), strict=True):
            _draw_fan(axes, family)
            _finish(axes, family, scale)
        row.axes[0].legend(loc="best", fontsize=7.5, framealpha=0.85)
    figure.savefig(path)


def _draw_fan(axes: Axes, family: Family) -> None:
    shown = examples(family)
    for curve in family.curves:
        if curve not in shown:
            axes.plot(curve.steps, curve.lr, color=FAN, linewidth=0.8, alpha=0.5, zorder=1)
    for curve, colour in zip(shown, COLOURS, strict=False):
        axes.plot(curve.steps, curve.lr, color=colour, linewidth=1.8, label=legend(curve), zorder=2)
    for lr in {curve.initial_lr for curve in shown}:
        axes.axhline(lr, color="black", linewidth=0.6, linestyle=":", zorder=0)


def _finish(axes: Axes, family: Family, scale: str) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel(f"lr ({scale})")
    axes.grid(alpha=0.25)
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    highest = max(max(curve.lr) for curve in family.curves)
    positive = [lr for curve in family.curves for lr in curve.lr if lr > 0]
    if scale == "log" and positive:
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylim(max(min(positive), highest * 10**-DECADES) / 1.3, highest * 1.3)
    elif scale == "linear":
        axes.set_ylim(bottom=0)
    per_epoch = {curve.length.steps_per_epoch for curve in family.curves}
    epochs = max(curve.length.max_epochs for curve in family.curves)
    if len(per_epoch) == 1 and epochs > 1:
        (steps,) = per_epoch
        upper = axes.secondary_xaxis("top", functions=(lambda step: step / steps, lambda epoch: epoch * steps))
        upper.set_xlabel("epoch", fontsize=8)
        upper.tick_params(labelsize=8)


def draw_terminal(family: Family, width: int, height: int = 13) -> str:
    """Return a picture for a terminal: the examples of a fan, on a linear and on a logarithmic axis side by side."""
    shown = examples(family)
    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, height)
    figure.subplots(1, 2)
    for column, scale in enumerate(("linear", "log"), start=1):
        plot = figure.subplot(1, column)
        for curve, colour in zip(shown, COLOURS, strict=False):
            plot.draw(_signal(plot, curve, scale, colour))
        plot.title(f"lr ({scale})")
    return str(figure.build())


def _signal(plot: Any, curve: Curve, scale: str, colour: str) -> Any:
    points = list(zip(curve.steps, curve.lr, strict=True))
    if scale == "log":
        floor = max(curve.lr) * 10**-DECADES
        points = [(step, math.log10(lr)) for step, lr in points if lr > floor]
    return plot.signal([step for step, _ in points], [lr for _, lr in points], marker="braille")
