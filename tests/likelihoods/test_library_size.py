"""Counts given their library size: scipy's densities at a share of each total, whatever the counts' own likelihood."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import softmax

import vaekit
from vaekit.likelihoods import Gaussian, LibrarySize, NegativeBinomial, Poisson

RNG = np.random.default_rng(0)
X = RNG.poisson(3.0, (6, 7)).astype(float)
LOGITS = RNG.normal(size=(6, 7))
MEAN = X.sum(1, keepdims=True) * softmax(LOGITS, 1)
LOG_THETA, DROPOUT = RNG.normal(size=(2, 6, 7))


def given(*parameters):
    return torch.tensor(np.stack(parameters, 1))


def test_the_mean_of_a_count_is_its_share_of_the_total():
    x = torch.tensor(X)
    poisson = LibrarySize("poisson").nll(given(LOGITS), x)
    np.testing.assert_allclose(poisson, -stats.poisson.logpmf(X, MEAN).sum(1), rtol=1e-12)
    theta = np.exp(LOG_THETA)
    log_p = stats.nbinom.logpmf(X, theta, theta / (theta + MEAN))
    np.testing.assert_allclose(LibrarySize("negative_binomial").nll(given(LOGITS, LOG_THETA), x), -log_p.sum(1), rtol=1e-10)
    lost = 1 / (1 + np.exp(-DROPOUT))
    inflated = np.log(lost * (X == 0) + (1 - lost) * np.exp(log_p))
    likelihood = LibrarySize("zero_inflated_negative_binomial")
    np.testing.assert_allclose(likelihood.nll(given(LOGITS, LOG_THETA, DROPOUT), x), -inflated.sum(1), rtol=1e-10)
    np.testing.assert_allclose(likelihood.reconstruction(given(LOGITS, LOG_THETA, DROPOUT), x), (1 - lost) * MEAN, rtol=1e-10)


def test_the_sum_over_elements_is_the_nll_and_its_gradient_is_autograds():
    likelihood, x = LibrarySize("zero_inflated_negative_binomial"), torch.tensor(X)
    parameters = given(LOGITS, LOG_THETA, DROPOUT).requires_grad_()
    torch.testing.assert_close(likelihood.element_nll(parameters, x).sum(1), likelihood.nll(parameters, x))
    assert torch.autograd.gradcheck(lambda p: likelihood.nll(p, x), parameters)


@pytest.mark.parametrize("counts", ["poisson", "negative_binomial", "zero_inflated_negative_binomial"])
def test_a_number_added_to_all_logits_changes_nothing(counts):
    likelihood, x = LibrarySize(counts), torch.tensor(X)
    parameters = torch.tensor(RNG.normal(size=(6, likelihood.parameters_per_element, 7)))
    moved = parameters.clone()
    moved[:, 0] += 5.0
    torch.testing.assert_close(likelihood.nll(moved, x), likelihood.nll(parameters, x))
    torch.testing.assert_close(likelihood.mean(moved), likelihood.mean(parameters))


def test_means_and_draws_without_a_cell_are_those_of_the_size():
    parameters = given(LOGITS)
    likelihood = LibrarySize("poisson", size=1e6)
    np.testing.assert_allclose(likelihood.mean(parameters).sum(1), 1e6)
    np.testing.assert_allclose(likelihood.shares(parameters), softmax(LOGITS, 1))
    drawn = likelihood.sample(parameters, key=vaekit.make_key(0))
    np.testing.assert_allclose(drawn.sum(1), 1e6, rtol=6e-3)  # six standard deviations of a Poisson total
    assert torch.equal(likelihood.sample(parameters[2:], key=vaekit.make_key(0), row_start=2), drawn[2:])


def test_with_missing_values_the_observed_share_out_their_own_total():
    x, parameters = torch.tensor(X), given(LOGITS, LOG_THETA)
    x[:, 2:4] = torch.nan
    kept = [0, 1, 4, 5, 6]
    alone = LibrarySize("negative_binomial").nll(parameters[:, :, kept], x[:, kept])
    likelihood = LibrarySize("negative_binomial", missing="ignore")
    torch.testing.assert_close(likelihood.nll(parameters, x), alone)
    x[0], parameters = torch.nan, parameters.requires_grad_()
    nll = likelihood.nll(parameters, x)
    nll.sum().backward()
    assert nll[0] == 0
    assert parameters.grad.isfinite().all()
    assert not parameters.grad[0].any()


@pytest.mark.parametrize("counts", ["poisson", "negative_binomial", "zero_inflated_negative_binomial"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cell_without_any_count_costs_nothing_and_teaches_nothing(counts, dtype):
    likelihood = LibrarySize(counts)
    parameters = torch.randn(2, likelihood.parameters_per_element, 5, dtype=dtype, requires_grad=True)
    nll = likelihood.nll(parameters, torch.zeros(2, 5, dtype=dtype))
    nll.sum().backward()
    assert nll.abs().max() < 1e-6
    assert parameters.grad.abs().max() < 1e-6


def test_a_decoder_starts_from_the_shares_of_the_data():
    vae = vaekit.create_vae(input_shape=(7,), latent_dim=2, likelihood={"name": "library_size", "counts": "poisson", "size": 1.0})
    x = torch.tensor(X).float()
    vae.initialize_output_bias(x)
    torch.testing.assert_close(vae.decode(torch.zeros(1, 2))[0], (x / x.sum(1, keepdim=True)).mean(0))
    torch.testing.assert_close(vae.reconstruct(x).sum(1), x.sum(1))


def test_names_of_features_are_saved(tmp_path):
    genes = [f"g{number}" for number in range(7)]
    counts = {"name": "negative_binomial", "dispersion": "shared"}
    vae = vaekit.create_vae(latent_dim=2, likelihood={"name": "library_size", "counts": counts, "features": genes})
    again = vaekit.load(vae.save(tmp_path))
    assert again.likelihood.features == tuple(genes)
    assert again.input_shape == (7,)
    assert isinstance(again.likelihood.counts, NegativeBinomial)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"counts": Gaussian()}, "logarithm of their mean"),
        ({"counts": Poisson(missing="ignore")}, "missing='ignore', and library_size missing='refuse'"),
        ({"size": 0.0}, "size"),
        ({"features": ["a", "b", "a"]}, "'a' is there twice"),
    ],
)
def test_what_does_not_fit_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        LibrarySize(**options)
