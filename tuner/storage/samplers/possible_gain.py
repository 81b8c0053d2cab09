"""The expected improvement of the next trial over the best one."""

import optuna

from tuner.config.study import StudyConfig
from tuner.storage.samplers import make_sampler
from tuner.storage.samplers.curve import CurveSampler

__all__ = ["FEWEST_FOR_GAIN", "is_due", "possible_gain"]

FEWEST_FOR_GAIN = 10
"""Number of complete trials below which there is no estimate."""


def is_due(complete: int, before: int) -> bool:
    """Return whether to compute the gain again.

    Args:
        complete: Number of complete trials.
        before: Their number when it was computed last; 0 if it was not.
    """
    return complete >= FEWEST_FOR_GAIN and (not before or complete - before >= max(2, complete // 20))


def possible_gain(config: StudyConfig, study: optuna.Study) -> float:
    """Return the expected improvement of the next trial, in the unit of the objective.

    It refers to the best values that the sampler `curve` can find, and is infinite if it knows too little.

    Args:
        config: The study; its sampler is `curve`.
        study: The study in Optuna.

    Raises:
        ValueError: If its sampler is another one.
    """
    sampler = make_sampler(config, 0, before=study.sampler)
    if not isinstance(sampler, CurveSampler):
        raise ValueError(f"{config.sampler.name} cannot estimate the expected gain")
    return sampler.possible_gain(study)
