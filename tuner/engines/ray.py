"""Train on all machines of a Ray cluster: each slot is a Ray task that runs a `LocalEngine` with one slot.

The coordinator stays where it was started. It alone connects to Optuna and MLflow, so no password leaves its machine.
Reports and decisions go through an actor on its node. A machine that joins the cluster gets slots; the trials of a lost
machine continue elsewhere from their last checkpoints, so all machines need access to the study's folder.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuner.errors import BadInputError, StudyFailedError
from tuner.files import write_atomically
from tuner.process import add_study_folder, study_folder
from tuner.protocol import Decision, EpochReport, Group, Handler, Result, Slot, StepReport

__all__ = ["RayEngine"]

MARK_FILE = "seen-by"

GroupEnd = tuple[Sequence[Result] | None, str]
"""The results of a group, or None and the reason why its process died."""


@dataclass(frozen=True)
class _Node:
    """A machine of the cluster, and the resources of each of its slots."""

    identifier: str
    host: str
    num_cpus: float
    num_gpus: float


@dataclass
class _Busy:
    slot: Slot
    group: Group
    node: _Node
    task: Any = None
    begun: bool = False
    key: str = field(default_factory=lambda: uuid.uuid4().hex)


class RayEngine:
    """Runs one group at a time in each slot of a Ray cluster.

    Args:
        address: Address of the cluster; "auto" for the one that this machine belongs to, or else a new one.
        devices: "auto" for all GPUs, or the CPUs if there are none; or "cpu".
        per_device: Slots on each GPU (default 1), or on the CPUs of each machine (default: one for each core).
        ranks: Processes that train one trial together on one machine; with GPUs, one for each GPU.
        stall_timeout: Seconds without activity after which a run counts as hung and is killed.

    Raises:
        BadInputError: If there is no such cluster, or it has no such devices.
        StudyFailedError: If the node of this machine has ended.
    """

    TICK_SECONDS = 0.2
    REFRESH_SECONDS = 2.0
    COOLDOWN_SECONDS = 5.0

    def __init__(self, address: str, devices: str, per_device: int | None, ranks: int, stall_timeout: float) -> None:
        if devices not in ("auto", "cpu"):
            raise BadInputError(["--devices: with Ray, auto or cpu; Ray chooses the GPUs."])
        self._devices, self._per_device, self._ranks = devices, per_device, ranks
        self._stall_timeout = stall_timeout
        self._nodes: dict[Slot, _Node] = {}
        self._busy: list[_Busy] = []
        self._unfit: set[str] = set()
        self._cooldown_until: dict[Slot, float] = {}  # when each slot that could not start is tried again
        self._refreshed = 0.0
        self._mark = uuid.uuid4().hex
        _connect(address)
        self._here = ray.get_runtime_context().get_node_id()
        # Workers may be reused: training happens in a child process, which leaves nothing on a GPU.
        self._run_group = ray.remote(max_calls=0, max_retries=0)(_run_group)
        self._start_relay()
        self._refresh()
        if not self._nodes:
            ray.shutdown()
            raise BadInputError([f"--address: the Ray cluster has no room for a trial on {ranks} of its devices."])

    @property
    def slots(self) -> Sequence[Slot]:
        """Return the current slots."""
        return list(self._nodes)

    def run(self, handler: Handler) -> None:
        """Run groups until no slot is busy and the handler has no more."""
        while True:
            self._refresh()
            now, used = time.monotonic(), {busy.slot for busy in self._busy}
            free = [slot for slot in self._nodes if slot not in used and self._cooldown_until.get(slot, now) <= now]
            for slot in free:
                if (group := handler.next_group(slot)) is not None:
                    self._start(slot, group)
            if free and not self._busy:
                return
            self._wait(handler)
            if not handler.tick():
                self._cancel()
                return

    def close(self) -> None:
        """Kill the running groups and disconnect; a cluster that was started here ends."""
        if ray.is_initialized():
            self._cancel()
            ray.shutdown()

    def _cancel(self) -> None:
        for busy in self._busy:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(busy.task, force=True)
        self._busy = []

    def _refresh(self) -> None:
        """Add slots for machines that have joined, and remove those of machines that are gone."""
        if time.monotonic() < self._refreshed + self.REFRESH_SECONDS:
            return
        self._refreshed = time.monotonic()
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        if self._here not in (node["NodeID"] for node in nodes):
            raise StudyFailedError(
                "the Ray node of this machine has ended, and with it the connection to the cluster. Start it "
                "(ray start), and run the command again"
            )
        machines = [node for node in nodes if node["NodeID"] not in self._unfit]
        use_gpus = self._devices == "auto" and any(node["Resources"].get("GPU", 0) >= 1 for node in machines)
        alive = {node["NodeID"] for node in machines}
        self._nodes = {slot: node for slot, node in self._nodes.items() if node.identifier in alive}
        known = {node.identifier for node in self._nodes.values()}
        for machine in machines:
            if machine["NodeID"] not in known:
                self._nodes |= self._make_slots(machine, use_gpus)

    def _make_slots(self, machine: dict[str, Any], use_gpus: bool) -> dict[Slot, _Node]:
        cpus, gpus = (int(machine["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
        per_device = self._per_device or 1
        if use_gpus:
            count, share = gpus // self._ranks * per_device, self._ranks / per_device
        else:
            count, share = (self._per_device or cpus // self._ranks) if cpus else 0, 0.0
        if count == 0:
            return {}
        host = machine["NodeManagerAddress"]
        node = _Node(machine["NodeID"], host, num_cpus=cpus // count or cpus / count, num_gpus=share)
        threads = max(1, cpus // count // self._ranks)
        numbers = tuple(map(str, range(self._ranks))) if use_gpus else ()  # placeholders: Ray assigns the GPUs
        first = max((slot.index for slot in self._nodes), default=-1) + 1
        return {
            Slot(index, numbers, threads, ranks=self._ranks, host=host): node for index in range(first, first + count)
        }

    def _start_relay(self) -> None:
        here = NodeAffinitySchedulingStrategy(self._here, soft=False)
        relay: Any = ray.remote(_MessageRelay).options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here)
        self._relay: Any = relay.remote()
        self._messages = self._relay.drain.remote()

    def _start(self, slot: Slot, group: Group) -> None:
        node = self._nodes[slot]
        mark = group.trials[0].directory / MARK_FILE
        write_atomically(mark, lambda file: file.write(self._mark.encode()))
        busy = _Busy(slot, group, node)
        options = {
            "num_cpus": node.num_cpus,
            "num_gpus": node.num_gpus,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node.identifier, soft=False),
        }
        task = self._run_group.options(**options)
        folders = str(Path.cwd()), study_folder()
        busy.task = task.remote(self._relay, busy.key, slot, group, self._stall_timeout, folders, self._mark)
        self._busy.append(busy)

    def _wait(self, handler: Handler) -> None:
        tasks = [busy.task for busy in self._busy]
        ready, _ = ray.wait([self._messages, *tasks], num_returns=len(tasks) + 1, timeout=0)
        if not ready:
            ready, _ = ray.wait([self._messages, *tasks], timeout=self.TICK_SECONDS)
        if self._messages in ready:
            self._read(handler)
        for busy in [busy for busy in self._busy if busy.task in ready]:
            self._busy.remove(busy)
            self._end(handler, busy)

    def _end(self, handler: Handler, busy: _Busy) -> None:
        try:
            results, reason = ray.get(busy.task)
        # Training happens in a child process, so this error is not from it.
        except ray.exceptions.RayTaskError as error:
            handler.returned(busy.group)
            self._exclude(handler, busy, f"{error.cause!r}")
        except ray.exceptions.RayError as error:
            if busy.begun:
                handler.died(busy.group, f"was lost with its process on {busy.slot.host} ({type(error).__name__})")
            else:  # the machine is gone or full
                handler.returned(busy.group)
                self._cooldown_until[busy.slot] = time.monotonic() + self.COOLDOWN_SECONDS
        else:
            if results is not None:
                handler.done(busy.group, results)
            elif busy.begun:
                handler.died(busy.group, reason)
            else:
                handler.returned(busy.group)
                self._exclude(handler, busy, reason)

    def _read(self, handler: Handler) -> None:
        try:
            messages = ray.get(self._messages)
        except ray.exceptions.RayError:  # the actor died, and the runs that wait for its answers die too
            self._start_relay()
            return
        self._messages = self._relay.drain.remote()
        keys = {busy.key: busy for busy in self._busy}
        for key, kind, *content in messages:
            if key not in keys:  # the run is known to be dead
                continue
            match kind:
                case "begun":
                    keys[key].begun = True
                case "progress":
                    handler.progress(*content)
                case "fuse_at_most":
                    handler.fuse_at_most(*content)
                case "note":
                    handler.note(*content)
                case "report":
                    self._relay.answer.remote(key, handler.report(*content))

    def _exclude(self, handler: Handler, busy: _Busy, reason: str) -> None:
        """Stop using a machine that cannot train."""
        node = busy.node
        if node.identifier not in self._unfit:
            handler.note(f"{node.host} is not used: {reason}")
            self._unfit.add(node.identifier)
            self._refreshed = 0.0
            self._refresh()
        if not self._nodes and not self._busy:
            raise StudyFailedError(f"no machine of the Ray cluster is left to train on: {node.host} {reason}")


def _connect(address: str) -> None:
    """Connect to a Ray cluster; with "auto", start one on this machine if it belongs to none.

    Raises:
        BadInputError: If there is no cluster at the address.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if ":" in address:  # Ray itself would retry for minutes
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError, OverflowError) as error:
            raise BadInputError([f"--address: no Ray cluster answers at {address} ({error})."]) from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        try:
            ray.init(address=address, **quiet)
        except ConnectionError:
            if address != "auto":
                raise BadInputError(
                    [f'--address: "{address}" is neither auto nor the host:port of a Ray cluster.']
                ) from None
            ray.init(include_dashboard=False, **quiet)
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray installs its own handler


class _MessageRelay:
    """Ray actor that queues messages of the runs for the coordinator, and passes its answers back."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self._answers: dict[str, asyncio.Future[Mapping[int, Decision]]] = {}

    async def put(self, *message: Any) -> None:
        self._messages.put_nowait(message)

    async def ask(self, key: str, *content: Any) -> Mapping[int, Decision]:
        self._answers[key] = asyncio.get_running_loop().create_future()
        self._messages.put_nowait((key, *content))
        return await self._answers[key]

    async def answer(self, key: str, decisions: Mapping[int, Decision]) -> None:
        self._answers.pop(key).set_result(decisions)

    async def drain(self) -> list[tuple[Any, ...]]:
        """Wait for a message, and return all that are available."""
        messages = [await self._messages.get()]
        while not self._messages.empty():
            messages.append(self._messages.get_nowait())
        return messages


class _RelayChannel:
    """Handler of one group on its machine, which forwards everything to the coordinator through the relay."""

    def __init__(self, relay: Any, key: str, group: Group) -> None:
        self.outcome: GroupEnd = (None, "was ended")
        self._relay, self._key = relay, key
        self._group: Group | None = group

    def next_group(self, slot: Slot) -> Group | None:
        group, self._group = self._group, None
        return group

    def report(self, reports: Mapping[int, EpochReport]) -> Mapping[int, Decision]:
        decisions: Mapping[int, Decision] = ray.get(self._relay.ask.remote(self._key, "report", reports))
        return decisions

    def progress(self, number: int, report: StepReport) -> None:
        self._relay.put.remote(self._key, "progress", number, report)

    def fuse_at_most(self, count: int, reason: str) -> None:
        self._relay.put.remote(self._key, "fuse_at_most", count, reason)

    def note(self, text: str) -> None:
        self._relay.put.remote(self._key, "note", text)

    def returned(self, group: Group) -> None:
        """Not used: a local slot cannot be lost separately from its machine."""

    def done(self, group: Group, results: Sequence[Result]) -> None:
        self.outcome = (results, "")

    def died(self, group: Group, reason: str) -> None:
        self.outcome = (None, reason)

    def tick(self) -> bool:
        return True


def _run_group(
    relay: Any, key: str, slot: Slot, group: Group, stall_timeout: float, folders: tuple[str, str | None], mark: str
) -> GroupEnd:
    """Run a group in a slot of this machine.

    Args:
        relay: The actor that passes messages to the coordinator.
        key: Key of the group's messages.
        slot: The slot.
        group: The group.
        stall_timeout: Seconds without activity after which a run counts as hung and is killed.
        folders: The working folder of the coordinator, and the folder of the study file.
        mark: Content of the mark file that the coordinator wrote into the first trial's folder.
    """
    folder, folder_of_study_file = folders
    try:
        is_seen = (group.trials[0].directory / MARK_FILE).read_text() == mark
        os.chdir(folder)
    except OSError:
        is_seen = False
    if not is_seen:
        return None, f"it cannot access {group.trials[0].directory.parent}, which must be on shared storage"
    ray.get(relay.put.remote(key, "begun"))
    if folder not in sys.path:  # the user's networks and data sets may be in it
        sys.path.insert(0, folder)
    add_study_folder(folder_of_study_file)
    from tuner.engines.local import LocalEngine

    gpus = tuple(map(str, ray.get_gpu_ids()))
    engine = LocalEngine([dataclasses.replace(slot, gpus=gpus)], stall_timeout)
    channel = _RelayChannel(relay, key, group)
    try:
        engine.run(channel)
    finally:
        engine.close()
    return channel.outcome
