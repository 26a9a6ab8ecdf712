"""Free bits: the maximum of each group against torch.distributions, its gradient, and what it refuses."""

import pytest
import torch
from helpers.strangers import OtherPosterior
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

import vaekit
from vaekit import make_key
from vaekit.priors import LearnedGaussian

X = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def model(loss, spatial=False, **parts):
    encoder = {"name": "conv", "channels": (4,), "spatial": True} if spatial else {"name": "mlp", "hidden": (8,)}
    decoder = {"name": "conv", "channels": (4,)} if spatial else {"name": "mlp", "hidden": (8,)}
    options = {"encoder": encoder, "decoder": decoder, "loss": loss, "seed": 1, **parts}
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=3, **options).double()
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.mul_(3.0)  # divergences on both sides of the minimum
        for parameter in vae.prior.parameters():
            parameter.copy_(torch.linspace(-0.5, 0.7, parameter.numel()).view(parameter.shape))
    return vae


def divergences(vae):
    q, prior = vae.encode(X), Normal(0.0, 1.0)
    if isinstance(vae.prior, LearnedGaussian):
        prior = Normal(vae.prior.mu, torch.exp(vae.prior.logvar / 2))
    return kl_divergence(Normal(q.mu, torch.exp(q.logvar / 2)), prior)


@pytest.mark.parametrize("per", ["dimension", "channel", "example"])
@pytest.mark.parametrize("spatial", [False, True], ids=["flat", "spatial"])
@pytest.mark.parametrize("prior", ["standard_normal", "diagonal_gaussian"])
def test_each_group_costs_its_mean_over_the_batch_or_the_minimum(prior, spatial, per):
    elements = divergences(model("elbo", spatial, prior=prior)).detach()
    groups = {
        "dimension": elements.flatten(1),
        "channel": elements.reshape(7, 3, -1).sum(2),
        "example": elements.flatten(1).sum(1),
    }[per]
    means = groups.mean(0).reshape(-1)
    for free in (0.0, float(means.median()) + 1e-3, float(means.max()) + 1.0):
        vae = model({"name": "free_bits", "free_nats": free, "per": per}, spatial, prior=prior)
        terms = vae(X, key=make_key(2))
        plain = model("elbo", spatial, prior=prior)(X, key=make_key(2))
        paid = sum(max(free, float(mean)) for mean in means)
        assert_close(terms.extras["paid_kl"].item(), paid)
        assert_close(terms.total, plain.reconstruction.mean() + paid)
        assert_close(terms.kl, elements.flatten(1).sum(1))
        assert_close(terms.kl, plain.kl)
        assert_close(terms.reconstruction, plain.reconstruction)
        if free == 0.0:
            assert_close(terms.total, plain.total)


@pytest.mark.parametrize("prior", ["standard_normal", "diagonal_gaussian"])
def test_below_the_minimum_the_divergence_has_no_gradient_and_above_it_its_own(prior):
    vae = model("elbo", prior=prior)
    means = divergences(vae).mean(0)
    free = float(means.detach().median()) + 1e-3
    expected = torch.autograd.grad(means[means > free].sum(), [vae.encoder.head.weight, *vae.prior.parameters()])
    assert 0 < int((means > free).sum()) < 3
    vae = model({"name": "free_bits", "free_nats": free}, prior=prior)
    paid = vae(X, key=make_key(0)).extras["paid_kl"]
    got = torch.autograd.grad(paid, [vae.encoder.head.weight, *vae.prior.parameters()])
    assert_close(got, expected)


def test_the_minimum_follows_its_schedule():
    vae = model({"name": "free_bits", "free_nats": {"name": "linear", "steps": 10, "start": 1000.0, "end": 0.0}})
    for step, free in ((0, 1000.0), (5, 500.0)):
        assert_close(vae(X, key=make_key(0), step=step).extras["paid_kl"].item(), 3 * free)
    terms = vae(X, key=make_key(0))
    assert_close(terms.extras["paid_kl"], terms.kl.mean())


class Other(vaekit.Prior):
    def log_prob(self, z):
        return z.flatten(1).sum(-1)

    def sample(self, shape, *, key, dtype, row_start=0):
        return torch.zeros(shape, dtype=dtype)


def test_divergences_that_do_not_come_apart_are_refused():
    vae = model("free_bits")
    vae.prior = Other()
    with pytest.raises(TypeError, match="DiagonalGaussian from a Other"):
        vae(X)
    vae = model("free_bits")
    vae.encoder.forward = lambda x: OtherPosterior(x.flatten(1)[:, :3])
    with pytest.raises(TypeError, match="OtherPosterior from a StandardNormal"):
        vae(X)
    with pytest.raises(ValueError, match="free_nats has to be at least 0, got -1"):
        model({"name": "free_bits", "free_nats": -1})
    with pytest.raises(ValueError, match="per, .*'dimension'.* got 'dim'"):
        model({"name": "free_bits", "per": "dim"})
    with pytest.raises(TypeError, match="expected a number, a Schedule"):
        model({"name": "free_bits", "free_nats": None})
