"""Divides a machine into slots."""

import os
from collections.abc import Sequence

from tuner.engines import Engine
from tuner.errors import BadInputError
from tuner.messages import Slot

__all__ = ["make_engine", "make_slots"]


def make_slots(devices: str, per_device: int | None) -> list[Slot]:
    """Return the slots of this machine.

    Args:
        devices: "auto" for all GPUs, or the CPU if there is none; "cpu"; or the numbers of GPUs, such as "0,2".
        per_device: Slots on each GPU (default 1), or on the CPU (default: one for each core).

    Raises:
        BadInputError: If there are no such devices.
    """
    if per_device is not None and per_device < 1:
        raise BadInputError([f"--per-device: must be 1 or more (got {per_device})."])
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    count = len(cores) or os.cpu_count() or 1
    gpus = _gpus(devices)
    places: list[int | None] = [gpu for gpu in gpus for _ in range(per_device or 1)] or [None] * (per_device or count)
    share = count // len(places)  # 0 if they are to share cores: then none is kept on one
    return [
        Slot(index, gpu, max(1, share), tuple(cores[index * share : (index + 1) * share]))
        for index, gpu in enumerate(places)
    ]


def _gpus(devices: str) -> list[int]:
    if devices == "cpu":
        return []
    import torch

    found = torch.cuda.device_count()
    if devices == "auto":
        return list(range(found))
    try:
        wanted = [int(number) for number in devices.split(",")]
    except ValueError:
        raise BadInputError([f'--devices: "{devices}" is not auto, cpu, or numbers of GPUs such as 0,1.']) from None
    if len(set(wanted)) < len(wanted):
        raise BadInputError([f"--devices: {devices} names a GPU twice; several slots on one are --per-device."])
    missing = [number for number in wanted if not 0 <= number < found]
    if missing:
        raise BadInputError([f"--devices: GPU {missing[0]} asked, {found} found. Use cpu, or fewer."])
    return wanted


def make_engine(name: str, slots: Sequence[Slot], stall_timeout: float) -> Engine:
    """Return the engine of a name."""
    if name == "inline":
        from tuner.engines.inline import InlineEngine

        return InlineEngine(slots[0])
    from tuner.engines.local import LocalEngine

    return LocalEngine(slots, stall_timeout)
