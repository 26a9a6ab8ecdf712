"""Likelihoods against torch.distributions, mpmath and their own draws."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaekit import make_key
from vaekit.likelihoods import Bernoulli, Gaussian

BERNOULLI, NORMAL = torch.distributions.Bernoulli, torch.distributions.Normal


@given(st.floats(-1e4, 1e4, width=32), st.floats(0, 1, width=32))
def test_bernoulli_nll_is_right_for_extreme_logits(logit, x):
    nll = Bernoulli().nll(torch.tensor([[[logit]]], dtype=torch.float64), torch.tensor([[x]], dtype=torch.float64))
    with mpmath.workdps(60):
        logit = mpmath.mpf(logit)
        expected = mpmath.log(1 + mpmath.exp(-abs(logit))) + max(logit, 0) - logit * mpmath.mpf(x)
    assert math.isclose(float(nll), float(expected), rel_tol=1e-12, abs_tol=1e-12)


def test_bernoulli_gradient_does_not_vanish_at_large_logits():
    logits = torch.tensor([[[100.0, -100.0]]], requires_grad=True)
    Bernoulli().nll(logits, torch.tensor([[0.0, 1.0]])).sum().backward()
    assert torch.equal(logits.grad, torch.tensor([[[1.0, -1.0]]]))


def test_bernoulli_nll_sums_over_elements_and_is_that_of_torch():
    logits, x = torch.randn(4, 1, 2, 3, dtype=torch.float64), torch.randint(0, 2, (4, 2, 3)).double()
    expected = -BERNOULLI(logits=logits[:, 0]).log_prob(x).sum((1, 2))
    torch.testing.assert_close(Bernoulli().nll(logits, x), expected)


@pytest.mark.parametrize("variance", ["fixed", "shared", "element"])
def test_gaussian_nll_is_that_of_torch(variance):
    sigma = None if variance == "element" else 0.3
    likelihood = Gaussian(variance, sigma).double()
    parameters, x = torch.randn(4, likelihood.parameters_per_element, 5, dtype=torch.float64), torch.randn(4, 5).double()
    scale = torch.exp(parameters[:, 1] / 2) if variance == "element" else torch.tensor(0.3).double()
    expected = -NORMAL(parameters[:, 0], scale).log_prob(x).sum(1)
    torch.testing.assert_close(likelihood.nll(parameters, x), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(likelihood.mean(parameters), parameters[:, 0])
    assert (sum(p.numel() for p in likelihood.parameters()) == 1) == (variance == "shared")


def test_gaussian_density_integrates_to_one():
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    nll = Gaussian(sigma=0.7).double().nll(torch.full((len(grid), 1, 1), 0.4, dtype=torch.float64), grid[:, None])
    assert math.isclose(np.trapezoid(torch.exp(-nll).numpy(), grid.numpy()), 1.0, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("likelihood", "parameters"),
    [
        (Bernoulli(), torch.tensor([-2.0, 0.0, 1.5])[None, None].expand(200_000, 1, 3)),
        (Gaussian(sigma=0.5), torch.tensor([-2.0, 0.0, 1.5])[None, None].expand(200_000, 1, 3)),
        (Gaussian("element"), torch.tensor([[-2.0, 0.0, 1.5], [0.1, -1.0, 1.0]])[None].expand(200_000, 2, 3)),
    ],
    ids=["bernoulli", "gaussian", "gaussian-element"],
)
def test_draws_have_the_mean_and_the_cross_entropy_of_the_density(likelihood, parameters):
    draws = likelihood.sample(parameters, key=make_key(3))
    n = len(draws)
    error = (draws.mean(0) - likelihood.mean(parameters)[0]).abs()
    assert (error < 5 * draws.std(0) / math.sqrt(n)).all()
    nll = likelihood.nll(parameters, draws)
    if isinstance(likelihood, Bernoulli):
        entropy = BERNOULLI(logits=parameters[0, 0]).entropy().sum()
    else:
        logvar = parameters[0, 1] if parameters.shape[1] == 2 else torch.full((3,), 2 * math.log(0.5))
        entropy = NORMAL(0.0, torch.exp(logvar / 2)).entropy().sum()
    assert abs(nll.mean() - entropy) < 5 * nll.std() / math.sqrt(n)
    assert torch.equal(draws, likelihood.sample(parameters, key=make_key(3)))
    assert not torch.equal(draws, likelihood.sample(parameters, key=make_key(4)))


@pytest.mark.parametrize("likelihood", [Bernoulli(), Gaussian(), Gaussian("element")], ids=repr)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_are_computed_in_float32(likelihood, dtype):
    parameters, x = torch.randn(3, likelihood.parameters_per_element, 50).to(dtype), torch.rand(3, 50).to(dtype)
    nll = likelihood.nll(parameters, x)
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll, likelihood.nll(parameters.float(), x.float()))


@pytest.mark.parametrize("x", [torch.tensor([[0.5, 1.2]]), torch.tensor([[-0.1, 0.2]])])
def test_bernoulli_refuses_data_outside_its_support_and_says_what_it_saw(x):
    seen = f"ranges from {float(x.min()):.6g} to {float(x.max()):.6g}"
    with pytest.raises(ValueError, match=rf"values in \[0, 1\], but the data {seen}\."):
        Bernoulli().check(x)


def test_data_in_the_support_passes():
    Bernoulli().check(torch.tensor([[0.0, 1.0]]))
    Bernoulli().check(torch.zeros(0, 3))
    Gaussian().check(torch.tensor([[-1e30, 1e30]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance": "diagonal"}, "variance .*'fixed', 'shared', 'feature', 'element'.* 'diagonal'"),
        ({"sigma": 0.0}, r"sigma .* got 0\.0"),
        ({"sigma": math.inf}, "sigma .* finite .* got inf"),
        ({"variance": "element", "sigma": 1.0}, "leave sigma out"),
    ],
)
def test_gaussian_options_that_make_no_density_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Gaussian(**options)


def test_shapes_that_would_only_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"takes natural parameters \[batch, 1, ...\], got \(4, 2, 3\)"):
        Bernoulli().nll(torch.zeros(4, 2, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"data of shape \(4, 3\), but x has the shape \(1, 3\)"):
        Bernoulli().nll(torch.zeros(4, 1, 3), torch.zeros(1, 3))
