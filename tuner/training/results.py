"""The files that a run leaves in its trial's directory."""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from tuner.config.trial import AnyTrial
from tuner.errors import in_a_line
from tuner.files import write_atomically, write_json
from tuner.protocol import Assignment, TrialResult

__all__ = [
    "MODEL_FILE",
    "PREDICTIONS_FILE",
    "RESULT_FILE",
    "TRACEBACK_FILE",
    "read_result",
    "save_weights",
    "write_result",
]

RESULT_FILE = "result.json"
TRACEBACK_FILE = "traceback.txt"
MODEL_FILE = "model.ckpt"
PREDICTIONS_FILE = "test.pt"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Stored:
    """Content of a result file: the result, and the digest of the trial's configuration."""

    trial: str
    result: TrialResult


_STORED = TypeAdapter(_Stored)


def write_result(assignment: Assignment, result: TrialResult) -> None:
    """Write the result of a trial."""
    content = {"trial": assignment.config.digest, "result": vars(result)}
    write_json(assignment.directory / RESULT_FILE, {"checksum": _checksum(content), **content})


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_result(directory: Path, config: AnyTrial, note: Callable[[str], None] = _log.warning) -> TrialResult | None:
    """Return the result of a finished trial; None if it is missing, damaged, or belongs to another configuration.

    Args:
        directory: The trial's directory.
        config: The trial's configuration.
        note: Called with the reason why a result is not used.
    """
    path = directory / RESULT_FILE
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")
        stored_bytes = path.read_bytes()
        content = json.loads(stored_bytes)
        if "checksum" in content:
            # The bytes too: two spellings of a number may be the same float.
            if json.dumps(content).encode() != stored_bytes or content.pop("checksum") != _checksum(content):
                raise ValueError("its checksum is wrong")
        else:  # written by an earlier version
            content = {"trial": config.digest, "result": content}
        stored = _STORED.validate_json(json.dumps(content), strict=True)
        is_number = stored.result.value is not None and math.isfinite(stored.result.value)
        if not is_number and (stored.result.value is not None or stored.result.state == "complete"):
            raise ValueError(f"a trial that is {stored.result.state} cannot have the value {stored.result.value}")
    except FileNotFoundError:
        return None
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        note(f"{path} is damaged ({in_a_line(error)}); its trial is retrained")
        return None
    if stored.trial != config.digest:
        note(f"{path} is not used: it belongs to other values of the trial, which is retrained")
        return None
    return stored.result


def save_weights(assignment: Assignment, weights: Mapping[str, torch.Tensor]) -> None:
    """Save the weights that a trial ended with."""
    content = {"state_dict": weights, "trial": assignment.config.digest}
    write_atomically(assignment.directory / MODEL_FILE, lambda file: torch.save(content, file))
