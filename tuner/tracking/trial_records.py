"""Records of trials' runs, and what becomes of those that cannot be written."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from mlflow.exceptions import MlflowException

from tuner.tracking.names import LONGEST_TAG, fitting
from tuner.tracking.record_writer import Record
from tuner.tracking.recorder import ARTIFACTS, DeletedRunError, NoRunError, Recorder
from tuner.tracking.study_run import MISSING_TAG
from tuner.tracking.trial_run import REFUSED_TAG, TrialRun

__all__ = ["TrialRecords", "batches", "halves", "nothing"]


def nothing() -> None:
    """Do nothing."""


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

        return Record(attempt, partial(self.lose, what, number, gone), parts)

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
