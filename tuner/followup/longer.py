"""Configurations of a short study, for a longer run: every length is scaled with the length of the run.

The lr curve of a configuration keeps its shape. Lengths in percent of the run are unchanged; lengths in steps or
epochs become the same share of the longer run, and are reported. Numbers that are not lengths in steps, such as the
patience of a plateau, which counts epochs, are not scaled.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from tuner.config.annotations import parse_length, takes_steps
from tuner.config.component import Component, rehearse
from tuner.config.lengths import in_percent
from tuner.config.study import StudyConfig
from tuner.config.trainings import as_training
from tuner.config.trial import TrialConfig
from tuner.config.user_code import contained
from tuner.errors import BadInputError, reason_of

__all__ = ["lengthened"]


def lengthened(study: StudyConfig, name: str, config: TrialConfig, epochs: int) -> tuple[TrialConfig, list[str]]:
    """Return a configuration with a longer run, and a sentence for each length that was not in percent.

    Args:
        study: The study that it is from.
        name: Its name in messages.
        config: The configuration.
        epochs: The length of the run; if it is in steps, the number of validations.

    Raises:
        BadInputError: If the schedule is not possible at this length.
    """
    values = config.values()
    before = study.probe.length(values)
    schedule = _with_percent(values["schedule"], config.relative)
    trainer = dict(values["trainer"])
    if epochs % config.trainer.check_val_every_n_epoch:
        every = config.trainer.check_val_every_n_epoch
        raise BadInputError([f"--epochs: must be a multiple of check_val_every_n_epoch ({every}), but got {epochs}."])
    if config.trainer.max_epochs:
        trainer["max_epochs"] = epochs
    else:
        trainer["max_steps"] = epochs * config.trainer.val_check_interval
    longer = as_training(study.trial_of({**values, "trainer": trainer, "schedule": in_percent(schedule, before)}))
    try:
        with contained():
            rehearse("schedule", longer.schedule.values())
    except Exception as error:  # a user's class can raise anything
        raise BadInputError([f"--epochs: {name} is not possible with {epochs} epochs: {reason_of(error)}"]) from error
    return longer, list(_changes(name, config, longer))


def _with_percent(schedule: Mapping[str, Any], relative: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of a schedule with the lengths that were given in percent as they were given.

    Args:
        schedule: The values, with lengths in steps.
        relative: Lengths as they were given, by their dotted paths in the trial.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(schedule))
    for path, text in relative.items():
        length = parse_length(text)
        if length and length[1] == "%":
            _, *outer, last = path.split(".")
            here: Any = changed
            for part in outer:
                here = here[int(part) if isinstance(here, list) else part]
            here[int(last) if isinstance(here, list) else last] = text
    return changed


def _changes(name: str, before: TrialConfig, after: TrialConfig) -> Iterator[str]:
    """Yield a sentence for each length that was in steps or epochs."""
    new = {path: value for path, _, value in Component.walk(after.schedule, "schedule", "schedule")}
    for path, hint, value in before.schedule.walk("schedule", "schedule"):
        given = parse_length(before.relative.get(path))
        if takes_steps(hint) and isinstance(value, int | float) and not (given and given[1] == "%"):
            was = f"{before.relative[path]} ({value:g} steps)" if given else f"{value:g} steps"
            yield f"{name}: {path} {was} becomes {new[path]:g} steps"
