"""How much better than the best trial of a study another one could be, as far as its trials say."""

import math
import warnings

import optuna
from optuna.terminator import RegretBoundEvaluator

__all__ = ["FEWEST_FOR_GAIN", "is_due", "possible_gain"]

FEWEST_FOR_GAIN = 20
"""Complete trials below which nothing is said."""


def is_due(complete: int, before: int) -> bool:
    """Return whether to compute the gain again, which takes longer the more trials there are.

    Args:
        complete: Number of complete trials.
        before: Their number when it was computed last; 0 if it was not.
    """
    return complete >= FEWEST_FOR_GAIN and (not before or complete - before >= max(5, complete // 20))


def possible_gain(study: optuna.Study, seed: int) -> float:
    """Return how much better the best value can become at most, as far as can be told.

    It is the regret bound, for a probability of 90%, of Makarova et al. (Automatic Termination for Hyperparameter
    Optimization, AutoML 2022), in the unit of the objective: a Gaussian process is fitted to the better half of the
    complete trials, over the parameters that all of them have, and its upper bound anywhere is compared with its lower
    bound at the best trials.

    Args:
        study: The study.
        seed: Seed of the points at which the bound is computed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = RegretBoundEvaluator(min_n_trials=FEWEST_FOR_GAIN, seed=seed)
        complete = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
        try:
            return float(evaluator.evaluate(complete, study.direction))
        except ValueError:  # no parameter is common to all
            return math.inf
