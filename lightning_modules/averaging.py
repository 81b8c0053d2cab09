"""Averages of the weights during training, as settings: frozen dataclasses.

An average of the last weights is often better than the last weights themselves, above all if the lr does not decay.
`Classifier` and the callback `EvaluationWeights` take these settings; they evaluate and save the average, without
changing the training.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_modules._validation import check_types, require, require_to
from lightning_modules.schedules import Steps

__all__ = ["AVERAGINGS", "EMA", "LAWA", "Averages", "Averaging", "TailAverage"]


@dataclass(frozen=True, kw_only=True)
class Averaging(ABC):
    """Settings of an average of the weights."""

    def __post_init__(self) -> None:
        check_types(self)
        self._check()

    @abstractmethod
    def _check(self) -> None:
        """Raise ValueError, naming the rule and the value, if the arguments do not make an average."""

    @abstractmethod
    def has_begun(self, step: int) -> bool:
        """Return whether the average can differ from the current weights after `step` updates."""

    def weight(self, step: int) -> float:
        """Return the weight of the current weights in the average after `step` updates, in (0, 1]."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class EMA(Averaging):
    """Exponential moving average: after each update, ``average = decay * average + (1 - decay) * weights``.

    It covers about the last ``1 / (1 - decay)`` updates, which should be a small part of the run.

    Args:
        decay: Share of the average that is kept at each update, in (0, 1).
        start: Updates before the average begins with the weights of the next one, at least 0.

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim., 1992;
    Morales-Brotons, Vogels and Hendrikx, "Exponential Moving Average of Weights in Deep Learning", TMLR 2024.
    Synonyms: Lightning ``EMAWeightAveraging`` (update_starting_at_step = start), timm ``ModelEmaV3``, Keras
    ``use_ema``.

    >>> average = EMA(decay=0.9)
    >>> average.weight(1), round(average.weight(2), 3)
    (1.0, 0.1)
    """

    decay: float = 0.999
    start: Steps = 0

    def _check(self) -> None:
        require(self, "decay", 0 < self.decay < 1, "0 < decay < 1")
        require(self, "start", 0 <= self.start < math.inf, "start >= 0")

    def has_begun(self, step: int) -> bool:
        """Return whether the average has taken in a second update."""
        return step > math.floor(self.start) + 1

    def weight(self, step: int) -> float:
        """Return 1 for the first update of the average, and then ``1 - decay``."""
        return 1 - self.decay if self.has_begun(step) else 1.0


@dataclass(frozen=True, kw_only=True)
class TailAverage(Averaging):
    """The mean of the weights after every update from `start` to the end; before it, the current weights.

    Args:
        start: Updates before the average begins, at least 0.

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim., 1992;
    Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.
    Synonyms: Lightning ``WeightAveraging``, torch ``AveragedModel``; stochastic weight averaging (SWA) with an average
    of every step.

    >>> [TailAverage(start=2).weight(step) for step in (1, 2, 3, 4, 5)]
    [1.0, 1.0, 1.0, 0.5, 0.3333333333333333]
    """

    start: Steps

    def _check(self) -> None:
        require(self, "start", 0 <= self.start < math.inf, "start >= 0")

    def has_begun(self, step: int) -> bool:
        """Return whether the average has taken in a second update."""
        return step > math.floor(self.start) + 1

    def weight(self, step: int) -> float:
        """Return 1 up to the first update after `start`, and then 1/2, 1/3, ..."""
        return 1 / (step - math.floor(self.start)) if self.has_begun(step) else 1.0


@dataclass(frozen=True, kw_only=True)
class LAWA(Averaging):
    """Latest weight averaging: the mean of the last `count` snapshots of the weights, one every `interval` updates.

    Before the first snapshot, the current weights. It keeps `count` copies of the weights.

    Args:
        count: Number of snapshots, at least 1.
        interval: Updates from one snapshot to the next, at least 1; the paper uses an epoch.

    Source: Kaddour, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest Weight Averaging",
    2022.

    >>> LAWA(count=3, interval=100).has_begun(99), LAWA(count=3, interval=100).has_begun(100)
    (False, True)
    """

    count: int = 6
    interval: Steps

    def _check(self) -> None:
        require(self, "count", self.count >= 1, "count >= 1")
        is_whole = self.interval >= 1 and float(self.interval).is_integer()
        require_to(self, "interval", is_whole, "be a whole number >= 1")

    def has_begun(self, step: int) -> bool:
        """Return whether there is a snapshot."""
        return step >= self.interval


AVERAGINGS: dict[str, type[Averaging]] = {"ema": EMA, "lawa": LAWA, "tail": TailAverage}
"""The averages by their names in study files."""


class Averages:
    """The averages of the weights of K networks, whose parameters and buffers are stacks [K, ...].

    The averages have at least single precision. Only one operation is needed for each stack and update.

    Args:
        settings: The average of each network, or None.
    """

    def __init__(self, settings: Sequence[Averaging | None]) -> None:
        self._settings = list(settings)
        self._means: dict[str, Tensor] = {}
        self._snapshots: list[deque[dict[str, Tensor]]] = [
            deque(maxlen=each.count if isinstance(each, LAWA) else 0) for each in settings
        ]

    @property
    def are_current(self) -> bool:
        """Whether all averages are the current weights, because none has begun."""
        return not self._means and not any(self._snapshots)

    def have_begun(self, step: int) -> bool:
        """Return whether an average can differ from the current weights after `step` updates."""
        return any(each is not None and each.has_begun(step) for each in self._settings)

    def update(self, stacks: Mapping[str, Tensor], step: int) -> None:
        """Take in the weights after `step` updates."""
        for row, each in enumerate(self._settings):
            if isinstance(each, LAWA) and step % int(each.interval) == 0:
                self._snapshots[row].append({name: stacked[row].clone() for name, stacked in stacks.items()})
        weights, following = ([self._weight(row, at) for row in range(len(self._settings))] for at in (step, step + 1))
        if {*weights, *following} == {1.0}:  # the next update would restart the averages
            self._means.clear()
        elif not self._means:
            self._means = {name: _wide(stacked).clone() for name, stacked in stacks.items()}
        elif len(set(weights)) == 1:
            new = [_wide(stacks[name]) for name in self._means]
            torch._foreach_lerp_(list(self._means.values()), new, weights[0])
        else:
            for name, mean in self._means.items():
                of_rows = torch.tensor(weights, dtype=mean.dtype, device=mean.device)
                mean.lerp_(_wide(stacks[name]), of_rows.view(-1, *(1,) * (mean.ndim - 1)))

    def evaluated(self, stacks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the averages as new stacks, in the precision of the current weights.

        Args:
            stacks: The current weights.
        """
        result = {name: stacked.clone() for name, stacked in stacks.items()}
        for row, settings in enumerate(self._settings):
            for name, stacked in result.items() if settings is not None else ():
                if self._snapshots[row]:
                    stacked[row] = _mean([snapshot[name] for snapshot in self._snapshots[row]])
                elif name in self._means:
                    stacked[row] = self._means[name][row]
        return result

    def keep(self, rows: Sequence[int]) -> None:
        """Keep only the networks of these rows, in this order."""
        self._settings = [self._settings[row] for row in rows]
        self._snapshots = [self._snapshots[row] for row in rows]
        self._means = {name: mean[list(rows)] for name, mean in self._means.items()}

    def state(self, row: int, dtypes: Mapping[str, torch.dtype]) -> dict[str, Any]:
        """Return the state that continues an average, without the average in the precision of the weights."""
        means = {name: mean[row].clone() for name, mean in self._means.items() if mean.dtype != dtypes[name]}
        return {"means": means, "snapshots": list(self._snapshots[row])}

    def load(self, states: Sequence[Mapping[str, Any] | None], stacks: Mapping[str, Tensor], step: int) -> None:
        """Continue the averages of a checkpoint.

        Args:
            states: The state of each row; None if it has none.
            stacks: The averages in the precision of the weights.
            step: The updates so far.
        """
        devices = {name: stacked.device for name, stacked in stacks.items()}
        if any(self._weight(row, step + 1) < 1 for row in range(len(self._settings))):
            self._means = {name: _wide(stacked).clone() for name, stacked in stacks.items()}
        for row, state in enumerate(states):
            if state is None:
                continue
            for name, mean in state["means"].items():
                self._means[name][row] = mean
            for snapshot in state["snapshots"]:
                self._snapshots[row].append({name: tensor.to(devices[name]) for name, tensor in snapshot.items()})

    def _weight(self, row: int, step: int) -> float:
        settings = self._settings[row]
        return 1.0 if settings is None else settings.weight(step)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    total = _wide(tensors[0]).clone()
    for tensor in tensors[1:]:
        total += _wide(tensor)
    return total / len(tensors)


def _wide(tensor: Tensor) -> Tensor:
    """Return a tensor with at least single precision, the same one if it has that already."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
