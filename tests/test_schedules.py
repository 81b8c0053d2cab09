import json
import math
from fractions import Fraction
from functools import partial
from hashlib import blake2b
from pathlib import Path
from statistics import NormalDist, fmean, pstdev

import pytest
import torch
from pytorch_optimizer import REXScheduler
from torch.optim import lr_scheduler

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
from tests.schedule_samples import curve

TABLE = json.loads((Path(__file__).parent / "reference" / "tensorflow.json").read_text())
TOLERANCE = {"float64": 1e-12, "float32": 1e-6}  # of what TensorFlow computed in


# Literal points, by hand


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        (Constant(), {0: 1, 10**9: 1}),
        (PiecewiseConstant(boundaries=(100, 200), factors=(1, 0.5, 0.1)), {0: 1, 100: 1, 101: 0.5, 200: 0.5, 201: 0.1}),
        (PiecewiseConstant(boundaries=(), factors=(0.3,)), {0: 0.3, 10**9: 0.3}),
        (ExponentialDecay(decay_rate=0.25, decay_steps=10), {0: 1, 5: 0.5, 10: 0.25, 20: 0.0625}),
        (ExponentialDecay(decay_rate=0.25, decay_steps=10, staircase=True), {9: 1, 10: 0.25, 19: 0.25, 20: 0.0625}),
        (NaturalExponentialDecay(decay_rate=2, decay_steps=10), {0: 1, 5: 1 / math.e, 10: math.exp(-2)}),
        (NaturalExponentialDecay(decay_rate=1, decay_steps=10, staircase=True), {9: 1, 10: 1 / math.e}),
        (InverseTimeDecay(decay_rate=0.5, decay_steps=10), {0: 1, 10: 2 / 3, 20: 0.5, 60: 0.25}),
        (InverseTimeDecay(decay_rate=0.5, decay_steps=10, staircase=True), {19: 2 / 3, 20: 0.5, 69: 0.25}),
        (StepDecay(decay_rate=0.1, decay_steps=5), {0: 1, 4: 1, 5: 0.1, 9: 0.1, 10: 0.01}),
        (PolynomialDecay(decay_steps=10, end_factor=0.2), {0: 1, 5: 0.6, 10: 0.2, 11: 0.2, 10**9: 0.2}),
        (PolynomialDecay(decay_steps=10, end_factor=0.2, power=2), {0: 1, 5: 0.4, 10: 0.2}),
        (PolynomialDecay(decay_steps=10, end_factor=0, cycle=True), {0: 1, 10: 0, 11: 0.45, 15: 0.25, 20: 0, 24: 0.2}),
        (PolynomialDecay(decay_steps=10, end_factor=3), {0: 1, 5: 2, 10: 3, 100: 3}),
        (CosineDecay(decay_steps=12, min_factor=0.2), {0: 1, 4: 0.8, 6: 0.6, 8: 0.4, 12: 0.2, 13: 0.2}),
        (CosineDecay(decay_steps=12, min_factor=0.2, exponent=2), {0: 1, 4: 0.65, 6: 0.4, 8: 0.25, 12: 0.2, 13: 0.2}),
        (SqrtDecay(decay_steps=10), {0: 1, 6: 0.8, 8: 0.6, 10: 0, 11: 0}),
        (SqrtDecay(decay_steps=10, exponent=2, min_factor=0.5), {0: 1, 5: 0.875, 10: 0.5, 10**9: 0.5}),
        (Rex(decay_steps=10), {0: 1, 5: 2 / 3, 8: 1 / 3, 10: 0, 11: 0}),
        (Rex(decay_steps=10, beta=1, min_factor=0.2), {0: 1, 5: 0.6, 10: 0.2, 99: 0.2}),
        (Rex(decay_steps=10, beta=3), {0: 1, 5: 0.25, 8: 1 / 13, 10: 0}),
        (Spline(steps=(2, 4, 8), factors=(1, 0.75, 0.25)), {0: 1, 2: 1, 3: 0.875, 4: 0.75, 6: 0.5, 8: 0.25, 9: 0.25}),
        (Spline(steps=(0, 4, 8), factors=(0, 1, 0), monotone=False), {0: 0, 2: 0.75, 4: 1, 6: 0.75, 8: 0, 9: 0}),
        (
            TwoPointSpline(decay_steps=10, delta_x1=0.2, y1=0.9, delta_x2=0.5, delta_y2=0.5, min_factor=0.1),
            {0: 1, 2: 0.9, 6: 0.5, 10: 0.1, 11: 0.1},
        ),
        (
            FivePointSpline(total_steps=10, x_peak=0.3, delta_x1=0.1, y1=0.2, delta_x2=0.5, y2=0.6, y_end=0.05),
            {0: 0, 1: 0.2, 3: 1, 5.5: 0.6, 10: 0.05, 11: 0.05},
        ),
        (
            FivePointSpline(total_steps=10, x_peak=0.4, y_start=0.5, delta_x1=0.4, y1=0.2, delta_x2=0.5, y2=0.6),
            {0: 0.5, 4: 1, 7: 0.6, 10: 0},
        ),
        (LinearCosineDecay(decay_steps=12), {0: 1.001, 4: 2 / 3 * 0.75 + 0.001, 6: 0.251, 12: 0.001, 99: 0.001}),
        (LinearCosineDecay(decay_steps=8, num_periods=1, alpha=0.5, beta=0), {0: 1.5, 2: 0.625, 4: 0, 8: 0.5, 9: 0.5}),
        (
            HoldThenDecay(hold_steps=10, decay=StepDecay(decay_rate=0.5, decay_steps=5)),
            {0: 1, 14: 1, 15: 0.5, 20: 0.25},
        ),
        (TriangularCyclic(half_period=4, min_factor=0.2), {0: 0.2, 1: 0.4, 4: 1, 6: 0.6, 8: 0.2, 12: 1}),
        (TriangularCyclic(half_period=4, min_factor=0, peak_decay=0.5), {4: 1, 8: 0, 12: 0.5, 16: 0, 20: 0.25}),
        (
            TriangularCyclic(half_period=4, min_factor=0.5, peak_decay=0.5, min_decay=0.5),
            {0: 0.5, 4: 1, 8: 0.25, 12: 0.5, 16: 0.125, 20: 0.25},
        ),
        (CosineRestarts(restart_period=10), {0: 1, 5: 0.5, 10: 1, 15: 0.5, 10**9: 1}),
        (CosineRestarts(restart_period=10, period_growth=1.5), {10: 1, 25: 1, 47.5: 1, 17.5: 0.5}),
        (CosineRestarts(restart_period=10, peak_decay=0.5, min_factor=0.2), {0: 1, 10: 0.6, 15: 0.4, 20: 0.4}),
        (
            OneCycle(total_steps=12, rise_share=0.5, start_factor=0.5, end_factor=0.1, shape="linear"),
            {0: 0.5, 5: 1, 8: 0.55, 11: 0.1, 12: 0.1},
        ),
        (
            OneCycle(total_steps=20, rise_share=0.25, start_factor=0.5, end_factor=0, shape="linear", three_phase=True),
            {0: 0.5, 2: 0.75, 4: 1, 6: 0.75, 8: 0.5, 19: 0, 99: 0},
        ),
        (WarmupStableDecay(warmup_steps=4, hold_steps=6, decay_steps=10), {0: 0, 1: 0.25, 4: 1, 10: 1, 15: 0.5, 20: 0}),
        (WarmupStableDecay(warmup_steps=0, hold_steps=0, decay_steps=16, shape="sqrt"), {0: 1, 4: 0.5, 9: 0.25, 16: 0}),
        (
            WarmupStableDecay(warmup_steps=0, hold_steps=2, decay_steps=12, shape="cosine", min_factor=0.2),
            {0: 1, 2: 1, 6: 0.8, 14: 0.2, 15: 0.2},
        ),
        (WarmupStableDecay(warmup_steps=0, hold_steps=2, decay_steps=8, power=2), {2: 1, 4: 0.5625, 6: 0.25, 10: 0}),
        (
            WarmupStableDecay(warmup_steps=4, total_steps=20, decay_steps=10, shape="sqrt", power=0.5),
            {2: 0.5, 4: 1, 10: 1, 12.5: 0.5**0.5, 20: 0, 21: 0},
        ),
        (InverseSqrt(warmup_steps=4), {0: 0.25, 1: 0.5, 3: 1, 15: 0.5, 63: 0.25}),
        (Lambda(function="1 / (1 + step)"), {0: 1, 1: 0.5, 3: 0.25}),
        (Lambda(function="math:sqrt"), {0: 0, 4: 2}),
        (Lambda(function="max(0, 1 - step / total) ** power", total=10, power=2), {0: 1, 5: 0.25, 10: 0, 11: 0}),
        (
            Warmup(schedule=StepDecay(decay_rate=0.5, decay_steps=5), steps=10, start=0.2),
            {0: 0.2, 5: 0.6, 10: 1, 15: 0.5},
        ),
        (warmup(Scaled(schedule=Constant(), factor=0.5), 4), {0: 0, 1: 0.125, 4: 0.5}),
        (join([Constant(), CosineDecay(decay_steps=4)], [10]), {9: 1, 10: 1, 12: 0.5, 14: 0}),
        (
            join([scaled(Constant(), 0.3), StepDecay(decay_rate=0.5, decay_steps=2), scaled(Constant(), 0.1)], [3, 8]),
            {2: 0.3, 3: 1, 5: 0.5, 7: 0.25, 8: 0.1, 99: 0.1},
        ),
    ],
    ids=repr,
)
def test_curve_goes_through_the_points_worked_out_by_hand(schedule, points):
    assert curve(schedule, points) == pytest.approx(list(points.values()), abs=1e-12)


# Boundaries


@pytest.mark.parametrize(("period", "growth"), [(10, 3), (100, 1), (7, 2), (100, Fraction(6, 5)), (64, Fraction(3, 2))])
def test_restart_begins_at_full_rate(period, growth):
    schedule = CosineRestarts(restart_period=period, period_growth=float(growth), peak_decay=0.5, min_factor=0.25)
    start = Fraction(0)
    for k in range(40):
        if start.denominator == 1 and start <= 10**9:
            assert schedule(int(start)) == 0.75 * 0.5**k + 0.25
            assert k == 0 or schedule(int(start) - 1) < schedule(int(start))
        start += period * Fraction(growth) ** k


def test_step_1210_is_a_peak_of_period_10_and_growth_3():
    schedule = CosineRestarts(restart_period=10, period_growth=3)
    assert [step for step in range(11000) if schedule(step) == 1] == [0, 10, 40, 130, 400, 1210, 3640, 10930]


def test_growth_of_almost_one_restarts_like_none():
    with_growth, without = (CosineRestarts(restart_period=10, period_growth=growth) for growth in (1 + 1e-12, 1))
    between = [step for step in range(1000) if step % 10 != 0]
    assert curve(with_growth, between) == pytest.approx(curve(without, between), abs=1e-7)


def test_triangle_begins_and_ends_at_the_minimum_at_any_cycle():
    schedule = TriangularCyclic(half_period=50, min_factor=0.125)
    assert {schedule(100 * cycle) for cycle in (0, 1, 2, 999, 10**7)} == {0.125}
    assert {schedule(50 + 100 * cycle) for cycle in (0, 1, 2, 999, 10**7 - 1)} == {1.0}


@pytest.mark.parametrize("decay_steps", [1, 3, 7, 100, 0.07 * 100, 0.29 * 100, 1.1 * 100, 0.1 * 3])
def test_staircase_drops_exactly_at_each_multiple(decay_steps):
    schedule = StepDecay(decay_rate=0.5, decay_steps=decay_steps)
    for k in (1, 2, 10, 100):
        first = math.ceil(round(k * decay_steps, 9))
        assert schedule(first) == 0.5 ** math.floor(round(first / decay_steps, 9))
        assert schedule(first - 1) == 0.5 ** math.floor(round((first - 1) / decay_steps, 9))


@pytest.mark.parametrize("boundary", [7, 29, 0.07 * 100, 0.29 * 100])
def test_old_value_holds_at_a_boundary(boundary):
    schedule = PiecewiseConstant(boundaries=[boundary], factors=[1.0, 0.5])
    assert curve(schedule, (round(boundary), round(boundary) + 1)) == [1.0, 0.5]


@pytest.mark.parametrize("start", [110, 1.1 * 100, 29, 0.29 * 100])
def test_joined_schedule_begins_at_its_start(start):
    schedule = join([Constant(), scaled(Constant(), 0.5)], [start])
    assert curve(schedule, (round(start) - 1, round(start))) == [1.0, 0.5]


@pytest.mark.parametrize("start", [110, 1.1 * 100, 1.1 * 10**5, 0.07 * 10**7])
@pytest.mark.parametrize(
    "after",
    [
        lambda start, part: HoldThenDecay(hold_steps=start, decay=part),
        lambda start, part: warmup(part, start),
        lambda start, part: join([Constant(), part], [start]),
    ],
    ids=["held", "warmed up", "joined"],
)
def test_a_part_counts_steps_from_its_start_with_any_rounding(start, after):
    schedule = after(start, StepDecay(decay_rate=0.5, decay_steps=7))
    first = round(start)
    assert curve(schedule, (first, first + 6, first + 7, first + 14)) == [1, 1, 0.5, 0.25]


@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.parametrize("decay_steps", [7, 0.07 * 100, 0.29 * 100, 1.1 * 100, 0.57 * 10**5])
def test_a_polynomial_reaches_its_end_exactly_with_any_rounding_of_its_length(decay_steps, cycle):
    schedule = PolynomialDecay(decay_steps=decay_steps, end_factor=0.0, power=0.065, cycle=cycle)
    assert curve(schedule, (round(decay_steps) * cycles for cycles in (1, 2, 3, 100))) == [0, 0, 0, 0]
    assert schedule(round(decay_steps) - 1) > 0


@pytest.mark.parametrize("length", [7, 0.07 * 100, 0.29 * 100, 1.1 * 100, 0.57 * 10**5])
@pytest.mark.parametrize(
    "family",
    [
        partial(SqrtDecay, exponent=0.01),
        partial(Rex, beta=1e-9),
        partial(CosineDecay, exponent=0.01),
        partial(WarmupStableDecay, warmup_steps=0, hold_steps=0, power=0.01),
        partial(TwoPointSpline, delta_x1=0.5, y1=1.0, delta_x2=0.5, delta_y2=1.0),
    ],
)
def test_a_steep_decay_reaches_its_end_exactly_with_any_rounding_of_its_length(family, length):
    schedule = family(decay_steps=length, min_factor=0.125)
    assert curve(schedule, (round(length), round(length) + 1)) == [0.125, 0.125]
    assert schedule(round(length) - 1) > 0.125


def test_cycle_of_a_polynomial_is_at_its_end_at_each_multiple_and_jumps_after_it():
    schedule = PolynomialDecay(decay_steps=0.07 * 100, end_factor=0.25, cycle=True)
    assert curve(schedule, (7, 14, 21)) == pytest.approx([0.25, 0.25, 0.25], abs=1e-12)
    assert curve(schedule, (8, 15, 22)) == pytest.approx(
        [0.25 + 0.75 * 6 / 14, 0.25 + 0.75 * 6 / 21, 0.25 + 0.75 * 6 / 28]
    )


def test_natural_exponential_is_an_exponential_of_base_e():
    natural = NaturalExponentialDecay(decay_rate=0.3, decay_steps=50)
    exponential = ExponentialDecay(decay_rate=math.exp(-0.3), decay_steps=50)
    assert curve(natural, range(200)) == pytest.approx(curve(exponential, range(200)), rel=1e-12)


# The published snippets


def test_snippet_that_floors_the_wrong_term_is_a_lambda():
    snippet = [0.5 ** (math.floor(1 + epoch) / 10) for epoch in range(50) for _ in range(100)]
    assert curve(Lambda(function="0.5 ** ((1 + step // 100) / 10)"), range(5000)) == snippet


def test_snippet_that_floors_the_right_term_drops_an_epoch_early():
    snippet = [0.5 ** math.floor((1 + epoch) / 10) for epoch in range(50) for _ in range(100)]
    drops = StepDecay(decay_rate=0.5, decay_steps=1000)
    assert curve(HoldThenDecay(hold_steps=900, decay=scaled(drops, 0.5)), range(5000)) == snippet
    assert curve(drops, range(100, 5100)) == snippet


# TensorFlow and Keras


@pytest.mark.parametrize("row", TABLE["schedules"], ids=lambda row: f"{row['source']} {row['arguments']}")
def test_curve_equals_that_of_tensorflow(row):
    schedule = SCHEDULES[row["family"]](**row["arguments"])
    assert curve(schedule, row["steps"]) == pytest.approx(row["factors"], abs=TOLERANCE[row["precision"]], rel=0)


@pytest.mark.parametrize("row", TABLE["noisy_schedules"], ids=lambda row: f"{row['arguments']} {row['draw']}")
def test_noisy_curve_equals_that_of_tensorflow_for_the_same_draw_but_for_negative_values(row):
    calm = next(
        other["factors"]
        for other in TABLE["noisy_schedules"]
        if other["arguments"] == row["arguments"] and other["draw"] == 0
    )
    schedule = NoisyLinearCosineDecay(seed=3, **row["arguments"])
    for step, without, value in zip(row["steps"], calm, row["factors"], strict=True):
        if row["draw"] == 0:
            quiet = NoisyLinearCosineDecay(seed=3, **{**row["arguments"], "initial_variance": 0.0})
            assert quiet(step) == pytest.approx(value, abs=1e-6)
        else:  # the value is linear in the draw
            uniform = (int.from_bytes(blake2b(f"3:{step}".encode(), digest_size=8).digest(), "big") >> 12) + 0.5
            draw = NormalDist().inv_cdf(uniform / 2**52)
            assert schedule(step) == pytest.approx(max(0, without + (value - without) / row["draw"] * draw), abs=1e-5)


def test_noise_is_reproducible():
    schedule = NoisyLinearCosineDecay(decay_steps=100, seed=0)
    factors = [1.9698441672504985, 2.318109951137229, 1.6281933788529699, 0.13881572716148904]
    assert curve(schedule, (0, 1, 2, 50)) == pytest.approx(factors, abs=1e-12)


def test_noise_has_the_variance_of_the_definition():
    draws = [NoisyLinearCosineDecay(decay_steps=1000, alpha=20.0, seed=seed)(9) for seed in range(4000)]
    wave = 0.5 * (1 + math.cos(math.pi * 0.009))
    assert fmean(draws) == pytest.approx((20 + 1 - 0.009) * wave + 0.001, abs=0.03)
    assert pstdev(draws) == pytest.approx(math.sqrt(1 / 10**0.55) * wave, rel=0.03)


def test_noise_differs_between_steps_and_seeds():
    factors = {
        NoisyLinearCosineDecay(decay_steps=100, alpha=9.0, seed=seed)(step) for seed in (0, 1) for step in range(99)
    }
    assert len(factors) == 2 * 99


def test_noise_never_makes_the_lr_negative():
    factors = [NoisyLinearCosineDecay(decay_steps=100, seed=seed)(0) for seed in range(100)]
    assert min(factors) == 0
    assert 5 < factors.count(0) < 30


# torch's own schedulers


def torch_curve(make, count):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(count):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize(
    ("schedule", "make", "count"),
    [
        (
            ExponentialDecay(decay_rate=0.5, decay_steps=20),
            lambda o: lr_scheduler.ExponentialLR(o, 0.5 ** (1 / 20)),
            200,
        ),
        (
            NaturalExponentialDecay(decay_rate=0.5, decay_steps=20),
            lambda o: lr_scheduler.ExponentialLR(o, math.exp(-0.5 / 20)),
            200,
        ),
        (StepDecay(decay_rate=0.3, decay_steps=7), lambda o: lr_scheduler.StepLR(o, 7, 0.3), 100),
        (
            ExponentialDecay(decay_rate=0.3, decay_steps=7, staircase=True),
            lambda o: lr_scheduler.StepLR(o, 7, 0.3),
            100,
        ),
        (
            PiecewiseConstant(boundaries=(9, 29), factors=(1, 0.1, 0.01)),
            lambda o: lr_scheduler.MultiStepLR(o, [10, 30], 0.1),
            50,
        ),
        (PolynomialDecay(decay_steps=30, end_factor=0, power=2), lambda o: lr_scheduler.PolynomialLR(o, 30, 2), 50),
        (PolynomialDecay(decay_steps=30, end_factor=0.2), lambda o: lr_scheduler.LinearLR(o, 1, 0.2, 30), 50),
        (CosineDecay(decay_steps=40, min_factor=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 40, 0.1), 41),
        (
            CosineRestarts(restart_period=10, period_growth=2, min_factor=0.1),
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10, 2, 0.1),
            400,
        ),
        (
            TriangularCyclic(half_period=8, min_factor=0.1),
            lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, 8, cycle_momentum=False),
            100,
        ),
        (
            TriangularCyclic(half_period=8, min_factor=0.1, peak_decay=0.5),
            lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, 8, mode="triangular2", cycle_momentum=False),
            100,
        ),
        *(
            (
                OneCycle(total_steps=60, rise_share=0.25, shape=shape, three_phase=three_phase),
                lambda o, name=name, three_phase=three_phase: lr_scheduler.OneCycleLR(
                    o, 1.0, 60, pct_start=0.25, anneal_strategy=name, three_phase=three_phase, cycle_momentum=False
                ),
                60,
            )
            for shape, name in (("cosine", "cos"), ("linear", "linear"))
            for three_phase in (False, True)
        ),
        (
            warmup(ExponentialDecay(decay_rate=0.5, decay_steps=20), 10, 0.1),
            lambda o: lr_scheduler.SequentialLR(
                o, [lr_scheduler.LinearLR(o, 0.1, 1, 10), lr_scheduler.ExponentialLR(o, 0.5 ** (1 / 20))], [10]
            ),
            60,
        ),
        (Lambda(function="1 / (1 + step)"), lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)), 50),
    ],
    ids=lambda value: repr(value) if isinstance(value, Schedule) else "",
)
def test_curve_equals_that_of_torch(schedule, make, count):
    assert curve(schedule, range(count)) == pytest.approx(torch_curve(make, count), abs=1e-12, rel=0)


def test_rex_is_that_of_the_field():
    theirs = torch_curve(lambda o: REXScheduler(o, 30, 1.0, 0.1), 40)[1:]  # it begins at its minimum
    assert curve(Rex(decay_steps=30, min_factor=0.1), range(1, 40)) == pytest.approx(theirs, abs=1e-12, rel=0)
