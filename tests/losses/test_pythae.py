"""The same weights and the same noise in pythae (C. Chadebec et al., "Pythae", 2022, arXiv:2206.08309): the same numbers.

pythae is no dependency of the tests, because it draws in much that nothing else here needs: `pip install pythae==0.1.2`, its
last release, and these tests run. They hold vaekit against its VAE and its BetaVAE with its own dense networks, whose weights
are copied from ours; `torch.randn_like`, from which it draws, gives it our noise. Where they differ a test says so, and mpmath
who is right:

- its "mse" is half the squared error: our Gaussian nll with sigma 1, which is a density's, has D/2 log(2 pi) more, D elements;
- its "bce" takes a sigmoid's output, which is rounded to 0 or 1 where a logit is large: the nll then is 100 and the gradient 0;
- its divergence is 1 + logvar - mu^2 - exp(logvar), which cancels near 0;
- its `get_nll` gives the log likelihood, not the negative one, from another number of draws than it was asked for.
"""

import math

import mpmath
import pytest
import torch
from helpers.pythae_networks import ELEMENTS, HIDDEN, LATENTS, LIKELIHOODS, ROWS, SHAPE, by_pythae_names, data, pythae
from helpers.pythae_networks import their_noise as their_noise
from mpmath import mpf
from torch import nn
from torch.testing import assert_close

import vaekit
from vaekit.evaluation import importance_weighted_bound
from vaekit.evaluation.terms import evaluation_key
from vaekit.ops import philox

CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.float64: {"rtol": 1e-11, "atol": 1e-11}}


def make_vae(likelihood, beta=1.0, dtype=torch.float64):
    """A vaekit model with the layers of pythae's own dense networks."""
    dense = {"name": "mlp", "hidden": (HIDDEN,)}
    loss = {"name": "elbo", "beta": beta}
    return vaekit.create_vae(
        input_shape=SHAPE, latent_dim=LATENTS, encoder=dense, decoder=dense, likelihood=likelihood, loss=loss, seed=1
    ).to(dtype)


def as_pythae(vae, reconstruction_loss, beta=None):
    """pythae's VAE, or with a beta its BetaVAE, with the weights of `vae`."""
    options = {"input_dim": SHAPE, "latent_dim": LATENTS, "reconstruction_loss": reconstruction_loss}
    if beta is None:
        model = pythae.VAE(pythae.VAEConfig(**options))
    else:
        model = pythae.BetaVAE(pythae.BetaVAEConfig(**options, beta=beta))
    model.to(next(vae.parameters()).dtype)
    if reconstruction_loss == "mse":  # its decoder ends in a sigmoid: a mean may be any real number
        model.decoder.layers[1][1] = nn.Identity()
    with torch.no_grad():
        for name, theirs in model.named_parameters():
            theirs.copy_(by_pythae_names(vae, lambda parameter: parameter.detach())[name])
    return model


def run_both(vae, model, x, their_noise):
    """(our terms, their output) of one forward and backward pass of each, with the noise of one key."""
    key = vaekit.make_key(5)
    terms = vae(x, key=key)
    terms.total.backward()
    their_noise.append(philox.normal(key, (len(x), LATENTS), x.dtype))
    output = model({"data": x})
    output.loss.backward()
    return terms, output


# The same.


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("reconstruction_loss", LIKELIHOODS)
@pytest.mark.parametrize("beta", [None, 4.0, 0.25], ids=["VAE", "BetaVAE-4", "BetaVAE-0.25"])
def test_loss_terms_reconstructions_and_gradients_are_pythaes(beta, reconstruction_loss, dtype, their_noise):
    vae = make_vae(LIKELIHOODS[reconstruction_loss], 1.0 if beta is None else beta, dtype)
    model, x = as_pythae(vae, reconstruction_loss, beta), data(reconstruction_loss, dtype)
    terms, output = run_both(vae, model, x, their_noise)

    constant = ELEMENTS / 2 * math.log(2 * math.pi) if reconstruction_loss == "mse" else 0.0
    assert_close(terms.total, output.loss + constant, **CLOSE[dtype])
    assert_close(terms.reconstruction.mean(), output.recon_loss + constant, **CLOSE[dtype])
    assert_close(terms.kl.mean(), output.reg_loss, **CLOSE[dtype])
    assert_close(vae.decode(output.z), output.recon_x, **CLOSE[dtype])

    ours = by_pythae_names(vae, lambda parameter: parameter.grad)
    theirs = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert ours.keys() == theirs.keys()
    assert sum(g.numel() for g in ours.values()) == sum(p.numel() for p in vae.parameters())
    for name, gradient in theirs.items():
        assert gradient.abs().max() > 1e-3
        assert_close(ours[name], gradient, **CLOSE[dtype], msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_a_standard_deviation_is_the_root_of_pythaes_beta(sigma, their_noise):
    """sigma^2 (||x - mean||^2 / (2 sigma^2) + KL + constant) is half the squared error + sigma^2 KL + sigma^2 constant.

    O. Rybkin, K. Daniilidis, S. Levine, "Simple and Effective VAE Training with Calibrated Decoders", 2020, arXiv:2006.13202,
    section 3.1.
    """
    vae = make_vae({"name": "gaussian", "sigma": sigma})
    model, x = as_pythae(vae, "mse", beta=sigma**2), data("mse")
    terms, output = run_both(vae, model, x, their_noise)
    constant = ELEMENTS / 2 * math.log(2 * math.pi * sigma**2)
    assert_close(sigma**2 * (terms.total - constant), output.loss, **CLOSE[x.dtype])
    ours = by_pythae_names(vae, lambda parameter: sigma**2 * parameter.grad)
    for name, parameter in model.named_parameters():
        assert_close(ours[name], parameter.grad, **CLOSE[x.dtype])


@pytest.mark.parametrize("reconstruction_loss", LIKELIHOODS)
def test_the_importance_weighted_bound_is_pythaes_with_the_same_draws(reconstruction_loss, their_noise):
    """The constant of the Gaussian is in both."""
    vae, samples, at_once = make_vae(LIKELIHOODS[reconstruction_loss]), 60, 20
    model, x = as_pythae(vae, reconstruction_loss), data(reconstruction_loss)
    key = evaluation_key(0)
    sample_keys = [key + torch.tensor([0, k * philox.SAMPLE_STRIDE]) for k in range(samples)]
    eps = torch.stack([philox.normal(k, (ROWS, LATENTS), x.dtype) for k in sample_keys])
    their_noise.extend(draws for i in range(ROWS) for draws in eps[:, i].split(at_once))
    bound = importance_weighted_bound(vae, x, num_samples=samples, seed=0)
    with torch.no_grad():
        assert bound.log_likelihood == pytest.approx(model.get_nll(x, n_samples=samples, batch_size=at_once), rel=1e-11)


@pytest.mark.parametrize("reconstruction_loss", LIKELIHOODS)
def test_the_importance_weighted_bound_is_pythaes_within_its_standard_error(reconstruction_loss):
    vae, samples = make_vae(LIKELIHOODS[reconstruction_loss]), 4000
    model, x = as_pythae(vae, reconstruction_loss), data(reconstruction_loss)
    bound = importance_weighted_bound(vae, x, num_samples=samples, seed=0)
    with torch.no_grad():
        theirs = model.get_nll(x, n_samples=samples, batch_size=1000)
    assert bound.effective_sample_size > 50
    assert abs(bound.log_likelihood - theirs) < 4 * math.sqrt(2) * bound.standard_error  # both draw as many


# Where they differ.


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize(("logit", "target"), [(40.0, 0.0), (200.0, 0.0), (40.0, 0.25), (-800.0, 1.0), (-800.0, 0.5)])
def test_ours_is_right_where_a_sigmoid_has_rounded_to_0_or_1(logit, target, dtype, their_noise):
    vae = make_vae("bernoulli", dtype=dtype)
    with torch.no_grad():
        vae.decoder.head.weight.zero_()
        vae.decoder.head.bias.fill_(logit)
    model, x = as_pythae(vae, "bce"), torch.full((ROWS, *SHAPE), target, dtype=dtype)
    terms, output = run_both(vae, model, x, their_noise)

    with mpmath.workdps(500):  # 1 - sigmoid(800) has 347 zeros
        p = 1 / (1 + mpmath.exp(-mpf(logit)))
        exact = -target * mpmath.log(p) - (1 - target) * mpmath.log(1 - p)
        slope = float(p - target)
    right = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 0.0}
    assert_close(terms.reconstruction, torch.full((ROWS,), float(ELEMENTS * exact), dtype=dtype), **right)
    assert_close(vae.decoder.head.bias.grad, torch.full((ELEMENTS,), slope, dtype=dtype), **right)

    wrong = 100 * abs(target - (logit > 0))  # torch's binary_cross_entropy takes log 0 for -100
    assert_close(output.recon_loss.item(), ELEMENTS * wrong, rtol=1e-6, atol=0.0)
    assert not model.decoder.layers[1][0].bias.grad.any(), "no gradient brings it back"


@pytest.mark.parametrize("logvar", [1e-4, -1e-4, 1e-6, 3e-4])
def test_ours_is_right_where_the_textbooks_divergence_cancels(logvar, their_noise):
    vae = make_vae("bernoulli", dtype=torch.float32)
    with torch.no_grad():
        vae.encoder.head.weight.zero_()
        vae.encoder.head.bias[:LATENTS] = 0.0
        vae.encoder.head.bias[LATENTS:] = logvar
    terms, output = run_both(vae, as_pythae(vae, "bce"), data("bce", torch.float32), their_noise)

    with mpmath.workdps(50):
        s = mpf(vae.encoder.head.bias[-1].item())
        exact = float(LATENTS * (mpmath.exp(s) - 1 - s) / 2)
    assert_close(terms.kl, torch.full((ROWS,), exact), rtol=1e-6, atol=0.0)
    assert abs(output.reg_loss.item() - exact) > exact / 5


@pytest.mark.parametrize(("asked", "at_once", "drawn"), [(1, 100, 100), (30, 100, 100), (250, 100, 200), (200, 100, 200)])
def test_pythae_draws_whole_batches_of_samples(asked, at_once, drawn, their_noise):
    """vaekit draws as many as it is asked for, whatever is decoded at once (tests/evaluation/test_bound.py)."""
    model, x = as_pythae(make_vae("bernoulli"), "bce"), data("bce", rows=1)
    their_noise.extend(torch.zeros(at_once, LATENTS, dtype=x.dtype) for _ in range(drawn // at_once))
    with torch.no_grad():
        assert model.get_nll(x, n_samples=asked, batch_size=at_once) < 0, "a log likelihood, not a negative one"
