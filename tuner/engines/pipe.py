"""The pipe between a training process and the coordinator.

User code runs in the training process and can do anything to its end of the pipe. So the coordinator checks everything
that comes from there, and never blocks on it.
"""

import os
import pickle
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from tuner.protocol import ChannelClosedError, Decision, EpochReport, Result, StepReport

__all__ = ["CorruptPipeError", "Mailbox", "PipeChannel"]

MARK = b"lr-tuner"
HEADER = struct.Struct("!8sQI")  # the mark, the length of the message and its checksum
CHUNK = 1 << 20
MAX_LENGTH = 1 << 40  # largest length of a message, in bytes


class CorruptPipeError(Exception):
    """The pipe contains something other than a message."""


class PipeChannel:
    """The channel of a training process to the coordinator; several threads may use it.

    Args:
        pipe: The training process's end of the pipe; None on ranks other than 0, where no method may be called.
    """

    def __init__(self, pipe: "Connection[Any, Any] | None") -> None:
        self._pipe: Any = pipe
        self._lock = threading.RLock()  # a message and its answer stay together

    def report(self, reports: Mapping[int, EpochReport]) -> Mapping[int, Decision]:
        """Report an epoch of each trial, and return the decisions."""
        with self._lock:
            self._send("report", reports)
            try:
                decisions: Mapping[int, Decision] = self._pipe.recv()
            except Exception as error:  # the coordinator has ended, or user code has read from the pipe
                raise ChannelClosedError(f"no answer to a report: {error!r}") from error
        return decisions

    def progress(self, number: int, report: StepReport) -> None:
        """Report the progress of a trial."""
        self._send("progress", number, report)

    def fuse_at_most(self, count: int, reason: str) -> None:
        """Report how many trials can be trained as one model, and why not more."""
        self._send("fuse_at_most", count, reason)

    def note(self, text: str) -> None:
        """Show a note in the terminal."""
        self._send("note", text)

    def done(self, results: Sequence[Result]) -> None:
        """Send the results of the trials, as the last message."""
        self._send("done", results)
        self._pipe.close()

    def _send(self, *message: Any) -> None:
        content = pickle.dumps(message)
        left = memoryview(HEADER.pack(MARK, len(content), zlib.crc32(content)) + content)
        try:
            with self._lock:
                while left:
                    left = left[os.write(self._pipe.fileno(), left) :]
        except OSError as error:
            raise ChannelClosedError(f"a message cannot be sent: {error!r}") from error


class Mailbox:
    """The coordinator's end of a pipe, which never blocks on an incomplete message.

    Args:
        pipe: The coordinator's end.
    """

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self.pipe = pipe
        self._read = bytearray()
        os.set_blocking(pipe.fileno(), False)

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """Read the available bytes, and yield the complete messages.

        Raises:
            EOFError: If the other end is closed.
            CorruptPipeError: If something other than messages was written into it.
        """
        try:
            read = os.read(self.pipe.fileno(), CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            raise EOFError from error
        if not read:
            raise EOFError
        self._read += read
        while len(self._read) >= HEADER.size:
            mark, length, checksum = HEADER.unpack_from(self._read)
            end = HEADER.size + length
            if mark != MARK or length > MAX_LENGTH:
                raise CorruptPipeError
            if len(self._read) < end:
                return
            content = bytes(self._read[HEADER.size : end])
            del self._read[:end]
            if zlib.crc32(content) != checksum:
                raise CorruptPipeError
            yield pickle.loads(content)

    def answer(self, decisions: Mapping[int, Decision]) -> None:
        """Answer a report.

        Raises:
            OSError: If the other end is closed.
        """
        self.pipe.send(decisions)

    def close(self) -> None:
        """Close this end."""
        self.pipe.close()
