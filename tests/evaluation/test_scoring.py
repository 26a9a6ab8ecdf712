"""Laws of scores: against the closed form of a linear Gaussian model, and of every likelihood."""

import math

import numpy as np
import pytest
import torch
from helpers.densities import OF_SEVERAL
from helpers.linear_models import conditional, linear_gaussian
from torch.utils.data import DataLoader

import vaekit
from vaekit import likelihoods
from vaekit.evaluation import Scores, importance_weighted_bound, score, scores, weighting

NAN = math.nan
X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GAPS = torch.tensor([[0.3, NAN, -1.2, 0.9, NAN], [NAN, NAN, 0.4, NAN, NAN], [NAN] * 5], dtype=torch.float64)


def model():
    vae, marginal = linear_gaussian(missing="ignore")
    with torch.no_grad():
        vae.encoder.head.weight[:2] *= 0.7
        vae.encoder.head.bias[2:] = 0.2  # wider than the posterior of z, also without one element or more of x
    return vae, marginal


def observed_log_prob(marginal, x):
    """log p of what is observed of one x [F]."""
    seen = ~x.isnan()
    if not seen.any():
        return torch.zeros((), dtype=torch.float64)
    covariance = marginal.covariance_matrix[seen][:, seen]
    return torch.distributions.MultivariateNormal(marginal.mean[seen], covariance).log_prob(x[seen])


def test_the_score_is_the_log_density_of_what_is_observed():
    vae, marginal = model()
    x = torch.cat([X, GAPS])
    got = vae.score(x, samples=20_000)
    exact = torch.stack([observed_log_prob(marginal, row) for row in x])
    assert ((got.log_likelihood - exact).abs() < 4.5 / got.effective_sample_size.sqrt()).all()
    assert (got.effective_sample_size > 1000).all()
    assert got.element_nll is None
    assert got.surprise is None


def test_an_elements_surprise_is_minus_its_log_density_given_the_others():
    vae, marginal = model()
    x = torch.cat([X, GAPS])
    got = vae.score(x, samples=20_000, elements=True)
    assert got.log_likelihood.equal(vae.score(x, samples=20_000).log_likelihood)
    assert got.surprise.isnan().equal(x.isnan())
    for row, surprise in zip(x, got.surprise, strict=True):
        for column in (~row.isnan()).nonzero().flatten().tolist():
            others = row.clone()
            others[column] = NAN
            mean, covariance = conditional(marginal, others)
            place = int(others.isnan()[:column].sum())
            normal = torch.distributions.Normal(mean[place], covariance[place, place].sqrt())
            assert float(surprise[column] + normal.log_prob(row[column])) == pytest.approx(0.0, abs=0.1)


def test_an_elements_nll_is_expected_under_the_posterior_of_z():
    """For x_j = w_j z + b_j + sigma noise: log(2 pi sigma^2) / 2 + ((x_j - w_j m - b_j)^2 + w_j S w_j') / 2 sigma^2."""
    vae, _ = model()
    x = torch.cat([X, GAPS])
    got = vae.score(x, samples=20_000, elements=True).element_nll
    assert got.isnan().equal(x.isnan())
    weight, bias, variance = vae.decoder.head.weight.detach(), vae.decoder.head.bias.detach(), 0.8**2
    for row, nll in zip(x, got, strict=True):
        seen = ~row.isnan()
        own = weight[seen]
        covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + own.mT @ own / variance)
        mean = covariance @ own.mT @ (row - bias)[seen] / variance
        spread = torch.einsum("fi,ij,fj->f", own, covariance, own)
        exact = 0.5 * math.log(2 * math.pi * variance) + ((row[seen] - own @ mean - bias[seen]) ** 2 + spread) / (2 * variance)
        torch.testing.assert_close(nll[seen], exact, atol=0.06, rtol=0.03)


def test_it_is_the_bound():
    vae, _ = model()
    bound = importance_weighted_bound(vae, X, num_samples=30, seed=4)
    got = vae.score(X, samples=30, seed=4)
    torch.testing.assert_close(got.log_likelihood, bound.per_example)
    torch.testing.assert_close(got.effective_sample_size, bound.effective_sample_sizes)


@pytest.mark.parametrize("elements", [13, 40, 10**6])
def test_it_depends_on_neither_pieces_nor_batches_nor_on_which_rows_are_given(monkeypatch, elements):
    vae, _ = model()
    x = torch.cat([X, GAPS]).repeat(2, 1)
    options = {"samples": 50, "elements": True}
    whole = vae.score(x, **options)
    monkeypatch.setattr(weighting, "_ELEMENTS_AT_ONCE", elements)
    parts = list(scores(vae, x, **options))
    assert len(parts) == -(-22 // max(1, elements // 5))
    for start, got in (
        (0, score(vae, DataLoader(x, batch_size=7), **options)),
        (5, score(vae, x[5:], row_start=5, **options)),
        (0, [torch.cat(part) for part in zip(*parts, strict=True)]),
    ):
        for one, other in zip(got, whole, strict=True):
            torch.testing.assert_close(one, other[start:], rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("name", [name for name in likelihoods.names() if name not in {"columns", *OF_SEVERAL}])
def test_without_a_say_of_z_an_element_of_every_likelihood_has_its_own_nll(name):
    """The elements are then independent: given the others, or z, an element is as probable as alone."""
    options = {"categorical": {"classes": 3}, "discretized_logistic": {"levels": 4}}.get(name, {})
    vae = vaekit.create_vae(
        input_shape=(2, 3), latent_dim=2, likelihood={"name": name, "missing": "ignore", **options}, seed=0
    ).double()
    parameters = torch.randn(1, vae.likelihood.parameters_per_element, 2, 3, dtype=torch.float64)
    vae.decoder.forward = lambda z, *rest: parameters.expand(len(z), *parameters.shape[1:])
    x = vae.likelihood.sample(parameters.expand(4, *parameters.shape[1:]), key=vaekit.make_key(0)).detach()
    x[1, 0, 2] = NAN
    got = vae.score(x, samples=7, elements=True)
    own = vae.likelihood.element_nll(parameters.expand(4, *parameters.shape[1:]), x).detach()
    torch.testing.assert_close(got.element_nll, own, equal_nan=True)
    torch.testing.assert_close(got.surprise, own, equal_nan=True)


def test_columns_have_the_nll_of_their_own_likelihoods_in_the_order_of_the_table():
    kinds = ["gaussian", {"name": "categorical", "classes": 3}, "gaussian", "poisson"]
    likelihood = likelihoods.create("columns", columns=kinds)
    parameters, x = torch.randn(5, 1, 6), torch.tensor([[0.5, 2.0, -1.0, 3.0]]).repeat(5, 1)
    nll = likelihood.element_nll(parameters, x)
    for column, places in enumerate(([0], [1, 2, 3], [4], [5])):
        own = likelihood.likelihoods[column].element_nll(parameters[:, 0, places, None], x[:, column, None])
        torch.testing.assert_close(nll[:, column], own[:, 0])
    torch.testing.assert_close(nll.sum(1), likelihood.nll(parameters, x))


def test_what_is_out_of_place_is_found_by_example_and_by_column():
    vae, marginal = model()
    ordinary = marginal.sample((200,))
    limit = vae.score(ordinary, samples=200).threshold(0.02)
    strange = ordinary[:20].clone()
    strange[:, 3] += 12.0
    got = vae.score(strange, samples=200, elements=True)
    assert (got.log_likelihood < limit).all()
    assert (got.surprise.argmax(1) == 3).all()


def test_a_threshold_leaves_at_most_its_share_below():
    values = torch.randn(101, dtype=torch.float64)
    for share in (0.0, 0.05, 0.5, 1.0):
        limit = Scores(values, values, None, None).threshold(share)
        assert limit == np.sort(values.numpy())[int(share * 100)]
        assert (values < limit).double().mean() <= share
    values[0] = -math.inf
    assert Scores(values, values, None, None).threshold(0.005) == -math.inf
    with pytest.raises(ValueError, match="share has to be a finite number of at least 0 and at most 1, got 5"):
        Scores(values, values, None, None).threshold(5)
    values[1] = NAN
    with pytest.raises(ValueError, match="1 of 101 scores are NaN"):
        Scores(values, values, None, None).threshold(0.5)


def test_missing_values_of_a_model_that_refuses_them_are_refused_and_so_are_impossible_options():
    vae, _ = linear_gaussian()
    with pytest.raises(ValueError, match="holds NaN"):
        vae.score(GAPS)
    with pytest.raises(ValueError, match="samples has to be a whole number of at least 1, got 0"):
        vae.score(X, samples=0)
    with pytest.raises(TypeError, match="elements has to be True or False"):
        vae.score(X, elements="no")
