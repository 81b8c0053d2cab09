"""MLflow: the study is a parent run, each trial a child run.

The coordinator is the only writer. What it hands over is written by two threads, so that neither a training nor the
coordinator waits for MLflow; see `records` for what happens to a record that cannot be written. Every point of a trial
carries the timestamp ``start of its run + step`` in milliseconds: sent twice, it is stored once. A trial's result lies
in its file, so what MLflow lacks is read again from there, and is not kept in memory.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mlflow.entities import Metric
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from tuner.analysis.record import TestResult
from tuner.config.study import StudyConfig, TrialConfig
from tuner.config.yaml_reader import as_yaml
from tuner.protocol import Points, TrialResult
from tuner.tracking.pages import runs_page, standing, trials_page, with_network
from tuner.tracking.reader import CHAMPION_TAG
from tuner.tracking.recorder import Recorder
from tuner.tracking.store import open_client
from tuner.tracking.store_errors import explained
from tuner.tracking.study_run import StudyRun
from tuner.tracking.trial_runs import TRIAL_STATUS, TrialRun, TrialRuns, csv_text

__all__ = ["REVIEWED_TAG", "TRIAL_STATUS", "Tracker"]

MOST_READINGS = 1000
PATIENCE_SECONDS = 30.0
ARTIFACT_TRY_SECONDS = 15.0
REVIEWED_TAG = "tuner.reviewed"


class Tracker:
    """Records a study.

    Args:
        config: The study.
        uri: MLflow's tracking URI.
        study_id: What tells this study from others of the same name, in other databases.
        warn: Called, from other threads, with what the user should know.
        tags: What the study runs with.
        digests: The digest of each data set, by its name in the study file.
        has_report: Whether a report is put beside the study's run.

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
    def reviewed(self) -> str:
        """Return which state of the study the plots, the report and the model in MLflow are of."""
        return str(self._study.run.data.tags.get(REVIEWED_TAG, ""))

    @property
    def backlog(self) -> int:
        """Return how many records are not written yet."""
        return self._recorder.waiting

    @property
    def missing(self) -> list[str]:
        """Return what MLflow lacks of the study, why, and what to do, in sentences; nothing if it has everything."""
        return self._recorder.missing

    def unfinished(self, numbers: Sequence[int]) -> list[int]:
        """Return those of the given finished trials whose runs are missing, do not say so, or lack records."""
        runs = self._trials.by_number
        return [number for number in numbers if number not in runs or runs[number].is_unfinished]

    def start_trial(self, number: int, config: TrialConfig, attempt: int = 0) -> None:
        """Open a trial's run, or the one that it had before it was cut short.

        Args:
            number: The trial.
            config: Its values.
            attempt: How often it has failed before; each attempt has a run.
        """
        self._trials.start(number, config, attempt)

    def log_points(self, number: int, points: Points) -> None:
        """Add metrics to a trial's run; those that it has are left out."""
        self._trials.put_points(number, points)

    def finish_trial(
        self,
        number: int,
        config: TrialConfig,
        result: TrialResult,
        read: Callable[[], TrialResult | None] | None = None,
        files: Path | None = None,
    ) -> None:
        """Close a trial's run, with the points that it lacks.

        Args:
            number: The trial.
            config: Its values.
            result: How it ended.
            read: Reads its result, with all points, from its file; called from other threads. Without it, the points
                of `result` are kept until MLflow has them.
            files: Folder of the files that its module recorded itself; it need not exist.
        """
        if read is None:
            self._trials.end(number, config, result, lambda: result.points, files)
            return

        def points() -> Points | None:
            stored = read()
            return None if stored is None else stored.points

        self._trials.end(number, config, replace(result, points=()), points, files)

    def log_standing(self, finished: int, best: float | None, at: float) -> None:
        """Add to the study's run how it stood when so many trials were finished.

        Args:
            finished: How many.
            best: Value of the best of them.
            at: When that was, in seconds since 1970.
        """
        points = [("trials_done", finished, float(finished))]
        if best is not None:
            points.append(("best_value", finished, best))
        self._study.put_points(points, int(at * 1000))

    def log_study(
        self, table: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None, found: Sequence[str] = ()
    ) -> None:
        """Write the table of finished trials, the best of them, and what was found in words, to the study's run."""

        def write() -> None:
            run = self._trials.by_number.get(best["number"]) if best is not None else None
            champion = self._client.get_run(self.parent_id).data.tags.get(CHAMPION_TAG)
            text = standing(self._config, self._pages(run), len(table), best["params"] if best else {}, found)
            tags = {MLFLOW_RUN_NOTE: with_network(text, self._config.name, champion)}
            if best is not None:
                tags |= {"tuner.best_trial": str(best["number"]), "tuner.best_run_id": run.run_id if run else ""}
            self._study.set_tags(tags)

        self._study.put("the description", write, newest="description")
        if best is not None:
            self._study.put_file("best.yaml", lambda: as_yaml(best["config"]))
        self._study.put_file("trials.csv", lambda: csv_text(table))

    def log_test(self, test: TestResult) -> None:
        """Write what the best trial reaches on the test data, to its run and to the study's."""
        self._trials.put_metrics(test.trial, test.metrics, test.step)
        points = [(key, test.finished, value) for key, value in test.metrics.items()]
        self._study.put_points(points, int(time.time() * 1000))

    def log_system(self, values: Mapping[str, float]) -> None:
        """Write how busy the machine is to the study's run, at the millisecond since the study began."""
        if self._recorder.waiting > MOST_READINGS:
            return  # MLflow is away: of so long a time only the beginning is kept
        now = int(time.time() * 1000)
        points = [Metric(key, value, now, now - self._study.run.info.start_time) for key, value in values.items()]

        def write() -> bool:
            if self._study.is_open:  # else no trial has begun: nothing is done in a study that is finished
                self._client.log_batch(self.parent_id, metrics=points)
            return self._study.is_open

        self._study.put("system metrics", write, lane="system")

    def close(self, status: str, patience: float = PATIENCE_SECONDS) -> bool:
        """Write what is left, and close the study's run; if nothing was done in it, it keeps its end.

        Args:
            status: MLflow status of the study's run.
            patience: Seconds to wait for a store that takes nothing.

        Returns:
            Whether everything was delivered, except for what MLflow cannot store. `missing` says what was not; the next
            run of the study sends it.
        """
        return self._recorder.close(lambda: self._study.put_end(status), patience)

    def _pages(self, best: TrialRun | None) -> dict[str, str]:
        objective, experiment = self._config.objective, self.experiment_id
        metric = self._study.names[objective.metric]
        pages = {"All trials and their charts": trials_page(experiment, self.parent_id, metric, objective.direction)}
        if best is not None:
            pages = {"The best trial": runs_page(experiment, best.run_id), **pages}
        if self._has_report:
            report = runs_page(experiment, self.parent_id, "artifacts", "report.html")
            pages = {"Report with all plots": report, **pages}
        return pages
