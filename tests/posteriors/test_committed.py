"""The posterior with a committed rate: the divergence never falls below delta, and comes as near to it as one likes."""

import mpmath
import pytest
import torch
from torch.testing import assert_close

import vaekit
from vaekit import DiagonalGaussian, StandardNormal, make_key
from vaekit.posteriors.committed import CommittedGaussianFamily, _logvar_at


@pytest.mark.parametrize("nats", [1e-8, 1e-3, 0.5, 3.0, 200.0])
def test_the_highest_variance_is_the_root(nats):
    with mpmath.workdps(40):
        at = mpmath.mpf(_logvar_at(nats))
        assert (mpmath.exp(at) - 1 - at) / 2 == pytest.approx(nats, rel=1e-7)
    assert _logvar_at(nats) < 0


@pytest.mark.parametrize("shape", [(2,), (5,), (3, 2, 2)])
@pytest.mark.parametrize("rate", [1e-3, 1.0, 40.0])
def test_the_divergence_is_at_least_the_rate_whatever_the_encoder_gives(shape, rate):
    torch.manual_seed(0)
    family = CommittedGaussianFamily(shape, rate=rate)
    for scale in (0.1, 10.0, 50.0):
        numbers = scale * torch.randn(500, 2 * shape[0], *shape[1:], dtype=torch.float64)
        numbers[:, : shape[0]] *= torch.rand(500, *(1 for _ in shape)).double() ** 8  # means near 0 too
        q = family(numbers)
        assert isinstance(q, DiagonalGaussian)
        assert (q.rsample_kl(StandardNormal())[1] >= rate * (1 - 1e-9)).all()
    widest = torch.cat([torch.zeros(1, *shape), torch.full((1, *shape), -60.0)], 1).double()
    assert_close(family(widest).rsample_kl(StandardNormal())[1].item(), rate, rtol=1e-6, atol=0.0)


def test_it_keeps_its_rate_where_a_diagonal_gaussian_collapses(tmp_path):
    """On data of which a code can say nothing."""
    x, rates = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), {}
    for name in ("diagonal_gaussian", {"name": "committed_gaussian", "rate": 2.0}):
        small = {"encoder": {"name": "mlp", "hidden": (8,)}, "decoder": {"name": "mlp", "hidden": (8,)}}
        vae = vaekit.create_vae(input_shape=(3,), latent_dim=2, posterior=name, likelihood="gaussian", seed=0, **small)
        vaekit.fit(vae, x, epochs=60, batch_size=50, learning_rate=1e-2, progress=False, device="cpu")
        rates[str(name)] = vaekit.evaluate(vae, x)["kl"]
        again = vaekit.load(vae.save(tmp_path / str(len(rates))))
        assert torch.equal(again(x, key=make_key(0)).total, vae(x, key=make_key(0)).total)
    collapsed, kept = rates.values()
    assert collapsed < 0.1
    assert 2.0 <= kept < 2.5


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="rate has to be a finite number above 0"):
        CommittedGaussianFamily((2,), rate=rate)
