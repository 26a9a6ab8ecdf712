"""The wrapped normal of the Poincare ball against pythae's: the same draws and densities.

Skipped where pythae is not installed: `pip install pythae==0.1.2`.
"""

import pytest
import torch
from helpers.pythae_networks import pythae as pythae
from torch.testing import assert_close

from vaekit import make_key
from vaekit.ops.draw import Draw
from vaekit.posteriors import WrappedNormalPosterior

pvae = pytest.importorskip("pythae.models.pvae.pvae_utils")


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
def test_draws_and_densities_are_pythaes(c, monkeypatch):
    torch.manual_seed(0)
    mean = 0.25 * torch.randn(6, 3, dtype=torch.float64) / c**0.5
    logvar = torch.randn(6, 3, dtype=torch.float64) - 1.0
    ours, theirs = WrappedNormalPosterior(mean, logvar, c), pvae.WrappedNormal(mean, (logvar / 2).exp(), pvae.PoincareBall(3, c))
    z, log_q = ours.rsample_log_prob(key=make_key(1))
    eps = Draw(make_key(1)).noise(mean)
    monkeypatch.setattr(pvae, "_standard_normal", lambda shape, dtype, device: eps.view(shape))
    assert_close(theirs.rsample(), z, rtol=1e-8, atol=1e-8)
    assert_close(theirs.log_prob(z.unsqueeze(0))[0, :, 0], log_q, rtol=1e-6, atol=1e-6)
