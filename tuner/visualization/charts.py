"""The charts of a study: which schedule won, by how much, and why, each as a `Figure`.

Every chart accepts any record: a single trial, no completed trial, parameters that only some trials have. A figure that
cannot be drawn has no panels, and its caption says why.
"""

from collections.abc import Callable, Sequence

from tuner.analysis.record import StudyRecord
from tuner.visualization.curves import best_of_each, lr_curves, top_trials, winner
from tuner.visualization.figure import Figure
from tuner.visualization.landscape import contour, isolation, rank, slices
from tuner.visualization.parameters import importance, parallel_coordinates, values_by_family
from tuner.visualization.parts import OF_TRAININGS
from tuner.visualization.progress import best_so_far, intermediate_values, timeline
from tuner.visualization.tradeoffs import pareto_front

__all__ = ["OF_SEVERAL", "PLOTS", "draw"]

PLOTS: Sequence[Callable[[StudyRecord], Figure]] = (
    top_trials,
    best_of_each,
    lr_curves,
    values_by_family,
    winner,
    intermediate_values,
    importance,
    isolation,
    slices,
    contour,
    rank,
    parallel_coordinates,
    best_so_far,
    timeline,
)
"""All plots of a study with one objective, in the order in which they answer questions."""

OF_SEVERAL = (pareto_front, *(plot for plot in PLOTS if plot not in (winner, best_so_far)))
"""The plots of a study with several objectives; all but the first show the first objective."""


def draw(record: StudyRecord) -> list[Figure]:
    """Return all plots of a study, including those without panels."""
    plots = OF_SEVERAL if record.further else PLOTS
    return [plot(record) for plot in plots if not (record.of_function and plot in OF_TRAININGS)]
