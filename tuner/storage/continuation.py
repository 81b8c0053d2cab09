"""Creates a study in the database, or checks that it continues the stored one with the same settings."""

import dataclasses
import json
import uuid
from collections.abc import Mapping
from typing import Any

import optuna

from tuner.config.component import Component
from tuner.config.rungs import Rungs
from tuner.config.sampler_options import PRUNERS, SAMPLERS
from tuner.config.study import StudyConfig
from tuner.errors import BadInputError, StudyFailedError
from tuner.storage.attributes import FURTHER, FURTHER_DIRECTIONS, IDENTIFIER, IDENTITY, STARTS, TEST, VALIDATION_IMAGES
from tuner.storage.connection import count_trials
from tuner.storage.database import Database, trial_directory
from tuner.storage.pruners import make_pruner
from tuner.storage.reader import identifier_of
from tuner.storage.rung_record import RUNGS
from tuner.storage.samplers import make_sampler
from tuner.storage.trial_ends import attribute
from tuner.urls import without_password

__all__ = ["as_begun", "as_recorded", "check_continued", "create_or_load"]


def create_or_load(
    database: Database, config: StudyConfig, identity: Mapping[str, Any], retry_failed: bool
) -> tuple[optuna.Study, int]:
    """Create or load a study; return it, and how many of its trials repeat others. Idempotent, so it can be retried."""
    _check_identity(database.storage, database.url, config, identity)
    if config.name not in optuna.get_all_study_names(database.storage):
        database.storage.remove_lost_trials()
    study = optuna.create_study(
        storage=database.storage,
        study_name=config.name,
        directions=[objective.direction.value for objective in config.objectives],
        sampler=make_sampler(config, 0),
        pruner=make_pruner(config),
        load_if_exists=True,
    )
    study.set_user_attr(IDENTITY, dict(identity))
    if config.has_read and STARTS not in study.user_attrs:  # later changes to the other studies are ignored
        study.set_user_attr(STARTS, [dict(params) for params in config.first.earlier])
    if config.rungs and RUNGS not in study.user_attrs:  # they depend on the budget, which may change
        study.set_user_attr(RUNGS, dataclasses.asdict(config.rungs))
    if IDENTIFIER not in study.user_attrs:
        study.set_user_attr(IDENTIFIER, uuid.uuid4().hex)
    if retry_failed:
        identifier = identifier_of(study)

        def forget(number: int) -> None:
            directory = trial_directory(database.url, config.name, identifier, number)
            (directory / "result.json").unlink(missing_ok=True)  # else the failure would be recorded again

        database.storage.reopen_failed(study._study_id, forget)
    grid = study.get_trials(deepcopy=False) if config.sampler.name == "grid" else []
    return study, config.repeats(trial.params for trial in grid)


def as_begun(config: StudyConfig, url: str) -> StudyConfig:
    """Return a study as it began, if it has begun.

    It has the rungs and the values of earlier studies that were recorded then and, if its file names none, the sampler
    and the pruner that were the default then.

    Args:
        config: The study.
        url: URL of Optuna's database.
    """
    with Database.open_readonly(url) as storage:
        if storage is None:
            return config
        try:
            study = storage.get_study_id_from_name(config.name)
        except KeyError:
            return config
        return as_recorded(config, storage.get_study_user_attrs(study))


def as_recorded(config: StudyConfig, attributes: Mapping[str, Any]) -> StudyConfig:
    """Return a study as it began, by its attributes in the database."""
    identity: dict[str, Any] = attribute(attributes, IDENTITY, {})
    sampler = _default_then(config, "sampler", config.sampler, SAMPLERS, identity)
    pruner = _default_then(config, "pruner", config.pruner, PRUNERS, identity)
    names = {"sampler.name": sampler.name, "pruner.name": pruner.name}
    if (sampler, pruner) != (config.sampler, config.pruner):
        config = dataclasses.replace(config, sampler=sampler, pruner=pruner, identity={**config.identity, **names})
    starts: list[dict[str, Any]] = attribute(attributes, STARTS, [])
    if config.start and STARTS in attributes:
        config = config.with_earlier(starts)
    if config.pruner.name != "rungs":
        return dataclasses.replace(config, rungs=None)
    rungs: dict[str, Any] = attribute(attributes, RUNGS, {})
    return dataclasses.replace(config, rungs=Rungs(**rungs)) if rungs else config


def _default_then(
    config: StudyConfig, kind: str, now: Component, known: Mapping[str, Any], identity: Mapping[str, Any]
) -> Component:
    """Return the sampler or pruner that a study began with, by its identity; if its file names one, that one."""
    before = {key.partition(".")[2]: value for key, value in identity.items() if key.startswith(f"{kind}.")}
    name = before.pop("name", None)
    if kind not in config.implied or name not in known or before != dict(now.arguments):
        return now
    return Component(name, before)


def check_continued(config: StudyConfig, url: str, identity: Mapping[str, Any]) -> int:
    """Return the number of trials of a study, without changing anything; 0 if it has not begun.

    Raises:
        BadInputError: If it was begun with another identity or by another program.
    """
    with Database.open_readonly(url) as storage:
        return 0 if storage is None else _check_identity(storage, url, config, identity)


def _check_identity(
    storage: optuna.storages.RDBStorage, url: str, config: StudyConfig, identity: Mapping[str, Any]
) -> int:
    """Reject a study that was begun with another identity or by another program; return its number of trials."""
    try:
        study = storage.get_study_id_from_name(config.name)
    except KeyError:
        return 0
    attributes, trials = storage.get_study_user_attrs(study), count_trials(storage, study)
    directions = [optuna.study.StudyDirection[objective.direction.name] for objective in config.objectives]
    if IDENTITY in attributes:
        _compare(attributes[IDENTITY], identity, config)
        if (stored := storage.get_study_directions(study)) != directions:
            was = " and ".join(each.name.lower() for each in stored)
            text = f'another program has set the direction of study "{config.name}" to {was}'
            raise BadInputError([f"{without_password(url)}: {text}, so its trials cannot be ranked as before."])
        return trials
    # A study without trials may come from a run that was killed just after it had created it.
    is_new = not trials and not attributes.keys() & {IDENTIFIER, TEST, VALIDATION_IMAGES}
    if not is_new or storage.get_study_directions(study) != directions:
        raise BadInputError(
            [
                f'{without_password(url)} has a study "{config.name}" that is not the tuner\'s. '
                f"Give this one another name ({config.RENAMING})."
            ]
        )
    return trials


def _compare(before: Any, now: Mapping[str, Any], config: StudyConfig) -> None:
    if not isinstance(before, Mapping):
        raise StudyFailedError(f'the identity of study "{config.name}" in the database was changed.')
    if difference := config.difference_from(before):
        raise BadInputError([difference])
    now = json.loads(json.dumps(dict(now)))
    if FURTHER in before or FURTHER in now:
        before, now = _with_list(before), _with_list(now)
    changes = [
        f"  {key}: was {json.dumps(before[key]) if key in before else 'not given'}, "
        f"now {json.dumps(now[key]) if key in now else 'not given'}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changes:
        raise BadInputError(
            [
                f'study "{config.name}" was started with other settings:',
                *changes,
                f"Put them back, or give the study a new name ({config.RENAMING}). "
                "The number of trials, the time and the devices may change.",
            ]
        )


def _with_list(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity whose objectives have the names that they have as a list in a study file."""
    goals = {key: value for key, value in identity.items() if key.startswith("objective.")}
    metrics, directions = (goals.pop(key, []) for key in (FURTHER, FURTHER_DIRECTIONS))
    named = {f"objective[0].{key.partition('.')[2]}": value for key, value in goals.items()}
    for index, (metric, direction) in enumerate(zip(metrics, directions, strict=True), start=1):
        named |= {f"objective[{index}].metric": metric, f"objective[{index}].direction": direction}
    return {**{key: value for key, value in identity.items() if not key.startswith("objective.")}, **named}
