"""Checkpoints that are written atomically and checked before they are used.

A file is written under a temporary name, flushed to disk and renamed, so a process killed at any moment leaves the old
checkpoint or the new one. On loading, the archive's checksums are verified (torch does not do that) and only plain
tensors and values are accepted.
"""

import datetime
import logging
import pickle
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from tuner.files import write_atomically

__all__ = [
    "AtomicCheckpointIO",
    "CheckpointPace",
    "DamagedCheckpointError",
    "UnsafeCheckpointError",
    "checkpoint_name",
    "common_checkpoint",
    "has_checkpoint",
    "load_tensors",
    "newest_checkpoint",
    "remove_checkpoints",
]

_log = logging.getLogger(__name__)

_PLAIN_DATA = [
    np.ndarray,
    np.dtype,
    np.float64(0).__reduce__()[0],  # rebuilds a NumPy number; the next one, an array
    np.zeros(0).__reduce__()[0],
    *{type(np.dtype(code)) for code in np.typecodes["All"]},
    type(Path()),
    *(getattr(datetime, name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
]
"""Classes of plain values that torch does not allow by default."""


class DamagedCheckpointError(Exception):
    """A checkpoint is damaged, or cannot be used as it is."""


class UnsafeCheckpointError(DamagedCheckpointError):
    """A checkpoint is intact, but contains objects that can be loaded only by running code."""


UNUSED = ".unused"


def load_tensors(path: Path, map_location: Any = "cpu") -> Any:
    """Load a checkpoint of plain tensors and values.

    Raises:
        UnsafeCheckpointError: If it contains objects that can be loaded only by running code.
        DamagedCheckpointError: If it is truncated or changed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise DamagedCheckpointError(f"{path}: the checksum of {damaged} is wrong")
        with torch.serialization.safe_globals(_PLAIN_DATA):
            if names := torch.serialization.get_unsafe_globals_in_checkpoint(path):
                raise UnsafeCheckpointError(f"{path}: contains {', '.join(sorted(names))}")
            return torch.load(path, map_location=map_location, weights_only=True)
    except DamagedCheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(f"{path}: {error}") from error
    except Exception as error:  # zipfile, pickle and torch raise a dozen kinds
        raise DamagedCheckpointError(f"{path}: {type(error).__name__}: {error}") from error


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning plugin that writes checkpoints atomically and checks them when it reads them."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint atomically.

        Raises:
            DiskFullError: If there is no room for it.
            UnsafeCheckpointError: If it contains objects that cannot be pickled.
        """
        checkpoint.pop("hyper_parameters", None)  # may be any objects, and the trial's configuration has them anyway
        try:
            write_atomically(Path(path), lambda file: torch.save(checkpoint, file))
        except (AttributeError, TypeError, pickle.PicklingError) as error:  # raised for a lambda, a lock ...
            raise UnsafeCheckpointError(f"{path}: {error}") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Load a checkpoint.

        Raises:
            DamagedCheckpointError: If it is damaged or unsafe.
        """
        return load_tensors(Path(path), map_location or "cpu")


class CheckpointPace:
    """Decides after which epochs a run is saved, so that both kills and saving cost little.

    Args:
        every: Seconds between checkpoints, and before the first one. The interval grows if saving would take more than
            a twentieth of the time. 0 for a checkpoint after every epoch, whatever it costs.
    """

    SHARE = 0.05

    def __init__(self, every: float) -> None:
        self._every = every
        self._next = time.monotonic() + every

    def is_due(self) -> bool:
        """Return whether it is time for a checkpoint."""
        return time.monotonic() >= self._next

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Context manager to write a checkpoint in; it measures the time."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        self._next = ended + max(self._every, (ended - began) / self.SHARE) if self._every else ended


def checkpoint_name(epoch: int) -> str:
    """Return the name of the checkpoint after an epoch, counted from 1."""
    return f"epoch-{epoch:06d}.ckpt"


def has_checkpoint(directory: Path) -> bool:
    """Return whether a trial has a checkpoint, intact or not."""
    return bool(_checkpoints(directory))


def newest_checkpoint(directory: Path) -> int:
    """Return the epoch after which a trial's newest checkpoint was written; 0 if it has none."""
    return next((int(path.stem.removeprefix("epoch-")) for path in _checkpoints(directory)), 0)


def remove_checkpoints(directory: Path, keep: int = 0) -> None:
    """Remove a trial's checkpoints, except for the newest `keep`."""
    for checkpoint in _checkpoints(directory)[keep:]:
        checkpoint.unlink()
    if not keep:
        for unused in directory.glob(f"epoch-*.ckpt{UNUSED}"):
            unused.unlink()


def common_checkpoint(
    directories: Sequence[Path],
    is_of_trial: Callable[[Path, Any], bool] = lambda directory, checkpoint: True,
    note: Callable[[str], None] = _log.warning,
) -> str | None:
    """Return the name of the newest checkpoint that every trial can continue from; None if there is none.

    A damaged checkpoint is removed. An intact one that cannot be used is renamed.

    Args:
        directories: Folders of the trials.
        is_of_trial: Called with a folder and a checkpoint in it; returns whether it was saved with the trial's values.
        note: Called with the reason why a checkpoint is not used.
    """
    for directory in directories:
        for leftover in directory.glob("*.tmp"):
            leftover.unlink()

    def is_usable(checkpoint: Path) -> bool:
        try:
            if is_of_trial(checkpoint.parent, load_tensors(checkpoint)):
                return True
            note(f"{checkpoint} is not used: it was saved with different values of the trial")
        except UnsafeCheckpointError as error:
            note(f"{error}, so the trial cannot continue from it: loading it would run code")
        except DamagedCheckpointError as error:
            note(f"{error}; the previous checkpoint is used")
            checkpoint.unlink()
            return False
        checkpoint.rename(f"{checkpoint}{UNUSED}")
        return False

    while common := set.intersection(*({path.name for path in _checkpoints(directory)} for directory in directories)):
        newest = max(common)
        if all(is_usable(directory / newest) for directory in directories):
            return newest
    return None


def _checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints of a trial, newest first."""
    return sorted(directory.glob("epoch-*.ckpt"), reverse=True)
