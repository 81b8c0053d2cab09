"""The study files and the schema that come with the tuner."""

from pathlib import Path

from tuner.config.annotations import did_you_mean
from tuner.config.checker import listed
from tuner.errors import BadInputError

__all__ = ["find_study", "is_study_file", "schema_file", "shipped_studies"]


def shipped_studies() -> dict[str, Path]:
    """Return the study files that come with the tuner, by name."""
    return {path.stem: path for path in sorted(_shipped().glob("*.yaml"))}


def schema_file() -> Path:
    """Return the JSON schema of study files that comes with the tuner, for editors."""
    return _shipped() / "study.schema.json"


def _shipped() -> Path:
    package = Path(__file__).parent.parent
    installed = package / "studies"
    return installed if installed.is_dir() else package.parent / "studies"


def is_study_file(source: str) -> bool:
    """Return whether a text is the path of a study file, which may be missing, and not the name of a study."""
    return Path(source).exists() or Path(source).suffix in (".yaml", ".yml")


def find_study(source: str) -> Path:
    """Return the path of a study file.

    Args:
        source: Its path, or the name of a shipped one.

    Raises:
        BadInputError: If it is neither.
    """
    path, shipped = Path(source), shipped_studies()
    try:
        is_file = path.is_file()
    except OSError:  # name too long, or no permission: reading the file reports it
        return path
    if not is_file and source in shipped:
        return shipped[source]
    if not is_file and not path.is_dir() and path.suffix not in (".yaml", ".yml"):
        hint = did_you_mean(source, shipped)
        raise BadInputError([f"{source}: no such file, and no shipped study ({listed(shipped)}).{hint}"])
    return path
