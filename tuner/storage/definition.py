"""The definition of a study in its folder, by which it can be read by its name alone."""

import functools
import json
import os
from pathlib import Path
from typing import IO

from tuner.config import by_value
from tuner.config.study import StudyConfig
from tuner.errors import StudyFailedError
from tuner.files import DiskFullError, write_atomically
from tuner.storage.folders import OBJECTS_FILE

__all__ = ["DEFINITION_FILE", "FOLDER_FILE", "save_definition"]

DEFINITION_FILE = "study.yaml"
FOLDER_FILE = "folder"


def save_definition(config: StudyConfig, directory: Path) -> None:
    """Save a study's definition, the folder of its modules, and the objects that are sent to its runs by value.

    Args:
        config: The study.
        directory: Its folder.

    Raises:
        StudyFailedError: If the disk is full.
    """
    files = {}
    if config.values:
        files[DEFINITION_FILE] = json.dumps(config.values, ensure_ascii=False, indent=1).encode()
    if (own := config.folder) is not None:
        own, here = own.resolve(), directory.parent.parent.resolve()  # relative, so both can move together
        files[FOLDER_FILE] = os.fsencode(own.relative_to(here) if own.is_relative_to(here) else own)
    if held := config.held:
        files[OBJECTS_FILE] = by_value.pack(held)
    try:
        for name, content in files.items():
            write_atomically(directory / name, functools.partial(_write, content=content))
    except DiskFullError as error:
        raise StudyFailedError(f"the disk is full: {error}") from error


def _write(file: IO[bytes], content: bytes) -> None:
    file.write(content)
