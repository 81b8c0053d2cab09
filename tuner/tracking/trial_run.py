"""The run of a trial in MLflow: its state, and its tags."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.protocol import TrialResult
from tuner.tracking.names import LONGEST_TAG, Names, fitting
from tuner.tracking.sent_points import SentPoints

__all__ = [
    "ATTEMPT_TAG",
    "FAILED_TAG",
    "OTHER_TAG",
    "REFUSED_TAG",
    "SECONDS_TAG",
    "STATE_TAG",
    "TRIAL_STATUS",
    "TRIAL_TAG",
    "VALUES_TAG",
    "TrialRun",
    "tags_of",
]

TRIAL_STATUS = {
    "complete": "FINISHED",
    "pruned": "FINISHED",  # MLflow shows a killed run as a failure
    "diverged": "KILLED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
"""MLflow's status for each final state of a trial; the tag `tuner.state` has the exact one."""
TRIAL_TAG, STATE_TAG, SECONDS_TAG = "tuner.trial", "tuner.state", "tuner.seconds"
ATTEMPT_TAG, FAILED_TAG = "tuner.attempt", "tuner.failed_trial"
"""Tags of the run of a retried trial, and of the run of its failed attempt."""
VALUES_TAG, OTHER_TAG = "tuner.values", "tuner.trial_of_other_values"
"""Tags: the digest of the trial's values; and, on a superseded run, that the database lost its values."""
REFUSED_TAG = "tuner.refused"
"""Tag of a run without the records that MLflow cannot store: which ones, and why."""


@dataclass
class TrialRun:
    """The run of a trial.

    Args:
        run_id: MLflow's identifier.
        start_time: In milliseconds since 1970.
        artifacts: MLflow's artifact location.
        state: State of the trial; "running" for an open run, whatever its tag says.
        sent: The points that it holds; None if they are not known.
        lacks: Missing records that can be sent later, with the reasons (a dict used as an ordered set).
        refused: Records that MLflow cannot store, with the reasons.
        has_values: Whether its parameters are known to be stored.
        has_data: Whether its data set is known to be stored.
        is_marked: Whether it has the tag `tuner.missing`.
        attempt: How many times the trial had failed before this run.
        values: Digest of the trial's values; empty if unknown, as in runs of earlier versions.
        waits: Number of its artifacts that are not written yet.
    """

    run_id: str
    start_time: int
    artifacts: str
    state: str
    sent: SentPoints | None = None
    lacks: dict[str, None] = field(default_factory=dict)
    refused: dict[str, None] = field(default_factory=dict)
    has_values: bool = False
    has_data: bool = False
    is_marked: bool = False
    attempt: int = 0
    values: str = ""
    waits: int = 0

    @property
    def is_unfinished(self) -> bool:
        """Return whether the run is open, or lacks records."""
        return self.state in ("running", "interrupted") or bool(self.lacks)

    @property
    def stored(self) -> dict[str, Any]:
        """Return a copy of the fields on what MLflow has, to restore them after a transaction that failed."""
        sent = None if self.sent is None else self.sent.copy()
        values = {name: getattr(self, name) for name in ("state", "has_values", "has_data", "is_marked")}
        return {**values, "sent": sent}

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Restore the fields on what MLflow has."""
        for name, value in stored.items():
            setattr(self, name, value)


def tags_of(result: TrialResult) -> dict[str, str]:
    """Return the tags of a finished trial's run."""
    names = Names()
    names.add(result.tags)
    own = {names[key]: value for key, value in result.tags.items()}
    tags = {**own, STATE_TAG: result.state, "tuner.epochs": str(result.epochs)}
    if result.state != "interrupted":
        setup = ", ".join(f"{key} {value}" for key, value in result.setup.items())
        tags |= {SECONDS_TAG: f"{result.seconds:.1f}", "tuner.device": result.device, "tuner.setup": setup}
    if result.message:
        tags["tuner.message"] = result.message
    return {key: fitting(value, LONGEST_TAG) for key, value in tags.items()}
