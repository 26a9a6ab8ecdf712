"""AAE and VAE-GAN: their terms written out, whose gradient reaches what, and codes that become the prior's."""

import math

import pytest
import torch
from helpers.discriminators import assert_total_and_auxiliary_share_no_weight
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

import vaekit
from vaekit import make_key
from vaekit.losses.adversarial import logistic, weight_by_gradients

DENSE = {"name": "mlp", "hidden": (8, 6)}
AAE = {"name": "aae", "lambda_": 3.0, "discriminator": DENSE}
GAN = {"name": "vae_gan", "beta": 0.5, "adversarial_weight": 0.2, "discriminator": DENSE}


def model(loss, **parts):
    options = {"latent_dim": 2, "likelihood": "gaussian", "seed": 0, "input_shape": (5,), **parts}
    return vaekit.create_vae(loss=loss, **options).double()


def data(rows=12, size=5):
    return torch.randn(rows, size, dtype=torch.float64)


def of_prior(vae, rows, key):
    return vae.prior.sample((rows, 2), key=vaekit.fold_in(key, 1), dtype=torch.float64)


def fit(vae, x, **options):
    return vaekit.fit(vae, x, **{"epochs": 2, "batch_size": 10, "progress": False, "device": "cpu", **options})


def log_d(vae, x):
    """log D, and log(1 - D)."""
    logits = vae.loss.discriminator(x)[-1].squeeze(1)
    return logsigmoid(logits).mean(), logsigmoid(-logits).mean()


@pytest.mark.parametrize("prior", ["standard_normal", "gaussian_mixture", "vamp"])
def test_the_terms_of_aae_are_those_of_the_paper(prior):
    vae, x, key = model(AAE, prior=prior), data(), make_key(3)
    terms = vae(x, key=key)
    elbo = vaekit.Elbo()(vae, vaekit.Batch(x), vaekit.StepContext(key))
    z, _ = vae.encode(x).rsample_kl(vae.prior, key=key)
    deceives, of_codes = log_d(vae, z)
    assert_close(terms.extras["adversarial"], -deceives)
    assert_close(terms.total, elbo.reconstruction.mean() - 3.0 * deceives)
    assert_close(terms.auxiliary, -log_d(vae, of_prior(vae, 12, key))[0] - of_codes)
    assert torch.equal(terms.extras["discriminator"], terms.auxiliary.detach())
    assert torch.equal(terms.kl, elbo.kl)
    assert torch.equal(terms.reconstruction, elbo.reconstruction)


def test_aae_takes_codes_without_noise_too():
    vae, x, key = model(AAE, posterior="point"), data(), make_key(0)
    terms = vae(x, key=key)
    assert_close(terms.extras["adversarial"], -log_d(vae, vae.encode(x).mean)[0])
    assert torch.equal(terms.total, vae(x, key=make_key(1)).total)


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_the_terms_of_vae_gan_are_those_of_the_paper(layer):
    vae, x, key = model({**GAN, "layer": layer}), data(), make_key(3)
    terms = vae(x, key=key)
    elbo = vaekit.Elbo()(vae, vaekit.Batch(x), vaekit.StepContext(key))
    z, _ = vae.encode(x).rsample_kl(vae.prior, key=key)
    made, sampled = vae.decode(z), vae.decode(of_prior(vae, 12, key))
    *hidden, _ = (
        torch.stack(layers) if len({len(a) for a in layers}) == 2 else layers
        for layers in zip(vae.loss.discriminator(made), vae.loss.discriminator(x), strict=True)
    )
    one, other = hidden[layer]
    similarity = 0.5 * (one - other).square().sum(1)
    (of_x, _), (_, of_made), (_, of_sampled) = (log_d(vae, one) for one in (x, made, sampled))
    assert_close(terms.extras["similarity"], similarity)
    assert_close(terms.extras["adversarial"], of_made + of_sampled)
    assert_close(terms.total, (similarity + 0.5 * elbo.kl).mean() + 0.2 * (of_made + of_sampled))
    assert_close(terms.auxiliary, -of_x - of_made - of_sampled)
    assert torch.equal(terms.reconstruction, elbo.reconstruction)


@pytest.mark.parametrize("loss", [AAE, GAN], ids=["aae", "vae_gan"])
def test_total_reaches_no_weight_of_the_discriminator_and_auxiliary_none_of_the_model(loss):
    vae, x = model(loss), data()
    assert_total_and_auxiliary_share_no_weight(vae, x, dict(vae.loss.named_parameters(prefix="loss")))


def test_in_vae_gan_the_encoder_learns_from_similarity_and_divergence_alone():
    """Algorithm 1: the decoder alone has to deceive the discriminator."""
    vae, x, key = model(GAN), data(), make_key(0)
    terms = vae(x, key=key)
    encoder, decoder = list(vae.encoder.parameters()), list(vae.decoder.parameters())
    got = torch.autograd.grad(terms.total, encoder, retain_graph=True)
    expected = torch.autograd.grad((terms.extras["similarity"] + 0.5 * terms.kl).mean(), encoder, retain_graph=True)
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other)
    assert not any(
        g is not None for g in torch.autograd.grad(terms.extras["adversarial"], encoder, retain_graph=True, allow_unused=True)
    )
    assert all(g.any() for g in torch.autograd.grad(terms.extras["adversarial"], decoder))


def test_in_aae_the_decoder_learns_from_the_reconstruction_alone():
    vae = model(AAE)
    terms = vae(data(), key=make_key(0))
    decoder = list(vae.decoder.parameters())
    assert not any(g is not None for g in torch.autograd.grad(terms.extras["adversarial"], decoder, allow_unused=True))


@pytest.mark.parametrize("loss", [AAE, GAN], ids=["aae", "vae_gan"])
def test_weights_follow_the_step(loss):
    option = "lambda_" if loss is AAE else "adversarial_weight"
    vae = model({**loss, option: {"name": "linear", "steps": 10, "end": 4.0}}).eval()
    x, key = data(), make_key(0)
    first = vae(x, key=key, step=0)
    for step, weight in ((5, 2.0), (None, 4.0)):
        terms = vae(x, key=key, step=step)
        assert_close(terms.total, first.total + weight * terms.extras["adversarial"])


@pytest.mark.parametrize("loss", [AAE, GAN], ids=["aae", "vae_gan"])
def test_fit_trains_both_and_a_saved_model_has_both(loss, tmp_path):
    vae, x, key = model({**loss, "learning_rate": 0.01}), data(), make_key(1)
    before = {name: weight.clone() for name, weight in vae.named_parameters()}
    history = fit(vae, x, ema=0.5, accumulate=2, batch_size=3, validation=x, out=tmp_path)
    assert {"adversarial", "discriminator", "val_adversarial"} <= set(history)
    assert not any(torch.equal(weight, before[name]) for name, weight in vae.named_parameters())
    again = vaekit.load(tmp_path / "last")
    assert torch.equal(again(x, key=key).objective, vae(x, key=key).objective)
    assert again.config() == vae.config()


def test_a_new_discriminator_that_says_nothing_costs_its_logarithms_of_2():
    for loss, logarithms in ((AAE, 2), (GAN, 3)):
        vae = model(loss)
        with torch.no_grad():
            vae.loss.discriminator.head.weight.zero_()
        assert vae(data()).auxiliary.item() == pytest.approx(logarithms * math.log(2.0))
    assert logistic(torch.zeros(0, 1), torch.zeros(0, 1)) == 0.0


def test_training_brings_the_codes_to_the_prior():
    """Of linear networks whose codes are 5.5 away from it at first; then it circles around it, as adversaries do."""
    x = 4.0 + 3.0 * torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    linear = {"name": "mlp", "hidden": ()}
    vae = vaekit.create_vae(
        input_shape=(2,), latent_dim=2, encoder=linear, decoder=linear, likelihood="gaussian", seed=0,
        loss={"name": "aae", "lambda_": 20.0, "discriminator": {"name": "mlp", "hidden": (32,)}, "learning_rate": 0.01},
    )  # fmt: skip
    with torch.no_grad():
        vae.encoder.head.weight.copy_(torch.eye(4, 2))
        vae.encoder.head.bias[2:] = -4.0
    fit(vae, x, epochs=20, batch_size=100, learning_rate=3e-3)
    z = vae.encode(x).rsample(key=make_key(0)).detach()
    assert z.mean(0).abs().max() < 0.7
    assert_close(z.std(0), torch.ones(2), rtol=0.0, atol=0.4)


def test_gradients_meet_at_a_parameter_by_their_norms():
    w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    weight = weight_by_gradients(3.0 * w.sum(), (w * w).sum(), w, w, examples=1)
    assert weight.item() == pytest.approx(3.0 * math.sqrt(2.0) / (2.0 * math.sqrt(5.0) + 1e-6))
    assert not weight.requires_grad
    assert weight_by_gradients(w.sum(), 0.0 * w.sum(), w, w, examples=1) == 1e4


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("loss", [AAE, GAN], ids=["aae", "vae_gan"])
def test_of_no_example_and_of_one(loss, rows):
    vae = model(loss)
    terms = vae(data(rows), key=make_key(0))
    terms.objective.backward()
    assert all(weight.grad.isfinite().all() for weight in vae.parameters())
    if not rows:
        assert terms.total == terms.auxiliary == 0.0


def test_vae_gan_takes_pictures_with_missing_values_through_a_patch_discriminator():
    loss = {**GAN, "discriminator": {"name": "patch", "channels": 4, "layers": 1}}
    likelihood = {"name": "gaussian", "missing": "ignore"}
    vae = model(loss, input_shape=(1, 8, 8), likelihood=likelihood)
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    x[:, :, :2] = torch.nan
    vae(x).objective.backward()
    assert all(weight.grad.isfinite().all() for weight in vae.parameters())


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        ({**AAE, "lambda_": -1.0}, ValueError, "lambda_ has to be at least 0"),
        ({**AAE, "discriminator": "patch"}, ValueError, "'patch' takes series"),
        (
            {**AAE, "discriminator": vaekit.discriminators.MLPDiscriminator((3,))},
            ValueError,
            "one for the shape .3,., but it is shown .2,.",
        ),
        ({**GAN, "layer": 1.5}, TypeError, "layer has to be the number of a hidden layer, got 1.5"),
        ({**GAN, "layer": 2}, ValueError, "the discriminator has 2 hidden layers, got layer=2"),
        ({**GAN, "beta": -0.5}, ValueError, "beta has to be at least 0"),
        ({**GAN, "betas": (0.5, 2.0)}, ValueError, "betas .*got 2.0"),
    ],
)
def test_options_that_do_not_exist_are_refused(loss, error, message):
    with pytest.raises(error, match=message):
        model(loss)(data())
