"""The figures of a study as matplotlib figures, for Python."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from tuner.analysis.record import StudyRecord
from tuner.errors import BadInputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tuner.visualization.figure import Figure as PlainFigure

__all__ = ["StudyPlots", "drawn"]


class StudyPlots(ABC):
    """Base of classes that have the record of a study, and draw it."""

    @property
    @abstractmethod
    def record(self) -> StudyRecord:
        """The study as plain data."""

    def plot_pareto_front(self) -> "Figure":
        """Return a matplotlib figure of several objectives: the first one over each other one, and the Pareto front."""
        from tuner.visualization.tradeoffs import pareto_front

        return drawn(pareto_front(self.record))

    def plot_lr(self) -> "Figure":
        """Return a matplotlib figure of the lr curves of all trials, colored by their values."""
        from tuner.visualization.curves import lr_curves

        return drawn(lr_curves(self.record))

    def plot_top_trials(self) -> "Figure":
        """Return a matplotlib figure of the lr and the objective of the best trials, epoch by epoch."""
        from tuner.visualization.curves import top_trials

        return drawn(top_trials(self.record))

    def plot_best_of_each(self) -> "Figure":
        """Return a matplotlib figure of the lr and the objective of the best trial of each schedule."""
        from tuner.visualization.curves import best_of_each

        return drawn(best_of_each(self.record))

    def plot_values_by_family(self) -> "Figure":
        """Return a matplotlib figure of the values of all trials, by their schedules."""
        from tuner.visualization.parameters import values_by_family

        return drawn(values_by_family(self.record))

    def plot_winner(self) -> "Figure":
        """Return a matplotlib figure of the metrics of the best trial, in training and validation."""
        from tuner.visualization.curves import winner

        return drawn(winner(self.record))

    def plot_intermediate_values(self) -> "Figure":
        """Return a matplotlib figure of the objective of every trial, epoch by epoch."""
        from tuner.visualization.progress import intermediate_values

        return drawn(intermediate_values(self.record))

    def plot_importance(self) -> "Figure":
        """Return a matplotlib figure of the importance of each searched parameter."""
        from tuner.visualization.parameters import importance

        return drawn(importance(self.record))

    def plot_slices(self) -> "Figure":
        """Return a matplotlib figure of the values of all trials over each searched parameter."""
        from tuner.visualization.landscape import slices

        return drawn(slices(self.record))

    def plot_isolation(self) -> "Figure":
        """Return a matplotlib figure of the best value at each value of a parameter, whatever the others are."""
        from tuner.visualization.landscape import isolation

        return drawn(isolation(self.record))

    def plot_contour(self, x: str | None = None, y: str | None = None) -> "Figure":
        """Return a matplotlib figure of the objective over two parameters.

        Args:
            x: A searched parameter, such as "optimizer.initial_lr"; by default, the pairs of the most important ones.
            y: Another one.

        Raises:
            BadInputError: If there is no such parameter, or only one is given.
        """
        from tuner.visualization.landscape import contour

        return drawn(contour(self.record, *self._pair(x, y)))

    def plot_rank(self, x: str | None = None, y: str | None = None) -> "Figure":
        """Return a matplotlib figure of the ranks of the trials over two parameters; see `plot_contour`."""
        from tuner.visualization.landscape import rank

        return drawn(rank(self.record, *self._pair(x, y)))

    def plot_parallel_coordinates(self) -> "Figure":
        """Return a matplotlib figure with a line for each trial through the values of its parameters."""
        from tuner.visualization.parameters import parallel_coordinates

        return drawn(parallel_coordinates(self.record))

    def plot_best_so_far(self) -> "Figure":
        """Return a matplotlib figure of the values of the trials in their order, and the best one so far."""
        from tuner.visualization.progress import best_so_far

        return drawn(best_so_far(self.record))

    def plot_timeline(self) -> "Figure":
        """Return a matplotlib figure of when each trial ran, and how it ended."""
        from tuner.visualization.progress import timeline

        return drawn(timeline(self.record))

    def _pair(self, *names: str | None) -> tuple[str | None, ...]:
        """Check the names of two parameters.

        Raises:
            BadInputError: If the study has not searched one of them, or only one is given.
        """
        from tuner.config.annotations import did_you_mean

        known = sorted({name for trial in self.record.ranking for name in trial.params})
        faults = [
            f'no parameter "{name}" in a completed trial; there are: {", ".join(known)}.{did_you_mean(name, known)}'
            for name in names
            if name is not None and name not in known
        ]
        if sum(name is None for name in names) == 1:
            faults.append("two parameters are needed, x and y, or none for the most important pairs.")
        if faults:
            raise BadInputError(faults)
        return names


def drawn(figure: "PlainFigure") -> "Figure":
    """Draw a figure.

    Raises:
        BadInputError: If there is nothing to draw yet, with the reason.
    """
    from tuner.visualization.matplotlib_backend import canvas

    if not figure.panels:
        raise BadInputError([f"{figure.name}: nothing to draw: {figure.caption}"])
    return canvas(figure)
