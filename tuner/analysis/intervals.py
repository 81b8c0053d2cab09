"""Confidence intervals of means over seeds.

They are Student's t intervals, at 95%. The interval of a bounded metric, such as an accuracy, is cut at the bounds. The
mean cannot lie beyond them, so the cut interval contains it as often as the whole one, and unlike an interval on a
transformed scale it allows values at the bounds.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import stdev

import scipy

from tuner.analysis.record import ROUNDING, is_share, resolution
from tuner.analysis.sweeps import mean_of

__all__ = ["CONFIDENCE", "Scale", "interval", "spread", "standard_error"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Scale:
    """The scale of a metric.

    Args:
        resolution: The smallest difference between two values; 0 if it is unknown.
        low: Lower bound of the metric.
        high: Upper bound of the metric.
    """

    resolution: float = 0.0
    low: float = -math.inf
    high: float = math.inf

    @classmethod
    def of(cls, metric: str, values: Iterable[float], validation_images: int | None = None) -> "Scale":
        """Return the scale of a metric, judging by its name and values.

        Args:
            metric: Name of the metric, such as ``val/acc`` or ``val_accuracy``.
            values: Values of the metric; the scale of an accuracy in percent is unknown.
            validation_images: Number of images from which it is computed, if known.

        >>> Scale.of("val/acc", [0.9], 500)
        Scale(resolution=0.002, low=0.0, high=1.0)
        >>> Scale.of("val/loss", [0.1]).low, Scale.of("val_acc", [97.0]).high
        (0.0, inf)
        """
        values = list(values)
        if is_share(metric, values):
            return cls(resolution(metric, values, validation_images), 0.0, 1.0)
        is_loss = metric in ("train/loss", "val/loss") and all(value >= 0 for value in values)
        return cls(low=0.0) if is_loss else cls()


def interval(
    values: Sequence[float], scale: Scale = Scale(), confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Return the confidence interval of a mean.

    Return None for fewer than two values, and for equal values of a metric of unknown resolution.

    Args:
        values: The values.
        scale: The scale of the metric.
        confidence: Probability that the interval contains the mean.

    >>> low, high = interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    if len(values) < 2:
        return None
    error = standard_error(values, scale, values)
    if error == 0:
        return None
    room = float(scipy.stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return max(scale.low, mean_of(values) - room), min(scale.high, mean_of(values) + room)


def standard_error(sample: Sequence[float], scale: Scale, values: Sequence[float]) -> float:
    """Return the standard error of a sample's mean; for the arguments and special values, see `spread`."""
    return spread(sample, scale, values) / math.sqrt(len(sample))


def spread(sample: Sequence[float], scale: Scale, values: Sequence[float]) -> float:
    """Return the standard deviation of a sample, at least the resolution of the metric.

    Return 0 if it is unknown, as all values are equal, and infinity if it is too large for a float.

    Args:
        sample: The sample.
        scale: The scale of the metric.
        values: The values of the metric from which the sample was computed.
    """
    try:
        found = stdev(sample) if all(map(math.isfinite, sample)) else math.inf
    except OverflowError:
        found = math.inf
    return max(found if found > ROUNDING * max(map(abs, values)) else 0.0, scale.resolution)
