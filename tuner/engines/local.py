"""Slots of this machine: a fresh process for every group.

The processes are forked from a server that has torch, Lightning and the tuner imported: each begins in milliseconds,
with memory of its own, and no import is paid twice. A process dies with the server, and with the coordinator.
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

from tuner.engines import Handler
from tuner.engines.pipe import Mailbox, PipeChannel, SpoiltPipeError
from tuner.engines.stalls import Pulse
from tuner.errors import BadInputError, StudyFailedError, in_a_line
from tuner.interrupts import end_with_parent, ignore_interrupts, interrupts_blocked, remove_at_the_end, spare_forks
from tuner.protocol import Channel, Group, Slot

__all__ = ["LocalEngine", "ask"]

Result = TypeVar("Result")

PARENT = "TUNER_SERVER_PARENT"  # environment variable with the process that the server ends with
LONGEST_FOLDER = 56  # bytes, of one for temporary files: what comes below it has 47 more
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


@dataclass(eq=False)
class _Busy:
    slot: Slot
    group: Group
    ranks: list[ForkServerProcess]  # the first one speaks for all
    mailbox: Mailbox
    pulse: Pulse

    def end(self) -> str:
        """Kill what still runs, and return how those ended that did by themselves."""
        codes = [rank.exitcode for rank in self.ranks if rank.exitcode is not None]
        for rank in self.ranks:
            if rank.pid is not None:
                with contextlib.suppress(OSError):
                    os.killpg(rank.pid, signal.SIGKILL)  # with what the user's code has started
                rank.kill()
                rank.join()
        self.mailbox.close()
        return _describe(min(codes, default=None))  # a signal's, if there is any, is the cause


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
        _ensure_server()  # its imports take seconds: it begins with them while the study is checked
        self._busy: list[_Busy] = []

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

    def _start(self, slot: Slot, group: Group) -> None:
        for pause in (*self.START_PAUSES, None):
            _ensure_server()
            ours, theirs = self._context.Pipe()
            ranks = [self._context.Process(target=_work, args=(theirs, slot, group))]
            if slot.ranks > 1 and group.task == "train":
                rendezvous_file = _folder() / uuid.uuid4().hex
                ranks = [
                    self._context.Process(
                        target=_work, args=(None if rank else theirs, slot, group, rank, rendezvous_file)
                    )
                    for rank in range(slot.ranks)
                ]
            try:
                with _without_main():
                    for process in ranks:
                        process.start()
            except (EOFError, OSError) as error:  # the server was killed just now
                _Busy(slot, group, ranks, Mailbox(ours), Pulse((), 0.0)).end()
                if pause is None:
                    raise StudyFailedError(f"no process can be started for a trial: {error!r}") from error
                time.sleep(pause)
            else:
                pulse = Pulse([rank.pid for rank in ranks if rank.pid], self._stall_timeout)
                self._busy.append(_Busy(slot, group, ranks, Mailbox(ours), pulse))
                return
            finally:
                theirs.close()

    def _wait(self, handler: Handler) -> None:
        began = time.monotonic()
        # The process as well as the pipe, which another one may hold that the user's code has started.
        places = [place for busy in self._busy for place in (busy.mailbox.pipe, busy.ranks[0].sentinel)]
        ready = set(connection.wait(places, self.TICK_SECONDS))
        listened = min(time.monotonic() - began, 2 * self.TICK_SECONDS)  # less, if this process was stopped meanwhile
        for busy in list(self._busy):
            if busy.mailbox.pipe in ready:
                self._read(handler, busy)
            elif any(rank.exitcode for rank in busy.ranks[1:]) or busy.ranks[0].sentinel in ready:
                self._died(handler, busy)
            elif busy.pulse.is_lost_after(listened):
                self._died(handler, busy, f"gave no sign of life for {self._stall_timeout:g} s and was killed")
            _cut(busy.group.trials[0].directory / OUTPUT_FILE)

    def _read(self, handler: Handler, busy: _Busy) -> None:
        busy.pulse.heard()
        try:
            for message in busy.mailbox.messages():
                self._handle(handler, busy, message)
                if busy not in self._busy:  # it is done
                    return
        except EOFError:
            self._died(handler, busy)
        except SpoiltPipeError:
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
                verdict = handler.report(number, report)
                with contextlib.suppress(OSError):  # if it has died meanwhile, the next look at the pipe tells
                    busy.mailbox.answer(verdict)
            case ("done", results):
                busy.ranks[0].join(self.END_SECONDS)
                busy.end()
                self._busy.remove(busy)
                handler.done(busy.group, results)

    def _died(self, handler: Handler, busy: _Busy, reason: str = "") -> None:
        busy.ranks[0].join(0.0 if reason else self.END_SECONDS)  # to learn how
        how = busy.end()
        self._busy.remove(busy)
        handler.died(busy.group, reason or how)


def ask(function: Callable[..., Result], *arguments: Any) -> Result:
    """Return what a function returns in a short-lived process that is forked as trainings are.

    That is for what needs a GPU: the coordinator leaves them alone, as some take one process only.

    Args:
        function: It is found by its name, as are the classes of what it takes and returns.
        arguments: Its arguments.

    Raises:
        StudyFailedError: If it raises an exception, or its process dies.
    """
    context = multiprocessing.get_context("forkserver")
    _ensure_server()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, function, arguments))
    with contextlib.closing(ours):
        with _without_main(), contextlib.closing(theirs):
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
    """Return a folder of this process for sockets, whose paths may have a hundred characters only.

    Raises:
        BadInputError: If there is no place for it.
    """
    where = tempfile.gettempdir()
    if len(os.fsencode(where)) > LONGEST_FOLDER:
        where = "/tmp"
    try:
        folder = tempfile.mkdtemp(prefix="tuner-", dir=where)
    except OSError as error:
        raise BadInputError([f"TMPDIR: no folder can be made in {where}: {error.strerror}."]) from error
    remove_at_the_end(folder)
    util.Finalize(None, shutil.rmtree, (folder, True), exitpriority=-200)  # after what multiprocessing keeps in it
    return Path(folder)


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

    The signals that end a study are for the coordinator, which ends the others in order. They are blocked while the
    server starts; it ignores them from then on, and lets none wait.
    """
    forkserver.set_forkserver_preload(["tuner.engines.preload"])
    resource_tracker.ensure_running()  # it lets them through when it has started
    tunables = os.environ.get("GLIBC_TUNABLES")
    changes = {"GLIBC_TUNABLES": ":".join(filter(None, (KEEP_MEMORY, tunables)))}  # of two, the later one holds
    if threading.current_thread() is threading.main_thread():  # the kernel would take the end of another for its own
        changes[PARENT] = str(os.getpid())
    with interrupts_blocked(), _changed_environment(changes), _sockets_in(_folder()):
        forkserver.ensure_running()


@contextlib.contextmanager
def _changed_environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Change environment variables for the process that is started meanwhile."""
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
    """Let multiprocessing make its folder for sockets in another than TMPDIR, if it has none yet."""
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
    os.setsid()  # Ctrl-C in the terminal reaches the coordinator only, which then asks for an orderly end
    ignore_interrupts()
    spare_forks()
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
        os.killpg(0, signal.SIGKILL)  # with all that the user's code left running: a thread would keep it from ending


def _die_with_the_coordinator() -> None:
    """End this process when the coordinator or the server that forked it ends, however that happens."""
    end_with_parent(os.getppid())  # the server
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
    """Keep what a training prints from filling the disk: drop it when it is too much."""
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
