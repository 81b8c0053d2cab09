"""Reads a study file and checks all of it: YAML in, a `StudyConfig` out, every error in one list.

Nothing is created before `load_study` has returned.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules import Plateau, Schedule
from tuner.config import registry
from tuner.config.checker import Checker
from tuner.config.component import Component
from tuner.config.dataset_probe import DatasetProbe
from tuner.config.document import Document, Node
from tuner.config.feasibility import broken_by
from tuner.config.function_reader import FunctionStudyReader, refuse_misplaced_function
from tuner.config.function_trial import is_of_function
from tuner.config.known_values import read_queue
from tuner.config.lengths import Length, resolve
from tuner.config.study import StudyConfig
from tuner.config.study_files import find_study, shipped_studies
from tuner.config.study_reader import StudyReader
from tuner.config.yaml_reader import override, read_document
from tuner.errors import BadInputError
from tuner.process import add_study_folder

__all__ = ["check_study", "load_default", "load_study", "read_schedule", "with_further"]

NOTHING_SEARCHED = (
    *("search_space={}", "sampler={name: random}", "enqueue=null", "start=null", "final={trials: 0}"),
    *("constraints=null", "budget={trials: 1}", "pruner={name: none}"),
)


def load_study(
    source: str, overrides: Sequence[str] = (), *, is_past: bool = False, folder: Path | None = None
) -> StudyConfig:
    """Read and check a study.

    Args:
        source: Path of a study file, or the name of a shipped one.
        overrides: ``dotted.path=value`` each; they replace values of the file.
        is_past: Whether the study was run before and is only read: its grid may have had more points then.
        folder: Folder of the user's modules, searched in addition to the usual places; by default that of the study
            file.

    Raises:
        BadInputError: If there are errors; it lists all of them.
    """
    path = find_study(source)
    document = read_document(path)
    if folder is None and path not in shipped_studies().values():
        folder = path.parent
    return check_study(document, overrides, path.stem, is_past=is_past, folder=folder)


def load_default(source: str, overrides: Sequence[str] = (), *, folder: Path | None = None) -> StudyConfig | None:
    """Return a study whose only configuration is the `trial` of its file, without the search space.

    Return None if `trial` is incomplete without the search space. For the arguments, see `load_study`.
    """
    try:
        return load_study(source, [*overrides, *NOTHING_SEARCHED], folder=folder)
    except BadInputError:
        return None


def check_study(
    document: Document,
    overrides: Sequence[str],
    default_name: str,
    *,
    is_past: bool = False,
    folder: Path | None = None,
    probe: DatasetProbe | None = None,
) -> StudyConfig:
    """Check a study whose content was read.

    Args:
        document: The content of its file.
        overrides: As in `load_study`.
        default_name: Its name, if the content has none.
        is_past: As in `load_study`.
        folder: Folder of the user's modules; None to search only the usual places.
        probe: Measures its data; None for a new one, which has loaded nothing.

    Raises:
        BadInputError: If there are errors; it lists all of them.
    """
    for assignment in overrides:
        override(document, assignment)
    add_study_folder(folder)
    registry.begin_study()
    is_mapping = isinstance(document.data, Mapping)
    of_function = is_mapping and is_of_function(document.data.get("trial"))
    if is_mapping and not of_function:
        refuse_misplaced_function(document)
    reader = FunctionStudyReader if of_function else StudyReader
    return reader(document, folder, probe or DatasetProbe()).study(default_name, is_past)


def with_further(config: StudyConfig, values: Mapping[str, Any], place: str) -> StudyConfig:
    """Return a study that tries further values after its first trials.

    Args:
        config: The study.
        values: The values by their dotted paths, as in ``enqueue``.
        place: Their place in messages.

    Raises:
        BadInputError: If they are not in the search space.
    """
    faults: list[str] = []
    queue = read_queue([dict(values)], config.trial, lambda path, message: faults.append(f"{place}: {message}"))
    if not faults and config.constraints:
        faults += [f"{place}: does not satisfy {text}." for each in queue if (text := broken_by(config, each))]
    if config.sampler.name == "grid":
        faults.append(f"{place}: a grid has its own values; use another sampler.")
    if faults:
        raise BadInputError(faults)
    return dataclasses.replace(config, first=dataclasses.replace(config.first, further=(*config.first.further, *queue)))


def read_schedule(document: Document, length: Length) -> Schedule | Plateau:
    """Check a schedule outside a study, by the same rules, and build it.

    Args:
        document: Contains the schedule under the key ``schedule``.
        length: Length of the run.

    Raises:
        BadInputError: If there are errors; it lists all of them.
    """
    checker = Checker(document, lambda needed: [length])
    values = checker.component("schedule", Node.of(document.data["schedule"], ("schedule",)))
    document.check()
    schedule: Schedule | Plateau = Component.from_values(resolve(values, length)).build("schedule")
    return schedule
