"""Records of trials' runs, and the handling of records that cannot be written.

If the store is a database, the records of several trials are written in one transaction, which takes half the CPU time
and a fraction of the disk syncs. A transaction that fails changes nothing, and its records are written one by one.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from tuner.tracking.names import LONGEST_TAG, fitting
from tuner.tracking.record_writer import Record
from tuner.tracking.recorder import ARTIFACTS, RUN, DeletedRunError, NoRunError, Recorder
from tuner.tracking.study_run import MISSING_TAG
from tuner.tracking.transactions import Transactions
from tuner.tracking.trial_run import REFUSED_TAG, TrialRun

__all__ = ["Entries", "TrialRecords", "batches", "halves", "nothing"]

MOST_POINTS, MOST_VALUES = 1000, 100
"""Points, and parameters or tags, that MLflow takes at once."""
MOST_JOINED = MOST_POINTS - 2 * MOST_VALUES
"""Points that it takes with as many parameters and tags as it takes."""
LONGEST_SECONDS = 2.0
"""Duration after which a transaction takes no further trials; other programs cannot write meanwhile."""


def nothing(*ignored: object) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Entries:
    """Records that are logged to a run at once."""

    metrics: Sequence[Metric] = ()
    params: Sequence[Param] = ()
    tags: Sequence[RunTag] = ()

    def with_more(self, other: "Entries") -> "Entries":
        """Return these entries and others; what both have, once."""
        points = {(each.key, each.step) for each in self.metrics}
        values = {(each.key, each.value) for each in self.params}
        tags = {each.key: each for each in (*self.tags, *other.tags)}
        return Entries(
            [*self.metrics, *(each for each in other.metrics if (each.key, each.step) not in points)],
            [*self.params, *(each for each in other.params if (each.key, each.value) not in values)],
            list(tags.values()),
        )


@dataclass(eq=False)
class TrialRecord(Record):
    """A record of a trial's run, which can be written in one transaction with others.

    Args:
        is_ready: Returns whether it can now be written in a transaction.
        act: Writes it in a transaction. What it changes in memory are only fields of `TrialRun.stored`.
        entries: Returns what to log to the run, if it has one; None for a record of another kind.
        logged: Called with the entries when they are logged, perhaps in a transaction that may still fail.
        written: Called when it is written for good.
    """

    is_ready: Callable[[], bool] = lambda: True
    act: Callable[[], object] = nothing
    entries: Callable[[TrialRun], Entries] | None = None
    logged: Callable[[TrialRun, Entries], None] = nothing
    written: Callable[[], None] = nothing


class TrialRecords:
    """Makes the records of trials' runs.

    Args:
        recorder: The writer.

    Attributes:
        by_number: The run of each trial that has one.
        replaced: The runs that trials had before, which were deleted or set aside.
        deleted: The trials whose run was deleted.
        unsure: The trials whose run may have been created though the answer was lost.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._client = recorder, recorder.client
        self._transactions = Transactions.of(recorder.client)
        self.by_number: dict[int, TrialRun] = {}
        self.replaced: dict[int, str] = {}
        self.deleted: set[int] = set()
        self.unsure: set[int] = set()

    def record(
        self,
        number: int,
        what: str,
        write: Callable[[TrialRun], object],
        divide: Callable[[], Sequence[Record]] = tuple,
        gone: Callable[[], None] = nothing,
        is_ready: Callable[[], bool] = lambda: True,
    ) -> TrialRecord:
        """Return a record of a trial's run.

        Args:
            number: The trial.
            what: Name of the record, for messages.
            write: Writes it to the run; returns False if there was nothing to write.
            divide: Returns its parts.
            gone: Called if the run was deleted before it was written.
            is_ready: Returns whether it can be written in a transaction.
        """
        calls = self._calls(number, what, write, divide, gone)
        return TrialRecord(
            *calls,
            join=self._join,
            is_ready=lambda: number in self.by_number and is_ready(),
            act=lambda: write(self.by_number[number]),
        )

    def _calls(
        self,
        number: int,
        what: str,
        write: Callable[[TrialRun], object],
        divide: Callable[[], Sequence[Record]],
        gone: Callable[[], None],
    ) -> tuple[Callable[[], object], Callable[[Exception], None], Callable[[Exception], Sequence[Record]]]:
        """Return the functions of a record: write it, give it up, divide it."""

        def attempt() -> object:
            run = self.by_number.get(number)
            if run is None:
                raise NoRunError("the trial has no run")
            try:
                return write(run)
            except MlflowException as error:
                if not self._recorder.is_gone(run.run_id, error):
                    raise
                self.replaced[number] = run.run_id
                self.deleted.add(number)
                del self.by_number[number]
                raise DeletedRunError("the run was deleted") from error

        def parts(error: Exception) -> Sequence[Record]:
            return () if isinstance(error, NoRunError | DeletedRunError) else divide()

        return attempt, partial(self.lose, what, number, gone), parts

    def log_record(
        self,
        number: int,
        what: str,
        entries: Callable[[TrialRun], Entries],
        logged: Callable[[TrialRun, Entries], None] = nothing,
        divide: Callable[[], Sequence[Record]] = tuple,
        gone: Callable[[], None] = nothing,
        written: Callable[[], None] = nothing,
    ) -> TrialRecord:
        """Return a record of entries of a trial's run.

        Args:
            number: The trial.
            what: Name of the record, for messages.
            entries: Returns what to log to the run.
            logged: Called with the entries when the store has them; in several parts if there are many.
            divide: Returns its parts.
            gone: Called if the run was deleted before it was written.
            written: Called when it is written.
        """

        def write(run: TrialRun) -> bool:
            found = entries(run)
            parts = [Entries(metrics=each) for each in batches(found.metrics, MOST_POINTS)]
            parts += [Entries(params=each) for each in batches(found.params, MOST_VALUES)]
            parts += [Entries(tags=each) for each in batches(found.tags, MOST_VALUES)]
            for part in parts:
                self._log(run, part)
                logged(run, part)
            written()
            return bool(parts)

        calls = self._calls(number, what, write, divide, gone)
        return TrialRecord(
            *calls,
            join=self._join,
            is_ready=lambda: number in self.by_number,
            entries=entries,
            logged=logged,
            written=written,
        )

    def opening(
        self,
        number: int,
        write: Callable[[], object],
        act: Callable[[], object],
        is_ready: Callable[[], bool],
        written: Callable[[], None] = nothing,
    ) -> TrialRecord:
        """Return the record that opens a trial's run; see `TrialRecord`."""
        return TrialRecord(
            write,
            partial(self.lose, RUN, number, nothing),
            join=self._join,
            is_ready=is_ready,
            act=act,
            entries=lambda run: Entries(),
            written=written,
        )

    # -- writing records at once ---------------------------------------------------------------------------------------

    def _join(self, lanes: Mapping[Hashable, Sequence[Record]]) -> Mapping[Hashable, int]:
        """Write the first records of several trials at once, and return how many of each; see `Record`."""
        trials = {number: records for number, records in lanes.items() if isinstance(number, int)}
        if self._transactions is not None:
            return self._write_together(self._transactions, trials)
        number, records = next(iter(trials.items()))
        run = self.by_number.get(number)
        done, is_sent = ([], False) if run is None else self._log_first(run, records)
        if not is_sent:
            return {}
        for record in done:
            record.written()
        return {number: len(done)}

    def _write_together(
        self, transactions: Transactions, lanes: Mapping[int, Sequence[Record]]
    ) -> Mapping[Hashable, int]:
        """Write records in one transaction; if it fails, restore what is known about the runs."""
        stored = {number: self.by_number[number].stored for number in lanes if number in self.by_number}
        unsure, until = set(self.unsure), time.monotonic() + LONGEST_SECONDS
        done: dict[int, list[TrialRecord]] = {}
        is_sent = is_whole = False
        try:
            with transactions.one():
                for number, records in lanes.items():
                    self._recorder.precedence.give()
                    done[number], is_any_sent = self._write_first(number, records)
                    is_sent = is_sent or is_any_sent
                    if not any(done.values()) or time.monotonic() > until:
                        break
                is_whole = True
        except Exception:
            created = [number for number in lanes if number in self.by_number and number not in stored]
            for number in created:
                del self.by_number[number]
            for number, fields in stored.items():
                self.by_number[number].restore(fields)
            self.unsure.intersection_update(unsure)
            self.unsure.update(created if is_whole else ())  # an error of the commit may be a lost answer
            raise
        if not is_sent:
            return {}
        for record in chain.from_iterable(done.values()):
            record.written()
        return {number: len(records) for number, records in done.items()}

    def _write_first(self, number: int, records: Sequence[Record]) -> tuple[list[TrialRecord], bool]:
        """Write the first records of a trial that are ready; return them, and whether anything was sent."""
        done: list[TrialRecord] = []
        is_sent = False
        while len(done) < len(records):
            record = records[len(done)]
            if not isinstance(record, TrialRecord) or not record.is_ready():
                break
            run = self.by_number.get(number)
            if run is None or record.entries is None:
                part, is_part_sent = [record], record.act() is not False
            else:
                part, is_part_sent = self._log_first(run, records[len(done) :])
            done += part
            is_sent = is_sent or is_part_sent
            if not part:
                break
        return done, is_sent

    def _log_first(self, run: TrialRun, records: Sequence[Record]) -> tuple[list[TrialRecord], bool]:
        """Log the entries of the first records, as many as MLflow takes; return them, and whether anything was sent."""
        whole, taken = Entries(), []
        for record in records:
            if not isinstance(record, TrialRecord) or record.entries is None or not record.is_ready():
                break
            entries = record.entries(run)
            joined = whole.with_more(entries)
            if len(joined.metrics) > MOST_JOINED or max(len(joined.params), len(joined.tags)) > MOST_VALUES:
                break
            whole = joined
            taken.append((record, entries))
        is_sent = bool(whole.metrics or whole.params or whole.tags)
        if is_sent:
            self._log(run, whole)
        for record, entries in taken:
            record.logged(run, entries)
        return [record for record, _ in taken], is_sent

    def _log(self, run: TrialRun, entries: Entries) -> None:
        self._client.log_batch(run.run_id, entries.metrics, entries.params, entries.tags)

    def lose(self, what: str, number: int, gone: Callable[[], None], error: Exception) -> None:
        """Note that a record cannot be written; see `record`."""
        if isinstance(error, DeletedRunError):
            gone()
        elif not isinstance(error, NoRunError):
            missing, is_final = self._recorder.lose(what, f"trial #{number}", error)
            run = self.by_number.get(number)
            if run is not None:
                (run.refused if is_final else run.lacks)[missing] = None

    def mark(self, run: TrialRun) -> bool:
        """Write the tags about missing records to a run; return whether there was anything to write."""
        is_needed = bool(run.lacks or run.waits or run.is_marked or run.refused)
        lacks = "; ".join([*run.lacks, *([ARTIFACTS] if run.waits else [])])
        if lacks:
            self._client.set_tag(run.run_id, MISSING_TAG, fitting(lacks, LONGEST_TAG))
        elif run.is_marked:
            self._recorder.remove_tag(run.run_id, MISSING_TAG)
        run.is_marked = bool(lacks)
        if run.refused:
            self._client.set_tag(run.run_id, REFUSED_TAG, fitting("; ".join(run.refused), LONGEST_TAG))
        return is_needed


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield items in batches of a size."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def halves(items: Sequence[Any]) -> Sequence[Sequence[Any]]:
    """Return two halves; nothing of a single item."""
    middle = len(items) // 2
    return (items[:middle], items[middle:]) if middle else ()
