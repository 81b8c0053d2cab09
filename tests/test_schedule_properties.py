"""Properties of every family in the registry."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules import schedules as module
from lightning_modules.schedules import (
    SCHEDULES,
    CosineDecay,
    CosineRestarts,
    ExponentialDecay,
    FivePointSpline,
    InverseSqrt,
    InverseTimeDecay,
    LinearCosineDecay,
    NaturalExponentialDecay,
    NoisyLinearCosineDecay,
    OneCycle,
    PolynomialDecay,
    Rex,
    Schedule,
    Spline,
    SqrtDecay,
    TriangularCyclic,
    TwoPointSpline,
    WarmupStableDecay,
)
from tests.schedule_samples import ANY, COMBINED, SIMPLE, STEPS, curve


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
