"""Laws of the table of exact divergences: what a pair that somebody else registers changes, and for whom."""

import math

import pytest
import torch
from helpers.strangers import OtherPosterior, OtherPrior
from torch.testing import assert_close

import vaekit
from vaekit import divergences, losses
from vaekit.divergences import exact, known, known_by_dimension

LAPLACE = torch.distributions.Laplace


class LaplacePrior(vaekit.Prior):
    def log_prob(self, z):
        return LAPLACE(0.0, 1.0).log_prob(z).flatten(1).sum(1)

    def sample(self, shape, *, key, dtype, row_start=0):
        return torch.zeros(shape, dtype=dtype)


class LaplacePosterior(vaekit.Posterior):
    """As short as a posterior can be, with a density that has a closed form of its divergence."""

    def __init__(self, mean):
        self.mean = mean

    def _rsample(self, draw):
        shape = (*draw.shape, *self.mean.shape)
        u = vaekit.ops.philox.uniform(draw.key, shape, self.mean.dtype) - 0.5
        return self.mean - 2.0 * u.sign() * torch.log1p(-2.0 * u.abs().clamp(max=0.4999999))

    def log_prob(self, z):
        return LAPLACE(self.mean, 2.0).log_prob(z).flatten(z.ndim - self.mean.ndim + 1).sum(-1)


def mine():
    return LaplacePosterior(torch.tensor([[0.5, -2.0], [1.0, 0.0]], dtype=torch.float64))


@pytest.fixture
def table(monkeypatch):
    """A copy of the table, so that what a test registers goes with it."""
    monkeypatch.setattr(divergences, "_rules", dict(divergences._rules))


def closed_form(posterior):
    return torch.distributions.kl_divergence(LAPLACE(posterior.mean, 2.0), LAPLACE(0.0, 1.0))


@pytest.fixture
def registered(table):
    @exact(LaplacePosterior, LaplacePrior, by_dimension=True)
    def rule(posterior, prior, draw, reduce):
        kl = closed_form(posterior)
        return posterior._rsample(draw), kl if reduce == "none" else kl.sum(1)


def test_two_short_methods_give_draws_densities_ratios_and_an_estimated_divergence():
    posterior = mine()
    z, estimates = posterior.rsample_kl(LaplacePrior(), key=vaekit.make_key(0), num_samples=20_000)
    assert z.shape == (20_000, 2, 2)
    assert torch.equal(z, posterior.rsample(key=vaekit.make_key(0), num_samples=20_000))
    error = estimates.std(0) / math.sqrt(len(estimates))
    assert ((estimates.mean(0) - closed_form(posterior).sum(1)).abs() < 4 * error).all()
    _, ratio = posterior.rsample_log_ratio(LaplacePrior(), key=vaekit.make_key(0), num_samples=3)
    assert_close(ratio, posterior.log_prob(z[:3]) - LAPLACE(0.0, 1.0).log_prob(z[:3]).sum(-1))


def test_its_density_with_constant_parameters_has_the_gradient_through_the_draw_alone():
    mean = mine().mean.requires_grad_()
    z, plain = LaplacePosterior(mean).rsample_log_prob(key=vaekit.make_key(1), num_samples=3)
    _, stopped = LaplacePosterior(mean).rsample_log_prob(key=vaekit.make_key(1), num_samples=3, stop_parameters=True)
    assert torch.equal(stopped, plain)
    expected = torch.autograd.grad(LAPLACE(mean.detach(), 2.0).log_prob(z).sum(), mean)
    assert_close(torch.autograd.grad(stopped.sum(), mean), expected)
    assert_close(torch.autograd.grad(plain.sum(), mean)[0], torch.zeros_like(mean))  # z - mean does not depend on the mean


def test_a_registered_pair_is_what_everybody_asks(registered):
    posterior = mine()
    assert known_by_dimension(posterior, LaplacePrior())
    z, kl = posterior.rsample_kl(LaplacePrior(), key=vaekit.make_key(0), num_samples=3)
    assert z.shape == (3, 2, 2)
    assert torch.equal(kl, closed_form(posterior).sum(1))
    _, elements = posterior.rsample_kl_per_dimension(LaplacePrior())
    assert torch.equal(elements, closed_form(posterior))
    assert [level.tolist() for level in posterior.rsample_kl_by_level(LaplacePrior())[1]] == [kl.tolist()]


def test_free_bits_and_latent_statistics_take_a_registered_pair(registered):
    class Encoder(vaekit.Encoder):
        def forward(self, x):
            return LaplacePosterior(x.double())

    vae = vaekit.create_vae(
        input_shape=(2,), latent_dim=2, encoder=Encoder((2,), 2), decoder={"name": "mlp", "hidden": ()}, loss="free_bits"
    ).double()
    vae.prior = LaplacePrior()
    x = torch.rand(5, 2).double()
    terms = vae(x)
    assert_close(terms.kl, closed_form(LaplacePosterior(x)).sum(1))
    assert_close(vaekit.evaluation.latent_statistics(vae, x).kl, closed_form(LaplacePosterior(x)).mean(0))


def test_the_nearest_base_class_decides(table):
    class Near(LaplacePrior):
        pass

    def rule(value):
        return lambda posterior, prior, draw, reduce: (posterior.mean, torch.full((2,), value))

    exact(LaplacePosterior, LaplacePrior)(rule(1.0))
    assert mine().rsample_kl(Near())[1].tolist() == [1.0, 1.0]
    exact(LaplacePosterior, Near)(rule(2.0))
    assert mine().rsample_kl(Near())[1].tolist() == [2.0, 2.0]
    assert mine().rsample_kl(LaplacePrior())[1].tolist() == [1.0, 1.0]


def test_a_pair_is_registered_once(registered):
    with pytest.raises(ValueError, match="LaplacePosterior from a LaplacePrior"):
        exact(LaplacePosterior, LaplacePrior)(lambda *arguments: None)


def test_strangers_are_not_in_the_table():
    assert known(OtherPosterior(torch.zeros(2, 3)), vaekit.StandardNormal()) is None
    gaussian = vaekit.DiagonalGaussian(torch.zeros(2, 3), torch.zeros(2, 3))
    assert known(gaussian, OtherPrior()) is None
    with pytest.raises(TypeError, match="OtherPosterior from a StandardNormal"):
        OtherPosterior(torch.zeros(2, 3)).rsample_kl_per_dimension(vaekit.StandardNormal())


@pytest.mark.parametrize(
    "loss", [name for name in losses.names() if name not in ("vector_quantized", "autoencoder", "semi_supervised", "mvae")]
)
def test_a_posterior_of_two_short_methods_goes_through_objectives_or_is_refused_by_name(loss):
    class Encoder(vaekit.Encoder):
        def __init__(self, input_shape, latent_dim):
            super().__init__(input_shape, latent_dim)
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, x):
            return LaplacePosterior(self.linear(x))

    spec = {"name": loss, **({"kind": "i"} if loss == "dip_vae" else {"hidden": (4,)} if loss == "factor" else {})}
    vae = vaekit.create_vae(
        input_shape=(2,), latent_dim=2, encoder=Encoder((2,), 2), decoder={"name": "mlp", "hidden": ()}, loss=spec
    )
    try:
        vae(torch.rand(5, 2), dataset_size=5).objective.backward()
    except TypeError as error:
        assert loss in ("free_bits", "beta_tc")
        assert "LaplacePosterior" in str(error)
        return
    assert vae.encoder.linear.bias.grad.isfinite().all()
