"""Train in the slots of this machine, each group in a process of its own that the fork server has forked.

The process of a slot's next group can be prepared while a group trains: it opens the GPU and loads libraries, and waits
for its group. What depends on the trials, such as user code and data, is left to the group.
"""

import contextlib
import multiprocessing
import os
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tuner.engines.fork_server import (
    ensure_server,
    folder_of_sockets,
    for_new_processes,
    how_it_ended,
    why_not_started,
)
from tuner.engines.leftovers import kill_marked
from tuner.engines.pipe import CorruptPipeError, Mailbox
from tuner.engines.slot_process import OUTPUT_FILE, kill, work
from tuner.engines.spare import SpareProcess
from tuner.engines.stalls import StallDetector
from tuner.errors import StudyFailedError
from tuner.protocol import Group, Handler, Slot, TrainingGroup

__all__ = ["LocalEngine"]

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
            kill(rank)
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
        spares: The kinds of devices, "cpu" or "cuda", on which the process of the next group is prepared early.
    """

    TICK_SECONDS = 0.2
    START_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds; a killed server still exists for a moment, without answering
    END_SECONDS = 5.0  # time that a process may take to exit after it has closed its pipe

    def __init__(self, slots: Sequence[Slot], stall_timeout: float, spares: Collection[str] = ()) -> None:
        self.slots = slots
        self._stall_timeout = stall_timeout
        self._context = multiprocessing.get_context("forkserver")
        ensure_server()  # its imports take seconds, and run while the study is checked
        self._busy: list[_Busy] = []
        self._spares: dict[Slot, SpareProcess] = {}
        # On other devices, and where a process could not be prepared in the time that a group takes.
        self._slots_without_spares = {slot for slot in slots if slot.kind not in spares or slot.ranks > 1}

    def run(self, handler: Handler) -> None:
        """Run groups until no slot is busy and the handler has no more."""
        while True:
            used = {busy.slot for busy in self._busy}
            for slot in self.slots:
                if slot not in used and (group := handler.next_group(slot)) is not None:
                    self._start(slot, group)
            if not self._busy:
                self.close()
                return
            self._wait(handler)
            if not handler.tick():
                self.close()

    def close(self) -> None:
        """Kill the running groups, and the processes that wait for one."""
        for busy in self._busy:
            busy.end()
        for spare in self._spares.values():
            spare.kill()
        self._busy, self._spares = [], {}

    def _start(self, slot: Slot, group: Group) -> None:
        if spare := self._spares.pop(slot, None):
            if spare.is_ready and spare.take(group):
                detector = StallDetector([spare.process.pid or 0], self._stall_timeout)
                mailbox = Mailbox(spare.pipe)
                self._busy.append(_Busy(slot, group, [spare.process], spare.mark, mailbox, detector))
                return
            spare.kill()  # it might hold a GPU that admits one process only
            self._slots_without_spares.add(slot)
        for pause in (*self.START_PAUSES, None):
            ensure_server()
            ours, theirs = self._context.Pipe()
            mark = uuid.uuid4().hex
            ranks = [self._context.Process(target=work, args=(theirs, slot, group, mark))]
            if slot.ranks > 1 and isinstance(group, TrainingGroup):
                rendezvous_file = folder_of_sockets() / uuid.uuid4().hex
                ranks = [
                    self._context.Process(
                        target=work, args=(None if rank else theirs, slot, group, mark, rank, rendezvous_file)
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
                self._prepare(busy)
                decisions = handler.report(reports)
                with contextlib.suppress(OSError):  # if it has died meanwhile, the next read shows it
                    busy.mailbox.answer(decisions)
            case ("done", results):
                busy.ranks[0].join(self.END_SECONDS)
                busy.end(is_done=True)
                self._busy.remove(busy)
                handler.done(busy.group, results)

    def _prepare(self, busy: _Busy) -> None:
        """Prepare the process of the slot's next group, now that this one has the GPU: some admit one process only."""
        if busy.slot not in self._spares.keys() | self._slots_without_spares:
            with contextlib.suppress(EOFError, OSError):  # without it, the next group gets a new process
                self._spares[busy.slot] = SpareProcess(busy.slot)

    def _died(self, handler: Handler, busy: _Busy, reason: str = "") -> None:
        busy.ranks[0].join(0.0 if reason else self.END_SECONDS)  # to get its exit code
        how = busy.end()
        self._busy.remove(busy)
        handler.died(busy.group, reason or how)


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
