"""Slots on all machines of a Ray cluster, each a Ray task that works as a slot of that machine does.

The coordinator stays where it was started, and alone speaks with Optuna and MLflow: no password leaves its machine.
Reports and verdicts go through an actor beside it. A machine that joins the cluster gets slots; the trials of one that
is lost go on elsewhere, from their last checkpoints, for which all machines have to see the study's folder.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuner.engines import Handler
from tuner.errors import BadInputError, StudyFailedError
from tuner.files import write_atomically
from tuner.process import look_in, study_folder
from tuner.protocol import EpochReport, Group, Slot, StepReport, TrialResult, Verdict

__all__ = ["RayEngine"]

MARK_FILE = "seen-by"

Outcome = tuple[Sequence[TrialResult] | None, str]
"""The results of a group; or None, and how its process died."""


@dataclass(frozen=True)
class _Node:
    """A machine of the cluster, and what each of its slots takes of it."""

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
        address: Address of the cluster; "auto" for the one that this machine belongs to, or else a new one on it.
        devices: "auto" for all GPUs, or the CPUs if there are none; or "cpu".
        per_device: Slots on each GPU (default 1), or on the CPUs of each machine (default: one for each core).
        ranks: Processes that train one trial together, on one machine; with GPUs, one on each.
        stall_timeout: Seconds without a sign of life after which a training is taken for hung, and killed.

    Raises:
        BadInputError: If there is no such cluster, or it has no such devices.
        StudyFailedError: If the node of this machine has ended.
    """

    TICK_SECONDS = 0.2
    LOOK_SECONDS = 2.0
    REST_SECONDS = 5.0

    def __init__(self, address: str, devices: str, per_device: int | None, ranks: int, stall_timeout: float) -> None:
        if devices not in ("auto", "cpu"):
            raise BadInputError(["--devices: with Ray, auto or cpu; Ray chooses the GPUs."])
        self._devices, self._per_device, self._ranks = devices, per_device, ranks
        self._stall_timeout = stall_timeout
        self._places: dict[Slot, _Node] = {}
        self._busy: list[_Busy] = []
        self._unfit: set[str] = set()
        self._rests: dict[Slot, float] = {}  # until when not to use a slot that could not begin
        self._looked = 0.0
        self._mark = uuid.uuid4().hex
        _connect(address)
        self._here = ray.get_runtime_context().get_node_id()
        # As often as it likes: the training has a process of its own, which ends and leaves nothing on a GPU.
        self._host = ray.remote(max_calls=0, max_retries=0)(_host)
        self._open_post()
        self._look()
        if not self._places:
            ray.shutdown()
            raise BadInputError([f"--address: the Ray cluster has no room for a trial on {ranks} of its devices."])

    @property
    def slots(self) -> Sequence[Slot]:
        """Return the slots that there are at present."""
        return list(self._places)

    def run(self, handler: Handler) -> None:
        """Work until no slot is busy and the handler has no group for any."""
        while True:
            self._look()
            now, used = time.monotonic(), {busy.slot for busy in self._busy}
            free = [slot for slot in self._places if slot not in used and self._rests.get(slot, now) <= now]
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
        """Kill what is running, and leave the cluster; one that was started here ends."""
        if ray.is_initialized():
            self._cancel()
            ray.shutdown()

    def _cancel(self) -> None:
        for busy in self._busy:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(busy.task, force=True)
        self._busy = []

    def _look(self) -> None:
        """Give slots to machines that have come, and take them from those that are gone."""
        if time.monotonic() < self._looked + self.LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        if self._here not in (node["NodeID"] for node in nodes):
            raise StudyFailedError(
                "the Ray node of this machine has ended, and with it the way to the cluster. Start it (ray start), and "
                "run the command again"
            )
        machines = [node for node in nodes if node["NodeID"] not in self._unfit]
        use_gpus = self._devices == "auto" and any(node["Resources"].get("GPU", 0) >= 1 for node in machines)
        alive = {node["NodeID"] for node in machines}
        self._places = {slot: node for slot, node in self._places.items() if node.identifier in alive}
        known = {node.identifier for node in self._places.values()}
        for machine in machines:
            if machine["NodeID"] not in known:
                self._places |= self._divide(machine, use_gpus)

    def _divide(self, machine: dict[str, Any], use_gpus: bool) -> dict[Slot, _Node]:
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
        numbers = tuple(map(str, range(self._ranks))) if use_gpus else ()  # as many; which ones, Ray tells the task
        first = max((slot.index for slot in self._places), default=-1) + 1
        return {
            Slot(index, numbers, threads, ranks=self._ranks, host=host): node for index in range(first, first + count)
        }

    def _open_post(self) -> None:
        here = NodeAffinitySchedulingStrategy(self._here, soft=False)
        post: Any = ray.remote(_Post).options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here)
        self._post: Any = post.remote()
        self._letters = self._post.take.remote()

    def _start(self, slot: Slot, group: Group) -> None:
        node = self._places[slot]
        mark = group.trials[0].directory / MARK_FILE
        write_atomically(mark, lambda file: file.write(self._mark.encode()))
        busy = _Busy(slot, group, node)
        options = {
            "num_cpus": node.num_cpus,
            "num_gpus": node.num_gpus,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node.identifier, soft=False),
        }
        task = self._host.options(**options)
        folders = str(Path.cwd()), study_folder()
        busy.task = task.remote(self._post, busy.key, slot, group, self._stall_timeout, folders, self._mark)
        self._busy.append(busy)

    def _wait(self, handler: Handler) -> None:
        tasks = [busy.task for busy in self._busy]
        ready, _ = ray.wait([self._letters, *tasks], num_returns=len(tasks) + 1, timeout=0)
        if not ready:
            ready, _ = ray.wait([self._letters, *tasks], timeout=self.TICK_SECONDS)
        if self._letters in ready:
            self._read(handler)
        for busy in [busy for busy in self._busy if busy.task in ready]:
            self._busy.remove(busy)
            self._end(handler, busy)

    def _end(self, handler: Handler, busy: _Busy) -> None:
        try:
            results, reason = ray.get(busy.task)
        except ray.exceptions.RayTaskError as error:  # not of the training, which has a process of its own
            handler.returned(busy.group)
            self._leave_out(handler, busy, f"{error.cause!r}")
        except ray.exceptions.RayError as error:
            if busy.begun:
                handler.died(busy.group, f"was lost with its process on {busy.slot.host} ({type(error).__name__})")
            else:  # the machine is gone, or full
                handler.returned(busy.group)
                self._rests[busy.slot] = time.monotonic() + self.REST_SECONDS
        else:
            if results is not None:
                handler.done(busy.group, results)
            elif busy.begun:
                handler.died(busy.group, reason)
            else:
                handler.returned(busy.group)
                self._leave_out(handler, busy, reason)

    def _read(self, handler: Handler) -> None:
        try:
            letters = ray.get(self._letters)
        except ray.exceptions.RayError:  # the actor is dead; the trainings that wait for it die of that
            self._open_post()
            return
        self._letters = self._post.take.remote()
        keys = {busy.key: busy for busy in self._busy}
        for key, kind, *content in letters:
            if key not in keys:  # of a training that is known to be dead
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
                    self._post.answer.remote(key, handler.report(*content))

    def _leave_out(self, handler: Handler, busy: _Busy, reason: str) -> None:
        """Use no machine on which nothing can be trained."""
        node = busy.node
        if node.identifier not in self._unfit:
            handler.note(f"{node.host} is left out: {reason}")
            self._unfit.add(node.identifier)
            self._looked = 0.0
            self._look()
        if not self._places and not self._busy:
            raise StudyFailedError(f"no machine of the Ray cluster is left to train on: {node.host} {reason}")


def _connect(address: str) -> None:
    """Join a Ray cluster; start one on this machine if none is there.

    Raises:
        BadInputError: If there is none at the address.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if ":" in address:  # Ray itself asks for minutes
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
                raise BadInputError([f'--address: "{address}" is not auto, nor host:port of a Ray cluster.']) from None
            ray.init(include_dashboard=False, **quiet)
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray puts its own


class _Post:
    """Keeps what trainings tell until the coordinator takes it, and lets them wait for its answers."""

    def __init__(self) -> None:
        self._letters: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self._answers: dict[str, asyncio.Future[Verdict]] = {}

    async def tell(self, *letter: Any) -> None:
        self._letters.put_nowait(letter)

    async def ask(self, key: str, *content: Any) -> Verdict:
        self._answers[key] = asyncio.get_running_loop().create_future()
        self._letters.put_nowait((key, *content))
        return await self._answers[key]

    async def answer(self, key: str, verdict: Verdict) -> None:
        self._answers.pop(key).set_result(verdict)

    async def take(self) -> list[tuple[Any, ...]]:
        letters = [await self._letters.get()]
        while not self._letters.empty():
            letters.append(self._letters.get_nowait())
        return letters


class _Letters:
    """A training's way to the coordinator; it stands for that, to the slot of its machine."""

    def __init__(self, post: Any, key: str, group: Group) -> None:
        self.outcome: Outcome = (None, "was ended")
        self._post, self._key = post, key
        self._group: Group | None = group

    def next_group(self, slot: Slot) -> Group | None:
        group, self._group = self._group, None
        return group

    def report(self, number: int, report: EpochReport) -> Verdict:
        verdict: Verdict = ray.get(self._post.ask.remote(self._key, "report", number, report))
        return verdict

    def progress(self, number: int, report: StepReport) -> None:
        self._post.tell.remote(self._key, "progress", number, report)

    def fuse_at_most(self, count: int, reason: str) -> None:
        self._post.tell.remote(self._key, "fuse_at_most", count, reason)

    def note(self, text: str) -> None:
        self._post.tell.remote(self._key, "note", text)

    def returned(self, group: Group) -> None:
        """Not used: a local slot cannot be lost separately from its machine."""

    def done(self, group: Group, results: Sequence[TrialResult]) -> None:
        self.outcome = (results, "")

    def died(self, group: Group, reason: str) -> None:
        self.outcome = (None, reason)

    def tick(self) -> bool:
        return True


def _host(
    post: Any, key: str, slot: Slot, group: Group, stall_timeout: float, folders: tuple[str, str | None], mark: str
) -> Outcome:
    """Work on a group as a slot of this machine.

    Args:
        post: Where the coordinator reads.
        key: Of the group.
        slot: The slot.
        group: The group.
        stall_timeout: Seconds without a sign of life after which a training is taken for hung, and killed.
        folders: The working folder of the coordinator, and that of the study file.
        mark: What the coordinator wrote into the folder of the trial.
    """
    folder, beside_the_file = folders
    try:
        is_seen = (group.trials[0].directory / MARK_FILE).read_text() == mark
        os.chdir(folder)
    except OSError:
        is_seen = False
    if not is_seen:
        return None, f"it does not see {group.trials[0].directory.parent}, which has to be on storage that all share"
    ray.get(post.tell.remote(key, "begun"))
    if folder not in sys.path:  # networks and data sets of the study's author lie there
        sys.path.insert(0, folder)
    look_in(beside_the_file)
    from tuner.engines.local import LocalEngine

    gpus = tuple(map(str, ray.get_gpu_ids()))
    engine = LocalEngine([dataclasses.replace(slot, gpus=gpus)], stall_timeout)
    letters = _Letters(post, key, group)
    try:
        engine.run(letters)
    finally:
        engine.close()
    return letters.outcome
