"""Importance-weighted objectives against pythae's IWAE, MIWAE, CIWAE and PIWAE: the same weights, noise and gradients.

The first lines of test_pythae.py say how, and that it is skipped where pythae is not installed. Where they differ:

- pythae returns sum_k v_k log w_k with constant normalized weights v: its gradient is the bound's, but its value is not the bound
  log 1/K sum_k w_k: it is larger by the divergence of v from equal weights, 0 to log K, and so may lie above log p(x);
- its MIWAE and PIWAE normalize over the outer draws and average over the inner ones: their M is our K;
- its PIWAE has two objectives, for an optimizer each; their sum, its `loss`, would give each network both gradients.
"""

import math

import pytest
import torch
from helpers.pythae_networks import ELEMENTS, HIDDEN, LATENTS, LIKELIHOODS, SHAPE, by_pythae_names, data, pythae
from helpers.pythae_networks import their_noise as their_noise
from torch import nn
from torch.testing import assert_close

import vaekit
from vaekit.ops import philox

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def both(loss, model_class, config, reconstruction_loss):
    """Our model with `loss`, and pythae's with the same weights, in float64."""
    dense = {"name": "mlp", "hidden": (HIDDEN,)}
    vae = vaekit.create_vae(
        input_shape=SHAPE, latent_dim=LATENTS, encoder=dense, decoder=dense, likelihood=LIKELIHOODS[reconstruction_loss],
        loss=loss, seed=1,
    ).double()  # fmt: skip
    model = model_class(config(input_dim=SHAPE, latent_dim=LATENTS, reconstruction_loss=reconstruction_loss)).double()
    if reconstruction_loss == "mse":
        model.decoder.layers[1][1] = nn.Identity()
    with torch.no_grad():
        for name, theirs in model.named_parameters():
            theirs.copy_(by_pythae_names(vae, lambda parameter: parameter.detach())[name])
    return vae, model


def noise(key, samples, x):
    """The noise of K draws of our own, [B, K, D]."""
    keys = [key + torch.tensor([0, k * philox.SAMPLE_STRIDE]) for k in range(samples)]
    return torch.stack([philox.normal(k, (len(x), LATENTS), x.dtype) for k in keys], dim=1)


def log_weights(vae, key, samples, x):
    z, log_ratio = vae.encode(x).rsample_log_ratio(vae.prior, key=key, num_samples=samples)
    return torch.stack([-(vae.likelihood.nll(vae.decoder(z[k]), x) + log_ratio[k]) for k in range(samples)]).detach()


def excess(log_w):
    """How much sum_k v_k log w_k is above log 1/K sum_k w_k: [K, ...] -> [...]."""
    v = torch.softmax(log_w, 0)
    return (v * torch.log_softmax(log_w, 0)).sum(0) + math.log(len(log_w))


def assert_same_gradients(vae, model):
    ours = by_pythae_names(vae, lambda parameter: parameter.grad)
    for name, theirs in model.named_parameters():
        assert theirs.grad.abs().max() > 1e-3
        assert_close(ours[name], theirs.grad, **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("reconstruction_loss", LIKELIHOODS)
@pytest.mark.parametrize("beta", [None, 0.0, 0.3, 1.0])
def test_iwae_and_ciwae_have_pythaes_terms_and_gradients(beta, reconstruction_loss, their_noise):
    samples, key, x = 6, vaekit.make_key(5), data(reconstruction_loss)
    if beta is None:
        loss, theirs = {"name": "iwae", "num_samples": samples}, pythae.IWAE
        config = lambda **options: pythae.IWAEConfig(**options, number_samples=samples)  # noqa: E731
    else:
        loss, theirs = {"name": "ciwae", "num_samples": samples, "beta": beta}, pythae.CIWAE
        config = lambda **options: pythae.CIWAEConfig(**options, number_samples=samples, beta=beta)  # noqa: E731
    vae, model = both(loss, theirs, config, reconstruction_loss)
    terms = vae(x, key=key)
    terms.total.backward()
    their_noise.append(noise(key, samples, x))
    output = model({"data": x})
    output.loss.backward()

    constant = ELEMENTS / 2 * math.log(2 * math.pi) if reconstruction_loss == "mse" else 0.0
    above = excess(log_weights(vae, key, samples, x))
    assert above.mean() > 0.05
    assert_close(terms.total, output.loss + constant + (1.0 - (beta or 0.0)) * above.mean(), **CLOSE)
    assert_close(terms.reconstruction.mean(), output.recon_loss.mean() + constant, **CLOSE)
    assert_close(terms.kl.mean(), output.reg_loss.mean(), **CLOSE)
    assert_same_gradients(vae, model)


@pytest.mark.parametrize("reconstruction_loss", LIKELIHOODS)
def test_miwae_is_pythaes_with_inner_and_outer_draws_exchanged(reconstruction_loss, their_noise):
    outer, inner, key, x = 2, 4, vaekit.make_key(5), data(reconstruction_loss)

    def config(**options):
        return pythae.MIWAEConfig(**options, number_gradient_estimates=inner, number_samples=outer)

    vae, model = both({"name": "miwae", "num_outer": outer, "num_samples": inner}, pythae.MIWAE, config, reconstruction_loss)
    terms = vae(x, key=key)
    terms.total.backward()
    eps = noise(key, outer * inner, x).unflatten(1, (outer, inner))
    their_noise.append(eps.transpose(1, 2).contiguous())
    output = model({"data": x})
    output.loss.backward()
    assert_same_gradients(vae, model)
    constant = ELEMENTS / 2 * math.log(2 * math.pi) if reconstruction_loss == "mse" else 0.0
    above = excess(log_weights(vae, key, outer * inner, x).unflatten(0, (outer, inner)).transpose(0, 1))
    assert_close(terms.total, output.loss + constant + above.mean(), **CLOSE)


@pytest.mark.parametrize("reconstruction_loss", LIKELIHOODS)
def test_piwae_has_the_gradients_of_pythaes_two_objectives(reconstruction_loss, their_noise):
    outer, inner, key, x = 3, 4, vaekit.make_key(5), data(reconstruction_loss)

    def config(**options):
        return pythae.PIWAEConfig(**options, number_gradient_estimates=inner, number_samples=outer)

    vae, model = both({"name": "piwae", "num_outer": outer, "num_samples": inner}, pythae.PIWAE, config, reconstruction_loss)
    terms = vae(x, key=key)
    terms.total.backward()
    their_noise.append(noise(key, outer * inner, x).unflatten(1, (outer, inner)).transpose(1, 2).contiguous())
    output = model({"data": x})
    for objective, network in ((output.encoder_loss, model.encoder), (output.decoder_loss, model.decoder)):
        weights = list(network.parameters())
        for weight, gradient in zip(weights, torch.autograd.grad(objective, weights, retain_graph=True), strict=True):
            weight.grad = gradient
    assert_same_gradients(vae, model)
    constant = ELEMENTS / 2 * math.log(2 * math.pi) if reconstruction_loss == "mse" else 0.0
    log_w = log_weights(vae, key, outer * inner, x)
    assert_close(terms.total, output.decoder_loss + constant + excess(log_w).mean(), **CLOSE)
    above = excess(log_w.unflatten(0, (outer, inner)).transpose(0, 1)).mean()
    assert_close(terms.extras["encoder_bound"].mean(), output.encoder_loss + constant + above, **CLOSE)
