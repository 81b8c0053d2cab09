"""Records of trials' runs, and the handling of records that cannot be written."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from tuner.tracking.names import LONGEST_TAG, fitting
from tuner.tracking.record_writer import Record
from tuner.tracking.recorder import ARTIFACTS, RUN, DeletedRunError, NoRunError, Recorder
from tuner.tracking.study_run import MISSING_TAG
from tuner.tracking.trial_run import REFUSED_TAG, TrialRun

__all__ = ["Entries", "TrialRecords", "batches", "halves", "nothing"]

MOST_POINTS, MOST_VALUES = 1000, 100
"""Points, and parameters or tags, that MLflow takes at once."""
MOST_JOINED = MOST_POINTS - 2 * MOST_VALUES
"""Points that it takes with as many parameters and tags as it takes."""


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
class LogRecord(Record):
    """A record of entries, which can be joined with others of its run.

    Args:
        entries: Returns what to log to the run.
        logged: Called with the entries when the store has them.
        written: Called when it is written.
    """

    entries: Callable[[TrialRun], Entries] = lambda run: Entries()
    logged: Callable[[TrialRun, Entries], None] = nothing
    written: Callable[[TrialRun], None] = nothing


class TrialRecords:
    """Makes the records of trials' runs.

    Args:
        recorder: The writer.

    Attributes:
        by_number: The run of each trial that has one.
        replaced: The runs that trials had before, which were deleted or set aside.
        deleted: The trials whose run was deleted.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._client = recorder, recorder.client
        self.by_number: dict[int, TrialRun] = {}
        self.replaced: dict[int, str] = {}
        self.deleted: set[int] = set()

    def record(
        self,
        number: int,
        what: str,
        write: Callable[[TrialRun], object],
        divide: Callable[[], Sequence[Record]] = tuple,
        gone: Callable[[], None] = nothing,
    ) -> Record:
        """Return a record of a trial's run.

        Args:
            number: The trial.
            what: Name of the record, for messages.
            write: Writes it to the run; returns False if there was nothing to write.
            divide: Returns its parts.
            gone: Called if the run was deleted before it was written.
        """
        return Record(*self._calls(number, what, write, divide, gone))

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
        written: Callable[[TrialRun], None] = nothing,
    ) -> LogRecord:
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
            written(run)
            return bool(parts)

        calls = self._calls(number, what, write, divide, gone)
        return LogRecord(*calls, join=partial(self._join, number), entries=entries, logged=logged, written=written)

    def opening(self, number: int, write: Callable[[], object], opened: Callable[..., None]) -> LogRecord:
        """Return the record that opens a trial's run.

        Args:
            number: The trial.
            write: Opens the run, or creates it.
            opened: Called if there was nothing to do, because the run is already open.
        """
        give_up = partial(self.lose, RUN, number, nothing)
        return LogRecord(write, give_up, join=partial(self._join, number), written=opened)

    def _join(self, number: int, records: Sequence[Record]) -> int:
        """Log the entries of the first records at once, as many as MLflow takes; return the number of these records."""
        run = self.by_number[number]
        whole, taken = Entries(), []
        for record in records:
            if not isinstance(record, LogRecord):
                break
            entries = record.entries(run)
            joined = whole.with_more(entries)
            if len(joined.metrics) > MOST_JOINED or max(len(joined.params), len(joined.tags)) > MOST_VALUES:
                break
            whole = joined
            taken.append((record, entries))
        if not (whole.metrics or whole.params or whole.tags):
            return 0
        self._log(run, whole)
        for record, entries in taken:
            record.logged(run, entries)
            record.written(run)
        return len(taken)

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
