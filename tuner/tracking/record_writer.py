"""A thread that writes records, and isolates the ones that cannot be written.

The records of a lane are written in order, and lanes take turns, so a failing record delays its own lane only. It is
retried if the error may be temporary. If it keeps failing while the store takes other records, the record is at fault,
not the store: it is split if possible, and the parts that still fail are given up.

Joinable records at the heads of several lanes are written at once, which costs the store much less than writing each
on its own. If that fails, they are written one by one.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile

from tuner import interrupts

__all__ = ["Record", "RecordWriter"]

PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
LAST_PAUSE = 1.0  # once the study is over and the user waits
MISSES = 3
MOST_LANES = 32  # whose records are written at once


def _no_parts(error: Exception) -> Sequence["Record"]:
    return ()


@dataclass(eq=False)
class Record:
    """A record to write.

    Args:
        write: Writes it; returns False if there was nothing to write. It is called again after an error, even one
            that came after everything was written.
        give_up: Called in the writer's thread with the error, if the record cannot be written.
        divide: Returns parts that can be written one by one when the whole fails with this error; empty if it cannot
            be split.
        newest: If not empty, only the newest waiting record of this name is kept in a lane.
        join: Writes the first records of several lanes at once, as many as the store takes, and returns how many of
            each lane; nothing if they are to be written one by one. It changes nothing if it fails. None if this record
            cannot be joined.
    """

    write: Callable[[], object]
    give_up: Callable[[Exception], None]
    divide: Callable[[Exception], Sequence["Record"]] = _no_parts
    newest: str = ""
    join: "Callable[[Mapping[Hashable, Sequence[Record]]], Mapping[Hashable, int]] | None" = None
    failures: int = field(default=0, init=False)
    misses: int = field(default=0, init=False)  # its failures while the store took other records
    seen: int = field(default=0, init=False)  # number of records that were taken when it last failed
    since: float = field(default_factory=time.monotonic, init=False)


def _can_join(record: Record) -> bool:
    return record.join is not None and not record.failures


class RecordWriter:
    """Writes records in its own thread.

    Args:
        name: Name of the thread.
        can_pass: Returns whether an error may be temporary.
        probe: Writes something that the store is known to take. It raises an error if the store takes nothing.
        went_away: Called in the thread with the error when the store stops taking records.
        came_back: Called in the thread when the store takes records again.
        give_way: Called in the thread before it writes; it may wait.
    """

    def __init__(
        self,
        name: str,
        can_pass: Callable[[Exception], bool],
        probe: Callable[[], None],
        went_away: Callable[[Exception], None],
        came_back: Callable[[], None],
        give_way: Callable[[], None] = lambda: None,
    ) -> None:
        self._can_pass, self._probe, self._went_away, self._came_back = can_pass, probe, went_away, came_back
        self._give_way = give_way
        self._lanes: dict[Hashable, deque[Record]] = {}
        self._due: dict[Hashable, float] = {}  # when to retry lanes whose first record has failed
        self._waiting = 0
        self._taken = 0
        self._handled = 0  # taken or given up
        self._outage = 0  # consecutive failures while the store takes nothing
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
                # The first one may be being written now.
                older = [each for each in list(records)[1:] if each.newest == record.newest]
                for each in older:
                    records.remove(each)
                self._waiting -= len(older)
            records.append(record)
            self._waiting += 1
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Return the number of records that are neither written nor given up."""
        with self._changed:
            return self._waiting

    @property
    def lag(self) -> float:
        """Return for how many seconds the oldest record has waited; 0 if none waits."""
        with self._changed:
            oldest = min((records[0].since for records in self._lanes.values()), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    def settle(self, seconds: float) -> bool:
        """Wait at most so many seconds until no record waits or the store is unreachable; return whether none waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._outage, seconds)
            return not self._waiting

    def drain(self, patience: float, is_hurried: Callable[[], bool] = lambda: False) -> bool:
        """Write the waiting records, with short pauses only.

        Args:
            patience: Seconds to wait while the store takes nothing.
            is_hurried: Returns whether a few seconds must do.

        Returns:
            Whether no record is left.
        """
        with self._changed:
            self._is_hurrying = True
            self._resume = 0.0
            self._due.clear()
            self._changed.notify_all()
            began, handled = time.monotonic(), self._handled
            while self._waiting:
                limit = min(patience, interrupts.HURRIED_SECONDS) if is_hurried() else patience
                left = began + limit - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(min(1.0, left))
                if self._handled > handled:
                    began, handled = time.monotonic(), self._handled
            return not self._waiting

    def close(self) -> None:
        """End the thread. Records that still wait are dropped, even if the thread hangs in a request."""
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
                record, joined = self._lanes[lane][0], self._joinable(lane)
            self._give_way()
            try:
                counts = self._write_joined(joined) if joined else {}
                is_written = bool(counts) or record.write() is not False
            except Exception as error:
                self._fail(lane, record, error)
            else:
                if is_written:
                    self._taken += max(1, sum(counts.values()))
                    self._answered()
                for each, count in (counts or {lane: 1}).items():
                    self._remove(each, count=count)

    def _joinable(self, lane: Hashable) -> dict[Hashable, list[Record]]:
        """Return the first records of a lane, and of the next ones, that can be written at once."""
        now = time.monotonic()
        due = (each for each in self._lanes if self._due.get(each, 0.0) <= now and not self._outage)
        first = {each: list(takewhile(_can_join, self._lanes[each])) for each in islice(due, MOST_LANES)}
        return {each: records for each, records in first.items() if records} if first.get(lane) else {}

    def _write_joined(self, lanes: Mapping[Hashable, Sequence[Record]]) -> Mapping[Hashable, int]:
        """Write records at once, and return how many of each lane; nothing if the first is to be written on its own."""
        join = next(iter(lanes.values()))[0].join
        try:
            counts = join(lanes) if join else {}
        except Exception as error:
            for records in lanes.values():  # writing them one by one finds the record at fault
                for record in records:
                    record.join = None
            if self._can_pass(error):
                raise
            return {}
        return {lane: count for lane, count in counts.items() if count}

    def _next(self) -> Hashable | None:
        """Return the next lane to write; None if there is none."""
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
            self._notify(self._came_back)

    def _remove(self, lane: Hashable, parts: Sequence[Record] = (), count: int = 1) -> None:
        """Replace the first records of a lane by parts, and move on to the next lane."""
        with self._changed:
            records = self._lanes.pop(lane)
            for _ in range(count):
                records.popleft()
            records.extendleft(reversed(parts))
            self._waiting += len(parts) - count
            self._handled += count
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
                return  # retry at once: the connection may have gone stale
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
                self._notify(self._went_away, error)
            self._resume = time.monotonic() + self._pause(self._outage)
        with self._changed:
            self._due[lane] = time.monotonic() + pause
            self._lanes[lane] = self._lanes.pop(lane)  # move on to the next lane
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
        except Exception:  # it may read the store that fails
            parts = ()
        if len(parts) > 1:
            for part in parts:  # one more failure shows that the part is at fault
                part.failures, part.misses, part.seen = 1, MISSES - 1, self._taken
        else:
            parts = ()
            self._notify(record.give_up, error)
        self._remove(lane, parts)

    def _notify(self, call: Callable[..., None], *values: Exception) -> None:
        with contextlib.suppress(Exception):  # an error in a callback must not end the thread
            call(*values)
