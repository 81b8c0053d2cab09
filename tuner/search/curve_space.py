"""A search space as numbers in which schedules of all families can be compared: features of their lr curves.

Two configurations whose lr curves are alike are alike, whatever their schedules are called. The curve of a stopped run
is a curve too, so a part of a run is a point of the same space: ``points(params, [0.5, 1.0])`` are the point after half
of the run and the point at its end.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from lightning_modules import Plateau
from tuner.analysis.lr_curves import lr_at
from tuner.config.component import Component
from tuner.config.lengths import Length, resolve
from tuner.config.search_space import Choices, Range, searched, suggest
from tuner.config.shares import ShareSuggester, share_of
from tuner.config.study import StudyConfig
from tuner.search.gaussian_process import Array

__all__ = ["Configuration", "Curve", "CurveSpace"]

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


class CurveSpace:
    """The points of a study's search space.

    Args:
        config: The study; it must be possible to measure its data.
        seed: Seed of the random configurations that define the scale of the inputs.
    """

    def __init__(self, config: StudyConfig, seed: int) -> None:
        self._config = config
        self._specs: dict[str, Range | Choices] = dict(searched(config.trial))
        self._lengths: dict[str, Length] = {}
        random = Random(f"references:{seed}")
        self.references = [self.random(random, {}) for _ in range(REFERENCES)]
        features = [self._features(curve, 1.0) for each in self.references if (curve := self.curve(each))]
        table = np.array(features) if features else np.zeros((1, 5))
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
        values = suggest(suggester := ShareSuggester(share, fixed), self._config.trial)
        return Configuration(suggester.drawn, values)

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

    def points(self, configuration: Configuration, shares: Sequence[float]) -> Array | None:
        """Return the points of a configuration [shares, inputs]; None if its schedule cannot be computed.

        Args:
            configuration: The values.
            shares: Parts of its training, above 0 and up to 1.
        """
        curve = self.curve(configuration)
        if curve is None:
            return None
        features = (np.array([self._features(curve, share) for share in shares]) - self._center) / self._scale
        progress = np.log(np.array(shares))[:, None] / PROGRESS_SCALE
        others = np.tile(self._others(configuration.params, curve), (len(shares), 1))
        return np.concatenate([features, progress, others], axis=1)

    def curve(self, configuration: Configuration, steps: int = STEPS) -> Curve | None:
        """Return the lr curve of a configuration; None if its schedule cannot be computed.

        Args:
            configuration: The values.
            steps: Number of evenly spaced steps at which the lr is computed.
        """
        values = configuration.values
        length = self._length(values)
        try:
            schedule = Component.from_values(resolve(values["schedule"], length)).build("schedule")
            lr = np.array(lr_at(schedule, float(values["optimizer"]["initial_lr"]), length.spread(steps)))
        except Exception:  # a formula or a user's class failed: the trial would fail too, and say why
            return None
        if len(lr) < steps:  # a run of fewer steps
            lr = lr[np.arange(steps) * len(lr) // steps]
        return Curve(lr, length.steps, not isinstance(schedule, Plateau)) if np.isfinite(lr).all() else None

    def _length(self, values: Mapping[str, Any]) -> Length:
        parts = {key: values[key] for key in ("data", "trainer")}
        key = json.dumps(parts, sort_keys=True)
        if key not in self._lengths:
            self._lengths[key] = self._config.probe.length(parts)
        return self._lengths[key]

    @staticmethod
    def _features(curve: Curve, share: float) -> list[float]:
        """Return logarithms of the highest lr, of the sum of lrs, and of the means of the latest ones, and a ratio."""
        lr = curve.lr[: max(1, round(share * STEPS))]
        peak = max(float(lr.max()), 1e-300)
        recent, late = (max(float(lr[-count:].mean()), LOWEST * peak) for count in (RECENT, LATE))
        mean = max(float(lr.mean()), LOWEST * peak)
        return [math.log(peak), math.log(mean * share * curve.steps), math.log(recent), math.log(late), mean / peak]

    def _others(self, params: Mapping[str, Any], curve: Curve) -> Array:
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
        return np.array(inputs)


def _is_in_curve(name: str) -> bool:
    """Return whether a parameter affects nothing but the lr curve."""
    return name.startswith("schedule.") or (name.startswith("optimizer.") and name.endswith(".initial_lr"))
