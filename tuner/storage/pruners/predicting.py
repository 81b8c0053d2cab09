"""The pruner ``predicted``, as one of Optuna's."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.config.search_space import searched
from tuner.config.study import StudyConfig
from tuner.search.curve_space import CurveSpace
from tuner.search.power_law import LossCurve
from tuner.search.prediction import FEWEST_WHOLE, PARTS, Licence, is_hopeless, licence
from tuner.storage.attributes import PREDICTION
from tuner.storage.observations import observation_of
from tuner.storage.trial_ends import attribute

__all__ = ["PredictingPruner", "Training", "TrainingReader"]

STEPS = 128
"""Number of steps of a run at which its lr is computed."""

GROWTH = 1.2
"""Growth of the number of full runs after which the licence is tested again."""


@dataclass(frozen=True)
class Training:
    """A trial as the pruner sees it.

    Args:
        curve: Its losses and its lr.
        epochs: The number of epochs of its full run.
    """

    curve: LossCurve
    epochs: int


class PredictingPruner(optuna.pruners.BasePruner):
    """Stops a run whose loss is expected to end above the median, once predictions have proved reliable in this study.

    Args:
        read: Returns a trial as a run; None if it cannot be predicted.
        fewest: Number of full runs below which nothing is predicted.
    """

    def __init__(self, read: Callable[[FrozenTrial], Training | None], fewest: int = FEWEST_WHOLE) -> None:
        self._read, self._fewest = read, fewest
        self._licences: dict[int, Licence] = {}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Return whether to stop a trial after its last report."""
        training = self._read(trial)
        if training is None or not _is_due(sorted(trial.intermediate_values), training.epochs):
            return False
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        ended.sort(key=lambda each: (each.datetime_complete or datetime.max, each.number))
        curves = self._curves(ended)
        whole = [each for each in curves if each.is_whole]
        if len(whole) < self._fewest:
            reason = f"fewer than {self._fewest} trials with a known lr had been trained to the end"
            self._record(study, f"prediction was not used, because {reason}")
            return False
        found = self._licence(whole)
        self._record(study, str(found))
        if not found.is_granted:
            return False
        stopped = [each for each in curves if not each.is_whole]
        return is_hopeless(training.curve, whole, stopped, found.error)

    def _licence(self, whole: Sequence[LossCurve]) -> Licence:
        """Return the licence, which is tested each time that there are a fifth more full runs."""
        count = self._fewest
        while int(count * GROWTH) + 1 <= len(whole):
            count = int(count * GROWTH) + 1
        if count not in self._licences:
            self._licences[count] = licence(whole[:count])
        return self._licences[count]

    @staticmethod
    def _record(study: optuna.Study, sentence: str) -> None:
        if attribute(study.user_attrs, PREDICTION, "") != sentence:
            study.set_user_attr(PREDICTION, sentence)

    def _curves(self, trials: Sequence[FrozenTrial]) -> list[LossCurve]:
        return [training.curve for trial in trials if (training := self._read(trial)) is not None]


class TrainingReader:
    """Reads trials of a study as runs.

    Args:
        config: The study; its objective is a loss.
    """

    def __init__(self, config: StudyConfig) -> None:
        self._config = config
        self._space = CurveSpace(config, 0)
        self._names = {name for name, _ in searched(config.trial)}

    def __call__(self, trial: FrozenTrial) -> Training | None:
        """Return a trial as a run; None if its lr is not known in advance or its losses are not above 0."""
        if trial.params.keys() - self._names or not trial.intermediate_values:
            return None
        try:
            observed = observation_of(self._config, trial)
            curve = self._space.curve(self._space.of(trial.params), STEPS)
        except ValueError:  # another program added it
            return None
        epochs = [epoch for epoch, value in sorted(observed.reports.items()) if value > 0]
        if curve is None or not curve.is_known or not epochs or observed.has_diverged:
            return None
        losses = np.array([observed.reports[epoch] for epoch in epochs])
        return Training(LossCurve(curve.lr, curve.steps, np.array(epochs) / observed.epochs, losses), observed.epochs)


def _is_due(reports: Sequence[int], epochs: int) -> bool:
    """Return whether a run is judged after its last report.

    Args:
        reports: The epochs of its reports, in order.
        epochs: The number of epochs of the full run.
    """
    before, last = ([0, *reports])[-2:]
    return last < epochs and any(before < math.ceil(part * epochs) <= last for part in PARTS)
