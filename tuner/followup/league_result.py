"""The result of a league: the table of the results with fresh seeds, as files and in MLflow."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.analysis.comparison import Comparison
from tuner.analysis.record import CONSTANT
from tuner.analysis.standings import Member, Standings, default_target, default_tolerance
from tuner.files import write_output
from tuner.followup.league_search import Choice, LeagueSearch
from tuner.storage.attributes import CONFIGURATION, SEED
from tuner.text import pluralize

if TYPE_CHECKING:
    from tuner.storage.reader import Trial

__all__ = ["PartRuns", "files_of", "standings_of", "trainings_csv", "write"]


@dataclass(frozen=True)
class PartRuns:
    """The runs of one part of a league.

    Args:
        trials: All of them.
        comparison: Their configurations with their values.
        identifier: Identifier of their study.
        uri: MLflow's tracking URI.
    """

    trials: "Sequence[Trial]"
    comparison: Comparison
    identifier: str
    uri: str


def standings_of(
    search: LeagueSearch,
    choices: Mapping[str, Choice],
    evaluated: PartRuns,
    target: float | None,
    tolerance: float | None,
) -> Standings:
    """Return the standings of a league.

    Args:
        search: All configurations.
        choices: The chosen ones.
        evaluated: Their runs with fresh seeds.
        target: The value to which steps are counted; None for `default_target`.
        tolerance: The largest negligible difference; None for `default_tolerance`.
    """
    comparison = evaluated.comparison
    if target is None:
        names = [each.name for each in search.contenders if search.shapes[each.name][0].schedule.name == CONSTANT]
        target = default_target(comparison, names)
    members = [
        Member(name, each.described, each.initial_lr, _reached(search, name, evaluated.trials, target), each.sweep)
        for name, each in choices.items()
    ]
    absent = [each.name for each in search.contenders if each.name not in choices]
    tolerance = default_tolerance(comparison) if tolerance is None else tolerance
    return Standings(search.league.name, comparison, members, target, tolerance, _conditions(search, evaluated), absent)


def _reached(search: LeagueSearch, name: str, trials: "Iterable[Trial]", target: float) -> dict[int, float]:
    """Return the step at which each run of a contender reached the target, by seed."""
    steps = search.league.probe.length(search.shapes[name][0].values()).steps_per_epoch
    better = search.league.objective.direction.better
    return {
        trial.params[SEED]: min(
            (epoch * steps for epoch, value in trial.intermediate_values.items() if not better(target, value)),
            default=math.inf,
        )
        for trial in sorted(trials, key=lambda trial: int(trial.params[SEED]))
        if trial.params[CONFIGURATION] == name
    }


def _conditions(search: LeagueSearch, evaluated: PartRuns) -> str:
    one = search.shapes[search.contenders[0].name][0]
    steps = search.league.probe.length(one.values()).steps
    fresh = len({trial.params[SEED] for trial in evaluated.trials})
    return (
        f"{pluralize(len(search.contenders), 'contender')} with {one.model.name} on {one.data.name}, {steps:,} steps "
        f"per run. {search.study.trials:,} runs with {pluralize(search.seeds, 'seed')} selected a shape (of at most "
        f"{search.most_shapes}) and a base lr for each; {pluralize(fresh, 'fresh seed')} decide the result."
    )


def trainings_csv(search: LeagueSearch, searched: Comparison, evaluated: Comparison) -> str:
    """Return every value as CSV, a line for each run."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["part", "contender", "shape", "initial_lr", "seed", searched.metric])
    for each in searched.configurations:
        writer.writerows(["search", *search.places[each.name], *pair] for pair in each.values.items())
    for each in evaluated.configurations:
        writer.writerows(["fresh", each.name, "", "", *pair] for pair in each.values.items())
    return file.getvalue()


def files_of(standings: Standings, trainings: str) -> dict[str, bytes]:
    """Return the contents of the files of a league by the ends of their names."""
    from tuner.visualization.comparisons import of_standings
    from tuner.visualization.matplotlib_backend import png

    texts = {".md": standings.markdown(), ".csv": standings.csv(), "-trainings.csv": trainings}
    figure = of_standings(standings)
    return {ending: text.encode() for ending, text in texts.items()} | ({".png": png(figure)} if figure.panels else {})


def write(folder: Path, name: str, files: Mapping[str, bytes]) -> list[Path]:
    """Write the files of a league, and return their paths.

    Raises:
        BadInputError: If the folder cannot be written.
    """
    paths = [folder / f"{name}{ending}" for ending in files]
    for path, content in zip(paths, files.values(), strict=True):
        write_output(path, content, "--output: ")
    return paths
