"""Splines: their values and what they never do."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from lightning_modules.schedules import FivePointSpline, Spline, TwoPointSpline
from tests.schedule_samples import FACTOR, SHARE, curve

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
