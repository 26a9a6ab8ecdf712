"""The objective `perceptual`: its terms written out, gradients that meet, whose gradient reaches what, and runs with it."""

import pytest
import torch
from helpers.discriminators import assert_total_and_auxiliary_share_no_weight
from torch import nn
from torch.testing import assert_close

import vaekit
from vaekit import make_key
from vaekit.losses import Perceptual
from vaekit.losses.adversarial import hinge

PATCH = {"name": "patch", "channels": 4, "layers": 1}
DENSE = {"name": "mlp", "hidden": (6,)}
CONV = {"encoder": {"name": "conv", "channels": (4,)}, "decoder": {"name": "conv", "channels": (4,)}}
SHAPE = (1, 8, 8)
CODES = {"posterior": {"name": "vector_quantized", "codes": 4}, "prior": "codes"}


def features(x):
    return [x[..., 1:] * x[..., :-1], x.square()]


def model(loss, shape=SHAPE, **parts):
    loss = {"name": "perceptual", **loss}
    options = {"latent_dim": 2, "likelihood": "laplace", "seed": 0, **CONV, **parts}
    vae = vaekit.create_vae(input_shape=shape, loss=loss, **options).double()
    if vae.loss.discriminator is not None:
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in vae.loss.discriminator.parameters():
                weight += 0.3 * torch.randn_like(weight)
    return vae


def data(rows=6, shape=SHAPE):
    return torch.rand(rows, *shape, dtype=torch.float64)


def own(vae):
    return dict(vae.loss.discriminator.named_parameters(prefix="loss.discriminator"))


BOTH = {
    "objective": {"name": "elbo", "beta": 0.1},
    "distances": [{"name": "features", "network": features, "weight": 0.3, "unit_length": False}, "ms_ssim"],
    "discriminator": PATCH,
    "adversarial_weight": 0.7,
}


# The terms.


@pytest.mark.parametrize("objective", ["elbo", "iwae", "factor", "vector_quantized"])
def test_without_distances_and_a_discriminator_it_is_its_objective_bit_for_bit(objective):
    parts = CODES if objective == "vector_quantized" else {}
    loss = {"name": objective, **({"hidden": (4,)} if objective == "factor" else {})}
    vae, x, key = model({"objective": loss}, **parts).eval(), data(), make_key(1)
    plain = vaekit.create_vae(input_shape=SHAPE, latent_dim=2, likelihood="laplace", loss=loss, seed=0, **CONV, **parts)
    plain.double().load_state_dict({n.replace("loss.objective.", "loss."): v for n, v in vae.state_dict().items()})
    one, other = vae(x, key=key), plain.eval()(x, key=key)
    for name in ("total", "reconstruction", "kl"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.extras.keys() == other.extras.keys()
    assert (one.auxiliary is None) == (other.auxiliary is None)
    assert vae.loss.compares_examples is plain.loss.compares_examples
    groups = [len(group["params"]) for each in (vae, plain) for group in each.loss.parameter_groups()]
    assert groups == ([4, 4] if objective == "factor" else [])


def test_the_terms_are_those_of_the_page_and_lambda_is_the_ratio_of_gradients():
    vae = model({**BOTH, "distances": [*BOTH["distances"][:1]]})
    x, key = data(), make_key(3)
    terms = vae(x, key=key)
    z, kl = vae.encode(x).rsample_kl(vae.prior, key=key)
    parameters = vae.decoder(z)
    nll, made = vae.likelihood.nll(parameters, x), vae.likelihood.mean(parameters)
    apart = sum((a - b).square().flatten(1).mean(1) for a, b in zip(features(made), features(x), strict=True))
    of_made, of_x = (vae.loss.discriminator(one)[-1].flatten(1).mean(1) for one in (made, x))
    kept, g = (nll + 64 * 0.3 * apart).mean(), -of_made.mean()
    norms = [torch.autograd.grad(v, vae.decoder.convolutions[-1].weight, retain_graph=True)[0].norm() for v in (kept, g)]
    balance = 0.7 * norms[0] / (norms[1] + 1e-6)
    assert balance > 0
    assert_close(terms.extras["features"], apart)
    assert_close(terms.extras["adversarial"], g)
    assert_close(terms.extras["adversarial_weight"], balance.detach())
    assert_close(terms.total, kept + 0.1 * kl.mean() + balance * g)
    assert torch.equal(terms.objective, terms.total + terms.auxiliary)
    assert_close(terms.reconstruction, nll)
    assert_close(terms.kl, kl)

    of_page = torch.autograd.grad(kept + 0.1 * kl.mean() + balance.detach() * g, list(vae.encoder.parameters()))
    for got, expected in zip(torch.autograd.grad(terms.total, list(vae.encoder.parameters())), of_page, strict=True):
        assert_close(got, expected)


def test_the_hinge_is_its_closed_form_patch_by_patch():
    vae, x, key = model(BOTH | {"distances": ()}), data(), make_key(2)
    terms = vae(x, key=key)
    made = vae.decode(vae.encode(x).rsample_kl(vae.prior, key=key)[0])
    total, patches = 0.0, 0
    for of_x, of_made in zip(*(vae.loss.discriminator(one)[-1] for one in (x, made)), strict=True):
        for a, b in zip(of_x.flatten().tolist(), of_made.flatten().tolist(), strict=True):
            total, patches = total + 0.5 * max(0.0, 1.0 - a) + 0.5 * max(0.0, 1.0 + b), patches + 1
    assert terms.auxiliary.item() == pytest.approx(total / patches, rel=1e-12)
    assert torch.equal(terms.extras["discriminator"], terms.auxiliary.detach())
    assert hinge(torch.full((3, 2, 2), 5.0), torch.full((3, 2, 2), -5.0)) == 0.0
    assert hinge(torch.zeros(3, 1), torch.zeros(3, 1)) == 1.0


def test_of_several_draws_the_distances_are_means_over_them():
    vae = model({"objective": {"name": "elbo", "num_samples": 3}, "distances": BOTH["distances"][:1], "discriminator": PATCH})
    x, key = data(), make_key(0)
    terms = vae(x, key=key)
    z = vae.encode(x).rsample_kl(vae.prior, key=key, num_samples=3)[0]
    made = vae.decode(z.flatten(0, 1)).unflatten(0, (3, 6))
    apart = [sum((a - b).square().flatten(1).mean(1) for a, b in zip(features(m), features(x), strict=True)) for m in made]
    assert_close(terms.extras["features"], torch.stack(apart).mean(0))
    assert_close(terms.extras["adversarial"], -vae.loss.discriminator(made.flatten(0, 1))[-1].mean())


def test_two_distances_of_one_name_are_told_apart_and_weights_follow_the_step():
    squared = {"name": "features", "network": torch.square, "weight": {"name": "linear", "steps": 10, "end": 4.0}}
    squared["unit_length"] = False  # of one channel only signs would be left
    vae = model({"distances": [squared, {**squared, "weight": 1.0, "norm": "l1"}]})
    x, key = data(), make_key(0)
    for step, weight in ((0, 0.0), (5, 2.0), (None, 4.0)):
        terms = vae.eval()(x, key=key, step=step)
        apart = weight * terms.extras["features"] + terms.extras["features_2"]
        assert_close(terms.total, (terms.reconstruction + terms.kl + 64 * apart).mean())
    assert not torch.equal(terms.extras["features"], terms.extras["features_2"])


def test_missing_values_count_nothing():
    likelihood = {"name": "gaussian", "missing": "ignore"}
    vae = model({"distances": [{"name": "features", "network": torch.square, "unit_length": False}]}, likelihood=likelihood)
    x, key = data(), make_key(0)
    x[:, :, 2] = torch.nan
    made = vae.decode(vae.encode(x).rsample_kl(vae.prior, key=key)[0])
    apart = (made.square() - x.square()).square().nan_to_num(0.0).flatten(1).sum(1) / 64
    assert_close(vae(x, key=key).extras["features"], apart)


# What learns from what.


@pytest.mark.parametrize("adaptive", [True, False])
def test_total_reaches_no_weight_of_the_discriminator_and_auxiliary_none_of_the_model(adaptive):
    vae, x = model({**BOTH, "distances": (), "adaptive": adaptive}), data()
    assert_total_and_auxiliary_share_no_weight(vae, x, own(vae))


def pull(vae, x):
    """The gradient of the adversarial term at the decoder's last layer, and that of all else."""
    weight = vae.decoder.output_weight
    terms = vae(x, key=make_key(0))
    (whole,) = torch.autograd.grad(terms.total, weight, retain_graph=True)
    (adversarial,) = torch.autograd.grad(terms.extras["adversarial"], weight)
    of_term = terms.extras["adversarial_weight"] * adversarial
    return of_term, whole - of_term


@pytest.mark.parametrize("factor", [1e-2, 1.0, 1e3])
def test_both_pull_alike_whatever_the_units_of_the_logits_and_of_the_nll(factor):
    vae, x = model({**BOTH, "distances": (), "objective": {"name": "elbo", "beta": 0.0}, "adversarial_weight": 1.0}), data()
    reference, _ = pull(vae, x)
    with torch.no_grad():
        vae.loss.discriminator.head.weight.mul_(factor)
        vae.loss.discriminator.head.bias.mul_(factor)
    of_term, kept = pull(vae, x)
    assert_close(of_term.norm(), kept.norm(), rtol=1e-3, atol=0.0)  # but for delta
    assert_close(of_term, reference, rtol=1e-3, atol=1e-6)
    vae.loss.adaptive = False
    fixed, _ = pull(vae, x)
    assert_close(vae(x).extras["adversarial_weight"].item(), 1.0)
    assert (fixed.norm() / kept.norm() > 0.9) == (factor == 1e3) or factor == 1.0


def test_where_no_layer_is_the_last_gradients_meet_at_what_is_decoded():
    class Decoder(vaekit.Decoder):
        def __init__(self):
            super().__init__(2, (4,), 1)
            self.linear = nn.Linear(2, 4)

        def forward(self, z):
            return self.linear(z).unsqueeze(1)

    loss = Perceptual(input_shape=(4,), discriminator=DENSE, adversarial_weight=1.0)
    encoder = vaekit.encoders.create("mlp", input_shape=(4,), latent_dim=2, hidden=())
    vae = vaekit.VAE(encoder, Decoder(), likelihood=vaekit.likelihoods.Gaussian(), loss=loss).double()
    assert vae.output_weight is None
    x, key = data(shape=(4,)), make_key(0)
    terms = vae(x, key=key)
    parameters = vae.natural_parameters(vae.encode(x).rsample_kl(vae.prior, key=key)[0])
    values = vae.likelihood.nll(parameters, x).mean(), -loss.discriminator(vae.likelihood.mean(parameters))[-1].mean()
    norms = [torch.autograd.grad(value, parameters, retain_graph=True)[0].norm() for value in values]
    assert_close(terms.extras["adversarial_weight"], norms[0] / (norms[1] + 1e-6))
    vae.decoder.requires_grad_(False)
    assert_close(vae(x, key=key).extras["adversarial_weight"], norms[0] / (norms[1] + 1e-6))


def test_without_gradients_the_discriminator_counts_nothing():
    vae, x = model({**BOTH, "distances": ()}).eval(), data()
    with torch.no_grad():
        terms = vae(x)
    assert terms.extras["adversarial_weight"] == 0.0
    assert_close(terms.total, (terms.reconstruction + 0.1 * terms.kl).mean())
    assert terms.extras["discriminator"] > 0.0
    vae.loss.adaptive = False
    with torch.no_grad():
        assert vae(x).extras["adversarial_weight"] == pytest.approx(0.7)


def test_before_its_start_there_is_no_discriminator():
    loss = {**BOTH, "distances": BOTH["distances"][:1], "start": 3}
    vae, x, key = model(loss), data(), make_key(0)
    plain = model({**loss, "discriminator": None})
    early, late, outside = (vae(x, key=key, step=step) for step in (2, 3, None))
    assert early.auxiliary is None
    assert_close(early.total, plain(x, key=key).total)
    assert early.extras.keys() == late.extras.keys()
    assert early.extras["adversarial_weight"] == early.extras["discriminator"] == 0.0
    for terms in (late, outside):
        assert terms.auxiliary > 0.0
        assert_close(terms.total, early.total + terms.extras["adversarial_weight"] * terms.extras["adversarial"])
    before = {name: weight.clone() for name, weight in own(vae).items()}
    fit(vae, x, epochs=1, batch_size=2)
    assert all(torch.equal(weight, before[name]) for name, weight in own(vae).items())
    fit(vae, x, epochs=2, batch_size=2)
    assert not any(torch.equal(weight, before[name]) for name, weight in own(vae).items())


# In training.


def fit(vae, x, **options):
    return vaekit.fit(vae, x, **{"epochs": 2, "batch_size": 10, "progress": False, "device": "cpu", **options})


def test_fit_is_the_loop_that_the_documentation_describes():
    loss = {**BOTH, "distances": (), "learning_rate": 3e-3, "start": 1}
    vae, by_hand, x = model(loss), model(loss), data(30)
    history = fit(vae, x, seed=3, learning_rate=0.01)
    rest = [*by_hand.encoder.parameters(), *by_hand.decoder.parameters()]
    adam = torch.optim.Adam(rest, lr=0.01)
    own_adam = torch.optim.Adam(by_hand.loss.discriminator.parameters(), lr=3e-3, betas=(0.5, 0.9))
    noise, order, _ = vaekit.fold_in(make_key(3), torch.arange(3))
    step, weights = 0, []
    for epoch in range(2):
        generator = torch.Generator().manual_seed(int(vaekit.fold_in(order, epoch)[0]))
        for rows in torch.randperm(30, generator=generator).split(10):
            terms = by_hand(x[rows], key=vaekit.fold_in(noise, step), step=step)
            by_hand.zero_grad()
            terms.total.backward(retain_graph=True)
            adam.step()
            by_hand.loss.zero_grad()
            if terms.auxiliary is not None:
                terms.auxiliary.backward()
                own_adam.step()
            weights.append(float(terms.extras["adversarial_weight"]))
            step += 1
    for name, weight in vae.state_dict().items():
        assert_close(weight, by_hand.state_dict()[name], rtol=1e-8, atol=1e-10)
    assert history["adversarial_weight"] == pytest.approx([sum(weights[:3]) / 3, sum(weights[3:]) / 3], rel=1e-8)


def test_without_a_rate_of_its_own_the_discriminator_has_that_of_the_run():
    vae = model({**BOTH, "distances": ()})
    assert "lr" not in vae.loss.parameter_groups()[0]
    fit(vae, data(), epochs=1, learning_rate=1e-30)
    assert all(torch.equal(a, b) for a, b in zip(own(vae).values(), own(model({**BOTH, "distances": ()})).values(), strict=True))


def test_where_lambda_is_1_batches_put_together_are_one_large_batch():
    loss = {**BOTH, "distances": BOTH["distances"][:1], "adaptive": False}
    whole, parts, x = model(loss), model(loss), data(24)
    expected = fit(whole, x, batch_size=12, learning_rate=0.01)
    history = fit(parts, x, batch_size=4, accumulate=3, learning_rate=0.01)
    for name, weight in whole.state_dict().items():
        assert_close(parts.state_dict()[name], weight, rtol=1e-7, atol=1e-9)
    for name in expected:
        assert history[name] == pytest.approx(expected[name], rel=1e-7), name
    adaptive = model(BOTH | {"distances": ()})
    assert fit(adaptive, x, batch_size=4, accumulate=3)["adversarial_weight"][-1] > 0.0


def test_a_model_keeps_its_discriminator_when_it_is_saved_and_averages_it(tmp_path):
    loss = {**BOTH, "distances": ()}
    vae, x, key = model(loss), data(), make_key(1)
    fit(vae, x, learning_rate=0.01, ema=0.5, validation=x, out=tmp_path)
    again = vaekit.load(tmp_path / "last")
    assert again.config()["loss"]["discriminator"] == PATCH | {"channels": 4}
    one, two = vae(x, key=key), again(x, key=key)
    assert torch.equal(one.total, two.total)
    assert torch.equal(one.auxiliary, two.auxiliary)


# In every precision, compiled, and of nothing.


def test_in_half_precision_and_under_autocast_the_terms_are_in_single():
    loss = {**BOTH, "distances": ()}
    vae, x, key = model(loss).float(), data().float(), make_key(0)
    terms = vae(x, key=key)
    with torch.autocast("cpu", torch.bfloat16):
        low = vae(x, key=key)
    low.objective.backward()
    for name in ("total", "auxiliary"):
        assert getattr(low, name).dtype == torch.float32
        assert_close(getattr(low, name), getattr(terms, name), rtol=0.05, atol=0.1)
    assert all(weight.grad.isfinite().all() for weight in vae.parameters())


@pytest.mark.compile
def test_a_compiled_run_is_the_run():
    loss = {**BOTH, "distances": BOTH["distances"][:1], "discriminator": DENSE, "start": 2}
    dense = {"encoder": {"name": "mlp", "hidden": (4,)}, "decoder": {"name": "mlp", "hidden": (4,)}}
    one, other, x = model(loss, **dense), model(loss, **dense), data(20)
    expected, got = fit(one, x), fit(other, x, compile=True)
    for name in expected:
        assert got[name] == pytest.approx(expected[name], rel=1e-6), name


@pytest.mark.parametrize("rows", [0, 1])
def test_of_no_example_and_of_one(rows):
    vae = model({**BOTH, "distances": BOTH["distances"][:1]})
    terms = vae(data(rows), key=make_key(0))
    terms.objective.backward()
    assert all(weight.grad.isfinite().all() for weight in vae.parameters())
    if not rows:
        assert terms.total == terms.auxiliary == 0.0


def test_a_fully_convolutional_model_is_trained_on_pictures_of_other_sizes():
    spatial = {
        "encoder": {"name": "resnet", "channels": (4, 4), "blocks": 1, "spatial": True},
        "decoder": {"name": "resnet", "channels": (4, 4), "blocks": 1},
    }
    vae = model({**BOTH, "distances": ()}, **spatial)
    assert vae(data(shape=(1, 12, 16))).total.isfinite()


# Mistakes.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"distances": "ms_ssim"}, TypeError, "distances has to be a list"),
        ({"distances": ["ssim"]}, KeyError, "unknown distance 'ssim'. Did you mean 'ms_ssim'"),
        ({"discriminator": "path"}, KeyError, "unknown discriminator 'path'. Did you mean 'patch'"),
        ({"discriminator": {"name": "patch", "layers": 4}}, ValueError, "layers=4 needs at least 48 positions"),
        (
            {"discriminator": vaekit.discriminators.MLPDiscriminator((3,))},
            ValueError,
            r"shape \(3,\), but it is shown \(1, 8, 8\)",
        ),
        ({"objective": "semi_supervised"}, ValueError, "SemiSupervised decodes those without a label once for each class"),
        ({"adversarial_weight": -1.0}, ValueError, "adversarial_weight has to be at least 0"),
        ({"start": -1}, ValueError, "start has to be a whole number of at least 0"),
        ({"adaptive": 1}, TypeError, "adaptive has to be True or False"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate of the discriminator .*got 0.0"),
        ({"betas": (0.5,)}, ValueError, "betas has to be two numbers"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        model(options)


def test_an_objective_over_codes_needs_codes_here_too():
    with pytest.raises(ValueError, match="Perceptual is a loss for latents that are codes"):
        model({"objective": "vector_quantized"})
