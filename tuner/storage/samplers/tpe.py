"""Optuna's TPE sampler, for studies of thousands of trials.

It draws the same random numbers and suggests the same values as `optuna.samplers.TPESampler`. But it keeps the data of
finished trials for the samplers of later trials, and computes densities with scipy's functions, for all candidates and
trials at once.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import optuna
import scipy
from optuna.distributions import BaseDistribution
from optuna.samplers._tpe._truncnorm import _log_gauss_mass
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.probability_distributions import _BatchedCategoricalDistributions
from optuna.samplers._tpe.sampler import _get_pruned_trial_score, default_gamma
from optuna.trial import FrozenTrial, TrialState

from tuner.direction import Direction

__all__ = ["TPESampler"]

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

LOG_ROOT_OF_2_PI = 0.5 * math.log(2 * math.pi)
FEW = 1000


class TPESampler(optuna.samplers.TPESampler):
    """Suggests what Optuna's sampler suggests.

    Args:
        before: The sampler of another trial of the study, whose data are reused.
        options: Options of Optuna's sampler.
    """

    def __init__(self, before: optuna.samplers.BaseSampler | None, **options: Any) -> None:
        super().__init__(**options)
        self._parzen_estimator_cls = _FastParzenEstimator
        self._finished = _FinishedTrials()
        if isinstance(before, TPESampler):
            self._search_space, self._finished = before._search_space, before._finished

    def _sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space or len(_finished(study)) < self._n_startup_trials:
            return {}
        return self._sample(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of a parameter that not all trials have."""
        if len(_finished(study)) < self._n_startup_trials:
            return self._random_sampler.sample_independent(study, trial, param_name, param_distribution)
        return self._sample(study, trial, {param_name: param_distribution})[param_name]

    def _sample(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if len(study.directions) > 1:
            return super()._sample(cast(optuna.Study, _FirstDirection(study)), trial, search_space)
        finished = _finished(study)
        self._finished.read(finished, study)
        if self._finished.has_constraints:
            return super()._sample(study, trial, search_space)
        running = study._get_trials(deepcopy=False, states=[TrialState.RUNNING]) if self._constant_liar else []
        running = [each for each in running if each.number != trial.number]
        below, above = self._finished.split(default_gamma(len(finished)))
        mpe_below = self._estimator(self._finished.values(below, search_space)[1], search_space)
        mpe_above = self._estimator(self._with_running(above, running, search_space, study), search_space)
        samples = mpe_below.sample(self._rng.rng, self._n_ei_candidates)
        chosen = self._compare(samples, self._compute_acquisition_func(samples, mpe_below, mpe_above))
        return {name: distribution.to_external_repr(chosen[name]) for name, distribution in search_space.items()}

    def _with_running(
        self,
        finished: Numbers,
        running: Sequence[FrozenTrial],
        search_space: dict[str, BaseDistribution],
        study: optuna.Study,
    ) -> dict[str, Array]:
        """Return the values of finished and running trials that have all parameters, in the order of their numbers."""
        numbers, values = self._finished.values(finished, search_space)
        params = {trial.number: self._get_params(trial, study) for trial in running}
        params = {number: each for number, each in params.items() if search_space.keys() <= each.keys()}
        order = np.argsort(np.concatenate([numbers, np.array(list(params), np.int64)]), kind="stable")
        return {
            name: np.append(values[name], [distribution.to_internal_repr(each[name]) for each in params.values()])[
                order
            ]
            for name, distribution in search_space.items()
        }

    def _estimator(
        self, observations: dict[str, Array], search_space: dict[str, BaseDistribution]
    ) -> "_FastParzenEstimator":
        return _FastParzenEstimator(observations, search_space, self._parzen_estimator_parameters)


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study._get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


class _FirstDirection:
    """A study of several objectives with the direction of the first one, by which Optuna ranks pruned trials.

    Their reports are of the first objective. Optuna reads the direction, which a study of several does not have.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study, self.direction = study, study.directions[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)


class _FinishedTrials:
    """The parts of finished trials that the sampler needs, as arrays over their numbers.

    Attributes:
        has_constraints: Whether a trial has violated a constraint, which other programs can record.
    """

    def __init__(self) -> None:
        self.has_constraints = False
        self._trials: Sequence[FrozenTrial] = ()
        self._numbers = np.zeros(0, np.int64)
        self._is_read = np.zeros(0, bool)
        self._order = np.zeros((3, 0))  # whether it was pruned, and how bad it is: smaller is better
        self._values: dict[str, Array] = {}  # by parameter; NaN for trials without it
        self._parts: dict[int, tuple[Numbers, Numbers]] = {}

    def read(self, trials: Sequence[FrozenTrial], study: optuna.Study) -> None:
        """Use these trials from now on, in the order of their numbers, and read those that were not read before."""
        if len(trials) == len(self._trials) and (not trials or trials[-1] is self._trials[-1]):
            return  # trials stay finished, so they are the same
        self._trials, self._parts = trials, {}
        self._numbers = np.array([trial.number for trial in trials], np.int64)
        if trials and trials[-1].number >= len(self._is_read):
            self._grow(2 * trials[-1].number + 100)
        for index in np.nonzero(~self._is_read[self._numbers])[0].tolist():
            self._read(trials[index], study)

    def _grow(self, size: int) -> None:
        def grown(array: Any, fill: float) -> Any:
            width = [(0, 0)] * (array.ndim - 1) + [(0, size - array.shape[-1])]
            return np.pad(array, width, constant_values=fill)

        self._is_read, self._order = grown(self._is_read, False), grown(self._order, 0.0)
        self._values = {name: grown(values, np.nan) for name, values in self._values.items()}

    def _read(self, trial: FrozenTrial, study: optuna.Study) -> None:
        number = trial.number
        if trial.state is TrialState.COMPLETE:
            direction = Direction(study.direction.name.lower())
            self._order[:, number] = 0, 0, direction.sort_key(float(trial.value or 0.0))
        else:
            self._order[:, number] = 1, *_get_pruned_trial_score(trial, study)
        for name, value in trial.params.items():
            if name not in self._values:
                self._values[name] = np.full(len(self._is_read), np.nan)
            self._values[name][number] = trial.distributions[name].to_internal_repr(value)
        self.has_constraints = self.has_constraints or any(value > 0 for value in trial.constraints.values())
        self._is_read[number] = True

    def split(self, count: int) -> tuple[Numbers, Numbers]:
        """Return the numbers of the best `count` trials, and of the others, each in their order."""
        if count not in self._parts:
            pruned, first, second = self._order[:, self._numbers]
            is_best = np.zeros(len(self._numbers), bool)
            is_best[np.lexsort((second, first, pruned))[:count]] = True  # stable: of equal trials, the earlier is best
            self._parts[count] = self._numbers[is_best], self._numbers[~is_best]
        return self._parts[count]

    def values(self, numbers: Numbers, names: Iterable[str]) -> tuple[Numbers, dict[str, Array]]:
        """Return which of the trials have all of these parameters, and their values."""
        unknown = np.full(len(self._is_read), np.nan)
        found = {name: self._values.get(name, unknown)[numbers] for name in names}
        have_all = ~np.any([np.isnan(values) for values in found.values()], axis=0)
        return numbers[have_all], {name: values[have_all] for name, values in found.items()}


class _FastParzenEstimator(_ParzenEstimator):
    def log_pdf(self, samples_dict: dict[str, Array]) -> Array:
        """Return the logarithm of the density at each sample."""
        mixture = self._mixture_distribution
        total = np.zeros((len(next(iter(samples_dict.values()))), len(mixture.weights)))
        factors, powers = [], []
        for distribution, samples in zip(mixture.distributions, samples_dict.values(), strict=True):
            if isinstance(distribution, _BatchedCategoricalDistributions):
                total += np.log(distribution.weights).T[samples.astype(np.int64)]
            elif distribution.step:
                total += _log_shares(distribution, samples)
            else:
                powers += _powers(distribution, samples)
                factors += _factors(distribution)
        if factors:
            total += np.stack(powers, axis=1) @ np.stack(factors)
        total += np.log(mixture.weights)
        most = total.max(axis=1)
        total -= most[:, np.newaxis]
        found: Array = np.log(np.exp(total, out=total).sum(axis=1)) + most
        return found


# The logarithm of a truncated normal density is a parabola: the product of the powers of the distance of a sample to
# the middle of the range with three factors of each trial.


def _powers(distribution: Any, samples: Array) -> list[Array]:
    """Return the powers [samples] of each sample: 2, 1, 0."""
    low, high = distribution.adapted_low, distribution.adapted_high
    at = (np.log(samples) if distribution.is_log else samples) - (low + high) / 2
    return [at * at, at, np.ones_like(at)]


def _factors(distribution: Any) -> list[Array]:
    """Return the factors [trials] of these powers."""
    low, high = distribution.adapted_low, distribution.adapted_high
    mu, sigma = distribution.mu, distribution.sigma
    mass = _log_mass((low - mu) / sigma, (high - mu) / sigma)
    center, precision = mu - (low + high) / 2, 1 / (sigma * sigma)
    constant = -0.5 * precision * center * center - (LOG_ROOT_OF_2_PI + np.log(sigma) + mass)
    return [-0.5 * precision, precision * center, constant]


def _log_shares(distribution: Any, samples: Array) -> Array:
    """Return the logarithms of the shares [samples, trials] that the steps have of truncated normal distributions."""
    kernels, kernel = np.unique(distribution.mu + 1j * distribution.sigma, return_inverse=True)
    points, point = np.unique(samples, return_inverse=True)
    mu, sigma = kernels.real, kernels.imag
    left, right = (points + sign * distribution.step / 2 for sign in (-1, 1))
    if distribution.is_log:
        left, right = np.log(left), np.log(right)
    low, high = ((edge - mu) / sigma for edge in (distribution.adapted_low, distribution.adapted_high))
    # Steps are often equally good by symmetry, and then rounding decides. Where there are few, it has to be Optuna's.
    log_mass = _log_gauss_mass if len(points) * len(mu) < FEW else _log_mass
    shares = log_mass((left[:, np.newaxis] - mu) / sigma, (right[:, np.newaxis] - mu) / sigma) - log_mass(low, high)
    found: Array = shares[np.ix_(point, kernel)]
    return found


def _log_mass(low: Array, high: Array) -> Array:
    """Return the logarithm of the mass of a standard normal distribution between limits.

    A limit in the right tail is mirrored, since differences are inexact there.
    """
    is_right = low > 0
    low, high = np.where(is_right, -high, low), np.where(is_right, -low, high)
    is_left = high <= 0
    mass = np.empty_like(low)
    upper: Array = scipy.special.log_ndtr(high[is_left])
    mass[is_left] = upper + np.log1p(-np.exp(scipy.special.log_ndtr(low[is_left]) - upper))
    mass[~is_left] = np.log1p(-scipy.special.ndtr(low[~is_left]) - scipy.special.ndtr(-high[~is_left]))
    return mass
