"""The arguments of schedules: which are taken, and which are refused."""

import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch

from lightning_modules.schedules import (
    SCHEDULES,
    Constant,
    CosineDecay,
    CosineRestarts,
    ExponentialDecay,
    FivePointSpline,
    HoldThenDecay,
    InverseSqrt,
    InverseTimeDecay,
    Join,
    Lambda,
    LinearCosineDecay,
    NaturalExponentialDecay,
    NoisyLinearCosineDecay,
    OneCycle,
    PiecewiseConstant,
    PolynomialDecay,
    Rex,
    Scaled,
    Schedule,
    Spline,
    SqrtDecay,
    StepDecay,
    TriangularCyclic,
    TwoPointSpline,
    Warmup,
    WarmupStableDecay,
    join,
    scaled,
    warmup,
)
from tests.schedule_samples import SIMPLE, curve


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64, torch.tensor, lambda value: np.array(value)])
@pytest.mark.parametrize("kind", SIMPLE)
def test_numbers_of_numpy_and_torch_become_those_of_python(kind, number):
    arguments = {
        "noisy_linear_cosine": {"variance_decay": 1, "decay_steps": 9},
        "one_cycle": {"total_steps": 20},
        "piecewise_constant": {"boundaries": (10, 20), "factors": (2, 1, 0)},
        "warmup_stable_decay": {"warmup_steps": 2, "hold_steps": 3, "decay_steps": 4},
        "spline": {"steps": (1, 10, 20), "factors": (2, 1, 0)},
        "two_point_spline": {"decay_steps": 9, "y1": 1, "delta_y2": 1},
        "five_point_spline": {"total_steps": 9, "y1": 1, "y2": 0, "y_end": 0},
        "polynomial": {"decay_steps": 9, "end_factor": 2, "power": 2},
    }.get(kind) or {name: 1 for name in SIMPLE[kind] if name not in ("staircase", "function")}
    others = {
        "five_point_spline": {"x_peak": 0.5, "delta_x1": 0.25, "delta_x2": 0.5},
        "lambda": {"function": "1"},
        "noisy_linear_cosine": {"seed": 3},
        "two_point_spline": {"delta_x1": 0.5, "delta_x2": 0.5},
    }.get(kind, {})
    schedule = SCHEDULES[kind](**{key: of_kind(value, number) for key, value in arguments.items()}, **others)
    expected = SCHEDULES[kind](**arguments, **others)
    assert schedule == expected
    assert hash(schedule) == hash(expected)
    assert curve(schedule, range(25)) == curve(expected, range(25))
    for value in vars(schedule).values():
        for each in value if isinstance(value, tuple) else (value,):
            assert type(each) in (int, float, bool, str, type(None))


def of_kind(value, number):
    if isinstance(value, tuple):
        return torch.tensor(value) if number is torch.tensor else np.array([number(each) for each in value])
    return number(value)


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        (StepDecay, {"decay_rate": 0.5, "decay_steps": Fraction(7, 2)}, "decay_steps must be a number"),
        (StepDecay, {"decay_rate": Decimal("0.5"), "decay_steps": 1}, "decay_rate must be a number"),
        (StepDecay, {"decay_rate": "0.5", "decay_steps": 1}, "decay_rate must be a number"),
        (StepDecay, {"decay_rate": True, "decay_steps": 1}, "decay_rate must be a number"),
        (StepDecay, {"decay_rate": None, "decay_steps": 1}, "decay_rate must be a number"),
        (StepDecay, {"decay_rate": 0.5, "decay_steps": torch.tensor([1.0, 2.0])}, "decay_steps must be a number"),
        (StepDecay, {"decay_rate": 0.5, "decay_steps": 10**400}, r"decay_steps must be below 1\.8e308"),
        (
            ExponentialDecay,
            {"decay_rate": 0.5, "decay_steps": 1, "staircase": math.nan},
            "staircase must be True or False",
        ),
        (ExponentialDecay, {"decay_rate": 0.5, "decay_steps": 1, "staircase": 1}, "staircase must be True or False"),
        (NoisyLinearCosineDecay, {"decay_steps": 1, "seed": 1.5}, "seed must be a whole number"),
        (PiecewiseConstant, {"boundaries": "12", "factors": (1, 1, 1)}, "boundaries must be a list of numbers"),
        (PiecewiseConstant, {"boundaries": {1, 2}, "factors": (1, 1, 1)}, "boundaries must be a list of numbers"),
        (PiecewiseConstant, {"boundaries": (1, "2"), "factors": (1, 1, 1)}, "boundaries must be a list of numbers"),
        (PiecewiseConstant, {"boundaries": (1,), "factors": (1, 10**400)}, r"factors must be below 1\.8e308"),
        (Warmup, {"schedule": Constant(), "steps": Fraction(3)}, "steps must be a number"),
        (Join, {"schedules": (Constant(), Constant()), "starts": (None,)}, "starts must be a list of numbers"),
        (Scaled, {"schedule": Constant(), "factor": 1j}, "factor must be a number"),
    ],
)
def test_argument_of_another_type_is_refused(family, arguments, message):
    with pytest.raises(ValueError, match=f"{message}, but got"):
        family(**arguments)


@dataclass(frozen=True, kw_only=True)
class Own(Schedule):
    rate: float = None  # as many write it
    table: np.ndarray
    length: int = field(init=False)

    def _check(self):
        object.__setattr__(self, "length", len(self.table))

    def _factor(self, step):
        return float(self.table[0])


@dataclass(frozen=True, kw_only=True)
class Untyped(Own):
    steps: "OnlyForTypeCheckers"  # noqa: F821


@pytest.mark.parametrize("build", [Own, partial(Untyped, steps="3")], ids=["typed", "untyped"])
def test_a_custom_schedule_may_have_any_default_and_type(build):
    table = np.array([0.5, 1.0])
    schedule = build(table=table)
    assert (schedule.table is table, schedule.rate, schedule.length, schedule(1)) == (True, None, 2, 0.5)
    assert build(table=table, rate=3).rate == 3


def test_numbers_of_a_custom_schedule_are_checked():
    with pytest.raises(ValueError, match="rate must be a number, but got rate='3'"):
        Own(table=np.array([0.5]), rate="3")


def test_arguments_can_be_lists():
    assert PiecewiseConstant(boundaries=[1], factors=[1.0, 0.5]) == PiecewiseConstant(
        boundaries=(1,), factors=(1.0, 0.5)
    )
    assert hash(Join(schedules=[Constant(), Constant()], starts=[5])) == hash(join((Constant(), Constant()), (5,)))


def test_convenience_functions_make_the_dataclasses():
    assert warmup(Constant(), 5, 0.1) == Warmup(schedule=Constant(), steps=5, start=0.1)
    assert scaled(Constant(), 2) == Scaled(schedule=Constant(), factor=2)
    assert join([Constant(), Constant()], [3]) == Join(schedules=(Constant(), Constant()), starts=(3,))


def test_a_part_after_a_fractional_length_continues_between_the_steps():
    schedule = HoldThenDecay(hold_steps=2.5, decay=PolynomialDecay(decay_steps=5, end_factor=0))
    assert curve(schedule, (2, 3, 5)) == pytest.approx([1, 0.9, 0.5])


# Refused arguments

TWO_POINTS = {"decay_steps": 9, "delta_x1": 0.5, "y1": 0.8, "delta_x2": 0.5, "delta_y2": 0.5}
FIVE_POINTS = {"total_steps": 9, "x_peak": 0.5, "delta_x1": 0.5, "y1": 0.8, "delta_x2": 0.5, "y2": 0.5}


@pytest.mark.parametrize(
    "step", [-1, -0.5, math.nan, math.inf, np.array([3, -1]), torch.tensor([-1]), pytest.param(10**400, id="huge")]
)
def test_step_below_zero_or_not_finite_is_refused(step):
    with pytest.raises(ValueError, match=r"step must be finite and >= 0, but got step=(-1|-0.5|nan|inf|10000)"):
        CosineDecay(decay_steps=10)(step)


@pytest.mark.parametrize("step", ["1", None, [1, 2], 1j])
def test_a_step_that_is_not_a_number_is_refused(step):
    with pytest.raises(TypeError, match="step must be a number, a NumPy array or a torch tensor"):
        CosineDecay(decay_steps=10)(step)


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        (
            PiecewiseConstant,
            {"boundaries": (5, 5), "factors": (1, 1, 1)},
            "boundaries must be increasing, but got boundaries=",
        ),
        (PiecewiseConstant, {"boundaries": (-1,), "factors": (1, 1)}, "boundaries >= 0"),
        (PiecewiseConstant, {"boundaries": (5,), "factors": (1,)}, "factors must have one item more than boundaries"),
        (PiecewiseConstant, {"boundaries": (5,), "factors": (1, -1)}, "factors >= 0"),
        (ExponentialDecay, {"decay_rate": 0.0, "decay_steps": 5}, "0 < decay_rate <= 1"),
        (ExponentialDecay, {"decay_rate": 1.1, "decay_steps": 5}, "0 < decay_rate <= 1"),
        (ExponentialDecay, {"decay_rate": 0.5, "decay_steps": 0}, "decay_steps > 0 must hold, but got decay_steps=0"),
        (NaturalExponentialDecay, {"decay_rate": -1, "decay_steps": 5}, "decay_rate >= 0"),
        (NaturalExponentialDecay, {"decay_rate": 1, "decay_steps": math.nan}, "decay_steps > 0"),
        (InverseTimeDecay, {"decay_rate": math.inf, "decay_steps": 5}, "decay_rate >= 0"),
        (InverseTimeDecay, {"decay_rate": 1, "decay_steps": math.inf}, "decay_steps > 0"),
        (StepDecay, {"decay_rate": 2, "decay_steps": 5}, "0 < decay_rate <= 1"),
        (StepDecay, {"decay_rate": 0.5, "decay_steps": -5}, "decay_steps > 0"),
        (PolynomialDecay, {"decay_steps": 0, "end_factor": 0}, "decay_steps > 0"),
        (PolynomialDecay, {"decay_steps": 5, "end_factor": -0.1}, "end_factor >= 0"),
        (PolynomialDecay, {"decay_steps": 5, "end_factor": 0, "power": 0}, "power > 0"),
        (CosineDecay, {"decay_steps": 0}, "decay_steps > 0"),
        (CosineDecay, {"decay_steps": 5, "min_factor": 1.5}, "0 <= min_factor <= 1"),
        (CosineDecay, {"decay_steps": 5, "exponent": 0}, "exponent > 0 must hold, but got exponent=0"),
        (SqrtDecay, {"decay_steps": 0}, "decay_steps > 0"),
        (SqrtDecay, {"decay_steps": 5, "exponent": -1}, "exponent > 0"),
        (SqrtDecay, {"decay_steps": 5, "min_factor": 2}, "0 <= min_factor <= 1"),
        (Rex, {"decay_steps": 0}, "decay_steps > 0"),
        (Rex, {"decay_steps": 5, "beta": 0}, "beta > 0 must hold, but got beta=0"),
        (Rex, {"decay_steps": 5, "min_factor": 2}, "0 <= min_factor <= 1"),
        (Spline, {"steps": (0,), "factors": (1,)}, "steps must have at least two items"),
        (Spline, {"steps": (-1, 5), "factors": (1, 0)}, "steps >= 0"),
        (Spline, {"steps": (0, 5, 5), "factors": (1, 1, 0)}, "steps must be increasing, but got steps=(0, 5, 5)"),
        (Spline, {"steps": (0, 5), "factors": (1,)}, "factors must have one item for each of the steps"),
        (Spline, {"steps": (0, 5), "factors": (1, -1)}, "factors >= 0"),
        (Spline, {"steps": (0, 5, 9), "factors": (1, 0.2, 0.3)}, "factors must never rise unless monotone=False"),
        (TwoPointSpline, {**TWO_POINTS, "decay_steps": 0}, "decay_steps > 0"),
        (TwoPointSpline, {**TWO_POINTS, "delta_x1": 0}, "0 < delta_x1 < 1"),
        (TwoPointSpline, {**TWO_POINTS, "delta_x2": 1}, "0 < delta_x2 < 1"),
        (TwoPointSpline, {**TWO_POINTS, "y1": 1.1}, "min_factor <= y1 <= 1 for a monotone spline must hold"),
        (TwoPointSpline, {**TWO_POINTS, "min_factor": 0.9}, "min_factor <= y1 <= 1 for a monotone spline"),
        (TwoPointSpline, {**TWO_POINTS, "delta_y2": 1.2}, "0 <= delta_y2 <= 1 for a monotone spline"),
        (FivePointSpline, {**FIVE_POINTS, "total_steps": 0}, "total_steps > 0"),
        (FivePointSpline, {**FIVE_POINTS, "x_peak": 1}, "0 < x_peak < 1"),
        (FivePointSpline, {**FIVE_POINTS, "delta_x2": 0}, "0 < delta_x2 < 1"),
        (FivePointSpline, {**FIVE_POINTS, "y_end": 2}, "0 <= y_end <= 1"),
        (LinearCosineDecay, {"decay_steps": 0}, "decay_steps > 0"),
        (LinearCosineDecay, {"decay_steps": 5, "num_periods": -1}, "num_periods >= 0"),
        (LinearCosineDecay, {"decay_steps": 5, "alpha": -1}, "alpha >= 0"),
        (LinearCosineDecay, {"decay_steps": 5, "beta": -1}, "beta >= 0"),
        (NoisyLinearCosineDecay, {"decay_steps": 5, "beta": -1, "seed": 0}, "beta >= 0"),
        (NoisyLinearCosineDecay, {"decay_steps": 5, "initial_variance": -1, "seed": 0}, "initial_variance >= 0"),
        (NoisyLinearCosineDecay, {"decay_steps": 5, "variance_decay": -1, "seed": 0}, "variance_decay >= 0"),
        (NoisyLinearCosineDecay, {"decay_steps": 5, "seed": 0.5}, "seed must be a whole number"),
        (HoldThenDecay, {"hold_steps": -1, "decay": Constant()}, "hold_steps >= 0"),
        (HoldThenDecay, {"hold_steps": 1, "decay": 0.5}, "decay must be a schedule"),
        (TriangularCyclic, {"half_period": 0, "min_factor": 0}, "half_period > 0"),
        (TriangularCyclic, {"half_period": 5, "min_factor": -1}, "0 <= min_factor <= 1"),
        (TriangularCyclic, {"half_period": 5, "min_factor": 0, "peak_decay": 0}, "0 < peak_decay <= 1"),
        (TriangularCyclic, {"half_period": 5, "min_factor": 0, "min_decay": 2}, "0 < min_decay <= 1"),
        (CosineRestarts, {"restart_period": 0}, "restart_period > 0"),
        (CosineRestarts, {"restart_period": 5, "period_growth": 0.5}, "period_growth >= 1"),
        (CosineRestarts, {"restart_period": 5, "peak_decay": 1.5}, "0 < peak_decay <= 1"),
        (CosineRestarts, {"restart_period": 5, "min_factor": -0.1}, "0 <= min_factor <= 1"),
        (OneCycle, {"total_steps": 1}, "total_steps > 1"),
        (OneCycle, {"total_steps": 10, "rise_share": 1}, "0 < rise_share < 1"),
        (OneCycle, {"total_steps": 10, "rise_share": 0.6, "three_phase": True}, "rise_share <= 0.5 with three_phase"),
        (OneCycle, {"total_steps": 10, "rise_share": 0.05}, "rise_share * total_steps >= 1"),
        (OneCycle, {"total_steps": 10, "start_factor": 2}, "0 <= start_factor <= 1"),
        (OneCycle, {"total_steps": 10, "end_factor": -1}, "0 <= end_factor <= 1"),
        (OneCycle, {"total_steps": 10, "shape": "cos"}, 'shape must be "cosine" or "linear"'),
        (WarmupStableDecay, {"warmup_steps": -1, "hold_steps": 1, "decay_steps": 1}, "warmup_steps >= 0"),
        (WarmupStableDecay, {"warmup_steps": 1, "hold_steps": -1, "decay_steps": 1}, "hold_steps >= 0"),
        (WarmupStableDecay, {"warmup_steps": 1, "hold_steps": 1, "decay_steps": 0}, "decay_steps > 0"),
        (
            WarmupStableDecay,
            {"warmup_steps": 1, "hold_steps": 1, "decay_steps": 1, "min_factor": 2},
            "0 <= min_factor <= 1",
        ),
        (
            WarmupStableDecay,
            {"warmup_steps": 1, "hold_steps": 1, "decay_steps": 1, "shape": ""},
            'shape must be "linear"',
        ),
        (WarmupStableDecay, {"warmup_steps": 1, "decay_steps": 1}, "hold_steps must be given unless total_steps is"),
        (
            WarmupStableDecay,
            {"warmup_steps": 1, "hold_steps": 1, "decay_steps": 1, "total_steps": 9},
            "hold_steps must be left out if total_steps is given",
        ),
        (
            WarmupStableDecay,
            {"warmup_steps": 5, "decay_steps": 6, "total_steps": 9},
            "warmup_steps + decay_steps <= total_steps must hold, but got total_steps=9",
        ),
        (WarmupStableDecay, {"warmup_steps": 1, "hold_steps": "1", "decay_steps": 1}, "hold_steps must be a number"),
        (WarmupStableDecay, {"warmup_steps": 1, "hold_steps": 1, "decay_steps": 1, "power": 0}, "power > 0"),
        (InverseSqrt, {"warmup_steps": 0}, "warmup_steps > 0"),
        (Warmup, {"schedule": Constant(), "steps": -1}, "steps >= 0"),
        (Warmup, {"schedule": Constant(), "steps": 1, "start": 2}, "0 <= start <= 1"),
        (Warmup, {"schedule": Constant, "steps": 1}, "schedule must be a schedule"),
        (Join, {"schedules": (), "starts": ()}, "starts must have one item fewer than schedules"),
        (Join, {"schedules": (Constant(), 1), "starts": (1,)}, "schedules must be a list of schedules"),
        (Join, {"schedules": (Constant(), Constant()), "starts": (0,)}, "starts > 0"),
        (Join, {"schedules": (Constant(),) * 3, "starts": (5, 5)}, "starts must be increasing"),
        (Scaled, {"schedule": Constant(), "factor": 0}, "factor > 0 must hold, but got factor=0"),
        (Scaled, {"schedule": None, "factor": 1}, "schedule must be a schedule"),
        (Lambda, {"function": math.sqrt}, "function must be a formula or package.module:name"),
        (Lambda, {"function": "a", "a": "1"}, "a must be a finite number, but got a='1'"),
        (Lambda, {"function": "a", "a": True}, "a must be a finite number"),
        (Lambda, {"function": "a", "a": math.nan}, "a must be a finite number"),
        (Lambda, {"function": "step * pi", "pi": 3}, "pi must be renamed"),
        (Lambda, {"function": "step", "step": 3}, "step must be renamed"),
    ],
    ids=str,
)
def test_argument_that_breaks_a_rule_is_refused_with_the_rule_and_the_value(family, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        family(**arguments)
    assert re.search(r" must .*, (but got|since) ", str(caught.value))


@pytest.mark.parametrize("length", ["100%", "2 epochs", "1 epoch"])
def test_a_length_of_a_study_is_refused_with_the_unit_that_is_needed(length: str):
    message = (
        "total_steps must be a number (here, lengths are in steps: epochs and percentages work in studies only), "
        f"but got total_steps={length!r}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        OneCycle(total_steps=length)
