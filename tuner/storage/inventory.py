"""The studies of a database: the progress of each, whether it is running, and its best trial."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial

from tuner.analysis.comparison import Comparison, Repeated, differing
from tuner.analysis.pareto import pareto_front
from tuner.analysis.record import StudyRecord
from tuner.config.sources import changed_between, sources_of
from tuner.config.study_name import is_final_name
from tuner.direction import Direction
from tuner.storage.attributes import (
    CONFIGURATION,
    CONFIRMS,
    ENDED,
    FURTHER,
    IDENTIFIER,
    IDENTITY,
    SEED,
    SOURCES,
    TRIALS,
    VALIDATION_IMAGES,
)
from tuner.storage.connection import sqlite_file
from tuner.storage.database import Database, state_directory
from tuner.storage.locks import is_locked
from tuner.storage.reader import answer_of, configurations_of, confirmations_of, directions_of, with_final_runs
from tuner.storage.trial_ends import attribute, is_complete, state_of
from tuner.text import join_names

__all__ = ["ListedStudy", "comparisons", "listed_studies", "with_fresh_seeds"]

MOST_OF_FRONT = 6
LENGTHS = ("max_epochs", "max_steps")


@dataclass(frozen=True)
class ListedStudy:
    """A study of a database.

    Args:
        name: Its name.
        identifier: Its unique identifier; empty if another program created it.
        confirms: Identifier of the study that it confirms; empty for none.
        is_running: Whether a process is running it.
        ends: Number of its finished trials, by their states.
        begun: Number of its trials that are not finished.
        asked: Number of trials last requested; None if its budget is in epochs or steps, or an earlier version ran it.
        ended: Number of finished trials with which its budget allowed no further one; 0 if it allows one, -1 if an
            earlier version ran it.
        metric: Its objective.
        best: Name and value of its best trial or configuration: of the winner of its final runs, if there were any; or
            the Pareto front of several objectives, which has no value; None if there is none.
        has_final_runs_left: Whether its last final runs are to be continued.
    """

    name: str
    identifier: str
    confirms: str
    is_running: bool
    ends: Mapping[str, int]
    begun: int
    asked: int | None
    ended: int
    metric: str
    best: tuple[str, float | None] | None
    has_final_runs_left: bool = False

    @property
    def finished(self) -> int:
        """Return the number of its finished trials."""
        return sum(self.ends.values())

    @property
    def state(self) -> str:
        """Return its state for the user: running, finished, or to be continued."""
        if not self.identifier:
            return "created by another program"
        if self.is_running:
            return "running"
        if self.begun or self.has_final_runs_left:
            return "can be continued"
        if 0 < self.ended == self.finished:
            return "finished"
        if self.asked is None:
            return "not running" if self.ended < 0 else "can be continued"
        return "finished" if self.finished >= self.asked else "can be continued"


def listed_studies(url: str) -> list[ListedStudy]:
    """Return the studies of a database, the oldest first; none if there is no database.

    Raises:
        BadInputError: If the database cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with Database.open_readonly(url) as storage:
        if storage is None:
            return []
        summaries = sorted(optuna.get_all_study_summaries(storage), key=lambda summary: summary._study_id)
        found = [_listed(url, each, storage.get_all_trials(each._study_id, deepcopy=False)) for each in summaries]
    names = {each.identifier: each.name for each in found}
    final = {each.confirms: each for each in found if is_final_name(each.name, names.get(each.confirms, ""))}
    left = {of for of, runs in final.items() if runs.state == "can be continued"}
    return [replace(each, has_final_runs_left=each.identifier in left) for each in found]


def _listed(url: str, summary: optuna.study.StudySummary, trials: Sequence[FrozenTrial]) -> ListedStudy:
    name, attributes = summary.study_name, summary.user_attrs
    identity: Mapping[str, Any] = attribute(attributes, IDENTITY, {})
    finished = [trial for trial in trials if trial.state.is_finished()]
    return ListedStudy(
        name=name,
        identifier=attribute(attributes, IDENTIFIER, ""),
        confirms=attribute(identity, CONFIRMS, ""),
        is_running=is_locked(state_directory(url, name), sqlite_file(url), url, name),
        ends=Counter(map(state_of, finished)),
        begun=len(trials) - len(finished),
        asked=attribute(attributes, TRIALS, 0) or None,
        ended=attribute(attributes, ENDED, -1),
        metric=", ".join([attribute(identity, "objective.metric", "value"), *attribute(identity, FURTHER, [])]),
        best=_best(summary, finished),
    )


def _best(summary: optuna.study.StudySummary, finished: Sequence[FrozenTrial]) -> tuple[str, float | None] | None:
    direction, *further = directions_of(summary)
    if further:
        points = {trial.number: trial.values for trial in finished if is_complete(trial)}
        front = [f"#{number}" for number in pareto_front(points, [direction, *further])]
        return (f"{join_names(front, MOST_OF_FRONT)} (Pareto front)", None) if front else None
    comparison = _comparison(finished, summary.user_attrs, direction)
    if comparison is not None:
        first = next(iter(comparison.ranking), None)
        return (first.name, first.mean) if first else None
    complete = [trial for trial in finished if is_complete(trial) and trial.value is not None]
    ranking = sorted((direction.sort_key(trial.value or 0.0), trial.number) for trial in complete)
    if not ranking:
        return None
    best = next(trial for trial in complete if trial.number == ranking[0][1])
    name, value = f"#{best.number} {best.params.get('schedule.name', '')}".strip(), float(best.value or 0.0)
    _, retrained = answer_of(summary.user_attrs, len(finished))
    if retrained is None:
        return name, value
    return retrained.name, retrained.mean


def comparisons(study: optuna.Study, storage: optuna.storages.BaseStorage | None = None) -> dict[str, Comparison]:
    """Return comparisons by the names of studies: a study's own if it is a confirmation, and its confirmations'.

    Args:
        study: The study, whose database is open.
        storage: The database; None if the study reads it directly.
    """
    own, storage = attribute(study.user_attrs, IDENTIFIER, ""), storage or study._storage
    found = {}
    for each in storage.get_all_studies():
        identity: Mapping[str, Any] = attribute(each.user_attrs, IDENTITY, {})
        is_own = each.study_name == study.study_name and CONFIRMS in identity
        if is_own or (own and identity.get(CONFIRMS) == own):
            comparison = _comparison(_finished(storage, each), each.user_attrs, directions_of(each)[0])
            if comparison is not None:
                found[each.study_name] = comparison
    return found


def _finished(storage: optuna.storages.BaseStorage, confirmation: FrozenStudy) -> list[FrozenTrial]:
    """Return the finished trials of a confirmation."""
    trials = storage.get_all_trials(confirmation._study_id, deepcopy=False)
    return [trial for trial in trials if trial.state.is_finished()]


def with_fresh_seeds(
    record: StudyRecord, study: optuna.Study, storage: optuna.storages.BaseStorage | None = None
) -> StudyRecord:
    """Return a record with what is known from fresh seeds: the final runs, or else the last confirmation.

    A confirmation counts if it is finished, has the study's best trial, and trained it for as long as the study.

    Args:
        record: The record.
        study: The study, whose database is open.
        storage: The database; None if the study reads it directly.
    """
    storage = storage or study._storage
    record, best = with_final_runs(record, study, storage), record.best
    if record.answer or best is None:
        return record
    own: Mapping[str, Any] = attribute(study.user_attrs, IDENTITY, {})
    lengths = {key: best.params.get(f"trainer.{key}", own.get(f"trial.trainer.{key}")) for key in LENGTHS}
    confirmations = list(confirmations_of(storage, attribute(study.user_attrs, IDENTIFIER, "")))
    for each, identity in sorted(confirmations, key=lambda pair: -pair[0]._study_id):
        if any(identity.get(f"{best.name}: trainer.{key}") != length for key, length in lengths.items()):
            continue
        finished = _finished(storage, each)
        comparison = _comparison(finished, each.user_attrs, record.direction)
        if comparison is None or not 0 < attribute(each.user_attrs, TRIALS, 0) <= len(finished):
            continue
        if comparison.ranking and best.name in [one.name for one in comparison.configurations]:
            comparison = replace(comparison, configurations=_claimed(comparison, record, study, each, finished))
            return replace(record, answer=comparison.findings({}), retrained=comparison.retrained)
    return record


def _claimed(
    comparison: Comparison,
    record: StudyRecord,
    study: optuna.Study,
    confirmation: FrozenStudy,
    finished: Sequence[FrozenTrial],
) -> list[Repeated]:
    """Return the configurations of a confirmation, with their values in the study, and the files changed since."""
    claims, numbers = {trial.name: trial for trial in record.by_value}, [trial.number for trial in finished]
    history, later = study.user_attrs.get(SOURCES), confirmation.user_attrs.get(SOURCES)
    found = []
    for each in comparison.configurations:
        if claim := claims.get(each.name):
            changed = changed_between(sources_of(history, claim.number), later, numbers)
            found.append(replace(each, claimed=claim.value, changed=changed))
        else:
            found.append(each)
    return found


def _comparison(
    finished: Sequence[FrozenTrial], attributes: Mapping[str, Any], direction: Direction
) -> Comparison | None:
    """Return the comparison of the configurations of a confirmation; None if the study is not a confirmation.

    Args:
        finished: Its finished trials.
        attributes: The attributes of the study.
        direction: The direction of its objective.
    """
    identity: Mapping[str, Any] = attribute(attributes, IDENTITY, {})
    if CONFIRMS not in identity:
        return None
    values: dict[str, dict[int, float]] = {}
    failed: Counter[str] = Counter()
    for trial in finished:
        name = str(trial.params.get(CONFIGURATION))
        seeds = values.setdefault(name, {})
        if trial.value is None or state_of(trial) != "complete":
            failed[name] += 1
        else:
            seeds[trial.params[SEED]] = trial.value
    parameters = differing(configurations_of(identity))
    return Comparison(
        attribute(identity, "objective.metric", "value"),
        direction,
        [Repeated(name, seeds, failed[name], parameters=parameters.get(name, "")) for name, seeds in values.items()],
        validation_images=attribute(attributes, VALIDATION_IMAGES, 0) or None,
    )
