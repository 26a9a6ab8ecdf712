"""Priors: their densities against torch.distributions and integrals, their draws against their densities."""

import copy
import math

import pytest
import torch
from scipy import stats

import vaekit
from vaekit import priors

SHAPES = [(2,), (3,), (2, 3, 2)]
DENSITIES = [
    name
    for name in priors.names()
    if "codes" not in name and name not in ("pixel_cnn", "top_down", "uniform_sphere", "wrapped_normal")
]  # codes have probabilities: see test_codes.py, test_autoregressive.py; levels, directions: tests/posteriors
D = torch.distributions


def create(name, shape=(2,), seed=0, **options) -> vaekit.VAE:
    """A model with the prior, whose parameters are no longer those that it starts from."""
    assert len(shape) == 1
    vae = vaekit.create_vae(
        input_shape=(5,), latent_dim=shape[0], likelihood="gaussian", prior={"name": name, **options}, seed=seed
    ).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in vae.prior.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return vae


def moved(prior, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return prior


@pytest.mark.parametrize("shape", SHAPES)
def test_a_learned_gaussian_is_torchs(shape):
    prior = moved(priors.LearnedGaussian(shape).double())
    z = torch.randn(7, *shape, dtype=torch.float64)
    expected = D.Normal(prior.mu, torch.exp(prior.logvar / 2)).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mixture_is_torchs(shape):
    prior = moved(priors.GaussianMixture(shape, components=4).double())
    z = torch.randn(7, *shape, dtype=torch.float64)
    parts = D.Independent(D.Normal(prior.mu, torch.exp(prior.logvar / 2)), len(shape))
    expected = D.MixtureSameFamily(D.Categorical(logits=prior.logits), parts).log_prob(z)
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-12, atol=1e-12)


def test_far_from_every_component_a_mixture_is_finite_with_its_gradient():
    prior = priors.GaussianMixture((2,), components=3)
    z = torch.full((1, 2), 1e4, requires_grad=True)
    value = prior.log_prob(z)
    value.sum().backward()
    assert value.isfinite().all()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("components", [1, 4])
def test_a_vamp_prior_is_the_average_of_the_posteriors_of_its_pseudo_inputs(components):
    vae = create("vamp", components=components)
    z = torch.randn(7, 2, dtype=torch.float64)
    densities = [
        D.Normal(q.mu[0], torch.exp(q.logvar[0] / 2)).log_prob(z).sum(1).exp()
        for q in (vae.encoder(u[None]) for u in vae.prior.pseudo_inputs)
    ]
    torch.testing.assert_close(vae.prior.log_prob(z), torch.stack(densities).mean(0).log(), rtol=1e-10, atol=1e-10)
    if components == 1:
        torch.testing.assert_close(vae.prior.log_prob(z), vae.encoder(vae.prior.pseudo_inputs).log_prob(z))


def test_a_flow_of_no_maps_is_the_standard_normal():
    pytest.importorskip("zuko", reason="zuko is not installed: pip install 'vaekit[flows]'")
    z, key = torch.randn(7, 3), vaekit.make_key(1)
    flow, normal = priors.Flow((3,), transforms=0), priors.StandardNormal()
    torch.testing.assert_close(flow.log_prob(z), normal.log_prob(z))
    assert torch.equal(*(prior.sample((4, 3), key=key, dtype=torch.float32) for prior in (flow, normal)))


def by_name(name):
    if name == "flow":
        pytest.importorskip("zuko", reason="zuko is not installed: pip install 'vaekit[flows]'")
    options = {"gaussian_mixture": {"components": 4}, "vamp": {"components": 4}, "flow": {"transforms": 2, "hidden": (8,)}}
    return create(name, **options.get(name, {}))


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_integrates_to_1(name):
    prior = by_name(name).prior
    line = torch.linspace(-14, 14, 701, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        total = torch.cat([prior.log_prob(part).exp() for part in grid.split(20000)]).sum() * (line[1] - line[0]) ** 2
    assert float(total) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("name", DENSITIES)
def test_draws_have_the_density(name):
    """The share of draws left of a line, and below, is that which the density says: Kolmogorov and Smirnov's test."""
    prior = by_name(name).prior
    with torch.no_grad():
        drawn = prior.sample((4000, 2), key=vaekit.make_key(3), dtype=torch.float64)
        line = torch.linspace(-14, 14, 1401, dtype=torch.float64)
        density = torch.stack([prior.log_prob(torch.stack((line, torch.full_like(line, y)), 1)).exp() for y in line[::4]])
    for dimension, marginal in ((0, density.sum(0)), (1, density.sum(1))):
        places = line if dimension == 0 else line[::4]
        cumulative = torch.cumulative_trapezoid(marginal / torch.trapezoid(marginal, places), places)

        def below(values, cumulative=cumulative, places=places):
            import numpy as np

            return np.interp(values, places[1:], cumulative)

        assert stats.kstest(drawn[:, dimension].numpy(), below).pvalue > 1e-3


@pytest.mark.parametrize("name", DENSITIES)
def test_draws_are_a_function_of_the_key(name):
    prior = by_name(name).prior
    draws = [prior.sample((6, 2), key=vaekit.make_key(seed), dtype=torch.float64) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("num_samples", [None, 3])
def test_the_divergence_from_a_learned_gaussian_is_exact_with_gradients_for_both(num_samples):
    vae = create("diagonal_gaussian")
    x = torch.randn(3, 5, dtype=torch.float64)
    posterior, prior = vae.encode(x), vae.prior
    z, kl = posterior.rsample_kl(prior, key=vaekit.make_key(0), num_samples=num_samples)
    exact = D.kl_divergence(
        D.Normal(posterior.mu, torch.exp(posterior.logvar / 2)), D.Normal(prior.mu, torch.exp(prior.logvar / 2))
    ).sum(1)
    torch.testing.assert_close(kl, exact)
    wanted = [prior.mu, prior.logvar, *vae.encoder.parameters()]
    for got, expected in zip(*(torch.autograd.grad(t.sum(), wanted, retain_graph=True) for t in (kl, exact)), strict=True):
        torch.testing.assert_close(got, expected)
    assert torch.equal(z, posterior.rsample_kl(priors.StandardNormal(), key=vaekit.make_key(0), num_samples=num_samples)[0])


def test_the_estimate_of_a_divergence_has_the_divergence_as_its_mean():
    """From a mixture of one component, whose divergence is known."""
    vae = create("gaussian_mixture", components=1)
    x = torch.randn(3, 5, dtype=torch.float64)
    posterior, prior = vae.encode(x), vae.prior
    _, estimates = posterior.rsample_kl(prior, key=vaekit.make_key(0), num_samples=20000)
    exact = D.kl_divergence(
        D.Normal(posterior.mu, torch.exp(posterior.logvar / 2)), D.Normal(prior.mu[0], torch.exp(prior.logvar[0] / 2))
    ).sum(1)
    errors = estimates.std(0) / math.sqrt(20000)
    assert ((estimates.mean(0) - exact).abs() < 4 * errors).all()


@pytest.mark.parametrize("name", DENSITIES)
def test_a_model_with_it_trains_saves_loads_and_copies(name, tmp_path):
    vae = by_name(name).float()
    x, key = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)), vaekit.make_key(0)
    before = vaekit.evaluate(vae, x)["loss"]
    start = [p.detach().clone() for p in vae.prior.parameters()]
    vaekit.fit(vae, x, epochs=15, batch_size=32, learning_rate=1e-2, progress=False, device="cpu")
    assert vaekit.evaluate(vae, x)["loss"] < before
    assert all(not torch.equal(a, b) for a, b in zip(start, vae.prior.parameters(), strict=True))
    for again in (vaekit.load(vae.save(tmp_path)), copy.deepcopy(vae)):
        assert torch.equal(again(x, key=key).total, vae(x, key=key).total)
        assert torch.equal(again.sample(3, key=key), vae.sample(3, key=key))


def test_a_copy_of_a_model_with_a_vamp_prior_has_an_encoder_of_its_own():
    vae = create("vamp", components=4)
    again = copy.deepcopy(vae)
    with torch.no_grad():
        next(iter(again.encoder.parameters())).zero_()
    assert not torch.equal(again.prior.log_prob(torch.ones(1, 2).double()), vae.prior.log_prob(torch.ones(1, 2).double()))
    assert len(list(vae.prior.parameters())) == 1


def test_pseudo_inputs_can_start_from_examples():
    vae = create("vamp", components=4)
    x = torch.arange(50.0).double().view(10, 5)
    vae.prior.start_from(x)
    assert vae.prior.pseudo_inputs[:, 0].tolist() == [0.0, 10.0, 25.0, 35.0]
    with pytest.raises(ValueError, match=r"at least 4 examples of the shape \(5,\), got \(3, 5\)"):
        vae.prior.start_from(x[:3])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"LearnedGaussian .*of the shape \(3,\), but the encoder's have \(2,\)"):
        vaekit.create_vae(input_shape=(5,), latent_dim=2, prior=priors.LearnedGaussian((3,)))
    with pytest.raises(ValueError, match=r"pseudo-inputs have the shape \(4,\), but the encoder reads \(5,\)"):
        vaekit.create_vae(input_shape=(5,), latent_dim=2, prior=priors.Vamp((4,)))
    labels = {"name": "labels", "classes": 3}
    with pytest.raises(ValueError, match="make the encoder with condition_dim=0, or take another prior"):
        vaekit.create_vae(input_shape=(5,), latent_dim=2, prior="vamp", condition=labels)
    vaekit.create_vae(input_shape=(5,), latent_dim=2, prior="vamp", condition=labels, encoder={"condition_dim": 0})
    prior = priors.Vamp((5,), components=2)
    with pytest.raises(RuntimeError, match="compose a vaekit.VAE with it first"):
        prior.log_prob(torch.zeros(1, 2))
    vaekit.create_vae(input_shape=(5,), latent_dim=2, prior=prior)
    with pytest.raises(ValueError, match="belongs to another model"):
        vaekit.create_vae(input_shape=(5,), latent_dim=2, prior=prior)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gaussian_mixture", {"latent_shape": (2,), "components": 0}),
        ("vamp", {"input_shape": (2,), "components": 2.5}),
        ("vamp", {"input_shape": (2,), "std": 0.0}),
        ("diagonal_gaussian", {"latent_shape": (0,)}),
        ("flow", {"latent_shape": (2,), "kind": "glow"}),
        ("flow", {"latent_shape": (2,), "transforms": -1}),
    ],
)
def test_options_that_are_none_are_refused(name, options):
    with pytest.raises(ValueError, match="has to be|positive"):
        priors.create(name, **options)


def test_a_vamp_prior_refuses_batch_normalisation():
    encoder = {"name": "mlp", "hidden": (8,), "normalization": "batch"}
    with pytest.raises(ValueError, match="batch normalisation would mix .* normalization='layer' or 'group'"):
        vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder=encoder, prior="vamp")


@pytest.mark.parametrize("prior", ["gaussian_mixture", {"name": "vamp", "components": 3}])
def test_what_a_component_draws_does_not_depend_on_its_choice(prior):
    """Components far apart, so that each draw tells which it is of: within each one the noise is N(0, 1)."""
    vae = vaekit.create_vae(input_shape=(1,), latent_dim=1, encoder={"name": "mlp", "hidden": ()}, prior=prior, seed=0)
    with torch.no_grad():
        if prior == "gaussian_mixture":
            centres = vae.prior.mu.copy_(100.0 * torch.arange(10.0)[:, None]).flatten()
        else:  # q(z | x) = N(100 x, 1)
            vae.encoder.head.weight.copy_(torch.tensor([[100.0], [0.0]]))
            vae.prior.pseudo_inputs.copy_(torch.arange(3.0)[:, None])
            centres = 100.0 * vae.prior.pseudo_inputs.flatten()
    z = vae.prior.sample((20_000, 1), key=vaekit.make_key(5), dtype=torch.float32).detach()
    distance = z - centres.detach()
    component = distance.abs().argmin(1)
    for number in range(len(centres)):
        noise = distance[component == number, number]
        assert len(noise) > 1000
        assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-4
