"""The GPUs and the processors that this process may use: what the machine has, less what it is not given."""

import os
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

__all__ = ["VISIBLE", "cores", "processor_quota", "visible_gpus"]

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """Return the GPUs by the names that CUDA_VISIBLE_DEVICES takes: numbers, or UUIDs if it holds these."""
    import torch

    found = torch.cuda.device_count()  # asks NVML where it can, and leaves the GPUs alone
    if VISIBLE not in os.environ:
        return [str(number) for number in range(found)]
    # CUDA ends at the first one that is none. Of divided GPUs it shows a process one part only; each slot has its own.
    listed = (name.strip() for name in os.environ[VISIBLE].split(","))
    names = list(dict.fromkeys(takewhile(re.compile(r"\+?\d|GPU-|MIG-").match, listed)))
    return names if found and names[0].startswith("MIG-") else names[:found]


def cores() -> list[int]:
    """Return the processors that this process may run on, none if the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def processor_quota(root: Path = Path("/")) -> float | None:
    """Return how many processors' worth of time a container, or any control group of Linux, has; None for no limit.

    Args:
        root: Where the file systems of the system are.
    """
    try:
        memberships = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if not controllers:
            quotas += _quotas(root / "sys/fs/cgroup", path, ("cpu.max",))
        elif "cpu" in controllers.split(","):
            files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            for name in (controllers, "cpu"):
                quotas += _quotas(root / "sys/fs/cgroup" / name, path, files)
    return min(quotas, default=None)


def _quotas(mount: Path, path: str, files: tuple[str, ...]) -> Iterator[float]:
    """Return the quotas of a control group and of those around it."""
    group = mount / path.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(mount):
            return
        try:
            quota, period = " ".join((folder / file).read_text() for file in files).split()
        except (OSError, ValueError):  # in a container, the group's path may be that outside of it
            continue
        if quota.isdigit() and int(period):  # "max" and -1 are none
            yield int(quota) / int(period)
