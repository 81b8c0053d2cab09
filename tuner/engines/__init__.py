"""Engines: run groups of trials in the processes of this machine, on a Ray cluster, or in the coordinator's process.

An engine implements `tuner.protocol.Engine`, and is created by `make_engine`. Engines use neither Optuna nor MLflow.
"""

from typing import get_args

from tuner.errors import BadInputError, needs_extra
from tuner.protocol import Engine, EngineName

__all__ = ["make_engine"]

SPARES = ("cuda",)
"""Where processes of groups are prepared early: on a CPU, they would take time from the training."""


def make_engine(
    name: str, devices: str, per_device: int | None, ranks: int, stall_timeout: float, address: str = "auto"
) -> Engine:
    """Create an engine and its slots.

    Args:
        name: One of `tuner.protocol.EngineName`.
        devices: As for `tuner.engines.slots.make_slots`, like the next two.
        per_device: Slots on each device.
        ranks: Processes that train one trial together.
        stall_timeout: Seconds without activity after which a run counts as hung and is killed.
        address: Address of the Ray cluster.

    Raises:
        BadInputError: If there are no such devices, or no such cluster.
    """
    if name not in get_args(EngineName):
        raise BadInputError([f'--engine: must be one of {", ".join(get_args(EngineName))} (got "{name}").'])
    if name == "ray":
        try:
            from tuner.engines.ray import RayEngine
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise BadInputError([f"--engine: Ray is not installed: {needs_extra('ray')}."]) from None
        return RayEngine(address, devices, per_device, ranks, stall_timeout)
    from tuner.engines.slots import make_slots

    if name == "local":
        from tuner.engines.fork_server import ensure_server

        ensure_server()  # its imports take seconds, as long as those of this process
    slots = make_slots(devices, per_device, ranks)
    if name == "inline":
        if ranks > 1:
            raise BadInputError(["--devices-per-trial: the inline engine has one process only."])
        from tuner.engines.inline import InlineEngine

        return InlineEngine(slots[0])
    from tuner.engines.local import LocalEngine

    return LocalEngine(slots, stall_timeout, SPARES)
