"""A posterior and a prior of two levels, written as somebody else would: what the levels of a ladder need of the house.

q(z_1, z_2 | x) = q(z_2 | x) q(z_1 | z_2, x) and p(z_1, z_2) = p(z_2) p(z_1 | z_2), as in C. K. Soenderby et al., "Ladder
Variational Autoencoders", 2016, arXiv:1602.02282, with linear Gaussian conditionals, whose joint is a Gaussian: torch has its
divergence in closed form. z is both levels in one vector, the upper one first.
"""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing import assert_close

import vaekit
from vaekit import divergences, posteriors
from vaekit.divergences import exact
from vaekit.latents import LatentKind
from vaekit.posteriors import DiagonalGaussian, Family
from vaekit.priors import LearnedGaussian

D = 2  # of each level


class Ladder(vaekit.Posterior):
    """z_2 ~ N(mu_2, s_2), z_1 ~ N(mu_1 + slope z_2, s_1), each [B, D]."""

    def __init__(self, upper, lower, slope):
        self.upper, self.lower, self.slope = upper, lower, slope
        self.mean = torch.cat((upper.mu, lower.mu + slope * upper.mu), 1)

    def given(self, upper):
        """q(z_1 | z_2, x), one for each draw of z_2 [..., B, D], as a batch of all of them."""
        mu = self.lower.mu + self.slope * upper
        return DiagonalGaussian(mu.reshape(-1, D), self.lower.logvar.expand_as(mu).reshape(-1, D))

    def _rsample(self, draw):
        upper = self.upper._rsample(draw)
        eps = draw.folded(1).noise(self.lower.mu)
        return torch.cat((upper, self.lower.mu + self.slope * upper + torch.exp(0.5 * self.lower.logvar) * eps), -1)

    def log_prob(self, z):
        upper, lower = z.split(D, -1)
        return self.upper.log_prob(upper) + self.given(upper).log_prob(lower.reshape(-1, D)).view(z.shape[:-1])


class LadderPrior(vaekit.Prior):
    """z_2 ~ N(0, I), z_1 ~ N(slope z_2, 1)."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.full((D,), 0.5))

    def log_prob(self, z):
        upper, lower = z.split(D, -1)
        standard = vaekit.StandardNormal()
        return standard.log_prob(upper) + standard.log_prob(lower - self.slope * upper)

    def sample(self, shape, *, key, dtype, row_start=0):
        upper, lower = vaekit.ops.philox.normal(key, tuple(shape), dtype, row_start * 2 * D).split(D, -1)
        return torch.cat((upper, self.slope * upper + lower), -1)


class LadderFamily(Family):
    def __init__(self, latent_shape):
        super().__init__(latent_shape)
        self.outputs = 4 * D
        self.slope = nn.Parameter(torch.zeros(D))

    def forward(self, numbers):
        upper, upper_logvar, lower, lower_logvar = numbers.split(D, 1)
        return Ladder(DiagonalGaussian(upper, upper_logvar), DiagonalGaussian(lower, lower_logvar), self.slope)


@pytest.fixture
def pair(monkeypatch):
    """The pair's rule, for the time of a test: each level's divergence is exact, the lower one's given the upper level's draw."""
    monkeypatch.setattr(divergences, "_rules", dict(divergences._rules))

    @exact(Ladder, LadderPrior)
    def rule(posterior, prior, draw, reduce):
        z = posterior._rsample(draw)
        upper, _ = z.split(D, -1)
        _, of_upper = posterior.upper.rsample_kl(vaekit.StandardNormal(), key=draw.key)
        conditional, mean = posterior.given(upper), (prior.slope * upper).reshape(-1, D)
        shifted = DiagonalGaussian(conditional.mu - mean, conditional.logvar)
        _, of_lower = shifted.rsample_kl(vaekit.StandardNormal(), key=draw.key)
        return z, (of_upper, of_lower.view(upper.shape[:-1]))


def ladder():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(4, 3, D, generator=generator, dtype=torch.float64)
    slope = torch.tensor([0.7, -1.5], dtype=torch.float64)
    return Ladder(DiagonalGaussian(*numbers[:2]), DiagonalGaussian(*numbers[2:]), slope)


def joint(upper_mean, upper_variance, lower_shift, lower_variance, slope):
    """The Gaussian of (z_2, z_1), dimension by dimension: [..., D] pairs."""
    mean = torch.stack((upper_mean, lower_shift + slope * upper_mean), -1)
    across = slope * upper_variance
    covariance = torch.stack(
        (torch.stack((upper_variance, across), -1), torch.stack((across, lower_variance + slope * across), -1)), -1
    )
    return MultivariateNormal(mean, covariance)


def closed_form(q, prior):
    zeros, ones = torch.zeros_like(q.upper.mu), torch.ones_like(q.upper.mu)
    of_q = joint(q.upper.mu, q.upper.logvar.exp(), q.lower.mu, q.lower.logvar.exp(), q.slope)
    return kl_divergence(of_q, joint(zeros, ones, zeros, ones, prior.slope.detach().double())).sum(-1)


def test_the_divergence_is_the_sum_of_its_levels_and_right_on_average(pair):
    q, prior, key = ladder(), LadderPrior().double(), vaekit.make_key(0)
    z, (upper, lower) = q.rsample_kl_by_level(prior, key=key, num_samples=20_000)
    same_z, kl = q.rsample_kl(prior, key=key, num_samples=20_000)
    assert torch.equal(z, same_z)
    assert torch.equal(kl, upper + lower)
    standard = torch.distributions.Normal(0.0, 1.0)
    of_upper = kl_divergence(torch.distributions.Normal(q.upper.mu, torch.exp(0.5 * q.upper.logvar)), standard).sum(1)
    assert_close(upper, of_upper)
    error = kl.std(0) / math.sqrt(len(kl))
    assert ((kl.mean(0) - closed_form(q, prior)).abs() < 4 * error).all()


def test_its_estimate_and_its_density_agree_with_the_closed_form(pair):
    q, prior = ladder(), LadderPrior().double()
    z, ratio = q.rsample_log_ratio(prior, key=vaekit.make_key(0), num_samples=20_000)
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert ((ratio.detach().mean(0) - closed_form(q, prior)).abs() < 4 * error).all()
    of_q = joint(q.upper.mu, q.upper.logvar.exp(), q.lower.mu, q.lower.logvar.exp(), q.slope)
    assert_close(q.log_prob(z[:5]), of_q.log_prob(torch.stack(z[:5].split(D, -1), -1)).sum(-1))


@pytest.mark.parametrize(
    "loss",
    [
        {"name": "elbo"},
        {"name": "elbo", "num_samples": 3},
        {"name": "capacity"},
        {"name": "factor", "latent_shape": (2 * D,), "hidden": (4,)},
        {"name": "info_vae"},
        {"name": "wae"},
    ],
    ids=str,
)
def test_objectives_say_the_divergence_level_by_level_and_training_lowers_it(pair, loss):
    vae = vaekit.create_vae(
        input_shape=(3,),
        latent_dim=2 * D,
        encoder={"name": "mlp", "hidden": (8,)},
        decoder={"name": "mlp", "hidden": (8,)},
        likelihood="gaussian",
        posterior=LadderFamily((2 * D,)),
        prior=LadderPrior(),
        loss=loss,
        seed=0,
    )
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    terms = vae(x, key=vaekit.make_key(1))
    assert_close(terms.extras["kl_level_1"] + terms.extras["kl_level_2"], terms.kl)
    history = vaekit.fit(vae, x, epochs=4, batch_size=20, learning_rate=1e-2, progress=False, device="cpu")
    assert_close(history["kl_level_1"][-1] + history["kl_level_2"][-1], history["kl"][-1], rtol=1e-5, atol=1e-5)
    assert history["loss"][-1] < history["loss"][0]
    assert (vae.prior.slope != 0.5).all()
    assert vae.sample(5).isfinite().all()


@pytest.mark.parametrize("posterior", posteriors.names())
def test_posteriors_of_one_level_say_nothing_of_levels(posterior):
    kind = posteriors.create(posterior, latent_shape=(2,)).latents
    codes = {"prior": "codes"} if kind.are_codes else {}
    codes |= {"prior": "uniform_sphere"} if kind is LatentKind.DIRECTIONS else {}
    codes |= {"prior": "wrapped_normal"} if kind is LatentKind.BALL else {}
    codes |= {LatentKind.CODES: {"loss": "vector_quantized"}, LatentKind.POINTS: {"loss": "autoencoder"}}.get(kind, {})
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior=posterior, **codes)
    assert not [name for name in vae(torch.rand(3, 4)).extras if name.startswith("kl_")]
    _, levels = vae.encode(torch.rand(3, 4)).rsample_kl_by_level(LearnedGaussian((2,)) if kind.fill_space else vae.prior)
    assert [level.shape for level in levels] == [(3,)]
