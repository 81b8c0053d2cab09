"""Divide a machine into slots."""

import os
from collections.abc import Sequence

from tuner.engines.machine import VISIBLE, cores, processor_quota, visible_gpus
from tuner.errors import BadInputError
from tuner.protocol import Slot

__all__ = ["make_slots"]


def make_slots(devices: str, per_device: int | None, ranks: int = 1) -> list[Slot]:
    """Return the slots of this machine.

    Args:
        devices: "auto" for all GPUs, or the CPU if there is none; "cpu"; or the numbers of GPUs, such as "0,2", among
            those that CUDA_VISIBLE_DEVICES leaves.
        per_device: Slots on each GPU (default 1), or on the CPU (default: one for each core, or for `ranks` cores).
        ranks: Processes that train one trial together; with GPUs, one for each GPU.

    Raises:
        BadInputError: If there are no such devices.
    """
    if per_device is not None and per_device < 1:
        raise BadInputError([f"--per-device: must be 1 or more (got {per_device})."])
    if ranks < 1:
        raise BadInputError([f"--devices-per-trial: must be 1 or more (got {ranks})."])
    own = cores()
    count = len(own) or os.cpu_count() or 1
    if (quota := processor_quota()) is not None and quota < count:
        count, own = max(1, int(quota)), []  # the cores are shared with other containers, so none is pinned
    gpus = _gpus(devices)
    places = _divide(gpus, per_device or 1, ranks) if gpus else [()] * (per_device or max(1, count // ranks))
    share = count // len(places)
    pinned = share if share >= ranks else 0  # with less than a core per rank, slots share cores and are not pinned
    return [
        Slot(index, of_slot, max(1, share // ranks), tuple(own[index * pinned : (index + 1) * pinned]), ranks)
        for index, of_slot in enumerate(places)
    ]


def _divide(gpus: Sequence[str], per_device: int, ranks: int) -> list[tuple[str, ...]]:
    if ranks > 1 and per_device > 1:
        raise BadInputError(["--devices-per-trial: each trial then has its own GPUs; omit --per-device."])
    if len(gpus) % ranks:
        raise BadInputError([f"--devices-per-trial: {len(gpus)} GPUs cannot be divided into parts of {ranks}."])
    parts = [tuple(gpus[start : start + ranks]) for start in range(0, len(gpus), ranks)]
    return [part for part in parts for _ in range(per_device)]


def _gpus(devices: str) -> list[str]:
    if devices == "cpu":
        return []
    found = visible_gpus()
    if devices == "auto":
        return found
    try:
        wanted = [int(number) for number in devices.split(",")]
    except ValueError:
        raise BadInputError([f'--devices: "{devices}" is not auto, cpu, or numbers of GPUs such as 0,1.']) from None
    if len(set(wanted)) < len(wanted):
        advice = "to run several trials on one GPU, use --per-device"
        raise BadInputError([f"--devices: {devices} names a GPU twice; {advice}."])
    missing = [number for number in wanted if not 0 <= number < len(found)]
    if missing:
        limited = " in CUDA_VISIBLE_DEVICES, where they are counted from 0" if VISIBLE in os.environ else ""
        numbers = ", ".join(map(str, range(len(found))))
        allowed = f"auto, cpu, or numbers of GPUs{limited}: {numbers}" if found else "auto or cpu"
        has = f"there is no GPU {missing[0]}" if found else f"no GPU was found{limited}"
        raise BadInputError([f"--devices: {has} (got {devices}). Allowed: {allowed}."])
    return [found[number] for number in wanted]
