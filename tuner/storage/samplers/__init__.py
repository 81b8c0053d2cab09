"""The samplers: Optuna's, as a study file configures them, and our own.

Their options are declared in ``tuner/config/sampler_options.py``; the mathematics of our own are in ``tuner/search/``.
"""

import hashlib
import warnings
from typing import Any

import optuna

from tuner.config.study import StudyConfig
from tuner.search.curve_search import CurveSearch
from tuner.storage.samplers.curve import CurveSampler
from tuner.storage.samplers.tpe import TPESampler

__all__ = ["make_sampler"]


def make_sampler(
    config: StudyConfig, number: int, before: optuna.samplers.BaseSampler | None = None
) -> optuna.samplers.BaseSampler:
    """Return the sampler for one trial.

    Every trial has a new sampler, seeded by the study's seed and the trial's number. So a continued study samples what
    it would have sampled without the interruption.

    Args:
        config: The study.
        number: The trial.
        before: The sampler of another trial of the study; some samplers reuse its state instead of reading all trials.
            The samples are the same.

    Raises:
        ValueError: If Optuna rejects an option.
    """
    options = dict(config.sampler.arguments)
    if config.random_trials is not None and config.sampler.name in ("tpe", "curve", "gp", "cmaes"):
        options["n_startup_trials"] = config.random_trials
    seed = options.pop("seed", 0)
    own_seed = int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match config.sampler.name:
            case "tpe":
                return TPESampler(before, seed=own_seed, **options)
            case "curve":
                others = optuna.samplers.RandomSampler(seed=own_seed)
                if isinstance(before, CurveSampler):
                    return CurveSampler(config, before.search, others, before)
                starts = options["n_startup_trials"]
                spread = range(config.first.known.stop, 0 if config.rungs else starts)
                return CurveSampler(config, CurveSearch(config, seed, starts, spread), others)
            case "random" | "grid":  # a grid fixes all parameters and leaves nothing to sample
                return optuna.samplers.RandomSampler(seed=own_seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=own_seed, **options)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=own_seed, **options)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(seed=own_seed, **options)
            case "qmc":
                others = optuna.samplers.RandomSampler(seed=own_seed)  # for parameters that only some trials have
                return _QMCSampler(number, seed=seed, scramble=True, independent_sampler=others, **options)
            case name:
                raise ValueError(f"unknown sampler {name}")


class _QMCSampler(optuna.samplers.QMCSampler):
    """Gives trial n the n-th point of the sequence.

    Optuna's own sampler gives it the next unused point, which is another one after an interruption.
    """

    def __init__(self, number: int, **options: Any) -> None:
        super().__init__(**options)
        self._number = number

    def _find_sample_id(self, *args: Any) -> int:
        return self._number
