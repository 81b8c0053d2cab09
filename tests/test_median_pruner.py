"""The median pruner decides as Optuna's does."""

import math
import random

import optuna
import pytest
from optuna.trial import TrialState

from tuner.storage.pruners.median import MedianPruner

EPOCHS = 6


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")  # Optuna, of a trial whose reports are all NaN
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize(
    "options", [{}, {"n_startup_trials": 0}, {"n_warmup_steps": 2, "interval_steps": 2}, {"n_min_trials": 12}]
)
def test_it_decides_as_optunas_pruner_after_every_epoch_of_every_trial(direction: str, options: dict[str, int]) -> None:
    ours, theirs = MedianPruner(**options), optuna.pruners.MedianPruner(**options)
    study, values = optuna.create_study(direction=direction), random.Random(0)
    decisions = []
    for _ in range(20):
        trials = [study.ask() for _ in range(3)]  # a group
        stopped = set()
        for epoch in range(1, EPOCHS + 1):
            for trial in trials:
                if trial.number in stopped:
                    continue
                trial.report(values.choice([values.gauss(0, 1)] * 3 + [math.nan]), epoch)
                frozen = study.get_trials(deepcopy=False)[trial.number]
                decisions.append(ours.prune(study, frozen))
                assert decisions[-1] == theirs.prune(study, frozen)
                if decisions[-1] and values.random() < 0.5:  # some go on, so that trials end with bad values as well
                    study.tell(trial, state=TrialState.PRUNED)
                    stopped.add(trial.number)
        for trial in trials:
            if trial.number not in stopped:
                study.tell(trial, values.gauss(0, 1))
    assert len(set(decisions)) == 2
