"""Plain and regularised autoencoders against pythae's AE, RAE_L2 and RAE_GP: the same weights, the same terms and gradients.

The first lines of test_pythae.py say how, and that it is skipped where pythae is not installed. Where they differ:

- their reconstruction is the squared error, of which our Gaussian nll of variance 1/2 is the same and a constant;
- their AE takes the mean of the squares over elements in place of the sum, so that each gradient is ours over their number;
- their RAE_L2 has the decoder's squares as its optimizer's weight decay, which is l2 = weight_decay / 2 here, not in the loss;
- their RAE_GP penalises (d sum of the outputs / d x)^2: one fixed combination of the outputs, through the encoder. The paper says
  all derivatives of the decoder, by the code; ours has those (tests/losses/test_autoencoder.py). Ours, given their combination
  and the encoder's derivatives, is theirs.
"""

import math

import pytest
import torch
from helpers.pythae_networks import ELEMENTS, HIDDEN, LATENTS, ROWS, SHAPE, by_pythae_names, data, pythae
from torch import nn
from torch.testing import assert_close

import vaekit

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
CONSTANT = ELEMENTS / 2 * math.log(math.pi)  # of a Gaussian of variance 1/2
LOG_2_PI = LATENTS / 2 * math.log(2 * math.pi)


def both(loss, theirs, config):
    """Our model with `loss`, and pythae's with the same weights, in float64."""
    dense = {"name": "mlp", "hidden": (HIDDEN,)}
    vae = vaekit.create_vae(
        input_shape=SHAPE, latent_dim=LATENTS, encoder=dense, decoder=dense, posterior="point", seed=1,
        likelihood={"name": "gaussian", "sigma": math.sqrt(0.5)}, loss={"name": "autoencoder", **loss},
    ).double()  # fmt: skip
    model = theirs(config).double()
    model.decoder.layers[1][1] = nn.Identity()
    named = by_pythae_names(vae, lambda parameter: parameter.detach())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "log_var" not in name:  # which their networks have and these models do not use
                parameter.copy_(named[name])
    return vae, model


def assert_same_gradients(vae, model, times=1.0):
    ours = by_pythae_names(vae, lambda parameter: parameter.grad)
    for name, parameter in model.named_parameters():
        if "log_var" not in name:
            assert parameter.grad.abs().max() > 1e-4, name
            assert_close(ours[name], parameter.grad * times, **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


def test_the_plain_autoencoder_is_pythaes_times_the_number_of_elements():
    vae, model = both({}, pythae.AE, pythae.AEConfig(input_dim=SHAPE, latent_dim=LATENTS))
    x = data("mse")
    terms, output = vae(x), model({"data": x})
    terms.total.backward()
    output.loss.backward()
    assert_close(terms.total, output.loss + CONSTANT, **CLOSE)
    assert_same_gradients(vae, model)


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_penalty_of_the_codes_is_that_of_rae_l2(weight):
    config = pythae.RAE_L2_Config(input_dim=SHAPE, latent_dim=LATENTS, embedding_weight=weight)
    vae, model = both({"beta": weight}, pythae.RAE_L2, config)
    x = data("mse")
    terms, output = vae(x), model({"data": x})
    terms.total.backward()
    output.loss.backward()
    assert_close(terms.kl.mean() - LOG_2_PI, output.embedding_loss, **CLOSE)
    assert_close(terms.total, output.loss + CONSTANT + weight * LOG_2_PI, **CLOSE)
    assert_same_gradients(vae, model)


def test_the_squares_of_the_decoder_are_half_the_weight_decay_of_rae_l2():
    vae, model = both(
        {"l2": 0.05}, pythae.RAE_L2, pythae.RAE_L2_Config(input_dim=SHAPE, latent_dim=LATENTS, embedding_weight=0.0)
    )
    x, rate = data("mse"), 1e-3
    vae(x).total.backward()
    model({"data": x}).loss.backward()
    torch.optim.SGD(vae.parameters(), lr=rate).step()
    torch.optim.SGD(model.decoder.parameters(), lr=rate, weight_decay=0.1).step()
    ours = by_pythae_names(vae, lambda parameter: parameter.detach())
    for name, parameter in model.decoder.named_parameters():
        assert_close(ours[f"decoder.{name}"], parameter.detach(), **CLOSE)


def test_rae_gp_penalises_one_combination_of_the_outputs_through_the_encoder():
    config = pythae.RAE_GP_Config(input_dim=SHAPE, latent_dim=LATENTS, embedding_weight=0.0, reg_weight=1.0)
    vae, model = both({"gradient": 1.0, "projections": 4000}, pythae.RAE_GP, config)
    x = data("mse").requires_grad_()
    theirs = model({"data": x}).gen_reg_loss
    decoded = vae.decoder(vae.encode(x).mean)
    (through_both,) = torch.autograd.grad(decoded.sum(), x)
    assert_close(theirs.detach(), through_both.flatten(1).square().sum(1).mean(), **CLOSE)

    z = vae.encode(x).mean.detach()
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda z: vae.decoder(z[None]).flatten(), each) for each in z])
    assert jacobians.shape == (ROWS, ELEMENTS, LATENTS)
    exact = jacobians.square().sum((1, 2))
    ours = vae(x.detach(), key=vaekit.make_key(0)).extras["decoder_gradient"]
    assert ((ours - exact).abs() < 4 * math.sqrt(2 / 4000) * exact).all()
    assert (theirs - exact.mean()).abs() > 0.2 * exact.mean(), "it is not the paper's"
