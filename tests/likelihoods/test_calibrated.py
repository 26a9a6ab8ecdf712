"""The calibrated decoder of sigma-VAE: the learned variance of a gaussian against the paper's closed form.

O. Rybkin, K. Daniilidis, S. Levine, "Simple and Effective VAE Training with Calibrated Decoders", ICML 2021, arXiv:2006.13202,
equation 6.
"""

import math

import pytest
import torch
from torch.testing import assert_close

import vaekit
from vaekit.likelihoods import Gaussian


def fitted(variance, mean, x):
    likelihood = Gaussian(variance=variance)
    likelihood.set_data_shape(x.shape[1:])
    likelihood = likelihood.double()
    newton = torch.optim.LBFGS(likelihood.parameters(), max_iter=100, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss():
        newton.zero_grad()
        total = likelihood.nll(mean.unsqueeze(1), x).mean()
        total.backward()
        return total

    newton.step(loss)
    return likelihood


@pytest.mark.parametrize("scale", [1e-3, 0.3, 20.0])
def test_the_shared_variance_goes_to_the_mean_squared_error_and_the_nll_to_its_logarithm(scale):
    generator = torch.Generator().manual_seed(0)
    mean, noise = (torch.randn(50, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    x = mean + scale * noise * torch.tensor([0.5, 1.0, 2.0, 3.0])
    squares = (x - mean).square()
    shared = fitted("shared", mean, x)
    assert_close(shared.logvar.exp().item(), squares.mean().item(), rtol=1e-4, atol=0.0)
    nll = shared.nll(mean.unsqueeze(1), x).mean().item()
    assert nll == pytest.approx(4 * 0.5 * (math.log(squares.mean()) + 1 + math.log(2 * math.pi)), rel=1e-7)
    assert_close(fitted("feature", mean, x).logvar.exp().flatten(), squares.mean(0), rtol=1e-3, atol=0.0)


def test_a_trained_model_is_calibrated():
    """Whatever scale the data has: sigma is the error of the reconstruction, without a beta."""
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(400, 1, generator=generator) @ torch.tensor([[1.0, -2.0, 0.5]])
    sigmas = []
    for noise in (0.1, 0.5):
        x = line + noise * torch.randn(400, 3, generator=generator)
        linear = {"name": "mlp", "hidden": ()}
        vae = vaekit.create_vae(
            input_shape=(3,), latent_dim=1, encoder=linear, decoder=linear, likelihood={"name": "gaussian", "variance": "shared"},
            seed=0,
        )  # fmt: skip
        vaekit.fit(vae, x, epochs=60, batch_size=50, learning_rate=3e-2, progress=False, device="cpu")
        sigmas.append(math.exp(float(vae.likelihood.logvar.detach()) / 2))
    assert sigmas == pytest.approx([0.1, 0.5], rel=0.15)
