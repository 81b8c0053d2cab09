"""The pipe between a training and the coordinator.

The user's code runs in the process of the training and can do anything to its end of the pipe: what comes from there is
checked, and never waited for.
"""

import os
import pickle
import struct
import zlib
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from tuner.protocol import ChannelClosedError, EpochReport, StepReport, TrialResult, Verdict

__all__ = ["Mailbox", "PipeChannel", "SpoiltPipeError"]

MARK = b"lr-tuner"
HEADER = struct.Struct("!8sQI")  # the mark, the length of the message and its checksum
CHUNK = 1 << 20
MOST = 1 << 40  # bytes of a message


class SpoiltPipeError(Exception):
    """Something else than a message stands in the pipe."""


class PipeChannel:
    """A training's way to the coordinator.

    Args:
        pipe: Its end of the pipe; only the first rank has one, and only there the methods may be called.
    """

    def __init__(self, pipe: "Connection[Any, Any] | None") -> None:
        self._pipe: Any = pipe

    def report(self, number: int, report: EpochReport) -> Verdict:
        """Tell about an epoch and return what to do."""
        self._send("report", number, report)
        try:
            verdict: Verdict = self._pipe.recv()
        except Exception as error:  # besides the coordinator's end: what user code took out of the pipe is missing
            raise ChannelClosedError(f"no answer to a report: {error!r}") from error
        return verdict

    def progress(self, number: int, report: StepReport) -> None:
        """Tell how far a trial is."""
        self._send("progress", number, report)

    def fuse_at_most(self, count: int, reason: str) -> None:
        """Tell how many trials can be trained as one model, and why not more."""
        self._send("fuse_at_most", count, reason)

    def note(self, text: str) -> None:
        """Show a remark in the terminal."""
        self._send("note", text)

    def done(self, results: Sequence[TrialResult]) -> None:
        """Tell how the trials ended; nothing can be told afterwards."""
        self._send("done", results)
        self._pipe.close()

    def _send(self, *message: Any) -> None:
        content = pickle.dumps(message)
        left = memoryview(HEADER.pack(MARK, len(content), zlib.crc32(content)) + content)
        try:
            while left:
                left = left[os.write(self._pipe.fileno(), left) :]
        except OSError as error:
            raise ChannelClosedError(f"a message cannot be sent: {error!r}") from error


class Mailbox:
    """The coordinator's end of a pipe, which never waits for the rest of a message.

    Args:
        pipe: The end.
    """

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self.pipe = pipe
        self._read = bytearray()
        os.set_blocking(pipe.fileno(), False)

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """Read what is there, and yield the messages that are complete.

        Raises:
            EOFError: If the other end is closed.
            SpoiltPipeError: If something else than messages was written into it.
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
            if mark != MARK or length > MOST:
                raise SpoiltPipeError
            if len(self._read) < end:
                return
            content = bytes(self._read[HEADER.size : end])
            del self._read[:end]
            if zlib.crc32(content) != checksum:
                raise SpoiltPipeError
            yield pickle.loads(content)

    def answer(self, verdict: Verdict) -> None:
        """Answer a report.

        Raises:
            OSError: If nobody reads it.
        """
        self.pipe.send(verdict)

    def close(self) -> None:
        """Close this end."""
        self.pipe.close()
