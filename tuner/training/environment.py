"""What a study ran with: versions, the commit of the folder it was started in, the machine."""

import contextlib
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tuner.errors import StudyFailedError
from tuner.protocol import Slot

__all__ = ["CHANGES", "device_name", "environment", "on_cpu", "setup"]

CPU = "CPU"
CHANGES = " and changes"
"""What follows the commit where files that git knows were changed since."""
PACKAGES_OF_TRAINING = ("lr-tuner", "torch", "pytorch-lightning")
PACKAGES = (*PACKAGES_OF_TRAINING, "optuna", "mlflow")


def environment(slots: Sequence[Slot]) -> dict[str, str]:
    """Return tags for the run of a study.

    The process that asks leaves the GPUs alone, as a GPU may be set to take one process only.

    Args:
        slots: Where trainings run.

    Raises:
        StudyFailedError: If a GPU cannot be used.
    """
    tags = {}
    if commit := _git("rev-parse", "HEAD"):
        changed = CHANGES * bool(_git("status", "--porcelain", "--untracked-files=no"))
        tags = {"mlflow.source.git.commit": commit, "commit": commit[:12] + changed}
    return {
        **tags,
        "versions": ", ".join(f"{name} {version}" for name, version in _versions(PACKAGES).items()),
        "hardware": f"{_processor()}, {os.cpu_count()} cores",
        "devices": ", ".join(dict.fromkeys(_devices(slots))),
    }


def setup(device: str, precision: str, ranks: int, fused: int) -> dict[str, str | int]:
    """Return what the result of a training depends on beside the trial's configuration, in the process that trains.

    Args:
        device: "cpu" or "cuda".
        precision: Lightning's precision, "auto" resolved.
        ranks: Processes that train together.
        fused: Trials that are trained as one model.
    """
    import torch

    return {
        **_versions(PACKAGES_OF_TRAINING),
        "processor": _processor(),
        "device": device_name(device),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "ranks": ranks,
        "fused": fused,
    }


def on_cpu(setup: Mapping[str, Any]) -> bool:
    """Tell whether what `setup` returned, or nothing at all, speaks of a training on a CPU."""
    return bool(setup.get("device", CPU) == CPU)


def _versions(packages: Sequence[str]) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):  # run from a folder that is not installed
            versions[package] = metadata.version(package)
    return versions


def _devices(slots: Sequence[Slot]) -> list[str]:
    """Return the names of the devices of slots; those of GPUs are asked for in another process."""
    from tuner.engines.local import ask

    gpus = dict.fromkeys(gpu for slot in slots if not slot.host for gpu in slot.gpus)
    # Of divided GPUs, CUDA shows a process one part only.
    parts = [[gpu for gpu in gpus if not gpu.startswith("MIG-")], *([gpu] for gpu in gpus if gpu.startswith("MIG-"))]
    try:
        names = {gpu: name for part in parts if part for gpu, name in zip(part, ask(gpu_names, part), strict=True)}
    except StudyFailedError as error:
        raise StudyFailedError(f"the GPUs {', '.join(gpus)} cannot be used: {error}") from error

    def of(slot: Slot) -> list[str]:
        if slot.host:  # it is another machine's, which knows the name
            return [slot.device]
        return [names[gpu] for gpu in slot.gpus] or [CPU]

    return [name for slot in slots for name in of(slot)]


def gpu_names(gpus: Sequence[str]) -> list[str]:
    """Return the names of GPUs for people, in a process that has not used any and is to use no others.

    Args:
        gpus: The GPUs by the names that CUDA_VISIBLE_DEVICES takes.
    """
    import torch

    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return [torch.cuda.get_device_name(number) for number in range(len(gpus))]


def device_name(device: str) -> str:
    """Return the name of a device, such as ``cuda:0`` or ``cpu``, for people."""
    if not device.startswith("cuda"):
        return CPU
    import torch

    return torch.cuda.get_device_name(device)


def _git(*arguments: str) -> str:
    """Return what git says in this folder; nothing where there is no git or no repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
