"""Delete or rename a study, with its confirmations and final runs: in MLflow, in its folder, and last in Optuna.

Optuna has the study's identifier, by which its records in MLflow are found. As long as Optuna has the study, a command
that was killed can be run again to finish the rest.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tuner.config.annotations import did_you_mean
from tuner.config.study_name import check_name
from tuner.errors import BadInputError
from tuner.files import write_json
from tuner.process import crash_point
from tuner.storage.database import Database, state_directory
from tuner.storage.definition import DEFINITION_FILE
from tuner.storage.inventory import ListedStudy, listed_studies
from tuner.tracking import housekeeping
from tuner.tracking.store import tracking_uri
from tuner.tracking.store_uri import file_of, resolved
from tuner.urls import without_password

__all__ = ["Housekeeping"]

LOCK_FILE = "lock"


class Housekeeping:
    """The studies of a database, to be deleted or renamed.

    Args:
        storage: URL of Optuna's database.
        uri: MLflow's tracking URI, if one was given.

    Raises:
        BadInputError: If a store cannot be used.
    """

    def __init__(self, storage: str, uri: str | None) -> None:
        self._storage = storage
        self._studies = {each.name: each for each in listed_studies(storage)}
        self._place = resolved(uri)
        file = file_of(self._place)
        is_missing = file is not None and not file.exists()
        self._uri = None if is_missing else tracking_uri(uri, must_exist=True)  # without MLflow's file, nothing to do

    def study(self, name: str) -> list[ListedStudy]:
        """Return a study, after its confirmations and final runs.

        Raises:
            BadInputError: If there is no such study, or another program created it.
        """
        found = self._studies.get(name)
        if found is None:
            known = f"there are: {', '.join(self._studies)}" if self._studies else "there is none"
            where = without_password(self._storage)
            raise BadInputError([f'no study "{name}" in {where}; {known}.{did_you_mean(name, self._studies)}'])
        if not found.identifier:
            raise BadInputError([f'study "{name}" was created by another program; change it there.'])
        return [*(each for each in self._studies.values() if each.confirms == found.identifier), found]

    def without_records(self, study: ListedStudy) -> str:
        """Return a warning if MLflow's store has no records of a study with trials; otherwise empty.

        Raises:
            BadInputError: If the store cannot be used.
        """
        trials = study.finished + study.begun
        if not trials or (self._uri is not None and housekeeping.has_study(self._uri, study.identifier)):
            return ""
        text = f"MLflow's store {without_password(self._place)} has no records of {study.name}"
        return f"{text}: those in another store stay as they are, unless --tracking-uri names that store"

    def original_of(self, study: ListedStudy) -> str:
        """Return the name of the study to which a confirmation or final runs belong; empty if there is none."""
        return next((each.name for each in self._studies.values() if each.identifier == study.confirms != ""), "")

    def delete(self, studies: Sequence[ListedStudy]) -> None:
        """Delete studies that `study` returned.

        Raises:
            StudyRunningError: If one of them is running; then none is deleted.
            TunerError: If a store cannot be used.
        """
        with contextlib.ExitStack() as stack:
            held = [(each, stack.enter_context(_held(self._storage, each.name))) for each in studies]
            for study, database in held:
                if self._uri is not None:
                    housekeeping.delete_study(self._uri, study.name, study.identifier)
                folder = state_directory(self._storage, study.name)
                for path in _content(folder):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                crash_point("folder emptied")
                database.delete_study()
                crash_point("deleted in Optuna")
                shutil.rmtree(folder)

    def delete_rest(self, name: str) -> bool:
        """Remove the folder left by a deletion that was killed at its end; return whether there was one."""
        folder = state_directory(self._storage, name)
        if name in self._studies or not folder.is_dir() or list(_content(folder)):
            return False
        shutil.rmtree(folder)
        return True

    def renamed(self, name: str, new: str) -> list[tuple[ListedStudy, str]]:
        """Return the studies to rename, with their new names; those that belong to a study come before it.

        These are its final runs, and its confirmations unless they were given a name (``confirm --name``).

        Raises:
            BadInputError: If there is no such study, or the new name is not valid or taken.
        """
        check_name(new, "NEW")
        if name not in self._studies and new in self._studies and self.delete_rest(name):
            return []  # an earlier command was killed at its end
        *others, study = self.study(name)
        named = [each for each in others if each.name.startswith(f"{name}-")]
        left = [each for each in named if not each.name.startswith(f"{new}-")]  # by a command that was killed
        pairs = [(each, new + each.name.removeprefix(name)) for each in (*left, study)]
        for study, to in pairs:
            self._check(study, to)
        return pairs

    def rename(self, pairs: Sequence[tuple[ListedStudy, str]]) -> list[tuple[str, str]]:
        """Rename the studies that `renamed` returned; return the old and new names.

        Raises:
            StudyRunningError: If one of them is running; then none is renamed.
            TunerError: If a store cannot be used.
        """
        with contextlib.ExitStack() as stack:
            held = [(study, to, stack.enter_context(_held(self._storage, study.name))) for study, to in pairs]
            for _, to in pairs:
                stack.enter_context(_held(self._storage, to))
            for study, to, database in held:
                folder, there = (state_directory(self._storage, each) for each in (study.name, to))
                for path in _content(folder):
                    path.rename(there / path.name)
                crash_point("folder moved")
                _rename_definition(there / DEFINITION_FILE, to)
                if self._uri is not None:
                    housekeeping.rename_study(self._uri, study.name, to, study.identifier)
                database.rename_study(to)
                shutil.rmtree(folder)
        return [(study.name, to) for study, to in reversed(pairs)]

    def _check(self, study: ListedStudy, new: str) -> None:
        check_name(new, "NEW")
        if new in self._studies:
            raise BadInputError([f'study "{new}" already exists; choose another name.'])
        folder = state_directory(self._storage, new)
        own = f"trials-{study.identifier[:8]}"
        if any(path.name.startswith("trials-") and path.name != own for path in _content(folder)):
            raise BadInputError([f'{folder} contains files of another study; choose a name other than "{new}".'])
        if self._uri is not None:
            housekeeping.check_rename(self._uri, study.name, new, study.identifier)


@contextlib.contextmanager
def _held(url: str, name: str) -> Iterator[Database]:
    database = Database(url, name, lambda text: None)
    with database.hold():
        yield database


def _content(folder: Path) -> Iterator[Path]:
    """Yield the contents of a study's folder, except its lock."""
    return (path for path in list(folder.iterdir() if folder.is_dir() else ()) if path.name != LOCK_FILE)


def _rename_definition(file: Path, name: str) -> None:
    if file.exists():
        write_json(file, {**json.loads(file.read_text(encoding="utf-8")), "name": name})
