"""The configurations that come with the tuner: they were good elsewhere, and a new study can start from them.

Sources:

- AlgoPerf, the trials of its first competition (mlcommons/submissions_algorithms, previous leaderboards, Apache-2.0):
  of the ten configurations of NAdamW with a warmup and a cosine decay to zero, the first five of
  ``benchmarks/greedy_starts.py``, which lists them so that on each of 17 workloads one of the first few is good.
- The two leagues of docs/league.md, with Adam, on MNIST-5k and Fashion-MNIST: the first three schedules of both.

Lengths are in percent of the run. Where several forms of a schedule have nearly the same lr curve, or the values suit
several optimizers, a study takes the first form that its search space contains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["SHIPPED_STARTS", "ShippedStart"]


@dataclass(frozen=True)
class ShippedStart:
    """A configuration that was good elsewhere.

    Args:
        name: Its name in messages.
        optimizers: Forms of its optimizer, the exact one first.
        schedules: Forms of its schedule, the exact one first.
    """

    name: str
    optimizers: Sequence[Mapping[str, Any]]
    schedules: Sequence[Mapping[str, Any]]


def _cosine_after(warmup: int) -> list[Mapping[str, Any]]:
    """Return the forms of a linear warmup, in percent, with a cosine decay to zero."""
    return [
        {"name": "warmup", "steps": f"{warmup}%", "schedule": {"name": "cosine", "decay_steps": f"{100 - warmup}%"}},
        {"name": "one_cycle", "total_steps": "100%", "rise_share": warmup / 100},
        {"name": "cosine", "decay_steps": "100%", "min_factor": 0.0},
        {"name": "polynomial", "decay_steps": "100%", "power": 1.0},
        {"name": "linear_cosine", "decay_steps": "100%", "num_periods": 0.5},
    ]


def _algoperf(
    number: int, warmup: int, initial_lr: float, beta1: float, beta2: float, weight_decay: float
) -> ShippedStart:
    adam = {"name": "adam", "initial_lr": initial_lr, "beta1": beta1, "beta2": beta2}  # its weight decay differs
    optimizers = [{**adam, "name": "adamw", "weight_decay": weight_decay}, adam]
    return ShippedStart(f"AlgoPerf's list, {number}", optimizers, _cosine_after(warmup))


def _league(data: str, initial_lr: float, **schedule: Any) -> ShippedStart:
    optimizers = [{"name": optimizer, "initial_lr": initial_lr} for optimizer in ("adam", "adamw")]
    return ShippedStart(f"the league on {data}", optimizers, [schedule])


_STABLE = {"name": "warmup_stable_decay", "warmup_steps": "5%", "hold_steps": "63.91%", "decay_steps": "20%"}

SHIPPED_STARTS: Sequence[ShippedStart] = (
    _algoperf(1, 10, 0.001308209823469072, 0.97313336939, 0.9981232922116359, 0.16375311233774334),
    _league("Fashion-MNIST", 0.008093, name="one_cycle", total_steps="100%", rise_share=0.3891),
    _algoperf(2, 1, 0.0014271957958295392, 0.9661952124707597, 0.9957304053273589, 0.09153141484048229),
    _league("Fashion-MNIST and MNIST-5k", 0.008093, **_STABLE),
    _algoperf(3, 2, 0.0017486387539278373, 0.93266073836, 0.9955159689799007, 0.08121616522670176),
    _league("MNIST-5k", 0.009187, name="one_cycle", total_steps="100%", rise_share=0.2123),
    _algoperf(4, 5, 0.0008445074561975979, 0.88957581535, 0.9978504782314613, 0.08135402759553023),
    _league("Fashion-MNIST", 0.008093, name="cosine", decay_steps="100%", min_factor=0.1507),
    _algoperf(5, 2, 0.004958460849689891, 0.86374424257, 0.6291854735396584, 0.1147386261512052),
    _league("MNIST-5k", 0.007964, name="polynomial", decay_steps="100%", end_factor=0.008991, power=0.9964),
)
