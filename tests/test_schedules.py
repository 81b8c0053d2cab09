import json
import math
import pickle
import re
import sys
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, fmean, pstdev

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_optimizer import REXScheduler
from scipy.interpolate import PchipInterpolator
from torch.optim import lr_scheduler

from lightning_modules import schedules as module
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

TABLE = json.loads((Path(__file__).parent / "reference" / "tensorflow.json").read_text())
TOLERANCE = {"float64": 1e-12, "float32": 1e-6}  # of what TensorFlow computed in


def curve(schedule, steps):
    return [schedule(step) for step in steps]


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


FACTOR = st.floats(0, 1)
SHARE = st.floats(0.01, 0.99)
HEIGHT = st.integers(0, 800).map(lambda eighths: eighths / 8)
POINTS = st.lists(st.tuples(st.integers(0, 10**6), HEIGHT), min_size=2, max_size=7, unique_by=lambda point: point[0])


@given(POINTS.map(sorted), st.floats(0, 1))
def test_a_spline_is_that_of_scipy_and_never_leaves_the_interval_of_its_neighbours(points, share):
    steps, factors = zip(*points, strict=True)
    schedule = Spline(steps=steps, factors=factors, monotone=False)
    step = steps[0] + share * (steps[-1] - steps[0])
    assert schedule(step) == pytest.approx(float(PchipInterpolator(steps, factors)(step)), abs=1e-6)
    assert curve(schedule, steps) == list(factors)
    right = next(index for index in range(1, len(steps)) if step <= steps[index])
    low, high = sorted(factors[right - 1 : right + 1])
    assert low <= schedule(step) <= high


@given(SHARE, st.floats(0, 1), SHARE, st.floats(0, 1), st.floats(0, 1))
def test_a_two_point_spline_never_rises(delta_x1, height, delta_x2, delta_y2, min_factor):
    y1 = min(1.0, min_factor + height * (1 - min_factor))
    schedule = TwoPointSpline(
        decay_steps=50, delta_x1=delta_x1, y1=y1, delta_x2=delta_x2, delta_y2=delta_y2, min_factor=min_factor
    )
    factors = curve(schedule, range(60))
    assert (factors[0], factors[-1]) == (1, min_factor)
    assert all(left >= right - 1e-15 for left, right in pairwise(factors))


@given(st.permutations([SHARE] * 3).flatmap(lambda shares: st.tuples(*shares)), st.tuples(FACTOR, FACTOR, FACTOR))
def test_the_peak_of_a_five_point_spline_is_its_maximum(positions, heights):
    (x_peak, delta_x1, delta_x2), (y_start, y1, y2) = positions, heights
    schedule = FivePointSpline(
        total_steps=100, x_peak=x_peak, y_start=y_start, delta_x1=delta_x1, y1=y1, delta_x2=delta_x2, y2=y2
    )
    assert schedule(x_peak * 100) == pytest.approx(1, abs=1e-9)
    assert max(curve(schedule, range(101))) <= 1


# Properties of every family in the registry

RATIO = st.floats(1e-3, 1)
POWER = st.floats(1e-3, 100)
LENGTH = st.floats(0.5, 1e6) | st.integers(1, 10**9)
AMOUNT = st.floats(0, 100)
SIMPLE = {
    "constant": {},
    "cosine": {"decay_steps": LENGTH, "min_factor": FACTOR, "exponent": POWER},
    "cosine_restarts": {
        "restart_period": LENGTH,
        "period_growth": st.just(1) | st.floats(1, 1 + 1e-6) | st.floats(1, 1e9),
        "peak_decay": RATIO,
        "min_factor": FACTOR,
    },
    "exponential": {"decay_rate": RATIO, "decay_steps": LENGTH, "staircase": st.booleans()},
    "five_point_spline": {
        "total_steps": LENGTH,
        "x_peak": SHARE,
        "y_start": FACTOR,
        "delta_x1": SHARE,
        "y1": FACTOR,
        "delta_x2": SHARE,
        "y2": FACTOR,
        "y_end": FACTOR,
    },
    "inverse_sqrt": {"warmup_steps": LENGTH},
    "inverse_time": {"decay_rate": AMOUNT, "decay_steps": LENGTH, "staircase": st.booleans()},
    "lambda": {
        "function": st.sampled_from(["1 / (1 + step)", "0.5 + 0.5 * cos(step)", "max(0, 1 - step / 9)", "math:sqrt"])
    },
    "linear_cosine": {"decay_steps": LENGTH, "num_periods": AMOUNT, "alpha": AMOUNT, "beta": AMOUNT},
    "natural_exponential": {"decay_rate": AMOUNT, "decay_steps": LENGTH, "staircase": st.booleans()},
    "noisy_linear_cosine": {
        "decay_steps": LENGTH,
        "num_periods": AMOUNT,
        "alpha": AMOUNT,
        "beta": AMOUNT,
        "initial_variance": AMOUNT,
        "variance_decay": AMOUNT,
        "seed": st.integers(),
    },
    "one_cycle": {
        "total_steps": st.floats(100, 1e6),
        "rise_share": st.floats(0.01, 0.5),
        "start_factor": FACTOR,
        "end_factor": FACTOR,
        "shape": st.sampled_from(["cosine", "linear"]),
        "three_phase": st.booleans(),
    },
    "piecewise_constant": {
        "boundaries": st.just((10, 20.5, 30)),
        "factors": st.tuples(AMOUNT, AMOUNT, AMOUNT, AMOUNT),
    },
    "polynomial": {
        "decay_steps": LENGTH,
        "end_factor": AMOUNT,
        "power": POWER,
        "cycle": st.booleans(),
    },
    "rex": {"decay_steps": LENGTH, "beta": st.floats(1e-9, 1e9), "min_factor": FACTOR},
    "spline": {
        "steps": st.just((0, 10, 20.5, 30)),
        "factors": st.tuples(AMOUNT, AMOUNT, AMOUNT, AMOUNT),
        "monotone": st.just(False),
    },
    "sqrt": {"decay_steps": LENGTH, "exponent": POWER, "min_factor": FACTOR},
    "step": {"decay_rate": RATIO, "decay_steps": LENGTH},
    "triangular": {"half_period": LENGTH, "min_factor": FACTOR, "peak_decay": RATIO, "min_decay": RATIO},
    "two_point_spline": {
        "decay_steps": LENGTH,
        "delta_x1": SHARE,
        "y1": st.floats(0.5, 1),
        "delta_x2": SHARE,
        "delta_y2": FACTOR,
        "min_factor": st.floats(0, 0.5),
    },
    "warmup_stable_decay": {
        "warmup_steps": LENGTH,
        "hold_steps": LENGTH,
        "decay_steps": LENGTH,
        "min_factor": FACTOR,
        "shape": st.sampled_from(["linear", "cosine", "sqrt"]),
        "power": POWER,
    },
}
PLAIN = st.one_of(*(st.builds(SCHEDULES[name], **arguments) for name, arguments in SIMPLE.items()))
COMBINED = {
    "hold_then_decay": st.builds(HoldThenDecay, hold_steps=LENGTH, decay=PLAIN),
    "join": st.builds(lambda *parts: join(parts, (10, 30.5)), PLAIN, PLAIN, PLAIN),
    "scaled": st.builds(Scaled, schedule=PLAIN, factor=st.floats(1e-3, 1e3)),
    "warmup": st.builds(Warmup, schedule=PLAIN, steps=LENGTH, start=FACTOR),
}
ANY = st.one_of(*(st.builds(SCHEDULES[name], **arguments) for name, arguments in SIMPLE.items()), *COMBINED.values())
STEPS = st.integers(0, 10**9) | st.integers(0, 50) | st.floats(0, 1e9)


def test_properties_are_checked_for_the_whole_registry():
    assert sorted([*SIMPLE, *COMBINED]) == sorted(SCHEDULES)


def test_registry_lists_every_family_that_can_be_imported():
    public = [getattr(module, name) for name in module.__all__]
    families = {each for each in public if isinstance(each, type) and issubclass(each, Schedule)}
    assert families - {Schedule} == set(SCHEDULES.values())


@given(ANY, STEPS)
def test_factor_is_finite_and_never_negative(schedule, step):
    factor = schedule(step)
    assert type(factor) is float
    assert 0 <= factor < math.inf


@pytest.mark.parametrize(
    "schedule",
    [
        CosineRestarts(restart_period=1e-300),
        CosineRestarts(restart_period=1e-3, period_growth=1 + 2**-52),
        CosineRestarts(restart_period=1, period_growth=1e300),
        ExponentialDecay(decay_rate=1e-300, decay_steps=1e-300, staircase=True),
        NaturalExponentialDecay(decay_rate=0, decay_steps=1e-300),
        InverseTimeDecay(decay_rate=1e300, decay_steps=1e-300),
        PolynomialDecay(decay_steps=1e-300, end_factor=0, power=1e300, cycle=True),
        LinearCosineDecay(decay_steps=1, num_periods=1e300),
        NoisyLinearCosineDecay(decay_steps=1e300, variance_decay=1e300, seed=-1),
        TriangularCyclic(half_period=1e-300, min_factor=0.1, min_decay=0.5),
        InverseSqrt(warmup_steps=1e-300),
        CosineDecay(decay_steps=1e-300, exponent=1e300),
        SqrtDecay(decay_steps=1000 * (1 - 1e-15), exponent=1e-300),
        Rex(decay_steps=1e300, beta=1e300),
        Spline(steps=(0, 1e-300, 1), factors=(0, 1e300, 1e-300), monotone=False),
        TwoPointSpline(decay_steps=1, delta_x1=1 - 2**-53, y1=1, delta_x2=0.5, delta_y2=0),
        FivePointSpline(total_steps=2, x_peak=1e-300, delta_x1=1e-300, y1=0, delta_x2=1e-300, y2=0),
        WarmupStableDecay(warmup_steps=0, total_steps=1e300, decay_steps=1e300, power=1e-300),
        OneCycle(total_steps=1 + 1e-15, rise_share=1 - 1e-16),
    ],
    ids=repr,
)
def test_factor_is_finite_and_never_negative_even_for_absurd_arguments(schedule):
    for step in (0, 1, 2, 1000, 10**9):
        assert 0 <= schedule(step) < math.inf


@given(ANY, st.lists(STEPS, max_size=8))
def test_array_of_steps_gives_the_numbers_of_single_calls(schedule, steps):
    factors = np.array(curve(schedule, steps))
    of_numpy = schedule(np.array(steps, dtype=np.float64))
    of_torch = schedule(torch.tensor(steps, dtype=torch.float64))
    assert of_numpy.dtype == np.float64
    assert of_torch.dtype == torch.float64
    assert np.array_equal(of_numpy, factors)
    assert np.array_equal(of_torch.numpy(), factors)


@given(ANY, STEPS)
def test_schedule_survives_pickle_and_repr_and_is_equal_and_hashable(schedule, step):
    for twin in (pickle.loads(pickle.dumps(schedule)), eval(repr(schedule), vars(module))):
        assert twin == schedule
        assert hash(twin) == hash(schedule)
        assert twin(step) == schedule(step)


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (1, 6), (0,)])
def test_array_keeps_its_shape(shape):
    schedule = CosineDecay(decay_steps=5)
    count = math.prod(shape)
    assert schedule(np.arange(count).reshape(shape)).shape == shape
    assert schedule(torch.arange(count).reshape(shape)).shape == shape


def test_a_numpy_number_is_accepted_as_a_number():
    assert CosineDecay(decay_steps=4)(np.int64(2)) == 0.5
    assert isinstance(CosineDecay(decay_steps=4)(np.int64(2)), float)


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
        (StepDecay, {"decay_rate": 0.5, "decay_steps": Fraction(7, 2)}, "a number as decay_steps"),
        (StepDecay, {"decay_rate": Decimal("0.5"), "decay_steps": 1}, "a number as decay_rate"),
        (StepDecay, {"decay_rate": "0.5", "decay_steps": 1}, "a number as decay_rate"),
        (StepDecay, {"decay_rate": True, "decay_steps": 1}, "a number as decay_rate"),
        (StepDecay, {"decay_rate": None, "decay_steps": 1}, "a number as decay_rate"),
        (StepDecay, {"decay_rate": 0.5, "decay_steps": torch.tensor([1.0, 2.0])}, "a number as decay_steps"),
        (StepDecay, {"decay_rate": 0.5, "decay_steps": 10**400}, r"decay_steps below 1\.8e308"),
        (ExponentialDecay, {"decay_rate": 0.5, "decay_steps": 1, "staircase": math.nan}, "True or False as staircase"),
        (ExponentialDecay, {"decay_rate": 0.5, "decay_steps": 1, "staircase": 1}, "True or False as staircase"),
        (NoisyLinearCosineDecay, {"decay_steps": 1, "seed": 1.5}, "a whole number as seed"),
        (PiecewiseConstant, {"boundaries": "12", "factors": (1, 1, 1)}, "a list as boundaries"),
        (PiecewiseConstant, {"boundaries": {1, 2}, "factors": (1, 1, 1)}, "a list as boundaries"),
        (PiecewiseConstant, {"boundaries": (1, "2"), "factors": (1, 1, 1)}, "a number as boundaries"),
        (PiecewiseConstant, {"boundaries": (1,), "factors": (1, 10**400)}, r"factors below 1\.8e308"),
        (Warmup, {"schedule": Constant(), "steps": Fraction(3)}, "a number as steps"),
        (Join, {"schedules": (Constant(), Constant()), "starts": (None,)}, "a number as starts"),
        (Scaled, {"schedule": Constant(), "factor": 1j}, "a number as factor"),
    ],
)
def test_argument_of_another_type_is_refused(family, arguments, message):
    with pytest.raises(ValueError, match=f"{message} must hold, but got"):
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
    with pytest.raises(ValueError, match="a number as rate must hold, but got rate='3'"):
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


# What is refused

TWO_POINTS = {"decay_steps": 9, "delta_x1": 0.5, "y1": 0.8, "delta_x2": 0.5, "delta_y2": 0.5}
FIVE_POINTS = {"total_steps": 9, "x_peak": 0.5, "delta_x1": 0.5, "y1": 0.8, "delta_x2": 0.5, "y2": 0.5}


@pytest.mark.parametrize(
    "step", [-1, -0.5, math.nan, math.inf, np.array([3, -1]), torch.tensor([-1]), pytest.param(10**400, id="huge")]
)
def test_step_below_zero_or_not_finite_is_refused(step):
    with pytest.raises(ValueError, match=r"step >= 0 must hold, but got step=(-1|-0.5|nan|inf|10000)"):
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
            "rising boundaries must hold, but got boundaries=",
        ),
        (PiecewiseConstant, {"boundaries": (-1,), "factors": (1, 1)}, "boundaries >= 0"),
        (PiecewiseConstant, {"boundaries": (5,), "factors": (1,)}, "one factor more than boundaries"),
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
        (Spline, {"steps": (0,), "factors": (1,)}, "at least two steps"),
        (Spline, {"steps": (-1, 5), "factors": (1, 0)}, "steps >= 0"),
        (Spline, {"steps": (0, 5, 5), "factors": (1, 1, 0)}, "rising steps must hold, but got steps=(0, 5, 5)"),
        (Spline, {"steps": (0, 5), "factors": (1,)}, "one factor for each of the steps"),
        (Spline, {"steps": (0, 5), "factors": (1, -1)}, "factors >= 0"),
        (Spline, {"steps": (0, 5, 9), "factors": (1, 0.2, 0.3)}, "factors that never rise, or monotone=False,"),
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
        (NoisyLinearCosineDecay, {"decay_steps": 5, "seed": 0.5}, "a whole number as seed"),
        (HoldThenDecay, {"hold_steps": -1, "decay": Constant()}, "hold_steps >= 0"),
        (HoldThenDecay, {"hold_steps": 1, "decay": 0.5}, "a schedule as decay"),
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
        (OneCycle, {"total_steps": 10, "shape": "cos"}, 'shape "cosine" or "linear"'),
        (WarmupStableDecay, {"warmup_steps": -1, "hold_steps": 1, "decay_steps": 1}, "warmup_steps >= 0"),
        (WarmupStableDecay, {"warmup_steps": 1, "hold_steps": -1, "decay_steps": 1}, "hold_steps >= 0"),
        (WarmupStableDecay, {"warmup_steps": 1, "hold_steps": 1, "decay_steps": 0}, "decay_steps > 0"),
        (
            WarmupStableDecay,
            {"warmup_steps": 1, "hold_steps": 1, "decay_steps": 1, "min_factor": 2},
            "0 <= min_factor <= 1",
        ),
        (WarmupStableDecay, {"warmup_steps": 1, "hold_steps": 1, "decay_steps": 1, "shape": ""}, 'shape "linear"'),
        (WarmupStableDecay, {"warmup_steps": 1, "decay_steps": 1}, "hold_steps or total_steps must hold"),
        (
            WarmupStableDecay,
            {"warmup_steps": 1, "hold_steps": 1, "decay_steps": 1, "total_steps": 9},
            "hold_steps or total_steps, not both,",
        ),
        (
            WarmupStableDecay,
            {"warmup_steps": 5, "decay_steps": 6, "total_steps": 9},
            "warmup_steps + decay_steps <= total_steps must hold, but got total_steps=9",
        ),
        (WarmupStableDecay, {"warmup_steps": 1, "hold_steps": "1", "decay_steps": 1}, "a number as hold_steps"),
        (WarmupStableDecay, {"warmup_steps": 1, "hold_steps": 1, "decay_steps": 1, "power": 0}, "power > 0"),
        (InverseSqrt, {"warmup_steps": 0}, "warmup_steps > 0"),
        (Warmup, {"schedule": Constant(), "steps": -1}, "steps >= 0"),
        (Warmup, {"schedule": Constant(), "steps": 1, "start": 2}, "0 <= start <= 1"),
        (Warmup, {"schedule": Constant, "steps": 1}, "a schedule as schedule"),
        (Join, {"schedules": (), "starts": ()}, "one start less than schedules"),
        (Join, {"schedules": (Constant(), 1), "starts": (1,)}, "schedules as schedules"),
        (Join, {"schedules": (Constant(), Constant()), "starts": (0,)}, "starts > 0"),
        (Join, {"schedules": (Constant(),) * 3, "starts": (5, 5)}, "rising starts"),
        (Scaled, {"schedule": Constant(), "factor": 0}, "factor > 0 must hold, but got factor=0"),
        (Scaled, {"schedule": None, "factor": 1}, "a schedule as schedule"),
        (Lambda, {"function": math.sqrt}, "a formula or package.module:name as function"),
        (Lambda, {"function": "a", "a": "1"}, "a finite number as a must hold, but got a='1'"),
        (Lambda, {"function": "a", "a": True}, "a finite number as a"),
        (Lambda, {"function": "a", "a": math.nan}, "a finite number as a"),
        (Lambda, {"function": "step * pi", "pi": 3}, "an argument of another name must hold, but got pi=..."),
        (Lambda, {"function": "step", "step": 3}, "an argument of another name must hold, but got step=..."),
    ],
    ids=str,
)
def test_argument_that_breaks_a_rule_is_refused_with_the_rule_and_the_value(family, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        family(**arguments)
    assert " must hold, but got " in str(caught.value)


# Lambda


def half(step):
    return 0.5


def falling(step, total):
    return 1 - step / total


def becomes_negative(step):
    return 3 - step


class Curves:
    @staticmethod
    def quarter(step):
        return 0.25


def gives_text(step):
    return "0.5"


def test_lambda_calls_the_function_of_that_name():
    schedule = Lambda(function=f"{__name__}:half")
    assert schedule(7) == 0.5


def test_an_argument_that_a_formula_does_not_have_is_refused_and_a_name_that_is_no_argument():
    with pytest.raises(ValueError, match="powr must be in the formula, but function='0"):
        Lambda(function="0.5 ** step", powr=2)
    with pytest.raises(ValueError, match="has 'power', which a formula cannot have; it can have step, total, pi, abs"):
        Lambda(function="(step / total) ** power", total=10)


def test_a_formula_with_arguments_is_equal_to_one_with_the_same_in_another_order():
    one, other = Lambda(function="a ** b", a=1, b=2), Lambda(function="a ** b", b=2.0, a=np.int64(1))
    assert one == other
    assert hash(one) == hash(other)
    assert eval(repr(one)) == pickle.loads(pickle.dumps(one)) == one
    assert one != Lambda(function="a ** b", a=1, b=3)


def test_lambda_passes_arguments_to_a_function():
    assert curve(Lambda(function=f"{__name__}:falling", total=10), (0, 5, 10)) == [1, 0.5, 0]


def test_lambda_finds_the_function_of_a_class():
    assert Lambda(function=f"{__name__}:Curves.quarter")(7) == 0.25


@pytest.mark.parametrize(
    ("formula", "step", "value"),
    [
        ("0.1", 5, 0.1),
        (" step ", 5, 5),
        ("max(0.5, min(1, step / 8), 0)", 6, 0.75),
        ("floor(step / 4) + ceil(step / 4) + abs(-step)", 5, 8),
        ("1 if step < 3 and not step == 2 or step >= 9 else 0.5", 2, 0.5),
        ("1 if 0 <= step <= 3 else 0.5", 3, 1),
        ("-(-step) % 3 + +step // 3", 5, 3),
        ("0.5 * (1 + cos(pi * step / 10)) + sin(0) + tanh(0)", 10, 0),
        ("sqrt(exp(log(step + 1)))", 8, 3),
        ("2 ** -step", 2, 0.25),
    ],
)
def test_a_formula_has_the_value_that_python_computes(formula, step, value):
    assert Lambda(function=formula)(step) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("", "neither a formula of step nor package.module:name"),
        ("step +", "neither a formula of step nor package.module:name"),
        ("step = 3", "neither a formula"),
        ("1; 2", "neither a formula"),
        ("import os", "neither a formula"),
        ("stpe / 3", "has 'stpe', which a formula cannot have; it can have step, pi, abs"),
        ("exp", "has 'exp'"),
        ("step(3)", "has 'step'"),
        ("open('x')", "has 'open'"),
        ("__import__('os').system('true')", "a formula cannot have"),
        ("step.real", "has 'step.real'"),
        ("'a' * 9999999999", "has \"'a'\""),
        ("True", "has 'True'"),
        ("1j", "has '1j'"),
        ("[1, 2][0]", "a formula cannot have"),
        ("f'{step:99999999}'", "a formula cannot have"),
        ("(lambda: 1)()", "a formula cannot have"),
        ("max(step, 1, key=abs)", "a formula cannot have"),
        ("max(*step)", "a formula cannot have"),
        ("1 << step", "has 'LShift'"),
        ("1 if step < 9 else nonsense", "has 'nonsense'"),
        ("9 ** 9 ** 9 ** 9", "fails at step=0"),
        ("log(step)", "fails at step=0"),
        ("1 / (1 - step)", "fails at step=1: "),
        ("(step - 1) ** 0.5", "fails at step=0"),
        ("-1", "a finite factor >= 0 must hold, but got -1.0 at step=0 from Lambda(function='-1')"),
        ("0.5 - step", "got -0.5 at step=1"),
        ("1e308 * 10", "got inf at step=0"),
        ("1 + " * 400 + "1", "function of at most 1000 characters must hold, but got 1601 of them"),
        ("(" * 300 + "1" + ")" * 300, "neither a formula"),
        ("-" * 990 + "1", "function="),
        ("no.such.module:name", "cannot be imported as package.module:name"),
        ("math:nothing", "cannot be imported as package.module:name"),
        (":half", "neither a formula of step nor package.module:name"),
        ("math:pi", "must name a function, but it is 3.14"),
        (f"{__name__}:gives_text", "a number must be the factor, but got '0.5' at step=0"),
    ],
)
def test_a_lambda_that_is_not_a_schedule_is_refused_at_once(function, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Lambda(function=function)


def test_lambda_that_becomes_negative_later_says_at_which_step():
    with pytest.raises(ValueError, match=r"got -1\.0 at step=4 from Lambda\(function='3 - step'\)"):
        Lambda(function="3 - step")(np.arange(9))
    with pytest.raises(ValueError, match=r"got -1\.0 at step=4 from Lambda"):
        Lambda(function=f"{__name__}:becomes_negative")(4)


def test_formula_without_simpleeval_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "simpleeval", None)
    with pytest.raises(ImportError, match="pip install simpleeval"):
        Lambda(function="1 / (2 + step)")
    assert Lambda(function=f"{__name__}:half")(3) == 0.5
