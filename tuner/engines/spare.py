"""A process that has prepared for the next group of a slot while the group before it trains."""

import multiprocessing
import uuid
from contextlib import closing

from tuner.engines.fork_server import ensure_server, for_new_processes
from tuner.engines.slot_process import READY, kill, work
from tuner.protocol import Group, Slot

__all__ = ["SpareProcess"]


class SpareProcess:
    """A process that opens the device of a slot, loads libraries, and waits for a group.

    Args:
        slot: The slot.

    Attributes:
        process: The process.
        pipe: The coordinator's end of its pipe.
        mark: The mark of the programs that it starts.

    Raises:
        EOFError, OSError: If it cannot be started.
    """

    def __init__(self, slot: Slot) -> None:
        ensure_server()
        context = multiprocessing.get_context("forkserver")
        self.mark = uuid.uuid4().hex
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, slot, None, self.mark))
        try:
            with for_new_processes(), closing(theirs):
                self.process.start()
        except BaseException:
            self.pipe.close()
            raise

    @property
    def is_ready(self) -> bool:
        """Whether it waits for a group, or has ended."""
        return self.pipe.poll()

    def take(self, group: Group) -> bool:
        """Give it a group, and return whether it accepts it; if not, it has ended."""
        try:
            if self.pipe.recv() != READY:
                return False
            with for_new_processes():  # so that objects of the main script are pickled as for a new process
                self.pipe.send(group)
        except (EOFError, OSError):
            return False
        return True

    def kill(self) -> None:
        """Kill it."""
        kill(self.process)
        self.pipe.close()
