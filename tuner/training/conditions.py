"""The conditions of a run: versions, processor, device."""

import contextlib
import functools
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = [
    "CPU",
    "conditions_here",
    "device_name",
    "gpu_names",
    "on_cpu",
    "processor",
    "training_conditions",
    "versions",
]

CPU = "CPU"
PACKAGES_OF_TRAINING = ("lr-tuner", "torch", "pytorch-lightning")


def conditions_here(device: str) -> dict[str, str | int]:
    """Return versions, processor, device and threads of this process.

    Args:
        device: "cpu" or "cuda".
    """
    import torch

    return {
        **versions(),
        "processor": processor(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }


def training_conditions(device: str, precision: str, ranks: int, fused: int) -> dict[str, str | int]:
    """Return the conditions, other than the trial's configuration, that the result of a run depends on.

    Call it in the process that trains.

    Args:
        device: "cpu" or "cuda".
        precision: Lightning's precision, with "auto" resolved.
        ranks: Number of processes that train together.
        fused: Number of trials that are trained as one model.
    """
    return {**conditions_here(device), "precision": precision, "ranks": ranks, "fused": fused}


def on_cpu(setup: Mapping[str, Any]) -> bool:
    """Return whether stored `training_conditions` are of a run on a CPU; true if there are none."""
    return bool(setup.get("device", CPU) == CPU)


@functools.cache
def versions(packages: Sequence[str] = PACKAGES_OF_TRAINING) -> Mapping[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):  # run from a folder that is not installed
            versions[package] = metadata.version(package)
    return MappingProxyType(versions)


def gpu_names(gpus: Sequence[str]) -> list[str]:
    """Return the display names of GPUs. It limits this process, which must not have used CUDA yet, to these GPUs.

    Args:
        gpus: The GPUs, as in CUDA_VISIBLE_DEVICES.
    """
    import torch

    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return [torch.cuda.get_device_name(number) for number in range(len(gpus))]


def device_name(device: str) -> str:
    """Return the display name of a device, such as ``cuda:0`` or ``cpu``."""
    if not device.startswith("cuda"):
        return CPU
    import torch

    return torch.cuda.get_device_name(device)


def processor() -> str:
    """Return the name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
