"""Pictures of what a classifier confuses, drawn by matplotlib: the confusion matrix, and single images."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context

from tuner.visualization.matplotlib_backend import STYLE, empty, saved

__all__ = ["confusion_png", "mistakes_png"]


def confusion_png(counts: Sequence[Sequence[int]], title: str, names: Sequence[str] = ()) -> bytes:
    """Return a confusion matrix as a PNG image.

    Args:
        counts: How often each true class (a row) was predicted as each class (a column).
        title: Title above it.
        names: Names of the classes; their numbers if it is empty.
    """
    classes = range(len(counts))
    labels = list(names) or [str(number) for number in classes]
    room = 0.08 * max(map(len, labels))
    mistakes = [[0 if row == column else counts[row][column] for column in classes] for row in classes]
    most = max(1, *(max(row) for row in mistakes))
    with rc_context({**STYLE, "axes.grid": False}):
        canvas = empty(max(0.5 * len(counts) + 1.4 + room, 0.085 * len(title)), 0.46 * len(counts) + 1.3 + room)
        axis = canvas.subplots()
        axis.imshow(mistakes, cmap="Oranges", vmin=0, vmax=most)
        for row in classes:
            for column in classes:
                if counts[row][column]:
                    ink = "white" if 2 * mistakes[row][column] > most else "#22272e"
                    weight = "bold" if row == column else "normal"
                    text = str(counts[row][column])
                    axis.text(column, row, text, ha="center", va="center", color=ink, fontweight=weight)
        axis.set_xticks(classes, labels, rotation=0 if max(map(len, labels)) < 4 else 45, rotation_mode="anchor")
        for label in axis.get_xticklabels():
            label.set_horizontalalignment("center" if max(map(len, labels)) < 4 else "right")
        axis.set_yticks(classes, labels)
        axis.set_xlabel("predicted")
        axis.set_ylabel("true")
        canvas.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
        return saved(canvas)


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
        canvas = empty(1.05 * columns + 0.6, 1.3 * rows + 0.6)
        canvas.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
        for axis in canvas.subplots(rows, columns, squeeze=False).flat:
            axis.set_axis_off()
        for axis, image, text in zip(canvas.axes, images, texts, strict=False):
            axis.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            axis.set_title(text, fontsize=8)
        return saved(canvas)
