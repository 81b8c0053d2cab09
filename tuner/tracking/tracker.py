"""MLflow: the study is a parent run, each trial a child run.

The coordinator is the only writer. Its records are written by two threads, so neither training nor the coordinator
waits for MLflow; see `record_writer` for records that cannot be written. Every point of a trial has the timestamp
``start of its run + step`` in milliseconds, so a point that is sent twice is stored once. Points that MLflow lacks are
read again from the trial's result file instead of being kept in memory.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlflow.entities import Metric
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from tuner.analysis.record import Retrained, TestResult
from tuner.config.study import StudyConfig
from tuner.config.trial import AnyTrial
from tuner.config.yaml_reader import as_yaml
from tuner.protocol import Points, TrialResult
from tuner.tracking.names import LONGEST_TAG, fitting
from tuner.tracking.pages import description, study_pages
from tuner.tracking.reader import CHAMPION_TAG, REVIEWED_TAG
from tuner.tracking.recorder import Recorder
from tuner.tracking.store import open_client
from tuner.tracking.store_errors import explained
from tuner.tracking.study_run import StudyRun
from tuner.tracking.trial_files import csv_text
from tuner.tracking.trial_run import TRIAL_STATUS
from tuner.tracking.trial_runs import TrialRuns
from tuner.tracking.view import view_key

__all__ = ["TRIAL_STATUS", "Tracker"]

MAX_WAITING_READINGS = 1000
PATIENCE_SECONDS = 30.0
ARTIFACT_TRY_SECONDS = 15.0


class Tracker:
    """Records a study.

    Args:
        config: The study.
        uri: MLflow's tracking URI.
        study_id: The study's unique identifier.
        warn: Called, from other threads, with messages for the user.
        tags: Tags of the study's run: versions, devices and options.
        digests: The digest of each data set, by its name in the study file.
        has_report: Whether the study's run gets a report.

    Raises:
        BadInputError: If MLflow's store cannot be used.
    """

    def __init__(
        self,
        config: StudyConfig,
        uri: str,
        study_id: str,
        warn: Callable[[str], None],
        tags: Mapping[str, str] = MappingProxyType({}),
        digests: Mapping[str, str] = MappingProxyType({}),
        has_report: bool = False,
    ) -> None:
        self.uri = uri
        self._config, self._has_report = config, has_report
        with explained(uri):
            self._client = open_client(uri)
            self._study = study = StudyRun(self._client, uri, config, study_id, warn, tags, digests)
            probes = study.probe, study.probe_artifacts
            self._recorder = Recorder(self._client, uri, study.place, probes, warn)
            self._trials = TrialRuns(config, study, self._recorder)
        study.start(self._recorder)
        self._recorder.artifacts.settle(ARTIFACT_TRY_SECONDS)

    @property
    def experiment_id(self) -> str:
        """Return the id of the study's experiment."""
        return self._study.experiment_id

    @property
    def parent_id(self) -> str:
        """Return the id of the study's run."""
        return self._study.run_id

    @property
    def is_new(self) -> bool:
        """Return whether the store had no run of the study."""
        return self._study.is_new

    @property
    def reviewed(self) -> str:
        """Return the state of the study that the plots, the report and the model in MLflow show."""
        return str(self._study.run.data.tags.get(REVIEWED_TAG, ""))

    @property
    def backlog(self) -> int:
        """Return the number of records that are not written yet."""
        return self._recorder.waiting

    def giving_way(self) -> AbstractContextManager[None]:
        """Make the threads that write to MLflow wait while the block runs, for at most a second."""
        return self._recorder.precedence.taken()

    @property
    def lag(self) -> float:
        """Return how many seconds MLflow is behind: the age of the oldest record that is not written yet."""
        return self._recorder.lag

    @property
    def missing(self) -> list[str]:
        """Return sentences about the records that MLflow lacks: which, why, and what to do; empty if it has all."""
        return self._recorder.missing

    def unfinished(self, numbers: Sequence[int]) -> list[int]:
        """Return the finished trials, of those given, whose runs are missing, still open, or lack records."""
        runs = self._trials.by_number
        return [number for number in numbers if number not in runs or runs[number].is_unfinished]

    def start_trial(self, number: int, config: AnyTrial, attempt: int = 0) -> None:
        """Open a trial's run; an interrupted trial continues in the run that it has.

        Args:
            number: The trial.
            config: Its configuration.
            attempt: How many times it has failed before; each attempt has its own run.
        """
        self._trials.start(number, config, attempt)

    def log_points(self, number: int, points: Points) -> None:
        """Add points to a trial's run, except for points that it already has."""
        self._trials.put_points(number, points)

    def finish_trial(
        self,
        number: int,
        config: AnyTrial,
        result: TrialResult,
        read: Callable[[], TrialResult | None] | None = None,
        files: Path | None = None,
    ) -> None:
        """Send the points that a trial's run lacks, and close the run.

        Args:
            number: The trial.
            config: Its configuration.
            result: Its result.
            read: Reads its result, with all points, from its file; called from other threads. Without it, the points
                of `result` are kept until MLflow has them.
            files: Folder of the files that its module logged itself; it need not exist.
        """
        if read is None:
            self._trials.end(number, config, result, lambda: result.points, files)
            return

        def points() -> Points | None:
            stored = read()
            return None if stored is None else stored.points

        self._trials.end(number, config, replace(result, points=()), points, files)

    def log_standings(self, standings: Sequence[tuple[int, float | None, float]]) -> None:
        """Log the progress of the study to its run.

        Args:
            standings: Number of finished trials, which is the step of the points, the value of the best of them, and
                when the last of them finished, in seconds since 1970.
        """
        points = [(("trials_done", finished, float(finished)), int(at * 1000)) for finished, _, at in standings]
        points += [
            (("best_value", finished, best), int(at * 1000)) for finished, best, at in standings if best is not None
        ]
        self._study.put_points(points)

    def log_study(
        self,
        table: Sequence[Mapping[str, Any]],
        best: Mapping[str, Any] | None,
        answer: str = "",
        found: Sequence[str] = (),
        front: Sequence[int] = (),
    ) -> None:
        """Write the table of finished trials, the best one and the findings to the study's run.

        Args:
            table: A row for each finished trial.
            best: Number, parameters and configuration of the best one, and its searched values by their names in its
                run if the study is over; None if there is none.
            answer: The result, in a sentence.
            found: The findings, as sentences.
            front: The trials of the Pareto front of several objectives.
        """

        def write() -> None:
            run = self._trials.by_number.get(best["number"]) if best is not None else None
            champion = self._client.get_run(self.parent_id).data.tags.get(CHAMPION_TAG)
            experiment, parent, view = self.experiment_id, self.parent_id, view_key(self.parent_id)
            pages = study_pages(experiment, parent, view, run.run_id if run else None, self._has_report)
            text = description(self._config, pages, len(table), best, answer, found, champion)
            tags = {MLFLOW_RUN_NOTE: text}
            if best is not None:
                tags |= {"tuner.best_trial": str(best["number"]), "tuner.best_run_id": run.run_id if run else ""}
            if front:
                tags["tuner.pareto_front"] = fitting(", ".join(map(str, front)), LONGEST_TAG)
            self._study.set_tags(tags)

        self._study.put("the view of the trials", self._study.write_view, newest="view")
        self._study.put("the description", write, newest="description")
        if best is not None and "values" in best:
            self._study.put_params({f"trial {best['number']}/{key}": value for key, value in best["values"].items()})
        if best is not None:
            self._study.put_file("best.yaml", lambda: as_yaml(best["config"]))
        self._study.put_file("trials.csv", lambda: csv_text(table))

    def log_retrained(self, winner: Retrained, finished: int) -> None:
        """Log the mean of the winner with fresh seeds, and its 95% interval, to the study's run.

        Args:
            winner: The winner.
            finished: Number of finished trials of the search, which is the step.
        """
        self._study.put_metrics(winner.metrics, finished)

    def log_test(self, test: TestResult) -> None:
        """Write the best trial's metrics on the test data, to its run and to the study's."""
        self._trials.put_metrics(test.trial, test.metrics, test.step)
        now = int(time.time() * 1000)
        self._study.put_points([((key, test.finished, value), now) for key, value in test.metrics.items()])

    def log_system(self, values: Mapping[str, float]) -> None:
        """Log system metrics to the study's run; the step is the number of milliseconds since the study began."""
        if self._recorder.waiting > MAX_WAITING_READINGS:
            return  # MLflow has been unreachable for long: only the first readings are kept
        now = int(time.time() * 1000)
        points = [Metric(key, value, now, now - self._study.run.info.start_time) for key, value in values.items()]

        def write() -> bool:
            if self._study.is_open:  # if no trial has begun, as in a finished study, nothing is written
                self._client.log_batch(self.parent_id, metrics=points)
            return self._study.is_open

        self._study.put("system metrics", write, lane="system")

    def close(
        self, status: str, patience: float = PATIENCE_SECONDS, is_hurried: Callable[[], bool] = lambda: False
    ) -> bool:
        """Write the waiting records, and close the study's run; a run in which no trial began keeps its end time.

        Args:
            status: MLflow status of the study's run.
            patience: Seconds to wait while the store accepts nothing.
            is_hurried: Returns whether a few seconds must do, because the user has ended the study.

        Returns:
            Whether every record that MLflow can store was delivered. `missing` lists the others; the next run of the
            study sends them.
        """
        return self._recorder.close(lambda: self._study.put_end(status), patience, is_hurried)
