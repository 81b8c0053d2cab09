"""The GPUs and CPUs that this process may use, within the limits of its environment and container."""

import os
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

__all__ = ["VISIBLE", "cores", "processor_quota", "visible_gpus"]

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """Return the visible GPUs as CUDA_VISIBLE_DEVICES names them: numbers, or UUIDs if it contains UUIDs."""
    import torch

    found = torch.cuda.device_count()  # asks NVML if possible, and creates no CUDA context
    if VISIBLE not in os.environ:
        return [str(number) for number in range(found)]
    # CUDA ignores everything after the first invalid name. A process sees one MIG instance only, so each slot gets one.
    listed = (name.strip() for name in os.environ[VISIBLE].split(","))
    names = list(dict.fromkeys(takewhile(re.compile(r"\+?\d|GPU-|MIG-").match, listed)))
    return names if found and names[0].startswith("MIG-") else names[:found]


def cores() -> list[int]:
    """Return the CPU cores that this process may run on; empty if the system cannot tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def processor_quota(root: Path = Path("/")) -> float | None:
    """Return the CPU quota of a container or any other Linux control group, in cores; None for no limit.

    Args:
        root: Root of the file system.
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
    """Yield the quotas of a control group and its parents, in cores."""
    group = mount / path.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(mount):
            return
        try:
            quota, period = " ".join((folder / file).read_text() for file in files).split()
        except (OSError, ValueError):  # in a container, the group's path may be the one outside of it
            continue
        if quota.isdigit() and int(period):  # "max" and -1 mean no limit
            yield int(quota) / int(period)
