"""The environment of a study: versions of packages, the commit of the working folder, the devices."""

import os
import subprocess
from collections.abc import Sequence

from tuner.engines.fork_server import call_in_fork
from tuner.errors import StudyFailedError
from tuner.protocol import Slot
from tuner.training.conditions import CPU, PACKAGES_OF_TRAINING, gpu_names, processor, versions

__all__ = ["CHANGES", "environment"]

CHANGES = " and changes"
"""Suffix of the commit if tracked files have changed since."""
PACKAGES = (*PACKAGES_OF_TRAINING, "optuna", "mlflow")


def environment(slots: Sequence[Slot]) -> dict[str, str]:
    """Return tags for the run of a study.

    The calling process does not open a GPU, since some GPUs accept one process only.

    Args:
        slots: The slots that train.

    Raises:
        StudyFailedError: If a GPU cannot be used.
    """
    tags = {}
    if commit := _git("rev-parse", "HEAD"):
        changed = CHANGES * bool(_git("status", "--porcelain", "--untracked-files=no"))
        tags = {"mlflow.source.git.commit": commit, "commit": commit[:12] + changed}
    return {
        **tags,
        "versions": ", ".join(f"{name} {version}" for name, version in versions(PACKAGES).items()),
        "hardware": f"{processor()}, {os.cpu_count()} cores",
        "devices": ", ".join(dict.fromkeys(_devices(slots))),
    }


def _devices(slots: Sequence[Slot]) -> list[str]:
    """Return the names of the slots' devices; another process asks the GPUs for theirs."""
    gpus = dict.fromkeys(gpu for slot in slots if not slot.host for gpu in slot.gpus)
    # CUDA shows a process only one part of a partitioned GPU (MIG).
    parts = [[gpu for gpu in gpus if not gpu.startswith("MIG-")], *([gpu] for gpu in gpus if gpu.startswith("MIG-"))]
    try:
        names = {
            gpu: name for part in parts if part for gpu, name in zip(part, call_in_fork(gpu_names, part), strict=True)
        }
    except StudyFailedError as error:
        raise StudyFailedError(f"the GPUs {', '.join(gpus)} cannot be used: {error}") from error

    def of(slot: Slot) -> list[str]:
        if slot.host:  # the slot is on another machine, which knows the name
            return [slot.device]
        return [names[gpu] for gpu in slot.gpus] or [CPU]

    return [name for slot in slots for name in of(slot)]


def _git(*arguments: str) -> str:
    """Return the output of git in this folder; empty where there is no git or no repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
