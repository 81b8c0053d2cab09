"""Optuna's median pruner, for studies of thousands of trials."""

import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.pruners._percentile import (
    _get_best_intermediate_result_over_steps,
    _get_percentile_intermediate_result_over_trials,
    _is_first_in_interval_step,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

__all__ = ["MedianPruner"]


class MedianPruner(optuna.pruners.MedianPruner):
    """Decides as Optuna's pruner, but computes the median after an epoch once until another trial is complete.

    Args:
        options: Options of Optuna's pruner.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._complete: Sequence[FrozenTrial] = ()
        self._medians: dict[int, float] = {}  # by epoch

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
        median = self._median(complete, step, study.direction)
        return best < median if study.direction is StudyDirection.MAXIMIZE else best > median  # False if it is NaN

    def _median(self, complete: list[FrozenTrial], step: int, direction: StudyDirection) -> float:
        if complete != self._complete:
            self._complete, self._medians = complete, {}
        if step not in self._medians:
            self._medians[step] = _get_percentile_intermediate_result_over_trials(
                complete, direction, step, self._percentile, self._n_min_trials
            )
        return self._medians[step]
