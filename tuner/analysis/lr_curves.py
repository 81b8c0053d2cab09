"""The lr curves of possible trials of a study, without training.

Each family of schedules in the search space has a fan of samples, which cover every range evenly: of ``n`` samples, one
lies in each ``n``-th of the range (a Latin hypercube). They are not the suggestions of the study's sampler.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_modules import Plateau, Schedule
from tuner.config.component import Component
from tuner.config.lengths import Length
from tuner.config.optimization import OTHER_SCHEDULES, build_optimization, values_at
from tuner.config.search_space import described, searched
from tuner.config.shares import ShareSuggester
from tuner.config.study import StudyConfig
from tuner.config.trainings import as_training
from tuner.errors import BadInputError

__all__ = ["Family", "LrCurve", "further_families", "lr_at", "make_curve", "rising", "schedule_families"]

POINTS = 2000
"""Maximum number of steps at which a curve is computed; more would fall on the same pixels of a picture."""


@dataclass(frozen=True)
class LrCurve:
    """The lr over one run.

    Args:
        schedule: The schedule, or the plateau on top of one.
        optimizer: The optimizer, whose initial lr the schedule multiplies.
        length: Length of the run.
        precision: Lightning's name of its precision.
        label: Its sampled values; empty if there are none.
        steps: All steps or, in a long run, evenly spaced ones.
        lr: The lr at each of the steps; of a plateau, the lr without reductions, since these depend on the metric.
        quantity: "lr"; or what else is scheduled, such as "momentum" or "lr/head", whose initial value and values then
            stand for those of the lr.
    """

    schedule: Schedule | Plateau
    optimizer: Component
    length: Length
    precision: str
    label: str
    steps: Sequence[int]
    lr: Sequence[float]
    quantity: str = "lr"

    @property
    def initial_lr(self) -> float:
        """Return the initial lr."""
        return float(self.optimizer.arguments["initial_lr"])


@dataclass(frozen=True)
class Family:
    """The curves of one family of schedules.

    Args:
        name: Its name in the study file.
        ranges: Description of its searched ranges; empty if nothing is searched.
        curves: A curve for each sample.
    """

    name: str
    ranges: str
    curves: Sequence[LrCurve]


def schedule_families(config: StudyConfig, samples: int, seed: int = 0) -> list[Family]:
    """Return a fan of curves for each family of schedules in a study, a single curve where nothing is searched.

    Args:
        config: The study.
        samples: Number of curves in a fan.
        seed: Seed of the samples.

    Raises:
        BadInputError: If the data cannot be loaded, the length of a run is unknown, or a sample is not a valid
            schedule.
    """
    return [_family(config.with_family(name), samples, seed) for name in config.families]


def further_families(config: StudyConfig, samples: int, seed: int = 0) -> list[Family]:
    """Return a fan of curves for each scheduled quantity other than the trial's lr: momentum, the lr of a group.

    Args:
        config: The study.
        samples: Number of curves in a fan.
        seed: Seed of the samples.

    Raises:
        BadInputError: As in `schedule_families`.
    """
    if not config.trial.keys() & {*OTHER_SCHEDULES, "groups"}:
        return []
    ranges = {name: described(spec) for name, spec in searched(config.trial)}
    drawn = [_further_curves(config, index, samples, seed) for index in range(samples if ranges else 1)]
    families = []
    for quantity in drawn[0]:
        of_quantity = {name: text for name, text in ranges.items() if _own_part(name, quantity)}
        curves = [each[quantity] for each in drawn[: samples if of_quantity else 1]]
        text = ", ".join(f"{_own_part(name, quantity)} {values}" for name, values in of_quantity.items())
        families.append(Family(quantity, text, curves))
    return families


def _further_curves(config: StudyConfig, index: int, count: int, seed: int) -> dict[str, LrCurve]:
    sample = ShareSuggester(_latin_hypercube(index, count, seed))
    trial = as_training(config.suggest(sample))
    length = config.probe.length(trial.values())
    steps = length.spread(POINTS // 4)
    try:
        optimization = build_optimization(trial.optimizer, trial.schedules, trial.groups)
        initial, values = values_at(optimization, steps)
    except Exception as error:  # a formula or a user's class can raise anything
        raise BadInputError([f"trial: {error}."]) from error
    curves = {}
    for quantity in initial:
        kind, _, group = quantity.partition("/")
        key = "schedule" if kind == "lr" else f"{kind}_schedule"
        settings = trial.groups.get(group)
        own = settings.schedules.get(key) if settings else None
        if quantity == "lr" or (settings and not own and not (kind == "lr" and "initial_lr" in settings.optimizer)):
            continue  # it is drawn elsewhere, or is the same as the trial's
        schedule: Schedule | Plateau = (own or trial.schedules.get(key) or Component("constant")).build("schedule")
        parts = {_own_part(name, quantity): _short(value) for name, value in sample.drawn.items()}
        label = ", ".join(f"{name} {value}" for name, value in parts.items() if name)
        series = [each[quantity] for each in values]
        start = Component("", {"initial_lr": initial[quantity]})
        curves[quantity] = LrCurve(schedule, start, length, "32-true", label, steps, series, quantity)
    return curves


def _own_part(name: str, quantity: str) -> str:
    """Return the part of a parameter's name within the settings of a quantity; empty if it is not one of them."""
    kind, _, group = quantity.partition("/")
    before = f"groups.{group}." if group else f"{kind}_schedule."
    return name.removeprefix(before) if name.startswith(before) else ""


def make_curve(
    schedule: Schedule | Plateau, optimizer: Component, length: Length, precision: str = "32-true", label: str = ""
) -> LrCurve:
    """Compute the curve of a schedule.

    Raises:
        ValueError: If the schedule fails at a step, as a formula can.
    """
    steps = length.spread(POINTS)
    lr = lr_at(schedule, optimizer.arguments["initial_lr"], np.array(steps)).tolist()
    return LrCurve(schedule, optimizer, length, precision, label, steps, lr)


def lr_at(schedule: Schedule | Plateau, initial_lr: float, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the lr at some steps; of a plateau, the lr without reductions, since these depend on the metric."""
    inner = schedule.schedule if isinstance(schedule, Plateau) else schedule
    lr: NDArray[np.float64] = initial_lr * inner(steps)
    return lr


def rising(families: Sequence[Family], epochs: Sequence[int], interval: int = 0) -> list[str]:
    """Return the names of the families in which the lr of some curve rises in one of these epochs.

    Args:
        families: The families.
        epochs: The epochs, counted from 1.
        interval: Steps of an epoch; 0 for one pass over the data.
    """

    def rises(curve: LrCurve, epoch: int) -> bool:
        steps = interval or curve.length.steps_per_epoch
        first, last = lr_at(curve.schedule, curve.initial_lr, np.array([(epoch - 1) * steps, epoch * steps - 1]))
        return bool(last > first)

    return [each.name for each in families if any(rises(curve, epoch) for curve in each.curves for epoch in epochs)]


def _family(config: StudyConfig, samples: int, seed: int) -> Family:
    ranges = {_label(name): described(spec) for name, spec in searched(config.trial) if _affects_lr(name)}
    curves = [_sampled(config, index, samples, seed) for index in range(samples if ranges else 1)]
    text = ", ".join(f"{name} {values}" for name, values in ranges.items())
    return Family(config.trial["schedule"]["name"], text, curves)


def _sampled(config: StudyConfig, index: int, count: int, seed: int) -> LrCurve:
    sample = ShareSuggester(_latin_hypercube(index, count, seed))
    trial = as_training(config.suggest(sample))
    length = config.probe.length(trial.values())
    label = ", ".join(f"{_label(name)} {_short(value)}" for name, value in sample.drawn.items() if _affects_lr(name))
    try:
        return make_curve(trial.schedule.build("schedule"), trial.optimizer, length, trial.trainer.precision, label)
    except Exception as error:  # a formula or a user's class can raise anything
        raise BadInputError([f"trial.schedule: with {label or 'these values'}: {error}."]) from error


def _latin_hypercube(index: int, count: int, seed: int) -> Callable[[str], float]:
    """Return the shares of one of several samples that cover every range evenly."""

    def share(name: str) -> float:
        """Return a number in [0, 1); for each name, the samples take the parts of the range in a different order."""
        order = random.Random(f"{seed}:{name}").sample(range(count), count)
        within = random.Random(f"{seed}:{name}:{index}").random()
        return (order[index] + within) / count

    return share


def _affects_lr(name: str) -> bool:
    """Return whether a parameter affects the lr curve."""
    section, _, rest = name.partition(".")
    return section in ("schedule", "data", "trainer") or (section == "optimizer" and rest.endswith("initial_lr"))


def _label(name: str) -> str:
    return name.removeprefix("schedule.").removeprefix("optimizer.")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
