"""The process of a slot: what it does before, during and after its group."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tuner.engines.fork_server import die_with_the_coordinator
from tuner.engines.leftovers import kill_marked, mark_programs
from tuner.engines.pipe import PipeChannel
from tuner.interrupts import (
    forks_die_with_this_process,
    ignore_interrupts,
    restore_handlers_in_forks,
)
from tuner.protocol import Channel, Group, Slot

__all__ = ["OUTPUT_FILE", "READY", "kill", "work"]

OUTPUT_FILE = "output.log"
READY = "ready"


def work(
    pipe: "connection.Connection[Any, Any] | None",
    slot: Slot,
    group: Group | None,
    mark: str,
    rank: int = 0,
    rendezvous_file: Path | None = None,
) -> None:
    """Run a group's task in its own process and send the results.

    Args:
        pipe: This process's end of the pipe to the coordinator; None on ranks other than 0.
        slot: The slot.
        group: The group; None to prepare for one, say that this is done, and receive the group through the pipe.
        mark: Mark of the programs that this process will start.
        rank: Which of several ranks this process is.
        rendezvous_file: Where the ranks meet; None if there is only one.
    """
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
        # torch reads it at the first product, which may come before `deterministic` of Lightning sets it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if group is None and (group := _prepared(pipe, slot)) is None:
        return
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


def kill(process: BaseProcess) -> None:
    """Kill a slot's process, if it was started, and the processes in its group that user code has started."""
    if process.pid is not None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


def _prepared(pipe: "connection.Connection[Any, Any] | None", slot: Slot) -> Group | None:
    """Prepare for a group, and wait for it; None if there will be none."""
    _write_to(os.devnull)
    import torch

    from tuner.training.warm_up import warm_up

    torch.set_num_threads(slot.threads)
    warm_up(slot.kind)
    group: Group | None = None
    if pipe:
        pipe.send(READY)
        with contextlib.suppress(EOFError):  # the study is over
            group = pipe.recv()
    return group


@contextlib.contextmanager
def _output_to_file(group: Group) -> Iterator[None]:
    """Redirect standard output and error, at the level of descriptors, to a file in the first trial's directory."""
    directory = group.trials[0].directory
    directory.mkdir(parents=True, exist_ok=True)
    _write_to(directory / OUTPUT_FILE)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # the disk is full
                stream.flush()


def _write_to(path: str | Path) -> None:
    """Append standard output and error, at the level of descriptors, to a file."""
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
