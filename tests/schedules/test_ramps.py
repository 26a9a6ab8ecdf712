"""Lines and curves: their formulas, their values at the corners, and bounds for every step."""

import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from vaekit.schedules import Cosine, Cyclic, Linear, Sigmoid

weights = st.floats(-10, 10)


@given(st.integers(1, 1000), weights, weights, st.integers(0, 5000))
def test_linear_is_the_line_and_then_its_end(steps, start, end, step):
    expected = start + (end - start) * min(step / steps, 1.0)
    assert math.isclose(Linear(steps, start, end)(step), expected, abs_tol=1e-12)
    assert Linear(steps, start, end)(None) == Linear(steps, start, end)(steps) == end


@given(st.integers(1, 1000), weights, weights, st.integers(0, 5000), st.floats(0.1, 50))
def test_cosine_and_sigmoid_are_their_formulas_and_then_their_end(steps, start, end, step, steepness):
    """The logistic curve by scipy, stretched to reach both ends."""
    fraction = min(step / steps, 1.0)
    low, here, high = (float(expit(steepness * (f - 0.5))) for f in (0.0, fraction, 1.0))
    for schedule, rise in (
        (Cosine(steps, start, end), (1 - math.cos(math.pi * fraction)) / 2),
        (Sigmoid(steps, start, end, steepness), (here - low) / (high - low)),
    ):
        assert math.isclose(schedule(step), start + (end - start) * rise, abs_tol=1e-11)
        assert schedule(0) == start
        assert schedule(None) == schedule(steps) == schedule(steps + 7) == end


@pytest.mark.parametrize("make", [Linear, Cosine, Sigmoid, partial(Sigmoid, steepness=1e-3), partial(Sigmoid, steepness=1e4)])
def test_warm_ups_rise_without_a_step_back_and_are_symmetric(make):
    values = [make(100)(step) for step in range(101)]
    assert values == sorted(values)
    assert all(math.isclose(a + b, 1.0, abs_tol=1e-12) for a, b in zip(values, reversed(values), strict=True))


@given(st.integers(1, 200), st.integers(1, 5), st.floats(0.01, 1), st.integers(0, 2000))
def test_cyclic_repeats_within_its_cycles_and_then_stays(period, cycles, ramp, step):
    beta = Cyclic(period, cycles, ramp)
    assert 0.0 <= beta(step) <= 1.0
    if step >= period * cycles:
        assert beta(step) == beta(None) == 1.0
    else:
        assert beta(step) == beta(step % period)
        assert math.isclose(beta(step), min(1.0, (step % period) / (period * ramp)))
