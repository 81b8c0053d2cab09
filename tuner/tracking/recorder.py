"""Writes to MLflow, and keeps a list of the records that it did not store."""

import re
import threading
import time
from collections.abc import Callable, Hashable, Sequence

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, RunStatus
from mlflow.exceptions import MlflowException

from tuner.errors import TunerError
from tuner.text import join_names
from tuner.tracking.precedence import Precedence
from tuner.tracking.record_writer import Record, RecordWriter
from tuner.tracking.sent_points import SentPoints
from tuner.tracking.store_errors import can_pass, is_refusal, reason
from tuner.tracking.store_uri import file_of

__all__ = [
    "ARTIFACTS",
    "END",
    "POINTS_READ",
    "RUN",
    "STUDY",
    "DeletedRunError",
    "LostStudyError",
    "NoRunError",
    "Recorder",
]

ARTIFACTS, RUN, END = "artifacts", "the run", "the end"
"""Records that are never refused for their content, so they can be sent again later."""
POINTS_READ = "the points that it has"
"""Not a record, but the question which points the run of the study holds."""
STUDY = "study"
"""The lane of the study's own records; the lane of a trial is its number."""

_NUMBERS = re.compile(r"[0-9a-f]{32}|\d+")


class NoRunError(Exception):
    """There is no run to write to; the reason has already been reported."""


class DeletedRunError(Exception):
    """A run was deleted before a record was written to it."""


class LostStudyError(TunerError):
    """The run of the study was deleted and cannot be replaced."""


class Recorder:
    """Two threads that write to MLflow, one for runs and one for artifacts, so neither delays the other.

    Args:
        client: A client of the store.
        uri: The store's URI.
        place: Location of the study's artifacts, for messages.
        probes: Write something that the tracking store, and the artifact store, are known to accept.
        warn: Called, from the threads, with messages for the user.

    Attributes:
        precedence: Makes the threads wait for another one.
    """

    def __init__(
        self,
        client: MlflowClient,
        uri: str,
        place: str,
        probes: tuple[Callable[[], None], Callable[[], None]],
        warn: Callable[[str], None],
    ) -> None:
        self.client, self.uri, self.warn = client, uri, warn
        self.precedence = Precedence()
        self._place = place
        self._lock = threading.Lock()
        self._losses: dict[tuple[str, str, bool], tuple[str, dict[str, None]]] = {}
        self._is_complete, self._was_removed = True, False
        self._what_is_missing = "Some records did not reach MLflow", "it is up"
        self._artifacts_error = ""  # error of the last outage of the artifact store
        give_way = self.precedence.give
        runs = self._runs_went_away, self._runs_came_back
        self.runs = RecordWriter("tracking", can_pass, probes[0], *runs, give_way)
        artifacts = self._artifacts_went_away, lambda: None
        self.artifacts = RecordWriter("artifacts", can_pass, probes[1], *artifacts, give_way)

    def put(self, lane: Hashable, record: Record) -> None:
        """Add a record of a run to a lane."""
        self.runs.put(lane, record)

    @property
    def waiting(self) -> int:
        """Return the number of records that are neither written nor given up."""
        return self.runs.waiting + self.artifacts.waiting

    @property
    def lag(self) -> float:
        """Return for how many seconds the oldest record has waited."""
        return max(self.runs.lag, self.artifacts.lag)

    def close(self, last: Callable[[], None], patience: float, is_hurried: Callable[[], bool]) -> bool:
        """Write the waiting records, and end the threads.

        Args:
            last: Puts the last record; called when all others are written.
            patience: Seconds to wait while the store accepts nothing.
            is_hurried: Returns whether a few seconds must do.

        Returns:
            Whether every record that MLflow can store was delivered.
        """
        is_drained = self.runs.drain(patience, is_hurried)
        self.artifacts.drain(patience, is_hurried if is_drained else lambda: True)
        if is_drained:
            last()
            self.runs.drain(patience, is_hurried)
        file = file_of(self.uri)
        self._was_removed = file is not None and not file.exists()
        self._is_complete = not self.waiting and not self._was_removed
        if self.artifacts.waiting and not self.runs.waiting and self._artifacts_error:
            what = f"Some artifacts could not be written to {self._place} ({self._artifacts_error})"
            self._what_is_missing = what, "that is solved"
        self.runs.close()
        self.artifacts.close()
        with self._lock:
            return self._is_complete and all(is_final for _, _, is_final in self._losses)

    # -- lost records --------------------------------------------------------------------------------------------------

    def lose(self, what: str, whom: str, error: Exception) -> tuple[str, bool]:
        """Note that a record cannot be written, and warn if it is the first of its kind.

        Args:
            what: The record.
            whom: The study or trial that it belongs to.
            error: The reason.

        Returns:
            The record and the reason as a text, and whether MLflow can never store it.
        """
        why, is_final = reason(error, self.uri), is_refusal(error) and what not in (ARTIFACTS, RUN, END)
        with self._lock:
            key = (what, _NUMBERS.sub("0", why), is_final)
            is_new = key not in self._losses
            self._losses.setdefault(key, (why, {}))[1][whom] = None
        if is_new:
            self.warn(self._sentence(what, whom, why))
        return f"{what}: {why}", is_final

    def lost_before(self, what: str, whom: str) -> None:
        """Note a record that MLflow refused for good in an earlier run of the study."""
        with self._lock:
            self._losses.setdefault(("records", what, True), (what, {}))[1][whom] = None

    @property
    def missing(self) -> list[str]:
        """Return sentences about the records that MLflow lacks: which, why, and what to do; empty if it has all."""
        sentences = []
        if self._was_removed:
            sentences.append("MLflow's database was removed while the study ran; run the same command again")
        elif not self._is_complete:
            what, when = self._what_is_missing
            sentences.append(f"{what}; run the same command again when {when}")
        with self._lock:
            losses = [(what, is_final, why, list(whom)) for (what, _, is_final), (why, whom) in self._losses.items()]
        for what, is_final, why, whom in losses:
            ending = "MLflow cannot store that" if is_final else "the next run of the study sends what is missing"
            sentences.append(f"{self._sentence(what, join_names(whom), why)}; {ending}")
        return sentences

    def _sentence(self, what: str, whom: str, why: str) -> str:
        if what == ARTIFACTS:
            return f"artifacts of {whom} cannot be written to {self._place}: {why}"
        if what == POINTS_READ:
            return f"MLflow did not return the points already stored for {whom}: {why}"
        return f"MLflow did not store {what} of {whom}: {why}"

    def _runs_went_away(self, error: Exception) -> None:
        self.warn(f"MLflow is not accepting records ({reason(error, self.uri)}); they are kept and sent later")

    def _runs_came_back(self) -> None:
        self.warn("MLflow is accepting records again")

    def _artifacts_went_away(self, error: Exception) -> None:
        self._artifacts_error = why = reason(error, self.uri)
        self.warn(f"artifacts cannot currently be written to {self._place} ({why}); they are kept and sent later")

    # -- reading MLflow ------------------------------------------------------------------------------------------------

    def is_gone(self, run_id: str, error: MlflowException | None = None) -> bool:
        """Return whether a run was deleted.

        Args:
            run_id: The run.
            error: The error of a write to it; if that clearly has another cause, MLflow is not asked.
        """
        if error is not None and (can_pass(error) or error.error_code in ("PERMISSION_DENIED", "UNAUTHENTICATED")):
            return False
        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED)
        except MlflowException as missing:
            if missing.error_code == "RESOURCE_DOES_NOT_EXIST":
                return True
            if error is None:
                raise
            return False

    def remove_tag(self, run_id: str, key: str) -> None:
        """Remove a tag of a run, if it is there."""
        try:
            self.client.delete_tag(run_id, key)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def close_run(self, run_id: str, name: str, status: str) -> None:
        """Give a run its last name and its status at once; MLflow's client does it in three requests."""
        store = self.client._tracking_client.store
        store.update_run_info(run_id, RunStatus.from_string(status), int(time.time() * 1000), name)

    def stored(self, run_id: str) -> SentPoints:
        """Return the points that a run has; a repeated epoch gives the same points, except for rounding."""
        keys: Sequence[str] = list(self.client.get_run(run_id).data.metrics)
        return SentPoints((key, point.step) for key in keys for point in self.client.get_metric_history(run_id, key))
