"""The divergence of von Mises and Fisher against pythae's SVAE: equal where its Bessel functions have a value, and where not.

Skipped where pythae is not installed: `pip install pythae==0.1.2`. Where they differ:

- its constants, log pi for example, are in single precision, whose rounding times D is in the divergence;
- its ive(D / 2 - 1, kappa) is 0 in double precision for few kappa in many dimensions, and the divergence infinite or NaN.
"""

import pytest
import torch
from helpers.pythae_networks import pythae
from torch.testing import assert_close

from vaekit.posteriors import VonMisesFisher


def theirs(size, kappa):
    model = pythae.SVAE(pythae.SVAEConfig(input_dim=(1, 6, 5), latent_dim=size)).double()
    return model._compute_kl(size, kappa).reshape(len(kappa))


def ours(size, kappa):
    return VonMisesFisher(torch.eye(size, dtype=torch.float64)[:1].expand(len(kappa), size), kappa).divergence_from_uniform()


@pytest.mark.parametrize("size", [2, 3, 7, 20])
def test_divergence_and_gradient_are_pythaes(size):
    kappa = torch.tensor([[0.5], [1.0], [8.0], [90.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(ours(size, kappa).sum(), kappa)
    assert_close(ours(size, kappa), theirs(size, kappa), rtol=0.0, atol=2e-7 * size)
    assert_close(gradient, torch.autograd.grad(theirs(size, kappa).sum(), kappa)[0], rtol=1e-7, atol=1e-9)


def test_pythaes_has_none_in_many_dimensions():
    kappa = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    assert not theirs(600, kappa).isfinite().any()
    assert_close(ours(600, kappa), kappa[:, 0] ** 2 / 1200, rtol=1e-2, atol=0.0)  # kappa^2 / 2 D, and less than 1% more
