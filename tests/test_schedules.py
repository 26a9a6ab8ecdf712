"""Schedules: their values at the corners, and bounds for every step."""

import math
import warnings
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

import vaekit
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


# Training without a step.

SCHEDULED = {"name": "elbo", "beta": {"name": "linear", "steps": 5}}
ANNEALED = {
    "name": "beta_tc",
    "dataset_size": 9,
    "alpha": {"name": "linear", "steps": 5},
    "gamma": {"name": "cosine", "steps": 5},
}


def model(loss=SCHEDULED):
    return vaekit.create_vae(
        input_shape=(4,), latent_dim=2, encoder={"hidden": (3,)}, decoder={"hidden": (3,)}, loss=loss, seed=0
    )


@pytest.mark.parametrize(
    ("loss", "named"),
    [(SCHEDULED, "weight beta"), ({"name": "capacity"}, "weight capacity"), (ANNEALED, "weights alpha and gamma")],
)
def test_training_without_a_step_warns_once_of_the_weights_that_are_final(loss, named):
    vae, x = model(loss), torch.rand(3, 4)
    with pytest.warns(UserWarning, match=named) as caught:
        vae(x).total.backward()
    assert [warning.filename for warning in caught] == [__file__]
    assert "step=step" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae(x)
    vae.loss = vaekit.losses.create("elbo", beta=SCHEDULED["beta"])  # another objective
    with pytest.warns(UserWarning, match="beta"):
        vae(x)


def test_nothing_warns_where_nothing_is_forgotten():
    vae, x = model(), torch.rand(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae(x, step=0)
        model("elbo")(x)
        with torch.no_grad():
            vae(x)
        vae.eval()(x)
        vaekit.evaluate(vae.train(), x)
        vaekit.fit(vae, torch.rand(9, 4), validation=x, epochs=3, batch_size=4, device="cpu", progress=False)


def test_fit_does_not_warn_of_its_own_trial_of_a_batch_of_one():
    encoder = {"hidden": (3,), "normalization": "batch"}
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder=encoder, loss=SCHEDULED)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="batch_size=4"):
            vaekit.fit(vae, torch.rand(9, 4), epochs=2, batch_size=4, device="cpu", progress=False)


@pytest.mark.compile
def test_a_compiled_model_warns_when_it_is_traced_and_stays_one_graph():
    vae, x = model(), torch.rand(3, 4)
    expected = vae.eval()(x, key=vaekit.make_key(0)).total
    vae, key = model(), vaekit.make_key(0)
    compiled = torch.compile(vae, backend="eager", fullgraph=True)
    with pytest.warns(UserWarning, match="beta"):
        assert torch.equal(compiled(x, key=key).total, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(x, key=key)
