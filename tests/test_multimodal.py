"""Laws of models of several modalities: products and mixtures in closed form, what is missing, training, saving, imputing."""

import itertools
import math

import pytest
import torch
from scipy.stats import multivariate_normal
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, Normal
from torch.distributions import Categorical as Weights

import vaekit
from vaekit.encoders import Fusion, fusions
from vaekit.encoders.fusion import product
from vaekit.likelihoods import Modalities
from vaekit.posteriors import GaussianMixturePosterior

KEY = vaekit.make_key(3)
NORMAL = vaekit.StandardNormal()
PARTS = {
    "word": {
        "shape": (2,),
        "likelihood": {"name": "categorical", "classes": 4},
        "encoder": {"hidden": (16,)},
        "decoder": {"hidden": (16,)},
    },
    "image": {"shape": (1, 4, 4), "encoder": {"name": "mlp", "hidden": (16,)}, "decoder": {"hidden": (16,)}},
    "sound": {"shape": (3,), "likelihood": "gaussian", "encoder": {"hidden": (16,)}, "decoder": {"hidden": (16,)}},
}
FUSIONS = fusions.names()


def model(fusion="product_of_experts", loss="elbo", **options):
    vae = vaekit.create_vae(modalities=PARTS, latent_dim=2, encoder={"fusion": fusion}, loss=loss, seed=0, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return vae


def data(count=6):
    torch.manual_seed(0)
    return {
        "image": torch.rand(count, 1, 4, 4).round(),
        "sound": torch.randn(count, 3),
        "word": torch.randint(0, 4, (count, 2)).float(),
    }


def expert(vae, name, x):
    """What one modality says, by its own encoder."""
    return vae.encoder.encoders[name](
        vae.likelihood.likelihood_of(name)
        .encoder_input(x)
        .reshape(len(x), -1)
        .unflatten(1, vae.encoder.encoders[name].input_shape)
    )


# Products and mixtures


@pytest.mark.parametrize("with_prior", [True, False])
def test_a_product_is_the_normalised_product_of_the_densities(with_prior):
    mu, logvar = torch.tensor([[[0.3], [-1.2], [2.0]]]).double(), torch.tensor([[[0.5], [-0.7], [1.1]]]).double()
    present = torch.tensor([[True, False, True]])
    z = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    log_density = sum(Normal(mu[0, m], (0.5 * logvar[0, m]).exp()).log_prob(z) for m in (0, 2))
    log_density = log_density + (Normal(0.0, 1.0).log_prob(z) if with_prior else 0.0)
    weights = log_density.exp() / log_density.exp().sum()
    mean = (weights * z).sum()
    variance = (weights * (z - mean) ** 2).sum()
    found_mean, found_logvar = product(mu, logvar, present, with_prior)
    torch.testing.assert_close(found_mean[0, 0], mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found_logvar[0, 0].exp(), variance, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("logvar", [200.0, -200.0])
def test_products_of_extreme_experts_are_finite(logvar):
    mu = torch.tensor([[[1.0], [3.0]]], requires_grad=True)
    mean, log_variance = product(mu, torch.full((1, 2, 1), logvar), torch.ones(1, 2, dtype=torch.bool), False)
    assert (mean.item(), log_variance.item()) == (pytest.approx(2.0, rel=1e-5), pytest.approx(logvar - math.log(2), rel=1e-6))
    mean.sum().backward()
    assert mu.grad.isfinite().all()


def test_a_mixture_is_torchs():
    torch.manual_seed(0)
    mu, logvar, weights = torch.randn(3, 4, 2).double(), torch.randn(3, 4, 2).double(), torch.rand(3, 4).double()
    weights[1, 2] = 0.0
    q, z = GaussianMixturePosterior(mu, logvar, weights), torch.randn(5, 3, 2).double()
    witness = MixtureSameFamily(Weights(weights), torch.distributions.Independent(Normal(mu, (0.5 * logvar).exp()), 1))
    torch.testing.assert_close(q.log_prob(z), witness.log_prob(z))
    torch.testing.assert_close(q.mean, witness.mean)
    drawn = q.rsample(key=KEY, num_samples=40_000)
    torch.testing.assert_close(drawn.mean(0), witness.mean, rtol=0.0, atol=0.05)
    torch.testing.assert_close(drawn.var(0), witness.variance, rtol=0.08, atol=0.03)
    part = GaussianMixturePosterior(mu[1:], logvar[1:], weights[1:]).rsample(key=KEY, num_samples=7, row_start=1)
    assert torch.equal(part, drawn[:7, 1:])


def test_the_gradient_of_a_mixtures_draw_is_that_of_the_mean():
    mu = torch.tensor([[[0.5, -1.0], [2.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    logvar = torch.tensor([[[0.1, 0.2], [-0.5, 0.3]]], dtype=torch.float64, requires_grad=True)
    z = GaussianMixturePosterior(mu, logvar, torch.tensor([[1.0, 3.0]])).rsample(key=KEY, num_samples=200_000)
    got = torch.autograd.grad((z**2).mean(0).sum(), (mu, logvar))
    weights = torch.tensor([[0.25], [0.75]]).double()
    torch.testing.assert_close(got[0][0], 2 * weights * mu[0].detach(), rtol=0.03, atol=0.01)
    torch.testing.assert_close(got[1][0], weights * logvar[0].detach().exp(), rtol=0.03, atol=0.01)


def test_one_modality_alone_is_what_its_encoder_says():
    x = data()
    for name in PARTS:
        own = expert(model(), name, x[name])
        for fusion in ({"name": "product_of_experts", "prior_expert": False}, "mixture_of_experts", "mixture_of_products"):
            q = model(fusion).encode({name: x[name]})
            z = torch.randn(6, 2)
            torch.testing.assert_close(q.log_prob(z), own.log_prob(z), rtol=1e-4, atol=1e-4)


def test_the_posterior_of_all_is_the_product_of_the_experts_and_the_prior():
    vae, x = model(), data()
    q = vae.encode(x)
    for row in range(6):
        precision, mean = torch.eye(2).double(), torch.zeros(2).double()
        for name in PARTS:
            own = expert(vae, name, x[name])
            precision = precision + torch.diag(1.0 / own.variances[row].double())
            mean = mean + own.mean[row].double() / own.variances[row].double()
        covariance = torch.linalg.inv(precision).detach()
        expected = multivariate_normal((covariance @ mean).detach().numpy(), covariance.numpy())
        z = torch.randn(6, 2)
        assert q.log_prob(z)[row].item() == pytest.approx(expected.logpdf(z[row].numpy()), rel=1e-4, abs=1e-4)


def test_mixture_of_products_holds_the_experts_alone_and_all_together():
    vae, x = model("mixture_of_products"), data()
    q, z = vae.encode(x), torch.randn(6, 2)
    densities = []
    for size in (1, 2, 3):
        for names in itertools.combinations(sorted(PARTS), size):
            whole = model({"name": "product_of_experts", "prior_expert": False}).encode({name: x[name] for name in names})
            densities.append(whole.log_prob(z))
    expected = torch.stack(densities).logsumexp(0) - math.log(7)
    torch.testing.assert_close(q.log_prob(z), expected, rtol=1e-4, atol=1e-4)
    experts = [expert(vae, name, x[name]).log_prob(z) for name in PARTS]
    mixed = model("mixture_of_experts").encode(x).log_prob(z)
    torch.testing.assert_close(mixed, torch.stack(experts).logsumexp(0) - math.log(3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_of_nothing_the_posterior_is_the_prior(fusion):
    vae, z = model(fusion), torch.randn(4, 2)
    q = vae.encode(torch.full((4, 21), torch.nan))
    torch.testing.assert_close(q.log_prob(z), NORMAL.log_prob(z), rtol=1e-5, atol=1e-5)
    terms = vae(torch.full((4, 21), torch.nan), key=KEY)
    assert terms.reconstruction.abs().max() == 0
    assert terms.kl.abs().max() < 1e-5
    terms.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in vae.parameters())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_missing_in_some_examples_is_as_if_it_were_never_there(fusion):
    vae, x = model(fusion), data()
    rows = vae.likelihood.joined(x)
    rows = vae.likelihood.without(rows, torch.tensor([[True, False, True]] * 3 + [[True, True, True]] * 3))
    some, whole = {name: x[name][:3] for name in ("image", "word")}, {name: value[3:] for name, value in x.items()}
    got, z = vae(rows, key=KEY), torch.randn(6, 2)
    torch.testing.assert_close(vae.encode(rows).log_prob(z)[:3], vae.encode(some).log_prob(z[:3]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.reconstruction[:3], vae(some, key=KEY).reconstruction)
    torch.testing.assert_close(got.reconstruction[3:], vae(whole, key=KEY, row_start=3).reconstruction)


# The likelihood


def test_the_nll_is_the_sum_over_modalities_by_torchs_distributions():
    vae, x = model(), data()
    z = torch.randn(6, 2)
    parts = {name: decoder(z) for name, decoder in vae.decoder.decoders.items()}
    by_hand = -Bernoulli(logits=parts["image"][:, 0]).log_prob(x["image"]).flatten(1).sum(1)
    by_hand = by_hand - Normal(parts["sound"][:, 0], 1.0).log_prob(x["sound"]).sum(1)
    by_hand = by_hand - Categorical(logits=parts["word"].mT).log_prob(x["word"]).sum(1)
    rows = vae.likelihood.joined(x)
    torch.testing.assert_close(vae.likelihood.nll(vae.decoder(z), rows), by_hand)
    torch.testing.assert_close(vae.likelihood.element_nll(vae.decoder(z), rows).sum(1), by_hand)
    mean = vae.likelihood.parted(vae.decode(z))
    torch.testing.assert_close(mean["image"], parts["image"][:, 0].sigmoid())
    torch.testing.assert_close(mean["word"], parts["word"].argmax(1).float())


def test_rows_and_modalities_are_two_forms_of_one_thing():
    likelihood, x = model().likelihood, data()
    again = likelihood.parted(likelihood.joined(dict(reversed(x.items()))))
    assert list(again) == ["image", "sound", "word"]
    assert all(torch.equal(again[name], x[name]) for name in x)
    only = likelihood.parted(likelihood.joined({"sound": x["sound"]}))
    assert only["image"].isnan().all()
    assert only["word"].isnan().all()


def test_mvae_is_the_sum_of_the_bounds_of_all_and_of_each_alone():
    vae, x = model(loss={"name": "mvae", "subsets": 0}), data()
    terms, plain = vae(x, key=KEY), model()
    assert torch.equal(terms.kl, plain(x, key=KEY).kl)
    expected = 0.0
    for number, name in enumerate(sorted(PARTS)):
        of_one = plain({name: x[name]}, key=vaekit.fold_in(vaekit.fold_in(KEY, 1), number))
        expected = expected + of_one.reconstruction + of_one.kl
    torch.testing.assert_close(terms.extras["parts"], expected)
    torch.testing.assert_close(terms.total, (terms.reconstruction + terms.kl + expected).mean())
    more = model(loss={"name": "mvae", "subsets": 2})(x, key=KEY)
    assert (more.extras["parts"] > terms.extras["parts"] - 1e-4).all()
    assert not torch.equal(more.extras["parts"], terms.extras["parts"])


# How it is used


def pairs(count=400, seed=0):
    """A number in two forms: where the bright pixel is, and a sound around it."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(0, 2, (count,), generator=generator)
    image = torch.zeros(count, 1, 4, 4)
    image[place == 0, 0, :2] = 1.0
    image[place == 1, 0, 2:] = 1.0
    sound = (4.0 * place[:, None] - 2.0) + 0.3 * torch.randn(count, 3, generator=generator)
    return {"image": image, "sound": sound}, place


@pytest.mark.parametrize("fusion", FUSIONS)
def test_it_trains_crosses_over_imputes_and_is_the_same_after_saving(fusion, tmp_path):
    x, place = pairs()
    parts = {name: PARTS[name] for name in x}
    loss = "mvae" if fusion == "product_of_experts" else "elbo"
    vae = vaekit.create_vae(modalities=parts, latent_dim=2, encoder={"fusion": fusion}, loss=loss, seed=0)
    before = vaekit.evaluate(vae, x)["reconstruction"]
    history = vaekit.fit(vae, x, epochs=25, batch_size=50, learning_rate=1e-2, validation=0.1, progress=False)
    assert "val_loss" in history
    assert vaekit.evaluate(vae, x)["reconstruction"] < before
    made = vae.reconstruct({"image": x["image"]})
    assert made["sound"].shape == (400, 3)
    right = (made["sound"].mean(1) > 0) == place.bool()
    assert right.float().mean() > 0.95
    filled = vae.impute({"sound": x["sound"]}, draws=2, samples=50)
    assert (filled.x["image"][:, 0, 3, 0].gt(0.5) == place.bool()).float().mean() > 0.95
    assert torch.equal(filled.x["sound"], x["sound"])
    assert filled.draws["image"].shape == (2, 400, 1, 4, 4)
    assert vae.score({"sound": x["sound"]}, samples=5).log_likelihood.isfinite().all()
    assert vae.likelihood.parted(vae.sample(5))["image"].shape == (5, 1, 4, 4)
    vae.likelihood.check(vae.sample(5, draw=True))
    again = vaekit.load(vae.save(tmp_path))
    assert again.config() == vae.config()
    assert torch.equal(again.reconstruct({"sound": x["sound"]})["image"], vae.reconstruct({"sound": x["sound"]})["image"])


def test_errors_are_those_of_each_modality():
    vae, x = model(), data()
    errors = vaekit.evaluation.reconstruction_error(vae, x)
    made = vae.reconstruct(x)
    assert sorted(errors) == ["image mae", "image rmse", "sound mae", "sound rmse", "word wrong"]
    assert errors["word wrong"] == pytest.approx((made["word"] != x["word"]).float().mean().item())
    assert errors["sound rmse"] == pytest.approx((made["sound"] - x["sound"]).square().mean().sqrt().item(), rel=1e-5)


def test_what_is_exported_computes_the_same_for_any_batch(tmp_path):
    vae = model("mixture_of_products").eval()
    rows = vae.likelihood.joined(data(4))
    rows[:2, :16] = torch.nan
    files = vaekit.export(vae, tmp_path, to="torch")
    program = torch.export.load(files["encoder"]).module()
    torch.testing.assert_close(program(rows)[0], vae.encode(rows).mean)


def test_modalities_may_be_missing_in_training():
    x, place = pairs()
    some = {**x, "sound": torch.where(torch.arange(400)[:, None] % 2 == 0, x["sound"], torch.nan)}
    vae = vaekit.create_vae(modalities={name: PARTS[name] for name in x}, latent_dim=2, seed=0)
    vaekit.fit(vae, some, epochs=25, batch_size=50, learning_rate=1e-2, progress=False)
    right = (vae.reconstruct({"image": x["image"]})["sound"].mean(1) > 0) == place.bool()
    assert right.float().mean() > 0.95


@pytest.mark.parametrize("fusion", FUSIONS)
def test_under_autocast_the_networks_alone_compute_in_the_lower_precision(fusion):
    vae, x = model(fusion), data()
    with torch.autocast("cpu", torch.bfloat16):
        terms, mean = vae(x, key=KEY), vae.encode(x).mean
    assert {terms.total.dtype, terms.reconstruction.dtype, terms.kl.dtype, mean.dtype} == {torch.float32}
    full = vae(x, key=KEY)
    assert not torch.equal(terms.reconstruction, full.reconstruction)
    torch.testing.assert_close(terms.reconstruction, full.reconstruction, rtol=0.05, atol=0.5)


def test_arrays_conditions_and_images_by_convolutions():
    convolution = {"name": "conv", "channels": (4, 8)}
    parts = {
        "image": {"shape": (1, 8, 8), "encoder": convolution, "decoder": {"name": "conv", "channels": (8, 4)}},
        "sound": {"shape": (3,), "likelihood": "gaussian"},
    }
    vae = vaekit.create_vae(modalities=parts, latent_dim=2, condition={"name": "labels", "classes": 2})
    images = (255 * torch.rand(10, 8, 8)).to(torch.uint8).numpy()
    vaekit.fit(vae, ({"image": images, "sound": torch.randn(10, 3).numpy()}, [0, 1] * 5), epochs=1, progress=False)
    assert vae.reconstruct({"sound": torch.randn(2, 3)}, 1)["image"].shape == (2, 1, 8, 8)


# A fusion outside the tree: the expert that is surest


class Surest(Fusion):
    def forward(self, mu, logvar, present):
        chosen = torch.where(present, logvar.sum(2), math.inf).argmin(1)
        rows = torch.arange(len(mu))
        return vaekit.DiagonalGaussian(mu[rows, chosen], logvar[rows, chosen])


def test_a_fusion_of_ones_own(tmp_path):
    fusions.register("surest")(Surest)
    try:
        vae, x = model("surest"), data()
        alone = expert(vae, "word", x["word"])
        torch.testing.assert_close(vae.encode({"word": x["word"]}).mean, alone.mean)
        vaekit.fit(vae, x, epochs=1, progress=False)
        assert torch.equal(vaekit.load(vae.save(tmp_path)).encode(x).mean, vae.encode(x).mean)
    finally:
        fusions._parts.pop("surest")


# Mistakes


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: model().encode({"smell": torch.rand(2, 3)}), "no modality 'smell'; there are: image, sound, word"),
        (lambda: model().encode({"sound": torch.rand(2, 4)}), r"'sound' has the shape \(3,\), got \(4,\)"),
        (lambda: model().encode({"sound": torch.rand(2, 3), "word": torch.zeros(3, 2)}), "with the same batch"),
        (lambda: model().encode({}), "one has to be there"),
        (lambda: vaekit.create_vae(input_shape=(4,), latent_dim=2).encode({"a": torch.rand(2, 4)}), "x is one tensor"),
        (lambda: vaekit.create_vae(input_shape=(4,), latent_dim=2, loss="mvae"), "models of several modalities"),
        (lambda: vaekit.create_vae(modalities={"a": {"size": 3}}, latent_dim=2), "'a' is a mapping with shape, likelihood"),
        (lambda: vaekit.create_vae(modalities={}, latent_dim=2), "modalities has to be"),
        (lambda: Modalities({"a": {"shape": (3,), "likelihood": {"name": "gaussian", "missing": "refuse"}}}), "'a' has missing="),
        (lambda: vaekit.fit(model(), {**data(), "word": torch.full((6, 2), 7.0)}, progress=False), "modality 'word': .*0 to 3"),
        (lambda: model({"name": "surest"}), "unknown fusion 'surest'"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises((TypeError, ValueError, vaekit.UnknownNameError), match=words):
        call()
