"""AAE and VAE-GAN against pythae's: the same weights and noise, the same losses and gradients.

The first lines of test_pythae.py say how, and that it is skipped where pythae is not installed. Where they differ:

- pythae's VAE-GAN asks its discriminator about examples and samples, not about reconstructions, which algorithm 1 of the paper
  has too; that part is taken off ours.
- its two weights of the decoder's loss are 1 - s and s, here 1 and w = s / (1 - s).
"""

import math

import pytest
import torch
from helpers.pythae_networks import ELEMENTS, HIDDEN, LATENTS, LIKELIHOODS, ROWS, SHAPE, by_pythae_names, data, pythae
from helpers.pythae_networks import their_noise as their_noise
from torch import nn
from torch.nn.functional import softplus
from torch.testing import assert_close

import vaekit
from vaekit.discriminators import Discriminator
from vaekit.ops import philox

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
SCALE = 0.3


class Theirs(Discriminator):
    """The layers of pythae's own: 256 ReLUs, and a logit before its sigmoid."""

    def __init__(self, input_shape):
        super().__init__(input_shape)
        self.layers = nn.ModuleList([nn.Linear(math.prod(self.input_shape), 256), nn.Linear(256, 1)])

    def forward(self, x):
        hidden = self.layers[0](x.flatten(1)).relu()
        return [hidden, self.layers[1](hidden)]


@pytest.fixture(autouse=True)
def in_double():
    """Their labels are of the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def both(reconstruction_loss, loss, config, kind, shown):
    """Our model, and pythae's with the same weights, in float64."""
    dense = {"name": "mlp", "hidden": (HIDDEN,)}
    torch.manual_seed(0)
    vae = vaekit.create_vae(
        input_shape=SHAPE, latent_dim=LATENTS, encoder=dense, decoder=dense, likelihood=LIKELIHOODS[reconstruction_loss],
        loss={**loss, "discriminator": Theirs(shown)}, seed=1,
    ).double()  # fmt: skip
    model = kind(config(input_dim=SHAPE, latent_dim=LATENTS, reconstruction_loss=reconstruction_loss, **loss_options(loss)))
    model.double()
    if reconstruction_loss == "mse":
        model.decoder.layers[1][1] = nn.Identity()
    ours = by_pythae_names(vae, lambda parameter: parameter.detach())
    with torch.no_grad():
        for name, theirs in model.named_parameters():
            if name.startswith("discriminator"):
                _, _, layer, _, what = name.split(".")
                theirs.copy_(getattr(vae.loss.discriminator.layers[int(layer)], what))
            else:
                theirs.copy_(ours[name])
    return vae, model


def loss_options(loss):
    more = {"reconstruction_layer": 1} if loss["name"] == "vae_gan" else {}
    return {"adversarial_loss_scale": SCALE, **more}


def noise_of(key):
    return [philox.normal(k, (ROWS, LATENTS), torch.float64) for k in (key, vaekit.fold_in(key, 1))]


def gradients(value, model, kind):
    named = {name: weight for name, weight in model.named_parameters() if name.startswith(kind)}
    return dict(zip(named, torch.autograd.grad(value, list(named.values()), retain_graph=True), strict=True))


def ours_by_their_names(value, vae):
    vae.zero_grad()
    value.backward(retain_graph=True)
    return by_pythae_names(vae, lambda parameter: parameter.grad)


@pytest.mark.parametrize("reconstruction_loss", LIKELIHOODS)
def test_losses_and_gradients_of_aae_are_pythaes(reconstruction_loss, their_noise):
    loss = {"name": "aae", "lambda_": SCALE}
    vae, model = both(reconstruction_loss, loss, pythae.Adversarial_AE_Config, pythae.Adversarial_AE, (LATENTS,))
    x, key = data(reconstruction_loss), vaekit.make_key(5)
    terms = vae(x, key=key)
    their_noise.extend(noise_of(key))
    output = model({"data": x})
    constant = ELEMENTS / 2 * math.log(2 * math.pi) if reconstruction_loss == "mse" else 0.0
    assert_close(terms.reconstruction.mean(), output.recon_loss + constant, **CLOSE)
    assert_close(terms.total, output.autoencoder_loss + constant, **CLOSE)
    assert_close(terms.auxiliary, output.discriminator_loss, **CLOSE)
    for kind in ("encoder", "decoder"):
        ours = ours_by_their_names(terms.total, vae)
        for name, gradient in gradients(output.autoencoder_loss, model, kind).items():
            assert gradient.any()
            assert_close(ours[name], gradient, **CLOSE)
    theirs = gradients(output.discriminator_loss, model, "discriminator").values()
    ours = torch.autograd.grad(terms.auxiliary, list(vae.loss.discriminator.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("reconstruction_loss", LIKELIHOODS)
def test_losses_and_gradients_of_vae_gan_are_pythaes(reconstruction_loss, their_noise):
    weight = SCALE / (1.0 - SCALE)
    loss = {"name": "vae_gan", "adversarial_weight": weight, "layer": 0}
    vae, model = both(reconstruction_loss, loss, pythae.VAEGANConfig, pythae.VAEGAN, SHAPE)
    x, key = data(reconstruction_loss), vaekit.make_key(5)
    terms = vae(x, key=key)
    their_noise.extend(noise_of(key))
    output = model({"data": x})

    made = vae.decode(vae.encode(x).rsample_kl(vae.prior, key=key)[0].detach())
    of_made = softplus(vae.loss.discriminator(made)[-1]).mean()
    assert_close(terms.extras["similarity"].mean(), output.recon_loss, **CLOSE)
    assert_close((terms.extras["similarity"] + terms.kl).mean(), output.encoder_loss, **CLOSE)
    assert_close(terms.auxiliary - of_made, output.discriminator_loss, **CLOSE)

    of_encoder = ours_by_their_names(terms.total, vae)
    for name, gradient in gradients(output.encoder_loss, model, "encoder").items():
        assert gradient.any()
        assert_close(of_encoder[name], gradient, **CLOSE)
    of_decoder = ours_by_their_names(terms.total + weight * of_made, vae)
    for name, gradient in gradients(output.decoder_loss, model, "decoder").items():
        assert gradient.any()
        assert_close(of_decoder[name], gradient / (1.0 - SCALE), **CLOSE)
