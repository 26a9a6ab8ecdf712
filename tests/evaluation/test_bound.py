"""The importance-weighted bound against models whose log p(x) is known."""

import itertools
import math

import pytest
import torch
from helpers.linear_models import linear_gaussian
from torch.utils.data import DataLoader

import vaekit
from vaekit.evaluation import importance_weighted_bound
from vaekit.losses.draws import effective_sample_size

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) * 1.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_exact_marginal_likelihood_within_its_standard_error(dtype):
    vae, marginal = linear_gaussian(dtype)
    x = X.to(dtype)
    bound = importance_weighted_bound(vae, x, num_samples=4000)
    exact = marginal.log_prob(x)
    assert abs(bound.log_likelihood - float(exact.mean())) < 4 * bound.standard_error
    assert bound.standard_error < 0.02
    errors = (1 / bound.effective_sample_sizes - 1 / 4000).sqrt()
    assert ((bound.per_example - exact).abs() < 4.5 * errors + 1e-5).all()


def test_with_the_exact_posterior_one_sample_is_enough():
    vae, marginal = linear_gaussian()
    with torch.no_grad():  # a decoder that ignores z: the posterior is the prior
        vae.decoder.head.weight.zero_()
        vae.encoder.head.weight.zero_()
        vae.encoder.head.bias.zero_()
    bound = importance_weighted_bound(vae, X.double(), num_samples=3)
    exact = torch.distributions.Normal(vae.decoder.head.bias, 0.8).log_prob(X.double()).sum(-1)
    torch.testing.assert_close(bound.per_example, exact, rtol=1e-12, atol=1e-12)
    assert bound.effective_sample_size == pytest.approx(3)
    assert bound.standard_error < 1e-8


def test_more_samples_never_lower_it_on_average_over_subsets_of_one_set():
    vae, _ = linear_gaussian()
    vae.encoder.head.bias.data[2:] += 1.0  # a posterior that is too wide, so that it matters
    x, total = X[:4].double(), 9
    posterior = vae.encode(x)
    z, ratio = posterior.rsample_log_ratio(vae.prior, key=vaekit.fold_in(vaekit.make_key(0), 2), num_samples=total)
    log_weights = torch.stack([-(vae.likelihood.nll(vae.decoder(z[k]), x) + ratio[k]) for k in range(total)])
    bounds = []
    for k in range(1, total + 1):
        subsets = [list(subset) for subset in itertools.combinations(range(total), k)]
        bounds.append(torch.stack([log_weights[s].logsumexp(0) - math.log(k) for s in subsets]).mean(0))
    assert (torch.stack(bounds).diff(dim=0) >= -1e-12).all()
    torch.testing.assert_close(importance_weighted_bound(vae, x, num_samples=total).per_example, bounds[-1].detach())


@pytest.mark.parametrize(("batch_size", "at_once"), [(1, 1), (5, 7), (12, 100_000), (4, 40)])
def test_it_depends_on_neither_batches_nor_chunks(batch_size, at_once):
    vae, _ = linear_gaussian()
    expected = importance_weighted_bound(vae, X.double(), num_samples=30)
    got = importance_weighted_bound(vae, X.double(), num_samples=30, batch_size=batch_size, at_once=at_once)
    torch.testing.assert_close(got.per_example, expected.per_example, rtol=1e-10, atol=1e-10)
    assert got.standard_error == pytest.approx(expected.standard_error)


def test_as_many_samples_are_drawn_as_were_asked_for(monkeypatch):
    vae, _ = linear_gaussian()
    decoded = []
    forward = vae.decoder.forward
    monkeypatch.setattr(vae.decoder, "forward", lambda z: (decoded.append(len(z)), forward(z))[1])
    importance_weighted_bound(vae, X.double(), num_samples=37, batch_size=5, at_once=50)
    assert sum(decoded) == 37 * len(X)
    assert max(decoded) <= 50


def test_it_repeats_differs_with_the_seed_and_takes_loaders():
    vae, _ = linear_gaussian()
    first = importance_weighted_bound(vae, X.double(), num_samples=20, seed=1)
    assert torch.equal(importance_weighted_bound(vae, X.double(), num_samples=20, seed=1).per_example, first.per_example)
    assert not torch.equal(importance_weighted_bound(vae, X.double(), num_samples=20, seed=2).per_example, first.per_example)
    loader = DataLoader(X.double(), batch_size=100)
    assert torch.equal(importance_weighted_bound(vae, loader, num_samples=20, seed=1).per_example, first.per_example)


def test_one_sample_is_the_elbo_of_that_draw():
    vae, _ = linear_gaussian()
    x = X.double()
    bound = importance_weighted_bound(vae, x, num_samples=1)
    terms = vae(x, key=vaekit.fold_in(vaekit.make_key(0), 2))
    posterior = vae.encode(x)
    z, kl = posterior.rsample_kl(vae.prior, key=vaekit.fold_in(vaekit.make_key(0), 2))
    estimate = posterior.log_prob(z) - vae.prior.log_prob(z)
    torch.testing.assert_close(bound.per_example, -(terms.reconstruction + estimate).detach())
    assert bound.effective_sample_size == pytest.approx(1)


def test_impossible_sizes_are_refused():
    vae, _ = linear_gaussian()
    for option in ("num_samples", "batch_size", "at_once"):
        with pytest.raises(ValueError, match=f"{option} has to be a whole number of at least 1"):
            importance_weighted_bound(vae, X.double(), **{option: 0})
    with pytest.raises(ValueError, match="holds NaN"):
        importance_weighted_bound(vae, torch.full((3, 5), torch.nan, dtype=torch.float64))


def test_the_standard_error_is_the_delta_methods_from_the_sample_variance_of_the_weights():
    vae, _ = linear_gaussian()
    x = X[:5].double()
    bound = importance_weighted_bound(vae, x, num_samples=20)
    z, ratio = vae.encode(x).rsample_log_ratio(vae.prior, key=vaekit.fold_in(vaekit.make_key(0), 2), num_samples=20)
    nll = torch.stack([vae.likelihood.nll(vae.natural_parameters(draw), x) for draw in z])
    weights = torch.exp(-(nll + ratio).double())
    of_mean = weights.var(0, correction=1) / 20 / weights.mean(0).square()
    assert bound.standard_error == pytest.approx(float(of_mean.sum().sqrt()) / 5, rel=1e-4)


def test_a_single_draw_has_no_standard_error():
    bound = importance_weighted_bound(linear_gaussian()[0], X[:5].double(), num_samples=1)
    assert math.isnan(bound.standard_error)
    assert bound.effective_sample_sizes.tolist() == [1.0] * 5


@pytest.mark.parametrize("sigma", [1.0, 1e-3, 1e-6, 3e-8])
def test_draws_that_weigh_the_same_all_count_however_small_their_weights(sigma):
    """log w is -1e16 in the end, where float64 has whole numbers alone: only its differences are small."""
    vae, _ = linear_gaussian(sigma=sigma)
    with torch.no_grad():
        for weight in vae.parameters():
            weight.zero_()  # neither q(z | x), which is the prior, nor p(x | z) depends on what it is given
    for samples in (1, 3, 7):
        bound = importance_weighted_bound(vae, X.double(), num_samples=samples, at_once=20)
        torch.testing.assert_close(bound.effective_sample_sizes, torch.full((12,), float(samples)).double())
        assert (bound.effective_sample_sizes <= samples).all()
        expected = torch.distributions.Normal(0.0, sigma).log_prob(X.double()).sum(1)
        torch.testing.assert_close(bound.per_example, expected, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e10])
def test_an_objectives_effective_sample_size_stays_between_1_and_the_number_of_draws(scale):
    for samples in range(1, 20):
        generator = torch.Generator().manual_seed(samples)
        sizes = effective_sample_size(scale * torch.randn(samples, 500, generator=generator))
        assert (sizes >= 1.0).all()
        assert (sizes <= samples).all()
