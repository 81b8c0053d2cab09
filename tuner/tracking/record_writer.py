"""A thread that writes records. One that cannot be written costs only itself.

Records of a lane are written in order, and lanes take turns, so a record that fails holds up its own lane at most. It
is tried again if its error can pass by itself. If it keeps failing while the store takes other things, the record is at
fault, not the store: it is divided if it can be, and what is at fault in it is given up.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

__all__ = ["Record", "RecordWriter"]

PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
LAST_PAUSE = 1.0  # once the study is over, somebody waits
MISSES = 3


def _no_parts(error: Exception) -> Sequence["Record"]:
    return ()


@dataclass(eq=False)
class Record:
    """Something to write.

    Args:
        write: Writes it, and returns False if there was nothing to write. It is called again after an error, even if
            everything was written before that.
        give_up: Called in the writer's thread with the error, if the record cannot be written.
        divide: Returns what can be written one by one if the whole, with this error, cannot; nothing if there are no
            parts.
        newest: If not empty, of the records of a lane with this name only the newest is kept waiting.
    """

    write: Callable[[], object]
    give_up: Callable[[Exception], None]
    divide: Callable[[Exception], Sequence["Record"]] = _no_parts
    newest: str = ""
    failures: int = field(default=0, init=False)
    misses: int = field(default=0, init=False)  # failures of this one while the store took something else
    seen: int = field(default=0, init=False)  # how many records were taken when it last failed


class RecordWriter:
    """Writes records in a thread of its own.

    Args:
        name: Name of the thread.
        can_pass: Returns whether an error can pass by itself.
        probe: Writes something that the store is known to take. It raises an error if the store takes nothing.
        went: Called in the thread with the error when the store takes nothing any more.
        came_back: Called in the thread when it takes records again.
    """

    def __init__(
        self,
        name: str,
        can_pass: Callable[[Exception], bool],
        probe: Callable[[], None],
        went: Callable[[Exception], None],
        came_back: Callable[[], None],
    ) -> None:
        self._can_pass, self._probe, self._went, self._came_back = can_pass, probe, went, came_back
        self._lanes: dict[Hashable, deque[Record]] = {}
        self._due: dict[Hashable, float] = {}  # of lanes whose first record has failed
        self._waiting = 0
        self._taken = 0
        self._handled = 0  # those given up, too
        self._outage = 0  # failures in a row of a store that takes nothing
        self._resume = 0.0
        self._is_hurrying = self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)  # started by the first record

    def put(self, lane: Hashable, record: Record) -> None:
        """Add a record to the end of a lane."""
        with self._changed:
            if self._thread.ident is None:
                self._thread.start()
            records = self._lanes.setdefault(lane, deque())
            if record.newest:
                # The first may be in the middle of being written.
                older = [each for each in list(records)[1:] if each.newest == record.newest]
                for each in older:
                    records.remove(each)
                self._waiting -= len(older)
            records.append(record)
            self._waiting += 1
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Return how many records are neither written nor given up."""
        with self._changed:
            return self._waiting

    def settle(self, seconds: float) -> bool:
        """Wait for a while until no record waits or the store is away, and return whether none waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._outage, seconds)
            return not self._waiting

    def drain(self, patience: float) -> bool:
        """Write what waits, without long pauses from now on.

        Args:
            patience: Seconds to wait for a store that takes nothing.

        Returns:
            Whether no record is left.
        """
        with self._changed:
            self._is_hurrying = True
            self._resume = 0.0
            self._due.clear()
            self._changed.notify_all()
            deadline, handled = time.monotonic() + patience, self._handled
            while self._waiting and time.monotonic() < deadline:
                self._changed.wait(min(1.0, deadline - time.monotonic()))
                if self._handled > handled:
                    deadline, handled = time.monotonic() + patience, self._handled
            return not self._waiting

    def close(self) -> None:
        """End the thread. What it has not written by now is never written, even if it hangs in a request."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if not self._waiting and self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while (lane := self._next()) is None:
                    if self._is_closed:
                        return
                    self._changed.wait(self._time_to_next())
                if self._is_closed:
                    return
                record = self._lanes[lane][0]
            try:
                is_written = record.write() is not False
            except Exception as error:
                self._fail(lane, record, error)
            else:
                if is_written:
                    self._taken += 1
                    self._answered()
                self._remove(lane)

    def _next(self) -> Hashable | None:
        """Return the lane whose turn it is; None if there is none."""
        now = time.monotonic()
        if now < self._resume:
            return None
        return next((lane for lane in self._lanes if self._due.get(lane, 0.0) <= now), None)

    def _time_to_next(self) -> float | None:
        if not self._lanes:
            return None
        due = min(self._due.get(lane, 0.0) for lane in self._lanes)
        return max(0.0, max(due, self._resume) - time.monotonic())

    def _answered(self) -> None:
        if self._outage:
            self._outage, self._resume = 0, 0.0
            with self._changed:
                self._due.clear()
            self._tell(self._came_back)

    def _remove(self, lane: Hashable, parts: Sequence[Record] = ()) -> None:
        """Put parts into the place of the first record of a lane, and let the next lane have its turn."""
        with self._changed:
            records = self._lanes.pop(lane)
            records.popleft()
            records.extendleft(reversed(parts))
            self._waiting += len(parts) - 1
            self._handled += 1
            self._due.pop(lane, None)
            if records:
                self._lanes[lane] = records
            self._changed.notify_all()

    def _fail(self, lane: Hashable, record: Record, error: Exception) -> None:
        if not self._can_pass(error):
            self._give_up(lane, record, error)
            return
        record.failures += 1
        if record.failures == 1:
            record.seen = self._taken
            if not self._outage:
                return  # a connection that had gone stale: at once again
        takes_others = self._taken > record.seen or self._answers()
        record.seen = self._taken
        pause = 0.0
        if takes_others:
            self._answered()
            record.misses += 1
            if record.misses >= MISSES:
                self._give_up(lane, record, error)
                return
            pause = self._pause(record.misses)
        else:
            self._outage += 1
            if self._outage == 1:
                self._tell(self._went, error)
            self._resume = time.monotonic() + self._pause(self._outage)
        with self._changed:
            self._due[lane] = time.monotonic() + pause
            self._lanes[lane] = self._lanes.pop(lane)  # the next lane has its turn
            self._changed.notify_all()

    def _answers(self) -> bool:
        try:
            self._probe()
        except Exception as error:
            return not self._can_pass(error)  # a refusal is an answer
        return True

    def _pause(self, times: int) -> float:
        return LAST_PAUSE if self._is_hurrying else PAUSES[min(times, len(PAUSES)) - 1]

    def _give_up(self, lane: Hashable, record: Record, error: Exception) -> None:
        try:
            parts = record.divide(error)
        except Exception:  # it reads the very store
            parts = ()
        if len(parts) > 1:
            for part in parts:  # one more failure, and a part is known to be at fault
                part.failures, part.misses, part.seen = 1, MISSES - 1, self._taken
        else:
            parts = ()
            self._tell(record.give_up, error)
        self._remove(lane, parts)

    def _tell(self, call: Callable[..., None], *values: Exception) -> None:
        with contextlib.suppress(Exception):  # what shows it is no reason to write nothing more
            call(*values)
