"""Slots of this machine: a fresh process for every group.

The processes are forked from a server that has torch, Lightning and the tuner imported: each begins in milliseconds,
with memory of its own, and no import is paid twice. A process dies with the server, and with the coordinator.
"""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import types
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tuner.engines import Handler
from tuner.errors import StudyFailedError
from tuner.messages import Channel, ChannelClosedError, EpochReport, Group, Slot, StepReport, TrialResult, Verdict

__all__ = ["LocalEngine"]

OUTPUT_FILE = "output.log"
MAX_OUTPUT = 10_000_000
KEEP_MEMORY = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {"mmap_max": 0, "trim_threshold": 1 << 62, "top_pad": 64 << 20, "hugetlb": 1}.items()
)
"""Settings of the C library by which large tensors get memory that was used before, in huge pages.

Else the gradients of the reference CNN return to the system at every step, and come back page by page, set to zero: a
quarter of a step's time on a CPU.
"""


@dataclass
class _Busy:
    slot: Slot
    group: Group
    ranks: list[ForkServerProcess]  # the first one speaks for all
    pipe: "connection.Connection[Any, Any]"
    heard: float  # when it last gave a sign of life, by the monotonic clock

    def end(self) -> str:
        """Kill what still runs, and return how those ended that did by themselves."""
        codes = [rank.exitcode for rank in self.ranks if rank.exitcode is not None]
        for rank in self.ranks:
            if rank.pid is not None:
                rank.kill()
                rank.join()
        self.pipe.close()
        return _describe(min(codes, default=self.ranks[0].exitcode))  # a signal's, if there is any, is the cause


class LocalEngine:
    """Runs one group in each slot at a time.

    Args:
        slots: The slots.
        stall_timeout: Seconds without a sign of life after which a training is taken for hung, and killed.
    """

    TICK_SECONDS = 0.2
    START_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds; a killed server is there for a moment, and answers no more
    END_SECONDS = 5.0  # for a process that has closed its pipe

    def __init__(self, slots: Sequence[Slot], stall_timeout: float) -> None:
        self.slots = slots
        self._stall_timeout = stall_timeout
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tuner.engines.preload"])
        _ensure_server()  # its imports take seconds: it begins with them while the study is checked
        self._busy: list[_Busy] = []
        self._meetings = tempfile.TemporaryDirectory(prefix="tuner-")

    def run(self, handler: Handler) -> None:
        """Work until no slot is busy and the handler has no group for any."""
        while True:
            used = {busy.slot for busy in self._busy}
            for slot in self.slots:
                if slot not in used and (group := handler.next_group(slot)) is not None:
                    self._start(slot, group)
            if not self._busy:
                return
            self._wait(handler)
            if not handler.tick():
                self.close()

    def close(self) -> None:
        """Kill what is running."""
        for busy in self._busy:
            busy.end()
        self._busy = []
        self._meetings.cleanup()

    def _start(self, slot: Slot, group: Group) -> None:
        for pause in (*self.START_PAUSES, None):
            _ensure_server()
            ours, theirs = self._context.Pipe()
            ranks = [self._context.Process(target=_work, args=(theirs, slot, group))]
            if slot.ranks > 1 and group.task == "train":
                meeting = Path(self._meetings.name) / uuid.uuid4().hex
                ranks = [
                    self._context.Process(target=_work, args=(None if rank else theirs, slot, group, rank, meeting))
                    for rank in range(slot.ranks)
                ]
            busy = _Busy(slot, group, ranks, ours, time.monotonic())
            try:
                with _without_main():
                    for process in ranks:
                        process.start()
            except (EOFError, OSError) as error:  # the server was killed just now
                busy.end()
                if pause is None:
                    raise StudyFailedError(f"no process can be started for a trial: {error!r}") from error
                time.sleep(pause)
            else:
                self._busy.append(busy)
                return
            finally:
                theirs.close()

    def _wait(self, handler: Handler) -> None:
        ready = set(connection.wait([busy.pipe for busy in self._busy], self.TICK_SECONDS))
        for busy in list(self._busy):
            if busy.pipe in ready:
                try:
                    message = busy.pipe.recv()
                except (EOFError, OSError):
                    self._died(handler, busy)
                else:
                    self._handle(handler, busy, message)
                    busy.heard = time.monotonic()
            elif any(rank.exitcode for rank in busy.ranks[1:]) and not busy.pipe.poll():  # the first one waits for it
                self._died(handler, busy)
            elif time.monotonic() - busy.heard > self._stall_timeout:
                self._died(handler, busy, f"gave no sign of life for {self._stall_timeout:g} s and was killed")
            _cut(busy.group.trials[0].directory / OUTPUT_FILE)

    def _handle(self, handler: Handler, busy: _Busy, message: Any) -> None:
        match message:
            case ("progress", number, report):
                handler.progress(number, report)
            case ("fuse_at_most", count, reason):
                handler.fuse_at_most(count, reason)
            case ("note", text):
                handler.note(text)
            case ("report", number, report):
                verdict = handler.report(number, report)
                with contextlib.suppress(OSError):  # if it has died meanwhile, the next look at the pipe tells
                    busy.pipe.send(verdict)
            case ("done", results):
                busy.ranks[0].join()
                busy.end()
                self._busy.remove(busy)
                handler.done(busy.group, results)

    def _died(self, handler: Handler, busy: _Busy, reason: str = "") -> None:
        busy.ranks[0].join(self.END_SECONDS)  # to learn how
        how = busy.end()
        self._busy.remove(busy)
        handler.died(busy.group, reason or how)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep new processes from running the script that started the study again, as multiprocessing would have them do.

    They need nothing of it: what a study file names, they import.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _ensure_server() -> None:
    """Start the server if it does not live.

    Ctrl-C, Slurm and the like signal every process. That is for the coordinator, which ends the others in order: the
    server, and so its children, are born deaf to it.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone can say so
        forkserver.ensure_running()
        return
    deaf = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in deaf}
    tunables = os.environ.get("GLIBC_TUNABLES")
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (KEEP_MEMORY, tunables)))  # of two, the later one holds
    try:
        forkserver.ensure_running()
    finally:
        if tunables is None:
            del os.environ["GLIBC_TUNABLES"]
        else:
            os.environ["GLIBC_TUNABLES"] = tunables
        for number, handler in before.items():
            signal.signal(number, handler)


class _Pipe:
    """A training's end of the pipe; only the first rank has one.

    Raises:
        ChannelClosedError: From each method, if the coordinator cannot be reached.
    """

    def __init__(self, pipe: "connection.Connection[Any, Any] | None") -> None:
        self._pipe: Any = pipe

    def report(self, number: int, report: EpochReport) -> Verdict:
        self._send(("report", number, report))
        try:
            verdict: Verdict = self._pipe.recv()
        except (OSError, EOFError) as error:
            raise ChannelClosedError(f"no answer to a report: {error!r}") from error
        return verdict

    def progress(self, number: int, report: StepReport) -> None:
        self._send(("progress", number, report))

    def fuse_at_most(self, count: int, reason: str) -> None:
        self._send(("fuse_at_most", count, reason))

    def note(self, text: str) -> None:
        self._send(("note", text))

    def done(self, results: Sequence[TrialResult]) -> None:
        self._send(("done", results))
        self._pipe.close()

    def _send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError as error:
            raise ChannelClosedError(f"a message cannot be sent: {error!r}") from error


def _work(
    pipe: "connection.Connection[Any, Any] | None", slot: Slot, group: Group, rank: int = 0, meeting: Path | None = None
) -> None:
    """Do a group's task in a process of its own, and send the results; with a meeting, be one rank of those that do."""
    _die_with_the_coordinator()
    os.setsid()  # Ctrl-C in the terminal reaches the coordinator only, which then asks for an orderly end
    if slot.cores:
        first = rank * slot.threads if meeting else 0
        os.sched_setaffinity(0, slot.cores[first : first + slot.threads] if meeting else slot.cores)
    if slot.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, slot.gpus))
    with _output_to_file(group):
        import torch

        from tuner.ranks import FirstRankChannel, join
        from tuner.training import run

        torch.set_num_threads(slot.threads)
        ours = _Pipe(pipe)
        channel: Channel = ours
        if meeting:
            join(meeting, rank, slot.ranks, slot.kind)
            channel = FirstRankChannel(channel)
        results = run(group, channel, slot.kind)
    if pipe:
        ours.done(results)
        os.killpg(0, signal.SIGKILL)  # with all that the user's code left running: a thread would keep it from ending


def _die_with_the_coordinator() -> None:
    """End this process when the coordinator or the server that forked it ends, however that happens."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)  # covers the server, our parent
    coordinator = multiprocessing.parent_process()
    if coordinator is None:
        return

    def watch() -> None:
        connection.wait([coordinator.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _output_to_file(group: Group) -> Iterator[None]:
    """Send all that is printed, by whatever library, to the first trial's directory."""
    directory = group.trials[0].directory
    directory.mkdir(parents=True, exist_ok=True)
    output = os.open(directory / OUTPUT_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _cut(output: Path) -> None:
    """Keep what a training prints from filling the disk: drop it when it is too much."""
    with contextlib.suppress(FileNotFoundError):
        if output.stat().st_size > MAX_OUTPUT:
            os.truncate(output, 0)


def _describe(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (often out of memory: see dmesg)" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    return f"ended with status {exit_code} and no result"
