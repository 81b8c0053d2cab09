"""Read a study from Optuna as a plain record, with the importances of its parameters."""

import contextlib
import importlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial as Trial
from optuna.trial import TrialState

from lightning_modules.tasks import TASKS, logged_metrics
from tuner.analysis.record import (
    FAMILY,
    MIN_FOR_IMPORTANCE,
    Curve,
    Retrained,
    StudyRecord,
    TestResult,
    TrialRecord,
    Work,
)
from tuner.config.annotations import did_you_mean
from tuner.config.registry import FUNCTION
from tuner.config.search_space import suggest
from tuner.config.sources import changed_files, versions_of
from tuner.config.study import StudyConfig
from tuner.config.study_name import is_final_name
from tuner.config.trial import PARTS, AnyTrial
from tuner.direction import Direction
from tuner.errors import BadInputError, StudyFailedError
from tuner.storage.attributes import (
    ANSWER,
    CONFIRMS,
    CONSTANT_LR,
    DATA,
    ENDED,
    FURTHER,
    IDENTIFIER,
    IDENTITY,
    PREDICTION,
    SOURCES,
    TEST,
    TRIALS,
    VALIDATION_IMAGES,
)
from tuner.storage.database import Database
from tuner.storage.trial_ends import attribute, end_of, parts_of, progress_of
from tuner.text import cut, pluralize
from tuner.urls import without_password

__all__ = [
    "IMPORTANCES",
    "Trial",
    "answer_of",
    "config_of",
    "configurations_of",
    "confirmations_of",
    "copy_of",
    "directions_of",
    "finished_counts",
    "identifier_of",
    "open_study",
    "record_of",
    "test_of",
    "values_of",
    "with_final_runs",
]

IMPORTANCES = "tuner.storage.importances"
"""The module that computes importances; importing it takes a second."""

SAME_PART = 0.01  # seconds; recorded times are rounded
CURVES_OF_ALL: Sequence[str] = ("lr",)
CURVES_OF_THE_BEST: Sequence[str] = ("lr", *sorted({key for task in TASKS for key in logged_metrics(task)}))
BEST, DRAWN = 5, 300

Curves = Callable[[int, Sequence[str]], Mapping[str, Curve]]
"""Takes a trial's number and names of metrics; returns the curve of each."""


@contextlib.contextmanager
def open_study(url: str, name: str) -> Iterator[optuna.Study]:
    """Open a study for reading, without its lock.

    Raises:
        BadInputError: If there is no such database or study.
        StudyFailedError: If the database cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with Database.open_readonly(url) as storage:
        names = [] if storage is None else optuna.get_all_study_names(storage)
        if storage is None or name not in names:
            known = f"there are: {', '.join(names)}" if names else "there is none"
            hint = did_you_mean(name, names)
            raise BadInputError([f'no study "{name}" in {without_password(url)}; {known}.{hint}'])
        yield optuna.load_study(study_name=name, storage=storage)


def finished_counts(url: str) -> dict[str, int]:
    """Return the number of finished trials of each study in a database; empty if there is no database.

    Raises:
        BadInputError: If the database cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with Database.open_readonly(url) as storage:
        summaries = optuna.get_all_study_summaries(storage) if storage else []
        states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL)
        return {
            summary.study_name: storage.get_n_trials(summary._study_id, states)
            for summary in summaries
            if storage is not None
        }


def directions_of(study: optuna.Study | optuna.study.StudySummary | FrozenStudy) -> list[Direction]:
    """Return the direction of each objective of a study."""
    return [Direction(direction.name.lower()) for direction in study.directions]


def copy_of(study: optuna.Study) -> optuna.Study:
    """Return a copy of a study in memory."""
    copied = optuna.create_study(study_name=study.study_name, directions=study.directions)
    for key, value in study.user_attrs.items():
        copied.set_user_attr(key, value)
    copied.add_trials(study.get_trials())
    return copied


def identifier_of(study: optuna.Study) -> str:
    """Return the unique identifier of a study; empty if another program created the study.

    Raises:
        StudyFailedError: If it does not have the tuner's format; paths and queries are built from it.
    """
    identifier = study.user_attrs.get(IDENTIFIER, "")
    if identifier != "" and not re.fullmatch("[0-9a-f]{32}", str(identifier)):
        raise StudyFailedError(f'the identifier of study "{study.study_name}" in the database was changed.')
    return str(identifier)


def test_of(study: optuna.Study) -> TestResult | None:
    """Return the last test result of a study; None if there was no test.

    Raises:
        StudyFailedError: If it does not have the tuner's format.
    """
    test = study.user_attrs.get(TEST)
    if test is None:
        return None
    try:
        metrics = {str(key): float(value) for key, value in test["metrics"].items()}
        return TestResult(int(test["trial"]), metrics, int(test["step"]), int(test["finished"]))
    except (TypeError, ValueError, KeyError, AttributeError):
        raise StudyFailedError(f'the test result of study "{study.study_name}" in the database was changed.') from None


def answer_of(attributes: Mapping[str, Any], finished: int) -> tuple[list[str], Retrained | None]:
    """Return the findings and the winner of a study's final runs; nothing if trials have finished since.

    Args:
        attributes: The attributes of the study.
        finished: The number of its finished trials.
    """
    answer: dict[str, Any] = attribute(attributes, ANSWER, {})
    if answer.get("trials") != finished:
        return [], None
    sentences: list[Any] = attribute(answer, "sentences", [])
    winner: dict[str, Any] = attribute(answer, "winner", {})
    retrained = None
    with contextlib.suppress(KeyError, TypeError, ValueError):  # written by an earlier version, or changed
        bounds = tuple(map(float, winner["interval"]))
        retrained = Retrained(str(winner["name"]), float(winner["mean"]), int(winner["seeds"]), bounds)
    return [str(sentence) for sentence in sentences], retrained


def _no_curves(number: int, metrics: Sequence[str]) -> Mapping[str, Curve]:
    return {}


def record_of(study: optuna.Study, curves: Curves = _no_curves) -> StudyRecord:
    """Return a study's finished trials as plain data.

    Args:
        study: The study.
        curves: Returns the metrics of a trial. It is called with all metrics for the best trials and the best trial of
            each schedule, and with the lr alone for the best few hundred.
    """
    identity: Mapping[str, Any] = attribute(study.user_attrs, IDENTITY, {})
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    began = _began(trials)
    searched = {
        name: bool(getattr(distribution, "log", False))
        for trial in trials
        for name, distribution in trial.distributions.items()
    }
    choices = {
        name: distribution.choices
        for trial in trials
        for name, distribution in trial.distributions.items()
        if isinstance(distribution, optuna.distributions.CategoricalDistribution)
    }
    ranges = {
        name: (distribution.low, distribution.high)
        for trial in trials
        for name, distribution in trial.distributions.items()
        if isinstance(distribution, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution)
    }
    directions = directions_of(study)
    versions = versions_of(study.user_attrs.get(SOURCES), [trial.number for trial in trials])
    record = StudyRecord(
        name=study.study_name,
        metric=str(identity.get("objective.metric", "value")),
        direction=directions[0],
        further=list(zip(attribute(identity, FURTHER, []), directions[1:], strict=False)),
        trials=[_trial(trial, began, identity) for trial in trials],
        searched=searched,
        importances=_importances(study),
        validation_images=attribute(study.user_attrs, VALIDATION_IMAGES, 0) or None,
        choices=choices,
        ranges=ranges,
        prediction=attribute(study.user_attrs, PREDICTION, ""),
        of_function=_is_of_function(identity),
        unfinished=_unfinished(study, _is_of_function(identity)),
        versions=[numbers for _, numbers in versions] if len(versions) > 1 else [],
        changed_files=changed_files([source for source, _ in versions]),
        data=str(identity.get(DATA, "")),
        so_far=_so_far(study.user_attrs, len(trials)),
    )
    answer, retrained = answer_of(study.user_attrs, len(trials))
    record = replace(record, answer=answer, retrained=retrained)
    test, best = test_of(study), record.best
    scheduled = (*CURVES_OF_THE_BEST, *_scheduled(identity))
    of_best = test.metrics if test and best and best.number == test.trial else {}
    return replace(record, trials=list(_with_curves(record, curves, scheduled)), test=of_best)


def _so_far(attributes: Mapping[str, Any], finished: int) -> str:
    """Return how many trials a study has that is not over; empty if it is over, or another program created it."""
    asked, ended = attribute(attributes, TRIALS, 0), attribute(attributes, ENDED, -1)
    if ended < 0 or (asked and finished >= asked) or 0 < ended == finished:
        return ""
    return f"{finished} of {pluralize(asked, 'trial')}" if asked else pluralize(finished, "trial")


def _unfinished(study: optuna.Study, of_function: bool) -> Work:
    """Return the work of the trials that have completed an epoch and are not finished."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    begun = [trial for trial in trials if trial.intermediate_values]
    seconds = sum(end - start for trial in begun for start, end in parts_of(trial))
    epochs = sum(progress_of(trial, of_function=of_function) for trial in begun)
    return Work(len(begun), epochs, seconds)


def with_final_runs(
    record: StudyRecord, study: optuna.Study, storage: optuna.storages.BaseStorage | None = None
) -> StudyRecord:
    """Return a record with the work of the study's final runs.

    Args:
        record: The record.
        study: The study, whose database is open.
        storage: The database; None if the study reads it directly.
    """
    own, storage = attribute(study.user_attrs, IDENTIFIER, ""), storage or study._storage
    began = _began([trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()])
    runs: list[Trial] = []
    for each, _ in confirmations_of(storage, own):
        if is_final_name(each.study_name, study.study_name):
            runs += storage.get_all_trials(each._study_id, deepcopy=False)
    done = [run for run in runs if run.state.is_finished()]
    ends = [run.datetime_complete.timestamp() - began for run in done if run.datetime_complete]
    results = list(map(end_of, done))
    seconds, epochs = sum(result.seconds for result in results), sum(result.epochs for result in results)
    return replace(record, final=Work(len(done), epochs, seconds, max(ends, default=0.0)))


def confirmations_of(
    storage: optuna.storages.BaseStorage, identifier: str
) -> Iterator[tuple[FrozenStudy, Mapping[str, Any]]]:
    """Yield the studies that train configurations of a study with fresh seeds, with their identities.

    Args:
        storage: The database.
        identifier: The study's; empty for none.
    """
    for each in storage.get_all_studies() if identifier else ():  # summaries would read the trials of all studies
        identity: Mapping[str, Any] = attribute(each.user_attrs, IDENTITY, {})
        if identity.get(CONFIRMS) == identifier:
            yield each, identity


def configurations_of(identity: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the values of the configurations of a replication study, by their dotted paths, from its identity."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in identity.items():
        name, separator, path = key.partition(": ")
        if separator:
            found.setdefault(name, {})[path] = value
    return found


def _began(finished: Sequence[Trial]) -> float:
    """Return when the first part of the finished trials began; 0 if that is unknown.

    Optuna's start of a trial is that of its last continuation.
    """
    starts = [trial.datetime_start.timestamp() for trial in finished if trial.datetime_start]
    return min([*starts, *(start for trial in finished for start, _ in parts_of(trial))], default=0.0)


def _scheduled(identity: Mapping[str, Any]) -> list[str]:
    """Return the metrics of all scheduled quantities of a study, except the trial's lr."""
    options = [each for each in ("momentum", "weight_decay") if any(f"{each}_schedule" in key for key in identity)]
    groups = dict.fromkeys(key.split(".")[2] for key in identity if key.startswith("trial.groups."))
    return [*options, *(f"{kind}/{group}" for group in groups for kind in ("lr", *options))]


def _with_curves(record: StudyRecord, curves: Curves, of_the_best: Sequence[str]) -> Iterator[TrialRecord]:
    """Yield the trials of a record with their curves; see `record_of`."""
    ordered = [*record.by_value, *(trial for trial in record.trials if not trial.is_complete)]
    best_of_families = {trial.family: trial.number for trial in reversed(ordered)}
    wanted = {trial.number: CURVES_OF_ALL for trial in ordered[:DRAWN]}
    wanted |= dict.fromkeys([*(trial.number for trial in ordered[:BEST]), *best_of_families.values()], of_the_best)
    for trial in record.trials:
        metrics = wanted.get(trial.number)
        yield replace(trial, curves=curves(trial.number, metrics)) if metrics else trial


def _is_of_function(identity: Mapping[str, Any]) -> bool:
    """Return whether the trials of a study, or of what it confirms, are calls of an objective function."""
    parts = (f".{key}.".partition(f".{FUNCTION}.") for key in identity if FUNCTION in key)
    return any(found and owner.rpartition(".")[2] not in PARTS for owner, found, _ in parts)  # no argument of a class


def _family(trial: Trial, identity: Mapping[str, Any]) -> str:
    if _is_of_function(identity):
        return ""
    return str(trial.params.get(FAMILY, identity.get("trial.schedule.name", "constant")))


def _trial(trial: Trial, began: float, identity: Mapping[str, Any]) -> TrialRecord:
    end, reported = end_of(trial), trial.intermediate_values
    family = _family(trial, identity)
    return TrialRecord(
        number=trial.number,
        state=end.state,
        family=family,
        value=end.value if end.value is not None else reported[max(reported)] if reported else math.nan,
        further=end.further,
        epochs=end.epochs,
        seconds=end.seconds,
        ended=trial.datetime_complete.timestamp() - began if trial.datetime_complete else 0.0,
        params=trial.params,
        constant_lr=attribute(trial.user_attrs, CONSTANT_LR, family == "constant"),
        message=end.message,
        began=trial.datetime_start.timestamp() - began if trial.datetime_start else 0.0,
        reported=sorted(reported.items()),
        spans=_spans(trial, end.seconds, began),
    )


def _spans(trial: Trial, seconds: float, began: float) -> list[tuple[float, float]]:
    """Return when each part of a run began and ended, in seconds from the start of the study."""
    spans = [(start - began, end - began) for start, end in parts_of(trial)]
    last = seconds - sum(end - start for start, end in spans)
    if trial.datetime_complete and last > SAME_PART:
        ended = trial.datetime_complete.timestamp() - began
        spans.append((ended - last, ended))
    return spans


def _importances(study: optuna.Study) -> dict[str, float]:
    """Return the importance of each parameter; empty if it is unknown."""
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if len(complete) < MIN_FOR_IMPORTANCE:
        return {}
    shares: dict[str, float] = {}
    with contextlib.suppress(ValueError, RuntimeError):  # raised where Optuna finds no answer
        shares = importlib.import_module(IMPORTANCES).importances(study, complete, directions_of(study)[0])
    return shares


def config_of(config: StudyConfig, params: Mapping[str, Any]) -> AnyTrial:
    """Return the configuration that parameters give, by their names in Optuna.

    Raises:
        StudyFailedError: If they are not in the study's search space.
    """
    return config.suggest(_Replay(params))


def values_of(config: StudyConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that parameters give, nested as the `trial` of a study file, with lengths as they were drawn.

    Raises:
        StudyFailedError: If they are not in the study's search space.
    """
    values: dict[str, Any] = suggest(_Replay(params), config.trial)
    return values


class _Replay:
    """Returns stored parameters through the `suggest` methods of an Optuna trial."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._stored(name))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._stored(name))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._stored(name)
        if value not in choices:  # a choice can name a class to import, which only the study file may do
            raise StudyFailedError(f"the database contains {name}={cut(repr(value))}, which is not in the study file.")
        return value

    def _stored(self, name: str) -> Any:
        if name not in self._params:
            raise StudyFailedError(f"the database contains a trial without {name}.")
        return self._params[name]
