"""The charts of a study: which schedule won, by how much, and why, each as a `Figure`.

Every chart accepts any record: a single trial, no completed trial, parameters that only some trials have. A figure that
cannot be drawn has no panels, and its caption says why.
"""

from collections.abc import Callable, Sequence

from tuner.analysis.record import StudyRecord
from tuner.visualization.curves import best_of_each, best_so_far, lr_curves, top_trials, winner
from tuner.visualization.figure import Figure
from tuner.visualization.parameters import importance, parallel_coordinates, slices, values_by_family

__all__ = ["PLOTS", "draw"]

PLOTS: Sequence[Callable[[StudyRecord], Figure]] = (
    top_trials,
    best_of_each,
    lr_curves,
    values_by_family,
    winner,
    importance,
    slices,
    parallel_coordinates,
    best_so_far,
)
"""All plots, in the order in which they answer questions."""


def draw(record: StudyRecord) -> list[Figure]:
    """Return all plots of a study, including those without panels."""
    return [plot(record) for plot in PLOTS]
