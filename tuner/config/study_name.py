"""Names of studies."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from tuner.errors import BadInputError

__all__ = ["NAME", "check_name", "final_name", "is_final_name"]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_name(name: str, place: str) -> None:
    """Reject an invalid name for a study.

    Args:
        name: The name.
        place: The option or key that the message names.

    Raises:
        BadInputError: If it is not valid.
    """
    if not NAME.fullmatch(name):
        rule = 'a-z, 0-9, ".", "_", "-", at most 64 characters'
        raise BadInputError([f'{place}: "{name}" is not a valid name: {rule}.'])


def final_name(study: str, configurations: Mapping[str, Any]) -> str:
    """Return the name of the study that consists of the final runs of another.

    Args:
        study: The other study.
        configurations: The values of the configurations that are trained, by their names.
    """
    content = json.dumps(configurations, sort_keys=True)
    return f"{study}-final-{hashlib.sha256(content.encode()).hexdigest()[:6]}"


def is_final_name(name: str, study: str) -> bool:
    """Return whether a name belongs to the final runs of a study.

    >>> is_final_name("tiny-final-012abc", "tiny"), is_final_name("tiny-confirm", "tiny")
    (True, False)
    """
    return re.fullmatch(f"{re.escape(study)}-final-[0-9a-f]{{6}}", name) is not None
