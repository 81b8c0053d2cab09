"""The chart of several objectives: their Pareto front."""

from tuner.analysis.record import StudyRecord
from tuner.direction import Direction
from tuner.text import join_names
from tuner.visualization.figure import Figure, Panel, Series
from tuner.visualization.parts import ACCENT, hover_text, points_by_family

__all__ = ["pareto_front"]

MOST_NAMED = 12
LOG_FROM = 30.0
"""The ratio of the largest to the smallest value from which an axis is logarithmic."""


def pareto_front(record: StudyRecord) -> Figure:
    """Show the first objective of each trial over each further one, and the Pareto front."""
    title = f"Pareto front of {join_names(record.metrics, MOST_NAMED)}"
    front = record.front
    if not front:
        why = "No trial ran to completion." if record.further else "The study has a single objective."
        return Figure("pareto_front", title, why)
    panels = []
    for index, (metric, direction) in enumerate(record.further):
        places = {trial.number: trial.further[index] for trial in record.ranking}
        # Steps keep the value of the first objective while the other one becomes worse, up to the next trial.
        rank = {trial.number: (direction.sort_key(places[trial.number]), trial.number) for trial in front}
        ordered = sorted(front, key=lambda trial: rank[trial.number])
        x, y = [places[trial.number] for trial in ordered], [trial.value for trial in ordered]
        hover = [f"{hover_text(trial, record)}\n{metric} {places[trial.number]:.4g}" for trial in ordered]
        points = Series(x, y, "points", ACCENT, "Pareto front", hover)
        edge = [Series(x, y, "steps", ACCENT, hover=hover)] if len(record.further) == 1 else []
        better = "right" if direction is Direction.MAXIMIZE else "left"
        lowest, highest = min(places.values()), max(places.values())
        panels.append(
            Panel(
                [*points_by_family(record, record.ranking, places), *edge, points],
                "",
                f"{metric} (better to the {better})",
                record.metric,
                log_x=lowest > 0 and highest / lowest >= LOG_FROM,
            )
        )
    names = join_names([f"#{trial.number}" for trial in front], MOST_NAMED)
    caption = f"The front ({names}): trials that no other trial dominates."
    if len(record.further) > 1:
        caption += (
            " The front considers all objectives at once, so in one panel a point of the front can lie behind others."
        )
    return Figure("pareto_front", title, caption, panels, columns=min(2, len(panels)), height=3.8)
