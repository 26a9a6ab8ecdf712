"""DIP-VAE: its covariances by numpy, and its penalty written out."""

import numpy as np
import pytest
import torch
from helpers.strangers import OtherPosterior, OtherPrior
from torch.testing import assert_close

import vaekit
from vaekit.losses import DipVAE
from vaekit.schedules import Linear

WEIGHTS = {"lambda_offdiagonal": 3.0, "lambda_diagonal": 0.5}


def model(loss="dip_vae", **options):
    return vaekit.create_vae(input_shape=(6,), latent_dim=3, loss=loss, likelihood="gaussian", seed=0, **options).double()


def data(rows=20):
    return torch.randn(rows, 6, dtype=torch.float64) * torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("rows", [1, 2, 20])
@pytest.mark.parametrize("kind", ["i", "ii"])
def test_the_penalty_is_that_of_numpys_covariance(kind, rows):
    vae, x, key = model({"name": "dip_vae", "kind": kind, **WEIGHTS}), data(rows), vaekit.make_key(3)
    terms, q = vae(x, key=key), vae.encode(x)
    covariance = np.cov(q.mu.detach().numpy(), rowvar=False, bias=True)
    if kind == "ii":
        covariance = covariance + np.diag(np.exp(q.logvar.detach().numpy()).mean(0))
    off_diagonal = sum(covariance[i, j] ** 2 for i in range(3) for j in range(3) if i != j)
    diagonal = sum((covariance[i, i] - 1) ** 2 for i in range(3))
    assert terms.extras["covariance_offdiagonal"].item() == pytest.approx(off_diagonal, rel=1e-11, abs=1e-15)
    assert terms.extras["covariance_diagonal"].item() == pytest.approx(diagonal, rel=1e-11)
    elbo = vaekit.Elbo()(vae, vaekit.Batch(x), vaekit.StepContext(key))
    assert terms.total.item() == pytest.approx(elbo.total.item() + 3.0 * off_diagonal + 0.5 * diagonal, rel=1e-11)
    assert_close(terms.kl, elbo.kl)
    assert_close(terms.reconstruction, elbo.reconstruction)


def test_the_covariance_of_kind_two_is_that_of_draws_from_the_aggregate_posterior():
    vae, x = model(), data()
    with torch.no_grad():
        q = vae.encode(x)
        z, _ = q.rsample_kl(vae.prior, key=vaekit.make_key(1), num_samples=40_000)
        drawn = torch.cov(z.flatten(0, 1).T)
        assert_close(vae.loss._covariance(q), drawn, rtol=0.02, atol=0.02)


def test_codes_far_from_zero_lose_no_digits():
    vae = model({"name": "dip_vae", "kind": "i"}).float()
    with torch.no_grad():
        vae.encoder.head.weight.mul_(10.0)
        vae.encoder.head.bias[:3] = 1e3
    q = vae.encode(data().float())
    exact = np.cov(q.mu.detach().double().numpy(), rowvar=False, bias=True)
    assert_close(vae.loss._covariance(q).detach().double(), torch.from_numpy(exact), rtol=1e-4, atol=1e-5)


def test_weights_follow_the_step():
    vae, x, key = model(), data(), vaekit.make_key(2)
    loss = DipVAE(lambda_offdiagonal=Linear(steps=10, end=4.0), lambda_diagonal={"name": "constant", "value": 2.0})
    for step, weight in ((0, 0.0), (5, 2.0), (None, 4.0)):
        terms = loss(vae, vaekit.Batch(x), vaekit.StepContext(key, step))
        penalty = weight * terms.extras["covariance_offdiagonal"] + 2.0 * terms.extras["covariance_diagonal"]
        assert_close(terms.total, (terms.reconstruction + terms.kl).mean() + penalty)


@pytest.mark.compile
@pytest.mark.parametrize("kind", ["i", "ii"])
def test_it_is_one_graph(kind):
    vae, x, key = model({"name": "dip_vae", "kind": kind}), data(), vaekit.make_key(1)
    assert_close(torch.compile(vae, fullgraph=True, backend="aot_eager")(x, key=key).total, vae(x, key=key).total)


def test_pairs_that_do_not_fit_are_refused_by_name():
    with pytest.raises(TypeError, match=r"at the identity, that of the prior standard_normal; the model has a OtherPrior"):
        model(prior=OtherPrior())(data())
    vae = model()
    vae.encoder.forward = lambda x: OtherPosterior(x[:, :3])
    with pytest.raises(TypeError, match=r'of kind "ii" needs the variances .* gives a OtherPosterior'):
        vae(data())
    vae.loss = DipVAE(kind="i")
    assert vae(data()).total.isfinite()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": 2}, ValueError, "kind has to be one of 'i', 'ii', got 2"),
        ({"lambda_diagonal": -1.0}, ValueError, "lambda_diagonal has to be at least 0, got -1.0"),
        ({"lambda_offdiagonal": "high"}, TypeError, "expected a number, a Schedule"),
    ],
)
def test_options_that_are_none_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        DipVAE(**options)


@pytest.mark.parametrize("kind", ["i", "ii"])
def test_the_covariance_is_computed_in_float32_under_autocast(kind):
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=3, loss={"name": "dip_vae", "kind": kind}, seed=0)
    posterior = vaekit.DiagonalGaussian(torch.randn(50, 3), torch.randn(50, 3))
    exact = vae.loss._covariance(posterior)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vae.loss._covariance(posterior), exact)
        terms = vae(torch.rand(50, 4))
    assert {value.dtype for value in terms.extras.values()} == {torch.float32}
