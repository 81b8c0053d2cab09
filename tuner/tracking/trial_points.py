"""The points of trials' runs: each is sent once, and one that MLflow cannot store affects no other."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mlflow.entities import Metric

from tuner.protocol import Points
from tuner.text import join_names
from tuner.tracking.record_writer import Record
from tuner.tracking.recorder import Recorder
from tuner.tracking.sent_points import SentPoints
from tuner.tracking.study_run import StudyRun
from tuner.tracking.trial_records import Entries, TrialRecords, halves, nothing
from tuner.tracking.trial_run import TrialRun

__all__ = ["TrialPoints"]

MAX_WAITING_POINTS = 100_000
"""Points that wait in memory, at most; others are read from the trial's result when the trial ends."""


@dataclass
class _Batch:
    """Counts of the points of a record that was split: taken and given up."""

    taken: int = 0
    given_up: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Return whether the store seems to take none of them."""
        return self.given_up >= 3 and not self.taken


class TrialPoints:
    """Makes the records of points.

    Args:
        records: The trials' runs.
        study: The study's run.
        recorder: The writer.
    """

    def __init__(self, records: TrialRecords, study: StudyRun, recorder: Recorder) -> None:
        self._records, self._study, self._recorder = records, study, recorder
        self._lock = threading.Lock()
        self._held = 0  # number of points that wait
        self.left_out: set[int] = set()  # trials whose points were not all queued

    def put(self, number: int, points: Points) -> None:
        """Add points to a trial's run, except for points that it already has."""
        with self._lock:
            if self._held and self._held + len(points) > MAX_WAITING_POINTS:
                self.left_out.add(number)
                return  # MLflow is unreachable; `end` sends the points from the trial's result
            self._held += len(points)

        def release() -> None:
            with self._lock:
                self._held -= len(points)

        self._recorder.put(number, self.record(number, lambda: points, done=release))

    def record(
        self,
        number: int,
        points: Callable[[], Points],
        batch: _Batch | None = None,
        done: Callable[[], None] = nothing,
        gone: Callable[[], None] = nothing,
    ) -> Record:
        """Return a record of points.

        Args:
            number: The trial.
            points: Returns the points.
            batch: Counts of the record that they are a part of; None if they are a separate record.
            done: Called once, when they are written, split or given up.
            gone: Called if the run was deleted before.
        """
        counts = batch or _Batch()

        def new_points(run: TrialRun) -> list[tuple[str, int, float]]:
            some, sent = points(), self._sent_of(run)
            names = self._study.names_of(key for key, _, _ in some)
            return [(key, step, value) for key, step, value in some if (names[key], step) not in sent]

        def entries(run: TrialRun) -> Entries:
            new, names = new_points(run), self._study.names
            return Entries([Metric(names[key], float(value), run.start_time + step, step) for key, step, value in new])

        def logged(run: TrialRun, entries: Entries) -> None:
            sent = self._sent_of(run)
            for metric in entries.metrics:
                sent.add(metric.key, metric.step)
            if batch is not None:
                counts.taken += len(entries.metrics)

        def divide() -> list[Record]:
            run = self._records.by_number.get(number)
            left = new_points(run) if run is not None and not counts.is_hopeless else []
            metrics = dict.fromkeys(key for key, _, _ in left)
            parts = [[point for point in left if point[0] == key] for key in metrics] if len(metrics) > 1 else []
            parts = parts or [list(half) for half in halves(left)]
            if len(parts) > 1:
                done()
            return [self.record(number, partial(_same, part), counts, gone=gone) for part in parts]

        def give_up(error: Exception) -> None:
            counts.given_up += 1
            done()
            metrics = sorted({key for key, _, _ in points()})
            self._records.lose(f"points of {join_names(metrics)}" if metrics else "points", number, gone, error)

        record = self._records.log_record(number, "points", entries, logged, divide, gone, done)
        record.give_up = give_up
        return record

    def _sent_of(self, run: TrialRun) -> SentPoints:
        if run.sent is None:
            run.sent = self._recorder.stored(run.run_id)
        return run.sent


def _same(points: Points) -> Points:
    return points
