"""Pictures of what a classifier confuses, drawn by matplotlib: the confusion matrix, and single images."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure as Canvas

from tuner.visualization.matplotlib_backend import STYLE, empty, saved

__all__ = ["confusion_png", "mistakes", "mistakes_png", "most_confused"]

MOST_CLASSES = 40
DARK, FEWEST = 0.1, 3.0
"""The share of a class, and the number of mistakes, below which no cell has the darkest colour."""
COLUMNS, LETTERS = 6, 20  # columns of the grid of mistakes, and letters in a line of a caption
WIDTH, HEIGHT, LINE = 1.6, 1.2, 0.17  # of a cell of the grid, without its caption, and of a line of this, in inches


def confusion_png(counts: Sequence[Sequence[int]], title: str, names: Sequence[str] = ()) -> bytes:
    """Return a confusion matrix as a PNG image.

    Args:
        counts: How often each true class (a row) was predicted as each class (a column). Of more than 40 classes, only
            those with the most mistakes are shown.
        title: Title above it.
        names: Names of the classes; their numbers if it is empty.
    """
    labels = list(names) or [str(number) for number in range(len(counts))]
    if len(counts) > MOST_CLASSES:
        shown = most_confused(counts)
        title += f"\nOnly the {MOST_CLASSES} of {len(counts)} classes with the most mistakes"
        labels, counts = [labels[at] for at in shown], [[counts[row][column] for column in shown] for row in shown]
    classes = range(len(counts))
    room = 0.08 * max(map(len, labels))
    mistakes = [[0 if row == column else counts[row][column] for column in classes] for row in classes]
    most = max(FEWEST, DARK * max(map(sum, counts)), *(max(row) for row in mistakes))
    with rc_context({**STYLE, "axes.grid": False}):
        canvas = empty(
            max(0.5 * len(counts) + 1.4 + room, 0.085 * max(map(len, title.split("\n")))),
            0.46 * len(counts) + 1.3 + room,
        )
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


def most_confused(counts: Sequence[Sequence[int]]) -> list[int]:
    """Return the classes with the most mistakes, as the true or the predicted class, in their order."""
    correct = [2 * row[index] for index, row in enumerate(counts)]
    wrong = [
        sum(row) + sum(column) - hits
        for row, column, hits in zip(counts, zip(*counts, strict=True), correct, strict=True)
    ]
    return sorted(sorted(range(len(counts)), key=lambda index: -wrong[index])[:MOST_CLASSES])


def mistakes_png(images: Any, texts: Sequence[str], title: str) -> bytes:
    """Return a grid of images, each with its caption, as a PNG image; the arguments are those of `mistakes`."""
    with rc_context(STYLE):
        return saved(mistakes(images, texts, title))


def mistakes(images: Any, texts: Sequence[str], title: str) -> Canvas:
    """Draw a grid of images, each with its caption.

    Args:
        images: Array [n, height, width], or [n, height, width, 3], from 0 to 1.
        texts: A caption for each image; long lines are wrapped.
        title: Title above them.
    """
    columns = min(COLUMNS, len(texts))
    rows = math.ceil(len(texts) / columns)
    captions = ["\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, LETTERS)) for text in texts]
    cell = HEIGHT + LINE * max(text.count("\n") + 1 for text in captions)
    with rc_context({**STYLE, "axes.grid": False}):
        canvas = empty(max(WIDTH * columns, 0.085 * len(title)), cell * rows + 0.4)
        canvas.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
        axis = canvas.subplots()  # all cells in one, since the layout of many takes long
        axis.set_axis_off()
        for index, (image, text) in enumerate(zip(images, captions, strict=True)):
            middle, bottom = WIDTH * (index % columns + 0.5), cell * (index // columns + 1)
            scale = min((WIDTH - 0.1) / image.shape[1], (HEIGHT - 0.1) / image.shape[0])
            half, top = scale * image.shape[1] / 2, bottom - scale * image.shape[0]
            place = (middle - half, middle + half, bottom, top)
            axis.imshow(image, cmap="gray_r", vmin=0, vmax=1, extent=place)
            axis.text(middle, top - 0.07, text, fontsize=9.5, ha="center", va="bottom")
        axis.set(xlim=(0, WIDTH * columns), ylim=(cell * rows, 0))
        return canvas
