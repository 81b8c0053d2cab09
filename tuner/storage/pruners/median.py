"""Optuna's median pruner, for studies of thousands of trials."""

import math
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.pruners._percentile import _get_best_intermediate_result_over_steps, _is_first_in_interval_step
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner.storage.trial_ends import newly_finished

__all__ = ["MedianPruner"]


class MedianPruner(optuna.pruners.MedianPruner):
    """Decides as Optuna's pruner, but keeps the reports of the complete trials in order.

    Args:
        options: Options of Optuna's pruner.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._known: set[int] = set()  # numbers of the complete trials
        self._reports: defaultdict[int, list[float]] = defaultdict(list)  # by epoch, sorted, without NaN
        self._counts: Counter[int] = Counter()  # by epoch, with NaN

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether to stop a trial after its last report."""
        step = trial.last_step
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if step is None or step < self._n_warmup_steps or len(complete) < max(1, self._n_startup_trials):
            return False
        reported = trial.intermediate_values.keys()
        if not _is_first_in_interval_step(step, reported, self._n_warmup_steps, self._interval_steps):
            return False
        best = float(_get_best_intermediate_result_over_steps(trial, study.direction))
        if math.isnan(best):
            return True
        median = self._median(complete, step)
        return best < median if study.direction is StudyDirection.MAXIMIZE else best > median  # False if it is NaN

    def _median(self, complete: Sequence[FrozenTrial], step: int) -> float:
        for trial in newly_finished(complete, self._known):
            for epoch, value in trial.intermediate_values.items():
                self._counts[epoch] += 1
                if not math.isnan(value):
                    insort(self._reports[epoch], value)
        reports = self._reports[step]
        if not reports or self._counts[step] < self._n_min_trials:
            return math.nan
        return float(np.percentile(reports[(len(reports) - 1) // 2 : len(reports) // 2 + 1], 50))
