"""The evidence lower bound: its terms, its weight, and that it is a lower bound."""

import math

import pytest
import torch

import vaekit
from vaekit import Batch, Elbo, StepContext, make_key
from vaekit.schedules import Linear


def model(loss="elbo"):
    return vaekit.create_vae(input_shape=(6,), latent_dim=2, loss=loss, likelihood="gaussian", seed=0)


def test_terms_are_those_of_its_parts():
    vae, x, key = model(), torch.randn(5, 6), make_key(4)
    terms = vae(x, key=key)
    q = vae.encode(x)
    z, kl = vaekit.reparameterize_kl(q.mu, q.logvar, key=key)
    expected = -torch.distributions.Normal(vae.decoder(z)[:, 0], 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(terms.reconstruction, expected)
    torch.testing.assert_close(terms.kl, kl)
    torch.testing.assert_close(terms.total, (expected + kl).mean())


@pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
def test_beta_weighs_the_total_and_leaves_the_terms_alone(beta):
    x, key = torch.randn(5, 6), make_key(4)
    plain, weighted = (model({"name": "elbo", "beta": b})(x, key=key) for b in (1.0, beta))
    assert torch.equal(plain.kl, weighted.kl)
    torch.testing.assert_close(weighted.total, (plain.reconstruction + beta * plain.kl).mean())


def test_a_scheduled_beta_follows_the_step_and_ends_at_its_final_value_outside_training():
    vae, x, key = model(), torch.randn(5, 6), make_key(4)
    loss = Elbo(Linear(start=0.0, end=2.0, steps=10))
    for step, beta in ((0, 0.0), (5, 1.0), (50, 2.0), (None, 2.0)):
        terms = loss(vae, Batch(x), StepContext(key, step))
        torch.testing.assert_close(terms.total, (terms.reconstruction + beta * terms.kl).mean())


def test_it_bounds_the_likelihood_of_a_linear_model_from_below():
    """p(x) of a linear Gaussian model is known: N(bias, W W^T + sigma^2 I)."""
    vae = vaekit.create_vae(
        input_shape=(6,), latent_dim=2, likelihood={"name": "gaussian", "sigma": 0.8},
        encoder={"hidden": ()}, decoder={"hidden": ()}, seed=1,
    ).double()  # fmt: skip
    x = torch.randn(50, 6, dtype=torch.float64)
    w, bias = vae.decoder.head.weight.detach(), vae.decoder.head.bias.detach()
    marginal = torch.distributions.MultivariateNormal(bias, w @ w.T + 0.8**2 * torch.eye(6, dtype=torch.float64))
    with torch.no_grad():
        draws = torch.stack([vae(x, key=make_key(seed)).total for seed in range(400)])
    slack = 4 * draws.std() / math.sqrt(len(draws))
    assert draws.mean() > -marginal.log_prob(x).mean() - slack


@pytest.mark.parametrize(("beta", "message"), [("high", "expected a number, a Schedule"), ({"steps": 3}, 'no "name"')])
def test_weights_that_are_none_are_refused(beta, message):
    with pytest.raises(TypeError, match=message):
        Elbo(beta=beta)
