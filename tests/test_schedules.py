"""Schedules: their values at the corners, and bounds for every step."""

import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from vaekit import losses, schedules
from vaekit.schedules import Constant, Cosine, Cyclic, Linear, Sigmoid, as_schedule, checked_schedule

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


@given(weights, st.one_of(st.none(), st.integers(0, 100)))
def test_constant_is_constant(value, step):
    assert Constant(value)(step) == as_schedule(value)(step) == value


def test_a_spec_makes_the_schedule():
    assert as_schedule({"name": "linear", "steps": 4})(1) == 0.25
    assert schedules.names() == ["constant", "cosine", "cyclic", "linear", "sigmoid"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(0), "steps has to be a whole number"),
        (lambda: Linear(1.5), "steps has to be a whole number"),
        (lambda: Linear(3, end=math.nan), "end has to be a finite number"),
        (lambda: Cyclic(10, ramp=0.0), r"has to be in \(0, 1\]"),
        (lambda: Cyclic(10, cycles=0), "cycles has to be a whole number"),
        (lambda: Cosine(0), "steps has to be a whole number"),
        (lambda: Sigmoid(3, steepness=0.0), "steepness has to be positive, got 0.0"),
        (lambda: checked_schedule("beta", -1), "beta has to be at least 0, got -1"),
        (lambda: checked_schedule("beta", Linear(3, end=2.0), highest=1.0), "beta has to be between 0 and 1, got"),
        (lambda: Constant(math.inf), "value has to be a finite number"),
    ],
)
def test_numbers_that_make_no_schedule_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: losses.create("beta_tc", gamma="x"), TypeError, "gamma: a weight has to be a number"),
        (lambda: losses.create("elbo", beta=math.nan), ValueError, "beta: value has to be a finite number"),
        (
            lambda: losses.create("capacity", gamma={"name": "linear"}),
            TypeError,
            "gamma: schedule 'linear' needs .*'steps'",
        ),
        (lambda: losses.create("info_vae", alpha="x"), TypeError, "alpha: a weight has to be a number"),
        (lambda: Linear(3, start="a"), TypeError, "start has to be a number, got 'a'"),
        (lambda: Cyclic(3, ramp="a"), TypeError, "ramp has to be a number, got 'a'"),
    ],
)
def test_a_weight_that_is_none_is_named(make, error, said):
    with pytest.raises(error, match=said):
        make()
