"""Schedules: their values at the corners, and bounds for every step."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaekit import schedules
from vaekit.schedules import Constant, Cyclic, Linear, as_schedule

weights = st.floats(-10, 10)


@given(st.integers(1, 1000), weights, weights, st.integers(0, 5000))
def test_linear_is_the_line_and_then_its_end(steps, start, end, step):
    expected = start + (end - start) * min(step / steps, 1.0)
    assert math.isclose(Linear(steps, start, end)(step), expected, abs_tol=1e-12)
    assert Linear(steps, start, end)(None) == Linear(steps, start, end)(steps) == end


@given(st.integers(1, 200), st.integers(1, 5), st.floats(0.01, 1), st.integers(0, 2000))
def test_cyclic_repeats_within_its_cycles_and_then_stays(period, cycles, ramp, step):
    beta = Cyclic(period, cycles, ramp)
    assert 0.0 <= beta(step) <= 1.0
    if step >= period * cycles:
        assert beta(step) == beta(None) == 1.0
    else:
        assert beta(step) == beta(step % period)
        assert math.isclose(beta(step), min(1.0, (step % period) / (period * ramp)))


@given(weights, st.one_of(st.none(), st.integers(0, 100)))
def test_constant_is_constant(value, step):
    assert Constant(value)(step) == as_schedule(value)(step) == value


def test_a_spec_makes_the_schedule():
    assert as_schedule({"name": "linear", "steps": 4})(1) == 0.25
    assert schedules.names() == ["constant", "cyclic", "linear"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0), "steps has to be a whole number"),
        (lambda: Linear(1.5), "steps has to be a whole number"),
        (lambda: Linear(3, end=math.nan), "end has to be a finite number"),
        (lambda: Cyclic(10, ramp=0.0), r"has to be in \(0, 1\]"),
        (lambda: Cyclic(10, cycles=0), "cycles has to be a whole number"),
        (lambda: Constant(math.inf), "value has to be a finite number"),
    ],
)
def test_numbers_that_make_no_schedule_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
