"""Tests the best trial once all trials are trained. Nothing is selected on the test data."""

from tuner.analysis.record import TestResult
from tuner.process import crash_point
from tuner.protocol import Assignment, EvaluationGroup, EvaluationResult
from tuner.runner.display import Display
from tuner.storage.reader import Trial
from tuner.storage.study_store import StudyStore
from tuner.tracking.tracker import Tracker
from tuner.training.results import MODEL_FILE, read_result

__all__ = ["WinnerTest"]


class WinnerTest:
    """Asks for the test of the best trial, unless it was tested, and records its metrics.

    Args:
        store: The study in Optuna.
        tracker: The study in MLflow.
        display: Shows the metrics.
    """

    def __init__(self, store: StudyStore, tracker: Tracker, display: Display) -> None:
        self._store, self._tracker, self._display = store, tracker, display
        self._has_begun = False

    @property
    def candidate(self) -> Trial | None:
        """The trial to test; None if there is none, or it is tested, or its test has begun."""
        best, tested = self._store.best, self._store.attributes.tested()
        is_tested = best is not None and tested is not None and tested.trial == best.number
        return None if self._has_begun or is_tested else best

    def group(self, assignment: Assignment) -> EvaluationGroup | None:
        """Return the test of a trial; None if its weights are gone."""
        self._has_begun = True
        if (assignment.directory / MODEL_FILE).exists():
            return EvaluationGroup((assignment,))
        self._display.note(f"the weights of trial #{assignment.number} are missing, so it cannot be tested")
        return None

    def done(self, assignment: Assignment, result: EvaluationResult) -> None:
        """Record the metrics. If there are none, that is recorded too: another test would give none either."""
        number = assignment.number
        if result.message:
            self._display.note(f"trial #{number} cannot be tested: {result.message}")
            return
        if not result.metrics:
            missing = "its data module has no test_dataloader, or its LightningModule no test_step"
            self._display.note(f"trial #{number} cannot be tested: {missing}")
        crash_point("tested")
        trained = read_result(assignment.directory, assignment.config, self._display.note)
        points = trained.points if trained else ()
        step, names = max((step for _, step, _ in points), default=0), {name for name, _, _ in points}
        # A test may log a metric under the name that it has in validation.
        metrics = {f"test/{name}" if name in names else name: value for name, value in result.metrics.items()}
        tested = TestResult(number, metrics, step, self._store.count)
        self._store.attributes.set_tested(tested)
        crash_point("test recorded")
        self._tracker.log_test(tested)
        if metrics:
            self._display.tested(metrics)

    def died(self, number: int, reason: str) -> None:
        """Show that the test is still missing."""
        self._display.note(f"the test of trial #{number} {reason}; the next run of the study will repeat it")

    def returned(self) -> None:
        """Let another slot test."""
        self._has_begun = False
