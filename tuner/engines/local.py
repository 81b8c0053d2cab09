"""Train in the slots of this machine, each group in a new process of the fork server."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tuner.engines.fork_server import (
    die_with_the_coordinator,
    ensure_server,
    folder_of_sockets,
    for_new_processes,
    how_it_ended,
    why_not_started,
)
from tuner.engines.leftovers import kill_marked, mark_programs
from tuner.engines.pipe import CorruptPipeError, Mailbox, PipeChannel
from tuner.engines.stalls import StallDetector
from tuner.errors import StudyFailedError
from tuner.interrupts import (
    forks_die_with_this_process,
    ignore_interrupts,
    restore_handlers_in_forks,
)
from tuner.protocol import Channel, Group, Handler, Slot, TrainingGroup

__all__ = ["LocalEngine"]

OUTPUT_FILE = "output.log"
MAX_OUTPUT, KEPT_OUTPUT = 10_000_000, 1_000_000


@dataclass(eq=False)
class _Busy:
    slot: Slot
    group: Group
    ranks: list[ForkServerProcess]  # rank 0 reports for all
    mark: str  # it marks the programs that they start
    mailbox: Mailbox
    stall_detector: StallDetector

    def end(self, is_done: bool = False) -> str:
        """Kill the processes that still run, and return how the others ended.

        Args:
            is_done: Whether rank 0 has ended on its own and killed the programs that they had started.
        """
        codes = [rank.exitcode for rank in self.ranks if rank.exitcode is not None]
        for rank in self.ranks:
            if rank.pid is not None:
                with contextlib.suppress(OSError):
                    os.killpg(rank.pid, signal.SIGKILL)  # including processes that user code has started
                rank.kill()
                rank.join()
        if not is_done:
            kill_marked(self.mark)
        self.mailbox.close()
        code = min(codes, default=None)  # a signal (negative) is the cause of other ranks' exit codes
        by_itself = code is not None and code >= 0
        return f"{how_it_ended(code)}{' (no signal: os._exit or the like ended it)' if by_itself else ''}"


class LocalEngine:
    """Runs one group at a time in each slot of this machine.

    Args:
        slots: The slots.
        stall_timeout: Seconds without activity after which a run counts as hung and is killed.
    """

    TICK_SECONDS = 0.2
    START_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds; a killed server still exists for a moment, without answering
    END_SECONDS = 5.0  # time that a process may take to exit after it has closed its pipe

    def __init__(self, slots: Sequence[Slot], stall_timeout: float) -> None:
        self.slots = slots
        self._stall_timeout = stall_timeout
        self._context = multiprocessing.get_context("forkserver")
        ensure_server()  # its imports take seconds, and run while the study is checked
        self._busy: list[_Busy] = []

    def run(self, handler: Handler) -> None:
        """Run groups until no slot is busy and the handler has no more."""
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
        """Kill the running groups."""
        for busy in self._busy:
            busy.end()
        self._busy = []

    def _start(self, slot: Slot, group: Group) -> None:
        for pause in (*self.START_PAUSES, None):
            ensure_server()
            ours, theirs = self._context.Pipe()
            mark = uuid.uuid4().hex
            ranks = [self._context.Process(target=_work, args=(theirs, slot, group, mark))]
            if slot.ranks > 1 and isinstance(group, TrainingGroup):
                rendezvous_file = folder_of_sockets() / uuid.uuid4().hex
                ranks = [
                    self._context.Process(
                        target=_work, args=(None if rank else theirs, slot, group, mark, rank, rendezvous_file)
                    )
                    for rank in range(slot.ranks)
                ]
            try:
                with for_new_processes():
                    for process in ranks:
                        process.start()
            except (EOFError, OSError) as error:  # the server has just been killed
                _Busy(slot, group, ranks, mark, Mailbox(ours), StallDetector((), 0.0)).end()
                if pause is None:
                    reason = why_not_started(error)
                    raise StudyFailedError(f"no process can be started for a trial: {reason}") from error
                time.sleep(pause)
            else:
                stall_detector = StallDetector([rank.pid for rank in ranks if rank.pid], self._stall_timeout)
                self._busy.append(_Busy(slot, group, ranks, mark, Mailbox(ours), stall_detector))
                return
            finally:
                theirs.close()

    def _wait(self, handler: Handler) -> None:
        began = time.monotonic()
        # Wait for the process as well as the pipe: a process that user code started may keep the pipe open.
        handles = [handle for busy in self._busy for handle in (busy.mailbox.pipe, busy.ranks[0].sentinel)]
        ready = set(connection.wait(handles, self.TICK_SECONDS))
        listened = min(time.monotonic() - began, 2 * self.TICK_SECONDS)  # longer only if this process was suspended
        for busy in list(self._busy):
            if busy.mailbox.pipe in ready:
                self._read(handler, busy)
            elif any(rank.exitcode for rank in busy.ranks[1:]) or busy.ranks[0].sentinel in ready:
                self._died(handler, busy)
            elif busy.stall_detector.hangs_after(listened):
                self._died(handler, busy, f"showed no activity for {self._stall_timeout:g} s and was killed")
            _cut(busy.group.trials[0].directory / OUTPUT_FILE)

    def _read(self, handler: Handler, busy: _Busy) -> None:
        busy.stall_detector.message_came()
        try:
            for message in busy.mailbox.messages():
                self._handle(handler, busy, message)
                if busy not in self._busy:  # the group is done
                    return
        except EOFError:
            self._died(handler, busy)
        except CorruptPipeError:
            self._died(handler, busy, "wrote into the pipe to the coordinator and was killed")

    def _handle(self, handler: Handler, busy: _Busy, message: tuple[Any, ...]) -> None:
        match message:
            case ("progress", number, report):
                handler.progress(number, report)
            case ("fuse_at_most", count, reason):
                handler.fuse_at_most(count, reason)
            case ("note", text):
                handler.note(text)
            case ("report", reports):
                decisions = handler.report(reports)
                with contextlib.suppress(OSError):  # if it has died meanwhile, the next read shows it
                    busy.mailbox.answer(decisions)
            case ("done", results):
                busy.ranks[0].join(self.END_SECONDS)
                busy.end(is_done=True)
                self._busy.remove(busy)
                handler.done(busy.group, results)

    def _died(self, handler: Handler, busy: _Busy, reason: str = "") -> None:
        busy.ranks[0].join(0.0 if reason else self.END_SECONDS)  # to get its exit code
        how = busy.end()
        self._busy.remove(busy)
        handler.died(busy.group, reason or how)


def _work(
    pipe: "connection.Connection[Any, Any] | None",
    slot: Slot,
    group: Group,
    mark: str,
    rank: int = 0,
    rendezvous_file: Path | None = None,
) -> None:
    """Run a group's task in its own process and send the results; with a rendezvous file, as one of several ranks."""
    die_with_the_coordinator()
    os.setsid()  # Ctrl-C in the terminal reaches only the coordinator, which then stops the training cleanly
    ignore_interrupts()
    restore_handlers_in_forks()
    forks_die_with_this_process()
    # The fork server has made its own method the default. Workers of data loaders would each need another such server,
    # which imports torch, and which does not end with this process.
    multiprocessing.set_start_method(None, force=True)
    mark_programs(mark)
    if slot.cores:
        first = rank * slot.threads if rendezvous_file else 0
        os.sched_setaffinity(0, slot.cores[first : first + slot.threads] if rendezvous_file else slot.cores)
    if slot.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(slot.gpus)
    with _output_to_file(group):
        import torch

        from tuner.training.distributed import RankZeroChannel, join
        from tuner.training.run import run

        torch.set_num_threads(slot.threads)
        ours = PipeChannel(pipe)
        channel: Channel = ours
        if rendezvous_file:
            join(rendezvous_file, rank, slot.ranks, slot.kind)
            channel = RankZeroChannel(channel)
        results = run(group, channel, slot.kind)
    if pipe:
        ours.done(results)
        kill_marked(mark)
        os.killpg(0, signal.SIGKILL)  # including threads and processes that user code left running


@contextlib.contextmanager
def _output_to_file(group: Group) -> Iterator[None]:
    """Redirect standard output and error, at the level of descriptors, to a file in the first trial's directory."""
    directory = group.trials[0].directory
    directory.mkdir(parents=True, exist_ok=True)
    output = os.open(directory / OUTPUT_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # the disk is full
                stream.flush()


def _cut(output: Path) -> None:
    """Keep only the end of a run's output file when it grows too large, so that it cannot fill the disk."""
    with contextlib.suppress(FileNotFoundError):
        if output.stat().st_size > MAX_OUTPUT:
            with output.open("rb") as file:
                file.seek(-KEPT_OUTPUT, os.SEEK_END)
                tail = file.read()
            os.truncate(output, 0)
            with output.open("ab") as file:
                file.write(tail)
