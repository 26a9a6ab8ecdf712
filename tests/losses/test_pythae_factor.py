"""FactorVAE against pythae's: the same weights, the same codes, the same losses and gradients.

The first lines of test_pythae.py say how, and that it is skipped where pythae is not installed. What is compared is its
`loss_function`, because its model splits each batch in two and permutes the second half. Its discriminator has two outputs; the
softmax of them is our sigmoid where the second is 0, as here. Its discriminator's loss has a gradient for the encoder too, which
is no part of the paper; the encoder is compared on the other loss.
"""

import math

import pytest
import torch
from helpers.pythae_networks import ELEMENTS, HIDDEN, LATENTS, LIKELIHOODS, SHAPE, by_pythae_names, data, pythae
from torch import nn
from torch.testing import assert_close

import vaekit
from vaekit.losses.factor import permuted_dimensions

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
GAMMA = 7.0


def both(reconstruction_loss):
    """Our model, and pythae's with the same weights, in float64."""
    dense = {"name": "mlp", "hidden": (HIDDEN,)}
    vae = vaekit.create_vae(
        input_shape=SHAPE, latent_dim=LATENTS, encoder=dense, decoder=dense, likelihood=LIKELIHOODS[reconstruction_loss],
        loss={"name": "factor", "gamma": GAMMA, "hidden": (1000,) * 5}, seed=1,
    ).double()  # fmt: skip
    config = pythae.FactorVAEConfig(input_dim=SHAPE, latent_dim=LATENTS, reconstruction_loss=reconstruction_loss, gamma=GAMMA)
    model = pythae.FactorVAE(config).double()
    if reconstruction_loss == "mse":
        model.decoder.layers[1][1] = nn.Identity()
    with torch.no_grad():
        ours = by_pythae_names(vae, lambda parameter: parameter.detach())
        for name, theirs in model.named_parameters():
            if not name.startswith("discriminator"):
                theirs.copy_(ours[name])
        for ours, theirs in zip(vae.loss.discriminator.parameters(), model.discriminator.parameters(), strict=True):
            theirs.zero_()
            theirs[: len(ours)] = ours
    return vae, model


@pytest.mark.parametrize("reconstruction_loss", LIKELIHOODS)
def test_losses_and_gradients_are_pythaes(reconstruction_loss):
    vae, model = both(reconstruction_loss)
    x, key = data(reconstruction_loss), vaekit.make_key(5)
    terms = vae(x, key=key)
    terms.objective.backward()

    z, _ = vae.encode(x).rsample_kl(vae.prior, key=key)
    permuted = permuted_dimensions(z.detach(), vaekit.fold_in(key, 1))
    encoded = model.encoder(x)
    std = torch.exp(0.5 * encoded.log_covariance)
    eps = ((z - encoded.embedding) / std).detach()
    code = encoded.embedding + std * eps
    decoded = model.decoder(code)["reconstruction"]
    reconstruction, autoencoder, discriminator = model.loss_function(
        decoded, x, encoded.embedding, encoded.log_covariance, code, permuted
    )

    constant = ELEMENTS / 2 * math.log(2 * math.pi) if reconstruction_loss == "mse" else 0.0
    assert_close(terms.reconstruction.mean(), reconstruction + constant, **CLOSE)
    assert_close(terms.total, autoencoder + constant, **CLOSE)
    assert_close(terms.auxiliary, discriminator, **CLOSE)
    assert terms.extras["total_correlation"].abs() > 1e-3

    names = [name for name, _ in model.named_parameters() if not name.startswith("discriminator")]
    ours = by_pythae_names(vae, lambda parameter: parameter.grad)
    theirs = torch.autograd.grad(autoencoder, [model.get_parameter(name) for name in names], retain_graph=True)
    for name, gradient in zip(names, theirs, strict=True):
        assert gradient.abs().max() > 1e-3
        assert_close(ours[name], gradient, **CLOSE, msg=lambda m, name=name: f"{name}: {m}")
    weights = list(vae.loss.discriminator.parameters())
    for weight, gradient in zip(weights, torch.autograd.grad(discriminator, list(model.discriminator.parameters())), strict=True):
        assert gradient.any()
        assert_close(weight.grad, gradient[: len(weight)], **CLOSE)
