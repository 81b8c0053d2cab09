"""A search space as numbers in which schedules of all families can be compared: features of their lr curves.

Two configurations whose lr curves are alike are alike, whatever their schedules are called. The curve of a stopped run
is a curve too, so a part of a run is a point of the same space: ``points(placed, 0.5)`` are the points after half of
the run, ``points(placed)`` those at its end.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_modules import Plateau
from tuner.analysis.lr_curves import lr_at
from tuner.config.component import Component
from tuner.config.lengths import Length, resolve
from tuner.config.search_space import Choices, Range, searched, suggest
from tuner.config.shares import ShareSuggester, share_of
from tuner.config.study import StudyConfig
from tuner.search.gaussian_process import Array

__all__ = ["Configuration", "Curve", "CurveSpace", "Placed"]

STEPS = 32
"""Number of steps of a run at which its lr is computed."""

RECENT, LATE = STEPS // 8, 3 * STEPS // 8
LOWEST = 1e-4
"""Lowest ratio of the recent lr to the highest; below it, the logarithm would exaggerate negligible differences."""

PROGRESS_SCALE = 0.7
"""One unit of the input for the progress is a run of twice the length."""

UNIFORM_DEVIATION = 12**-0.5
REFERENCES = 300


@dataclass(frozen=True)
class Configuration:
    """The values that a trial may have.

    Args:
        params: Its values, by their names in Optuna.
        values: The same values in the form of a study file's ``trial``.
    """

    params: Mapping[str, Any]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Curve:
    """The lr curve of a configuration.

    Args:
        lr: The lr at evenly spaced steps; of a plateau, without reductions.
        steps: Length of the training in steps.
        is_known: Whether the lr depends on nothing but the step.
    """

    lr: Array
    steps: int
    is_known: bool


Placed = tuple[Configuration, Curve]
"""A configuration and its lr curve."""


class CurveSpace:
    """The points of a study's search space.

    Args:
        config: The study; it must be possible to measure its data.
        seed: Seed of the random configurations that define the scale of the inputs.
    """

    def __init__(self, config: StudyConfig, seed: int) -> None:
        self._config = config
        self._specs: dict[str, Range | Choices] = dict(searched(config.trial))
        self._of_length = [name for name in self._specs if name.partition(".")[0] in ("data", "trainer")]
        self._lengths: dict[tuple[Any, ...], Length] = {}
        self._varied = {key: part for key, part in config.trial.items() if any(searched(part, key))}
        random = Random(f"references:{seed}")
        self.references = [self.random(random, {}) for _ in range(REFERENCES)]
        curves = [curve for each in self.references if (curve := self.curve(each))]
        table = _features(curves, 1.0) if curves else np.zeros((1, 5))
        self._center, self._scale = table.mean(0), np.where(table.std(0) > 1e-9, table.std(0), 1.0)

    def random(self, random: Random, fixed: Mapping[str, Any]) -> Configuration:
        """Return random values.

        Args:
            random: Source of randomness.
            fixed: Values that are given.
        """
        return self.at(lambda name: random.random(), fixed)

    def at(self, share: Callable[[str], float], fixed: Mapping[str, Any]) -> Configuration:
        """Return the values at given shares of the ranges.

        Args:
            share: Takes the name of a parameter in Optuna, and returns the share of its range, in [0, 1).
            fixed: Values that are given.
        """
        values = suggest(suggester := ShareSuggester(share, fixed), self._varied)
        return Configuration(suggester.drawn, {**self._config.trial, **values})

    def nearby(
        self, params: Mapping[str, Any], random: Random, width: float, fixed: Mapping[str, Any]
    ) -> Configuration:
        """Return values that differ a little from given ones: the same choices, and numbers nearby.

        Args:
            params: The given values, by their names in Optuna.
            random: Source of randomness.
            width: Standard deviation of the difference, as a share of each range.
            fixed: Values that are given.
        """

        def share(name: str) -> float:
            if name not in params:
                return random.random()
            spec, value = self._specs[name], params[name]
            if isinstance(spec, Choices):
                return share_of(spec, value)
            return min(max(random.gauss(share_of(spec, value), width), 0.0), math.nextafter(1.0, 0.0))

        return self.at(share, fixed)

    def of(self, params: Mapping[str, Any]) -> Configuration:
        """Return given values, by their names in Optuna, as a configuration."""
        return self.at(lambda name: 0.0, params)

    def points(self, placed: Sequence[Placed], share: float = 1.0) -> Array:
        """Return the points of configurations, at least one, after a part of their training [configurations, inputs].

        Args:
            placed: The configurations and their lr curves.
            share: The part, above 0 and up to 1.
        """
        features = (_features([curve for _, curve in placed], share) - self._center) / self._scale
        progress = np.full((len(placed), 1), np.log(share) / PROGRESS_SCALE)
        others = np.array([self._others(configuration.params, curve) for configuration, curve in placed])
        return np.concatenate([features, progress, others], axis=1)

    def curve(self, configuration: Configuration, steps: int = STEPS) -> Curve | None:
        """Return the lr curve of a configuration; None if its schedule cannot be computed.

        Args:
            configuration: The values.
            steps: Number of evenly spaced steps at which the lr is computed.
        """
        values = configuration.values
        length = self._length(configuration)
        try:
            schedule = Component.from_values(resolve(values["schedule"], length)).build("schedule")
            lr = lr_at(schedule, float(values["optimizer"]["initial_lr"]), _spread(length, steps))
        except Exception:  # a formula or a user's class failed: the trial would fail too, and say why
            return None
        if len(lr) < steps:  # a run of fewer steps
            lr = lr[np.arange(steps) * len(lr) // steps]
        return Curve(lr, length.steps, not isinstance(schedule, Plateau)) if np.isfinite(lr).all() else None

    def _length(self, configuration: Configuration) -> Length:
        key = tuple(configuration.params.get(name) for name in self._of_length)
        if key not in self._lengths:
            self._lengths[key] = self._config.probe.length(
                {part: configuration.values[part] for part in ("data", "trainer")}
            )
        return self._lengths[key]

    def _others(self, params: Mapping[str, Any], curve: Curve) -> list[float]:
        """Return inputs for everything that is not in the lr curve."""
        inputs = [0.0 if curve.is_known else 1.0]
        for name, spec in self._specs.items():
            is_given = name in params
            if _is_in_curve(name):
                is_given = is_given and not curve.is_known and isinstance(spec, Range)
                if isinstance(spec, Choices):
                    continue
            if isinstance(spec, Range):
                inputs.append((share_of(spec, params[name]) - 0.5) / UNIFORM_DEVIATION if is_given else 0.0)
            else:
                inputs += [float(is_given and params[name] == value) for value in spec.values]
        return inputs


@lru_cache
def _spread(length: Length, count: int) -> NDArray[np.int64]:
    return np.array(length.spread(count))


def _features(curves: Sequence[Curve], share: float) -> Array:
    """Return logarithms of the highest lr, of the sum of lrs, and of the means of the latest ones, and a ratio [n, 5].

    Args:
        curves: The lr curves, at least one [n].
        share: The part of the training that counts.
    """
    lr = np.array([curve.lr for curve in curves])[:, : max(1, round(share * STEPS))]
    peak = np.maximum(lr.max(1), 1e-300)
    recent, late, mean = (np.maximum(lr[:, -count:].mean(1), LOWEST * peak) for count in (RECENT, LATE, STEPS))
    total = mean * share * [curve.steps for curve in curves]
    features = np.stack([peak, total, recent, late, mean / peak], axis=1)
    # Not numpy's logarithm, whose last digit depends on the processor.
    features[:, :4] = [[math.log(value) for value in row] for row in features[:, :4].tolist()]
    return features


def _is_in_curve(name: str) -> bool:
    """Return whether a parameter affects nothing but the lr curve."""
    return name.startswith("schedule.") or (name.startswith("optimizer.") and name.endswith(".initial_lr"))
