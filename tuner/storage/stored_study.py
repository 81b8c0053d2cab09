"""Read a study that was run: its configuration, its trials and their folders."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.analysis.comparison import Comparison, Repeated
from tuner.analysis.record import StudyRecord
from tuner.config import by_value
from tuner.config.loader import load_default, load_study
from tuner.config.sources import Sources, changes_since
from tuner.config.study import StudyConfig
from tuner.config.study_files import is_study_file, shipped_studies
from tuner.config.study_name import NAME
from tuner.config.trainings import as_training
from tuner.config.trial import AnyTrial, TrialConfig
from tuner.errors import BadInputError
from tuner.storage.attributes import CONFIGURATION, SEED, SOURCES
from tuner.storage.continuation import as_begun, check_continued
from tuner.storage.database import Database, state_directory, trial_directory
from tuner.storage.definition import DEFINITION_FILE, FOLDER_FILE
from tuner.storage.folders import OBJECTS_FILE, check_own
from tuner.storage.reader import Trial, config_of, confirmations_of, identifier_of, open_study, record_of
from tuner.storage.trial_ends import is_complete
from tuner.text import join_names

__all__ = ["StoredStudy", "definition_of", "label"]


LENGTHS = ("max_epochs", "max_steps")


@dataclass(frozen=True)
class StoredStudy:
    """A study that was run.

    Args:
        config: Its configuration.
        identifier: Its unique identifier.
        trials: Its finished trials, in the order of their numbers.
        record: The same trials as plain data, without curves.
        storage: URL of Optuna's database.
        sources: The history of its trials' source code, as stored.
        source: Path or name of the study file that defines it.
    """

    config: StudyConfig
    identifier: str
    trials: Sequence[Trial]
    record: StudyRecord
    storage: str
    sources: Any
    source: str

    @classmethod
    def load(cls, source: str, storage: str) -> "StoredStudy":
        """Read a study, without its lock. Its trials are built from its study file, never from a store.

        Args:
            source: Its name, or its study file.
            storage: URL of Optuna's database.

        Raises:
            BadInputError: If there is no such study, or it was begun with another study file or other data.
            StudyFailedError: If the database cannot be used.
        """
        source, folder = definition_of(source, storage)
        config = as_begun(load_study(source, is_past=True, folder=folder), storage)
        check_continued(config, storage, config.identity_with(config.measure_data()[0]))
        with open_study(storage, config.name) as study:
            trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
            return cls(
                config, identifier_of(study), trials, record_of(study), storage, study.user_attrs.get(SOURCES), source
            )

    def config_of(self, trial: Trial) -> AnyTrial:
        """Return the configuration of a trial."""
        return config_of(self.config, trial.params)

    def training_of(self, trial: Trial) -> TrialConfig:
        """Return the configuration of a trial that is a training run."""
        return as_training(self.config_of(trial))

    def changed_sources(self, trial: Trial) -> list[str]:
        """Return the changes since a trial in the source of the study's own modules, each as a clause."""
        return changes_since(self.sources, trial.number, Sources(trial.number, "", self.config.sources))

    def default(self) -> AnyTrial | None:
        """Return the study file's `trial` without the search space; None if it is incomplete without it."""
        fixed = load_default(self.source, folder=self.config.folder)
        if fixed is None:
            return None
        is_complete = self.config.kind.trains or fixed.trial.keys() == self.config.trial.keys()
        return config_of(fixed, {}) if is_complete else None

    def ranking(self) -> list[Trial]:
        """Return the complete trials, best first.

        Raises:
            BadInputError: If there is none.
        """
        by_number = {trial.number: trial for trial in self.trials}
        ranking = [by_number[trial.number] for trial in self.record.ranking]
        if not ranking:
            raise BadInputError([f'study "{self.config.name}" has no complete trial.'])
        return ranking

    def trial(self, number: int | None) -> Trial:
        """Return a finished trial, or the best one.

        Args:
            number: Its number; None for the best.

        Raises:
            BadInputError: If there is no such trial, or no best one, as there are several objectives.
        """
        if number is None:
            best = self.ranking()[0]
            if self.config.further:
                front = join_names([f"#{trial.number}" for trial in self.record.front], 10)
                which = f"has several objectives; its best trials, the Pareto front, are {front}"
                raise BadInputError([f'--trial: study "{self.config.name}" {which}: name one.'])
            return best
        numbers = [trial.number for trial in self.trials]
        if number not in numbers:
            known = f"there are #0 to #{max(numbers)}" if numbers == list(range(len(numbers))) and numbers else numbers
            raise BadInputError([f'--trial: study "{self.config.name}" has no finished trial #{number}; {known}.'])
        return self.trials[numbers.index(number)]

    def confirmed(self, trial: Trial) -> Comparison | None:
        """Return a trial's values with fresh seeds, from its confirmations; None if it was not confirmed."""
        values: dict[int, float] = {}
        config = self.config_of(trial)
        name, flat = label(trial.number, config), config.flat()
        with Database.open_readonly(self.storage) as storage:
            for summary, identity in confirmations_of(storage, self.identifier) if storage else ():
                if not _has_length_of(identity, name, flat):
                    continue
                for each in storage.get_all_trials(summary._study_id, deepcopy=False) if storage else ():
                    if each.value is None or not is_complete(each):
                        continue
                    if each.params.get(CONFIGURATION) == name:
                        values[each.params[SEED]] = each.value
        objective, images = self.config.objective, self.record.validation_images
        found = [Repeated(name, values)] if values else []
        return Comparison(objective.metric, objective.direction, found, validation_images=images) if found else None

    def directory(self, number: int) -> Path:
        """Return the folder of a trial's files."""
        return trial_directory(self.storage, self.config.name, self.identifier, number)


def _has_length_of(identity: Mapping[str, Any], name: str, flat: Mapping[str, Any]) -> bool:
    """Return whether the runs of a confirmation are as long as the trial that they repeat.

    Args:
        identity: The identity of the confirmation.
        name: The name of the trial in it.
        flat: The values of the trial, by their dotted paths.
    """
    return all(identity.get(f"{name}: trainer.{key}") == flat.get(f"trainer.{key}") for key in LENGTHS)


def label(number: int, config: AnyTrial) -> str:
    """Return the name that a confirmation gives to a trial's configuration."""
    return f"#{number} {config.family}".rstrip()


def definition_of(source: str, storage: str) -> tuple[str, Path | None]:
    """Return the path or name of a study's file, and the folder of its modules if they are not next to the file.

    Objects that its runs get by value are held from then on.

    Args:
        source: Its name, or its study file.
        storage: URL of Optuna's database.

    Raises:
        BadInputError: If there is no such study.
    """
    if not NAME.fullmatch(source):
        return source, None
    kept = state_directory(storage, source) / DEFINITION_FILE
    check_own(kept.parent)  # the file in it names the classes that are imported
    if kept.exists():
        if (objects := kept.with_name(OBJECTS_FILE)).exists():
            by_value.unpack(objects.read_bytes())
        folder = kept.with_name(FOLDER_FILE)
        here = kept.parent.parent.parent
        return str(kept), here / os.fsdecode(folder.read_bytes()) if folder.exists() else here
    if not is_study_file(source) and source not in shipped_studies():
        with open_study(storage, source):  # raises an error that lists the studies if there is none of this name
            advice = "pass its study file instead of its name"
            raise BadInputError([f'{kept.parent} has no definition of study "{source}"; {advice}.'])
    return source, None
