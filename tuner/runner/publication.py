"""Writes the description of a whole study to MLflow, now and then while it runs."""

import contextlib
import importlib
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tuner.analysis.record import MIN_FOR_IMPORTANCE
from tuner.config.search_space import searched_in_runs
from tuner.config.study import StudyConfig
from tuner.config.trial import TrialConfig
from tuner.storage.reader import IMPORTANCES, Trial
from tuner.storage.study_store import StudyStore
from tuner.storage.trial_ends import end_of, setup_of, value_of
from tuner.tracking.tracker import Tracker
from tuner.training.lightning_cli import lightning_config

__all__ = ["Publication"]

SHARE = 0.01  # largest share of the coordinator's time


class Publication:
    """The table of trials, the best trial and the findings, in the study's run.

    Args:
        config: The study.
        store: The study in Optuna.
        tracker: The study in MLflow.
    """

    def __init__(self, config: StudyConfig, store: StudyStore, tracker: Tracker) -> None:
        self._config, self._store, self._tracker = config, store, tracker
        self._next = 0.0  # time of the next update, on the monotonic clock
        self._is_prepared = config.trials < MIN_FOR_IMPORTANCE

    def refresh(self) -> None:
        """Write it, unless it was written a moment ago; with thousands of trials, that takes a while."""
        if not self._is_prepared:  # slots would wait while it is imported
            self._is_prepared = True
            threading.Thread(target=_import_importances, daemon=True).start()
        if time.monotonic() >= self._next:
            self.write()

    def write(self, is_over: bool = False) -> None:
        """Write it now, with the best trial's values if the study is over."""
        began = time.monotonic()
        summary: dict[str, Any] | None = None
        best = self._store.best
        if best is not None:
            trial = self._store.config_of(best)
            config = (
                lightning_config(trial, self._config.objective, setup_of(best), end_of(best).epochs)
                if isinstance(trial, TrialConfig)
                else trial.values()
            )
            summary = {"number": best.number, "params": best.params, "config": config}
            if is_over:
                flat, names = trial.flat(), dict(searched_in_runs(self._config.trial))
                summary["values"] = {name: flat[name] for name in names if name in flat}
        record = self._store.record()
        record = replace(record, so_far="") if is_over else record
        rows = [_row(trial, record.metrics[1:]) for trial in self._store.finished()]
        front = [trial.number for trial in self._store.front]
        self._tracker.log_study(rows, summary, *self._store.conclusion(record), front)
        if record.retrained:
            self._tracker.log_retrained(record.retrained, len(rows))
        now = time.monotonic()
        self._next = now + (now - began) / SHARE


def _import_importances() -> None:
    with contextlib.suppress(Exception):  # it is imported again when it is needed
        importlib.import_module(IMPORTANCES)


def _row(trial: Trial, further: Sequence[str]) -> dict[str, Any]:
    """Return a row of the table of trials, with a column for each further objective."""
    end = end_of(trial)
    values: dict[str, float | None] = dict.fromkeys(further) | dict(zip(further, end.further, strict=False))
    row = {"number": trial.number, "state": end.state, "value": value_of(trial), **values, "seconds": end.seconds}
    return row | trial.params
