"""Train in the slots of this machine, each group in a new process.

The processes are forked from a server that has imported torch, Lightning and the tuner: each starts in milliseconds
with its own memory, and imports are paid once. A process dies with the server and with the coordinator.
"""

import contextlib
import functools
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import types
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver, resource_tracker, util
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

from tuner.engines.pipe import CorruptPipeError, Mailbox, PipeChannel
from tuner.engines.stalls import StallDetector
from tuner.errors import BadInputError, StudyFailedError, in_a_line
from tuner.interrupts import (
    die_with_parent,
    ignore_interrupts,
    interrupts_blocked,
    remove_at_exit,
    restore_handlers_in_forks,
)
from tuner.protocol import Channel, Group, Handler, Slot, TrainingGroup

__all__ = ["LocalEngine", "call_in_fork"]

Result = TypeVar("Result")

PARENT = "TUNER_SERVER_PARENT"  # environment variable: id of the process that the server dies with
LONGEST_FOLDER = 56  # bytes of the path of a temporary folder; sockets in it add 47
OUTPUT_FILE = "output.log"
MAX_OUTPUT = 10_000_000
MALLOC_TUNABLES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {"mmap_max": 0, "trim_threshold": 1 << 62, "top_pad": 64 << 20, "hugetlb": 1}.items()
)
"""Settings of glibc's malloc that reuse memory for large tensors, in huge pages.

Without them, the gradients of the reference CNN return to the system at every step and come back page by page, zeroed:
a quarter of a step's time on a CPU.
"""


@dataclass(eq=False)
class _Busy:
    slot: Slot
    group: Group
    ranks: list[ForkServerProcess]  # rank 0 reports for all
    mailbox: Mailbox
    stall_detector: StallDetector

    def end(self) -> str:
        """Kill the processes that still run, and return how the others ended."""
        codes = [rank.exitcode for rank in self.ranks if rank.exitcode is not None]
        for rank in self.ranks:
            if rank.pid is not None:
                with contextlib.suppress(OSError):
                    os.killpg(rank.pid, signal.SIGKILL)  # including processes that user code has started
                rank.kill()
                rank.join()
        self.mailbox.close()
        return _describe(min(codes, default=None))  # a signal (negative) is the cause of other ranks' exit codes


class LocalEngine:
    """Runs one group at a time in each slot of this machine.

    Args:
        slots: The slots.
        stall_timeout: Seconds without activity after which a training counts as hung and is killed.
    """

    TICK_SECONDS = 0.2
    START_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds; a killed server still exists for a moment, without answering
    END_SECONDS = 5.0  # that a process may take to exit after it has closed its pipe

    def __init__(self, slots: Sequence[Slot], stall_timeout: float) -> None:
        self.slots = slots
        self._stall_timeout = stall_timeout
        self._context = multiprocessing.get_context("forkserver")
        _ensure_server()  # its imports take seconds, and run while the study is checked
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
            _ensure_server()
            ours, theirs = self._context.Pipe()
            ranks = [self._context.Process(target=_work, args=(theirs, slot, group))]
            if slot.ranks > 1 and isinstance(group, TrainingGroup):
                rendezvous_file = _folder() / uuid.uuid4().hex
                ranks = [
                    self._context.Process(
                        target=_work, args=(None if rank else theirs, slot, group, rank, rendezvous_file)
                    )
                    for rank in range(slot.ranks)
                ]
            try:
                with _for_new_processes():
                    for process in ranks:
                        process.start()
            except (EOFError, OSError) as error:  # the server has just been killed
                _Busy(slot, group, ranks, Mailbox(ours), StallDetector((), 0.0)).end()
                if pause is None:
                    raise StudyFailedError(f"no process can be started for a trial: {error!r}") from error
                time.sleep(pause)
            else:
                stall_detector = StallDetector([rank.pid for rank in ranks if rank.pid], self._stall_timeout)
                self._busy.append(_Busy(slot, group, ranks, Mailbox(ours), stall_detector))
                return
            finally:
                theirs.close()

    def _wait(self, handler: Handler) -> None:
        began = time.monotonic()
        # Wait for the process as well as the pipe: a process that user code started may keep the pipe open.
        handles = [handle for busy in self._busy for handle in (busy.mailbox.pipe, busy.ranks[0].sentinel)]
        ready = set(connection.wait(handles, self.TICK_SECONDS))
        listened = min(time.monotonic() - began, 2 * self.TICK_SECONDS)  # longer only if this process was stopped
        for busy in list(self._busy):
            if busy.mailbox.pipe in ready:
                self._read(handler, busy)
            elif any(rank.exitcode for rank in busy.ranks[1:]) or busy.ranks[0].sentinel in ready:
                self._died(handler, busy)
            elif busy.stall_detector.hangs_after(listened):
                self._died(handler, busy, f"gave no sign of life for {self._stall_timeout:g} s and was killed")
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
            case ("report", number, report):
                decision = handler.report(number, report)
                with contextlib.suppress(OSError):  # if it has died meanwhile, the next read shows it
                    busy.mailbox.answer(decision)
            case ("done", results):
                busy.ranks[0].join(self.END_SECONDS)
                busy.end()
                self._busy.remove(busy)
                handler.done(busy.group, results)

    def _died(self, handler: Handler, busy: _Busy, reason: str = "") -> None:
        busy.ranks[0].join(0.0 if reason else self.END_SECONDS)  # for its exit code
        how = busy.end()
        self._busy.remove(busy)
        handler.died(busy.group, reason or how)


def call_in_fork(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function in a short-lived process, forked like trainings, and return its result.

    Use it for functions that need a GPU: the coordinator never opens one, because some GPUs admit one process only.

    Args:
        function: A picklable function.
        arguments: Its arguments, also picklable.

    Raises:
        StudyFailedError: If it raises an exception, or its process dies.
    """
    context = multiprocessing.get_context("forkserver")
    _ensure_server()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, arguments))
    with contextlib.closing(ours):
        with _for_new_processes(), contextlib.closing(theirs):
            process.start()
        try:
            result, error = ours.recv()
        except EOFError:
            process.join()
            raise StudyFailedError(f"a process of {function.__name__} {_describe(process.exitcode)}") from None
        process.join()
    if error:
        raise StudyFailedError(error)
    answer: Result = result
    return answer


def _answer(pipe: "connection.Connection[Any, Any]", function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    _die_with_the_coordinator()
    try:
        answer = function(*arguments), ""
    except Exception as error:
        answer = None, in_a_line(error)
    pipe.send(answer)


@functools.cache
def _folder() -> Path:
    """Return this process's folder for sockets, whose paths may have about a hundred characters only.

    Raises:
        BadInputError: If it cannot be created.
    """
    where = tempfile.gettempdir()
    if len(os.fsencode(where)) > LONGEST_FOLDER:
        where = "/tmp"
    try:
        folder = tempfile.mkdtemp(prefix="tuner-", dir=where)
    except OSError as error:
        raise BadInputError([f"TMPDIR: cannot create a folder in {where}: {error.strerror}."]) from error
    remove_at_exit(folder)
    util.Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)  # after multiprocessing has cleaned up
    return Path(folder)


@contextlib.contextmanager
def _for_new_processes() -> Iterator[None]:
    """Let new processes import what this one would import, and keep them from running the main script again.

    multiprocessing would replace "" in the module search path by the folder in which it was imported itself. Of the
    script, processes need nothing: they import what the study file names.
    """
    main, places = sys.modules["__main__"], list(sys.path)
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.path[:] = [place or str(Path.cwd()) for place in places]
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        sys.path[:] = places


def _ensure_server() -> None:
    """Start the fork server if it is not running.

    The signals that end a study are for the coordinator, which ends the other processes in order. They are blocked
    while the server starts; from then on the server ignores them.
    """
    forkserver.set_forkserver_preload(["tuner.engines.preload"])
    resource_tracker.ensure_running()  # outside of the block, because it unblocks the signals when it starts
    tunables = os.environ.get("GLIBC_TUNABLES")
    changes = {"GLIBC_TUNABLES": ":".join(filter(None, (MALLOC_TUNABLES, tunables)))}  # the last value counts
    if threading.current_thread() is threading.main_thread():  # PR_SET_PDEATHSIG fires when the starting thread ends
        changes[PARENT] = str(os.getpid())
    with interrupts_blocked(), _changed_environment(changes), _sockets_in(_folder()):
        forkserver.ensure_running()


@contextlib.contextmanager
def _changed_environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Change environment variables for processes that are started in the block."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _sockets_in(folder: Path) -> Iterator[None]:
    """Make multiprocessing create its folder for sockets in the given one instead of TMPDIR, if it has none yet."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        util.get_temp_dir()
        yield
    finally:
        tempfile.tempdir = before


def _work(
    pipe: "connection.Connection[Any, Any] | None",
    slot: Slot,
    group: Group,
    rank: int = 0,
    rendezvous_file: Path | None = None,
) -> None:
    """Run a group's task in its own process and send the results; with a rendezvous file, as one of several ranks."""
    _die_with_the_coordinator()
    os.setsid()  # Ctrl-C in the terminal reaches only the coordinator, which then stops the training in order
    ignore_interrupts()
    restore_handlers_in_forks()
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
        os.killpg(0, signal.SIGKILL)  # including threads and processes that user code left running


def _die_with_the_coordinator() -> None:
    """Make this process die with the coordinator and with the server that forked it."""
    die_with_parent(os.getppid())  # the server
    coordinator = multiprocessing.parent_process()
    if coordinator is None:
        return

    def watch() -> None:
        connection.wait([coordinator.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


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
    """Empty a training's output file when it grows too large, so that it cannot fill the disk."""
    with contextlib.suppress(FileNotFoundError):
        if output.stat().st_size > MAX_OUTPUT:
            os.truncate(output, 0)


def _describe(exit_code: int | None) -> str:
    if exit_code is None:
        return "closed the pipe to the coordinator and was killed"
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = " (often out of memory: see dmesg)" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    return f"ended with status {exit_code} and no result"
