"""The posterior and the prior against torch.distributions, and the divergence against its Monte Carlo estimate."""

import math

import pytest
import torch

from vaekit import DiagonalGaussian, Prior, StandardNormal, make_key

NORMAL = torch.distributions.Normal


class Unregistered(Prior):
    """The standard normal as somebody else would write it: no closed form is known for it."""

    def log_prob(self, z):
        return NORMAL(0.0, 1.0).log_prob(z).flatten(1).sum(-1)

    def sample(self, shape, *, key, dtype):
        raise NotImplementedError


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3, 3)])
def test_densities_are_those_of_torch(shape):
    mu, logvar, z = torch.randn(3, *shape, dtype=torch.float64)
    expected = NORMAL(mu, torch.exp(logvar / 2)).log_prob(z).flatten(1).sum(-1)
    torch.testing.assert_close(DiagonalGaussian(mu, logvar).log_prob(z), expected)
    torch.testing.assert_close(StandardNormal().log_prob(z), NORMAL(0.0, 1.0).log_prob(z).flatten(1).sum(-1))


@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 3, 3)])
def test_the_divergence_sums_over_all_latent_dimensions(shape):
    mu, logvar = torch.randn(2, *shape, dtype=torch.float64)
    z, kl = DiagonalGaussian(mu, logvar).rsample_kl(StandardNormal(), key=make_key(0))
    expected = torch.distributions.kl_divergence(NORMAL(mu, torch.exp(logvar / 2)), NORMAL(0.0, 1.0)).flatten(1).sum(-1)
    assert z.shape == shape
    torch.testing.assert_close(kl, expected)


def test_a_prior_without_a_closed_form_is_estimated_and_right_on_average():
    posterior = DiagonalGaussian(torch.randn(3, 2), torch.randn(3, 2))
    z, exact = posterior.rsample_kl(StandardNormal(), key=make_key(1), num_samples=20_000)
    same_z, estimates = posterior.rsample_kl(Unregistered(), key=make_key(1), num_samples=20_000)
    assert torch.equal(z, same_z)
    assert estimates.shape == (20_000, 3)
    assert ((estimates.mean(0) - exact).abs() < 4 * estimates.std(0) / math.sqrt(20_000)).all()


class Flat(Prior):
    """log p(z) = 0: what is left of the divergence is log q(z)."""

    def log_prob(self, z):
        return torch.zeros(len(z))

    def sample(self, shape, *, key, dtype):
        raise NotImplementedError


def test_the_estimate_keeps_its_digits_where_sigma_is_far_below_the_mean():
    mu, logvar = torch.full((20_000, 1), 1e4), torch.full((20_000, 1), -20.0)
    _, log_posterior = DiagonalGaussian(mu, logvar).rsample_kl(Flat(), key=make_key(0))
    entropy = 0.5 * (1 + math.log(2 * math.pi) - 20)
    assert abs(-log_posterior.mean() - entropy) < 4 * log_posterior.std() / math.sqrt(20_000)


def test_rows_from_row_start_draw_what_the_whole_batch_draws():
    posterior = DiagonalGaussian(torch.randn(7, 3), torch.randn(7, 3))
    rest = DiagonalGaussian(posterior.mu[4:], posterior.logvar[4:])
    for prior in (StandardNormal(), Unregistered()):
        whole, part = (q.rsample_kl(prior, key=make_key(2), row_start=r) for q, r in ((posterior, 0), (rest, 4)))
        assert all(torch.equal(p, w[4:]) for p, w in zip(part, whole, strict=True))


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (3,))])
def test_shapes_that_are_no_batch_of_gaussians_are_refused(shapes):
    with pytest.raises(ValueError, match=r"one shape \[batch, latent dimensions...\], got"):
        DiagonalGaussian(*map(torch.zeros, shapes))
