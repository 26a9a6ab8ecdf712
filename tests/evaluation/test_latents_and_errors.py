"""What latent dimensions carry and how far reconstructions are off, against NumPy and models built to have it."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

import vaekit
from vaekit.evaluation import errors, latent_statistics, reconstruction_error, terms
from vaekit.losses import mmd
from vaekit.ops import kernel_sum, precision

X = torch.randn(41, 3, generator=torch.Generator().manual_seed(0))


def identity_model():
    """mu = (x0, 0, 2 x2), logvar = (-1, 0, 0.5); what is decoded is (z0, z1, z2 / 2)."""
    vae = vaekit.create_vae(
        input_shape=(3,),
        latent_dim=3,
        encoder={"name": "mlp", "hidden": ()},
        decoder={"name": "mlp", "hidden": ()},
        likelihood="gaussian",
    )
    with torch.no_grad():
        vae.encoder.head.weight.zero_()
        vae.encoder.head.weight[0, 0], vae.encoder.head.weight[2, 2] = 1.0, 2.0
        vae.encoder.head.bias[:] = torch.tensor([0.0, 0.0, 0.0, -1.0, 0.0, 0.5])
        vae.decoder.head.weight[:] = torch.diag(torch.tensor([1.0, 1.0, 0.5]))
        vae.decoder.head.bias.zero_()
    return vae


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_latent_statistics_are_numpys(batch_size):
    result = latent_statistics(identity_model(), X, batch_size=batch_size)
    mu = np.stack([X[:, 0], np.zeros(41), 2 * X[:, 2]], 1).astype(np.float64)
    logvar = np.array([-1.0, 0.0, 0.5])
    np.testing.assert_allclose(result.variance, mu.var(0, ddof=1), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(result.kl, (0.5 * (mu**2 + np.exp(logvar) - 1 - logvar)).mean(0), rtol=1e-6, atol=1e-9)
    assert result.active.tolist() == [True, False, True]
    assert result.collapsed == ["z[1]"]


def test_divergences_of_the_dimensions_add_up_to_that_of_evaluate():
    vae = vaekit.create_vae(input_shape=(3,), latent_dim=4, likelihood="gaussian", seed=0)
    assert float(latent_statistics(vae, X).kl.sum()) == pytest.approx(vaekit.evaluate(vae, X)["kl"], rel=1e-6)


def test_divergences_from_a_learned_gaussian_are_torchs():
    vae = identity_model()
    vae.prior = vaekit.priors.LearnedGaussian((3,))
    with torch.no_grad():
        vae.prior.mu[:] = torch.tensor([0.5, -1.0, 0.0])
        vae.prior.logvar[:] = torch.tensor([0.0, 1.0, -0.7])
        q = vae.encode(X)
        one, other = (Normal(part.mu.double(), torch.exp(part.logvar.double() / 2)) for part in (q, vae.prior))
    for batch_size in (7, 100):
        torch.testing.assert_close(
            latent_statistics(vae, X, batch_size=batch_size).kl, kl_divergence(one, other).mean(0), rtol=1e-6, atol=1e-9
        )


def test_a_variance_far_from_zero_does_not_cancel():
    vae = identity_model()
    with torch.no_grad():
        vae.encoder.head.bias[0] = 1e4
    mu = X[:, 0].double().numpy()
    variance = latent_statistics(vae, X, batch_size=5).variance[0]
    assert float(variance) == pytest.approx(mu.var(ddof=1), rel=1e-3)  # float32 keeps so much of mu


def test_the_threshold_decides():
    assert latent_statistics(identity_model(), X, threshold=100.0).collapsed == ["z[0]", "z[1]", "z[2]"]


def test_what_has_no_dimensions_to_take_apart_is_refused():
    class Other(vaekit.Prior):
        def log_prob(self, z):
            return z.flatten(1).sum(-1)

        def sample(self, shape, *, key, dtype, row_start=0):
            return torch.zeros(shape, dtype=dtype)

    parts = identity_model()
    vae = vaekit.VAE(parts.encoder, parts.decoder, likelihood=parts.likelihood, prior=Other())
    with pytest.raises(TypeError, match="DiagonalGaussian from a Other"):
        latent_statistics(vae, X)
    with pytest.raises(ValueError, match="at least two of them, got 1"):
        latent_statistics(identity_model(), X[:1])


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_reconstruction_errors_are_numpys(batch_size):
    difference = np.stack([np.zeros(41), X[:, 1], np.zeros(41)], 1)
    result = reconstruction_error(identity_model(), X, batch_size=batch_size)
    assert result["rmse"] == pytest.approx(float(np.sqrt((difference**2).mean())), rel=1e-5)
    assert result["mae"] == pytest.approx(float(np.abs(difference).mean()), rel=1e-5)
    assert reconstruction_error(identity_model(), DataLoader(X, batch_size=batch_size)) == pytest.approx(result)


def test_a_reconstruction_that_is_not_a_number_is_not_taken_for_a_missing_element():
    vae = identity_model()
    with torch.no_grad():
        vae.decoder.head.bias[1] = float("nan")
    assert np.isnan(reconstruction_error(vae, X)["rmse"])


def test_classes_have_a_share_of_wrong_ones_and_columns_errors_of_their_own():
    columns = {"age": "gaussian", "kind": {"name": "categorical", "classes": 4}, "visits": "poisson"}
    vae = vaekit.create_vae(latent_dim=2, likelihood={"name": "columns", "columns": columns, "missing": "ignore"}, seed=0)
    generator = torch.Generator().manual_seed(0)
    x = torch.stack((torch.randn(50, generator=generator), torch.arange(50.0) % 4, torch.arange(50.0) * 10), 1)
    x[::5, 1] = torch.nan
    made = vae.reconstruct(x)
    errors = reconstruction_error(vae, x, batch_size=7)
    assert list(errors) == ["age rmse", "age mae", "kind wrong", "visits rmse", "visits mae"]
    seen = ~x[:, 1].isnan()
    assert errors["kind wrong"] == pytest.approx(float((made != x)[seen, 1].double().mean()))
    for name, column in (("age", 0), ("visits", 2)):
        difference = (made - x)[:, column].double()
        assert errors[f"{name} rmse"] == pytest.approx(float(difference.square().mean().sqrt()))
        assert errors[f"{name} mae"] == pytest.approx(float(difference.abs().mean()))
    only = vaekit.create_vae(input_shape=(1,), latent_dim=2, likelihood={"name": "categorical", "classes": 4}, seed=0)
    first = reconstruction_error(only, torch.zeros(8, 1))
    assert first in ({"wrong": 0.0}, {"wrong": 1.0})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_statistics_of_a_model_with_weights_that_are_not_finite_name_them(bad):
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, seed=0)
    with torch.no_grad():
        vae.encoder.body[0].weight[0, 0] = bad
    with pytest.raises(ValueError, match=r"encoder\.body\.0\.weight"):
        latent_statistics(vae, torch.rand(10, 4))


def test_statistics_of_posteriors_that_are_not_finite_say_so():
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, seed=0)
    with torch.no_grad():
        vae.encoder.head.bias.fill_(1e38)
        vae.encoder.head.weight.fill_(1e38)
    with pytest.raises(ValueError, match="not finite"):
        latent_statistics(vae, torch.rand(10, 4))


class NoFloat64(TorchDispatchMode):
    """What a device without float64 does with it."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        if any(isinstance(t, torch.Tensor) and t.dtype == torch.float64 for t in tree_leaves(out)):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return out


def test_devices_without_float64_sum_in_float32(monkeypatch):
    assert precision.wide(torch.device("mps")) == torch.float32
    assert precision.wide(torch.device("cpu")) == precision.wide(torch.device("cuda")) == torch.float64
    for module in (errors, terms, kernel_sum):
        monkeypatch.setattr(module, "wide", lambda device: torch.float32)
    monkeypatch.setattr(mmd, "kernel_sum", kernel_sum.specification)  # what serves such a device
    vae, x, sums = vaekit.create_vae(input_shape=(4,), latent_dim=2, seed=0), torch.rand(10, 4), terms.TermSums()
    with NoFloat64():
        found, squared = reconstruction_error(vae, x), mmd.squared_mmd(x, x + 1.0)
        sums.add(vaekit.LossTerms(x.mean(), x[0], x[1], {}))
    monkeypatch.undo()
    assert found == pytest.approx(reconstruction_error(vae, x), rel=1e-6)
    assert float(squared) == pytest.approx(float(mmd.squared_mmd(x, x + 1.0)), rel=1e-5)
    assert sums.means()["kl"] == pytest.approx(float(x[1].mean()))
