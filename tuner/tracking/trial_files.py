"""The artifacts of trials' runs. A run says that it lacks artifacts until they are written."""

import csv
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.analysis.record import LR_TABLE, simplified
from tuner.protocol import Points, TrialResult
from tuner.tracking.record_writer import Record
from tuner.tracking.recorder import ARTIFACTS, END, Recorder
from tuner.tracking.study_run import StudyRun
from tuner.tracking.trial_records import TrialRecords

__all__ = ["TrialFiles", "csv_text"]


class TrialFiles:
    """Makes the records of artifacts.

    Args:
        records: The trials' runs.
        study: The study's run.
        recorder: The writer.
    """

    def __init__(self, records: TrialRecords, study: StudyRun, recorder: Recorder) -> None:
        self._records, self._study, self._recorder = records, study, recorder
        self._lock = threading.Lock()

    def put(self, number: int, result: TrialResult, points: Callable[[], Points], files: Path | None) -> None:
        """Queue the artifacts of a trial's run: its traceback, its lr table, and the files of its module."""
        if files is not None and files.is_dir():
            self._put(number, "", lambda: files)
        if result.traceback:
            self._put(number, "traceback.txt", lambda: result.traceback)
        if result.state == "interrupted":
            return

        def table() -> str | None:
            rates = simplified(sorted({step: lr for key, step, lr in points() if key == "lr"}.items()))
            return csv_text([{"step": step, "lr": lr} for step, lr in rates]) if rates else None

        self._put(number, LR_TABLE, table)  # MLflow samples long curves; the table has every change of slope

    def _put(self, number: int, name: str, content: Callable[[], str | Path | None]) -> None:
        run = self._records.by_number[number]
        with self._lock:
            run.waits += 1

        def write() -> bool:
            if (found := content()) is not None:
                self._study.add_file(run.run_id, run.artifacts, name, found)
            done()
            return found is not None

        def give_up(error: Exception) -> None:
            missing, _ = self._recorder.lose(ARTIFACTS, f"trial #{number}", error)
            run.lacks[missing] = None
            done()

        def done() -> None:
            with self._lock:
                run.waits -= 1
                is_last = not run.waits
            if is_last and self._records.by_number.get(number) is run:  # it may be closed, and marked as lacking them
                self._recorder.put(number, self._records.record(number, END, self._records.mark))

        self._recorder.artifacts.put(number, Record(write, give_up))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, with a column for each key."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
