"""Learning-rate schedules: pure functions of the step.

A schedule is a frozen dataclass. Called with a step, it returns the *factor* that multiplies the initial lr:

    lr(step) = initial_lr * schedule(step)

A step is one optimizer update, counted from 0; the lr at step ``s`` is the one that update ``s`` uses. Because
schedules are closed forms, they can be plotted, checked, tabulated and resumed without training. They import only the
standard library. Lengths are real numbers of steps, and are not rounded.

A field of a dataclass is the Python argument, the key in a study file, the type that is checked, the search axis and
the logged parameter at once. To add a family, write a dataclass with ``_check`` and ``_factor``, and add its line to
`SCHEDULES`; CONTRIBUTING.md lists the remaining steps. Families that decay to an end are in ``decay.py``, families that
decay at a rate in ``rates.py``, ``InverseSqrt`` and ``WarmupStableDecay``, which warm up first, in ``warmups.py``,
curves through points in ``spline.py``, families with peaks in ``cyclic.py``, combinations of schedules, including
``Warmup``, in ``composite.py``, formulas in ``formula.py``, and ``Plateau``, which reacts to a metric, in
``plateau.py``; import all of them from here.

Errors in widely read articles:

* Natural exponential decay is often printed as ``exp(-rate / step)``; it is ``exp(-rate * step)``.
* The paper on cyclical learning rates is Smith 2017, not Goyal et al. 2017 (that one is on large batches and warmup).
* The snippet ``drop ** (floor(1 + epoch) / epochs_drop)`` floors the wrong term: an epoch is already whole, so the lr
  decays a little at every epoch. The intended ``drop ** floor((1 + epoch) / epochs_drop)`` still drops one epoch too
  early; `StepDecay` drops at each multiple of `decay_steps`. To reproduce the curves of the two, for epochs of 100
  steps and a drop to a half every 10 epochs: ``Lambda(function="0.5 ** ((1 + step // 100) / 10)")`` and
  ``HoldThenDecay(hold_steps=900, decay=scaled(StepDecay(decay_rate=0.5, decay_steps=1000), 0.5))``.
"""

from lightning_modules.schedules.base import InSteps, Schedule, Steps
from lightning_modules.schedules.composite import HoldThenDecay, Join, Scaled, Warmup, join, scaled, warmup
from lightning_modules.schedules.cyclic import CosineRestarts, OneCycle, TriangularCyclic
from lightning_modules.schedules.decay import (
    Constant,
    CosineDecay,
    LinearCosineDecay,
    NoisyLinearCosineDecay,
    PiecewiseConstant,
    PolynomialDecay,
    Rex,
    SqrtDecay,
)
from lightning_modules.schedules.formula import Lambda
from lightning_modules.schedules.plateau import Plateau, PlateauState
from lightning_modules.schedules.rates import (
    ExponentialDecay,
    InverseTimeDecay,
    NaturalExponentialDecay,
    StepDecay,
)
from lightning_modules.schedules.spline import FivePointSpline, Spline, TwoPointSpline
from lightning_modules.schedules.warmups import InverseSqrt, WarmupStableDecay

__all__ = [
    "SCHEDULES",
    "Constant",
    "CosineDecay",
    "CosineRestarts",
    "ExponentialDecay",
    "FivePointSpline",
    "HoldThenDecay",
    "InSteps",
    "InverseSqrt",
    "InverseTimeDecay",
    "Join",
    "Lambda",
    "LinearCosineDecay",
    "NaturalExponentialDecay",
    "NoisyLinearCosineDecay",
    "OneCycle",
    "PiecewiseConstant",
    "Plateau",
    "PlateauState",
    "PolynomialDecay",
    "Rex",
    "Scaled",
    "Schedule",
    "Spline",
    "SqrtDecay",
    "StepDecay",
    "Steps",
    "TriangularCyclic",
    "TwoPointSpline",
    "Warmup",
    "WarmupStableDecay",
    "join",
    "scaled",
    "warmup",
]

SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "cosine": CosineDecay,
    "cosine_restarts": CosineRestarts,
    "exponential": ExponentialDecay,
    "five_point_spline": FivePointSpline,
    "hold_then_decay": HoldThenDecay,
    "inverse_sqrt": InverseSqrt,
    "inverse_time": InverseTimeDecay,
    "join": Join,
    "lambda": Lambda,
    "linear_cosine": LinearCosineDecay,
    "natural_exponential": NaturalExponentialDecay,
    "noisy_linear_cosine": NoisyLinearCosineDecay,
    "one_cycle": OneCycle,
    "piecewise_constant": PiecewiseConstant,
    "polynomial": PolynomialDecay,
    "rex": Rex,
    "scaled": Scaled,
    "spline": Spline,
    "sqrt": SqrtDecay,
    "step": StepDecay,
    "triangular": TriangularCyclic,
    "two_point_spline": TwoPointSpline,
    "warmup": Warmup,
    "warmup_stable_decay": WarmupStableDecay,
}
"""The families by their names in study files."""
