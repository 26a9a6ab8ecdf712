"""The prior over the codes of a codebook: its probabilities enumerated, its draws counted, and its fit to a model's codes."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

import vaekit
from vaekit import priors
from vaekit.evaluation import fitted_codes, fitted_mixture, importance_weighted_bound

CODES = 5


def model(seed=0, spatial=True, codes=CODES, decay=0.99, likelihood="bernoulli"):
    small = {"hidden": (8,)}
    convolutions = {"name": "conv", "channels": (4, 4)}
    return vaekit.create_vae(
        input_shape=(1, 8, 5), latent_dim=3, encoder={**convolutions, "spatial": True} if spatial else small,
        decoder=convolutions if spatial else small, likelihood=likelihood,
        posterior={"name": "vector_quantized", "codes": codes, "decay": decay}, prior="codes", loss="vector_quantized", seed=seed,
    )  # fmt: skip


def with_other_probabilities(vae, seed=0):
    vae.prior.logits.copy_(torch.randn(vae.prior.logits.shape, generator=torch.Generator().manual_seed(seed)))
    return vae


@pytest.mark.parametrize("spatial", [True, False])
def test_probabilities_of_all_codes_are_those_of_torchs_categorical_and_sum_to_1(spatial):
    vae = with_other_probabilities(model(spatial=spatial).double())
    positions = vae.latent_shape[1:]
    assert positions == ((2, 2) if spatial else ())
    every = torch.tensor(list(itertools.product(range(CODES), repeat=math.prod(positions)))).reshape(-1, *positions)
    log_prob = vae.prior.log_prob(vae.encoder.family.embedded(every))
    expected = torch.distributions.Categorical(logits=vae.prior.logits).log_prob(every)
    assert_close(log_prob, expected.reshape(len(every), -1).sum(1), rtol=1e-12, atol=1e-12)
    assert float(log_prob.exp().sum()) == pytest.approx(1.0, rel=1e-12)


def test_what_is_no_code_has_no_probability():
    vae = model()
    z = vae.prior.sample((4, *vae.latent_shape), key=vaekit.make_key(0), dtype=torch.float32)
    z[2, 1, 1, 0] += 1e-3
    assert vae.prior.log_prob(z).isfinite().tolist() == [True, True, False, True]
    assert vae.prior.log_prob(z)[2] == -math.inf


def test_nan_has_no_density():
    vae = model()
    z = vae.prior.sample((4, *vae.latent_shape), key=vaekit.make_key(0), dtype=torch.float32)
    z[1, 2, 0, 1] = math.nan
    z[2, 0, 0, 0] = math.inf
    z[3] = math.nan
    log_prob = vae.prior.log_prob(z)
    assert_close(log_prob, torch.tensor([-4 * math.log(CODES), math.nan, -math.inf, math.nan]), equal_nan=True)


def test_codes_that_no_distance_tells_apart_keep_their_own_probabilities():
    vae = with_other_probabilities(model())
    book = vae.encoder.family.codebook
    book.copy_(1.0 + torch.arange(CODES)[:, None] * torch.finfo(torch.float32).eps)
    indices = torch.randint(CODES, (50, 2, 2))
    z = vae.encoder.family.embedded(indices)
    assert torch.equal(vae.prior.log_prob(z), vae.prior.log_prob_of(indices))
    assert len(vae.prior.log_prob(z).unique()) > 10
    assert vae.eval()(torch.rand(6, 1, 8, 5)).kl.isfinite().all()


@pytest.mark.parametrize("codes", [1, 2, 7, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.9, None])
def test_the_divergence_of_a_model_is_positions_log_codes(codes, dtype, decay):
    vae, x = model(codes=codes, decay=decay).to(dtype), torch.rand(6, 1, 8, 5, dtype=dtype)
    for _ in range(3):  # in training too, when the codes have just moved
        kl = vae(x).kl
        assert kl.dtype == dtype
        assert_close(kl.detach(), torch.full((6,), 4 * math.log(codes), dtype=dtype), rtol=4 * torch.finfo(dtype).eps, atol=0.0)
    assert vae.eval()(x[:0]).kl.shape == (0,)


@pytest.mark.parametrize("spatial", [True, False])
@pytest.mark.parametrize("uniform", [True, False])
def test_draws_have_the_probabilities_at_every_position(spatial, uniform):
    vae = model(spatial=spatial)
    vae = vae if uniform else with_other_probabilities(vae)
    z = vae.prior.sample((3000, *vae.latent_shape), key=vaekit.make_key(1), dtype=torch.float32)
    indices = vae.encoder.family.nearest(z)
    assert torch.equal(vae.encoder.family.embedded(indices), z)
    probabilities = vae.prior.logits.double().softmax(-1).reshape(-1, CODES)
    for drawn, expected in zip(indices.reshape(3000, -1).T, probabilities, strict=True):
        assert stats.chisquare(np.bincount(drawn, minlength=CODES), 3000 * expected.numpy()).pvalue > 1e-3
    if spatial:  # and the positions are independent: the joint counts of two of them
        table = np.histogram2d(indices[:, 0, 0].numpy(), indices[:, 1, 1].numpy(), bins=CODES)[0]
        assert stats.chi2_contingency(table).pvalue > 1e-3


def test_draws_are_a_function_of_the_key_and_the_first_of_many_are_the_few():
    vae = with_other_probabilities(model())
    draws = [vae.prior.sample((n, 3, 2, 2), key=vaekit.make_key(s), dtype=torch.float32) for n, s in ((6, 0), (9, 0), (6, 1))]
    assert torch.equal(draws[0], draws[1][:6])
    assert not torch.equal(draws[0], draws[2])
    assert vae.prior.sample((0, 3, 2, 2), key=vaekit.make_key(0), dtype=torch.float64).shape == (0, 3, 2, 2)


# Fitted to a model's codes.


@pytest.mark.parametrize("spatial", [True, False])
@pytest.mark.parametrize("smoothing", [0.5, 1.0])
def test_a_fitted_prior_has_the_counted_frequencies(spatial, smoothing):
    vae, x = model(spatial=spatial).double(), torch.rand(40, 1, 8, 5, dtype=torch.float64)
    vaekit.fit(vae, x, epochs=2, batch_size=8, progress=False, device="cpu")
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    prior = fitted_codes(vae, x, smoothing=smoothing, batch_size=7)
    indices = vae.eval().encode(x).indices.reshape(40, -1).numpy()
    for position, probabilities in enumerate(prior.logits.softmax(-1).reshape(-1, CODES)):
        counts = np.bincount(indices[:, position], minlength=CODES)
        assert_close(probabilities, torch.from_numpy((counts + smoothing / CODES) / (40 + smoothing)), rtol=1e-12, atol=0.0)
    assert torch.equal(prior.logits, fitted_codes(vae, x, smoothing=smoothing).logits)
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())


def test_as_the_models_own_prior_it_shortens_the_codes_and_is_saved_with_it(tmp_path):
    vae, x = model(), torch.rand(40, 1, 8, 5)
    vaekit.fit(vae, x, epochs=5, batch_size=8, progress=False, device="cpu")
    uniform = vaekit.evaluate(vae, x)
    vae.prior = fitted_codes(vae, x, smoothing=0.01)
    fitted = vaekit.evaluate(vae, x)
    entropy = stats.entropy(vae.prior.logits.softmax(-1).reshape(-1, CODES).numpy(), axis=1).sum()
    assert fitted["kl"] == pytest.approx(entropy, rel=0.05)
    assert fitted["kl"] < uniform["kl"]
    assert fitted["loss"] == uniform["loss"]
    again, key = vaekit.load(vae.save(tmp_path)), vaekit.make_key(0)
    assert vaekit.evaluate(again, x) == fitted
    assert torch.equal(again.sample(3, key=key), vae.sample(3, key=key))


@pytest.mark.parametrize("num_samples", [1, 2, 30])
@pytest.mark.parametrize("fitted", [False, True])
def test_the_importance_weighted_bound_is_minus_reconstruction_and_divergence_for_any_number_of_samples(num_samples, fitted):
    vae, x = model(), torch.rand(20, 1, 8, 5)
    vaekit.fit(vae, x, epochs=2, progress=False, device="cpu")
    if fitted:
        vae.prior = fitted_codes(vae, x)
    terms = vae.eval()(x)
    bound = importance_weighted_bound(vae, x, num_samples=num_samples, at_once=50)
    assert_close(bound.per_example, -(terms.reconstruction + terms.kl).double().detach(), rtol=1e-6, atol=0.0)
    assert_close(bound.effective_sample_sizes, torch.full((20,), float(num_samples), dtype=torch.float64))


def test_a_copied_or_converted_model_has_a_prior_over_its_own_codebook():
    vae = model()
    again = copy.deepcopy(vae).double()
    again.encoder.family.codebook.mul_(2.0)
    key = vaekit.make_key(0)
    theirs, ours = (m.prior.sample((4, 3, 2, 2), key=key, dtype=torch.float64) for m in (again, vae))
    assert_close(theirs, 2.0 * ours)
    assert again.prior.log_prob(theirs).isfinite().all()
    assert not vae.prior.log_prob(theirs.float()).isfinite().any()


def test_what_does_not_fit_is_refused():
    prior = priors.Codes((3, 2, 2))
    with pytest.raises(RuntimeError, match=r"compose a vaekit\.VAE with it first"):
        prior.log_prob(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="belongs to another model"):
        model().sample(2, prior=model().prior)
    vae = model()
    with pytest.raises(ValueError, match="belongs to another model"):
        vae.prior.attach(model().encoder)
    gaussian = vaekit.create_vae(input_shape=(4,), latent_dim=3)
    with pytest.raises(ValueError, match="the codes of the encoder, but its DiagonalGaussianFamily has none"):
        prior.attach(gaussian.encoder)
    with pytest.raises(ValueError, match="Codes is a prior for latents that are codes, .* DiagonalGaussianFamily are vectors"):
        gaussian.sample(2, prior=model(spatial=False).prior)
    with pytest.raises(ValueError, match="StandardNormal is a prior for latents that are vectors"):
        vae.sample(2, prior=vaekit.StandardNormal())
    with pytest.raises(TypeError, match="counted for a posterior over codes, got DiagonalGaussian; .*fitted_mixture"):
        fitted_codes(gaussian, torch.rand(5, 4))
    with pytest.raises(TypeError, match="those of VectorQuantizedFamily are codes; .*fitted_codes"):
        fitted_mixture(vae, torch.rand(50, 1, 8, 5))
    for nothing in (iter([]), iter([torch.rand(0, 1, 8, 5)])):
        with pytest.raises(ValueError, match="the dataset is empty"):
            fitted_codes(vae, nothing)
    for smoothing in (0.0, -1.0, math.inf, math.nan, True, "1"):
        with pytest.raises((ValueError, TypeError), match=f"smoothing .*got {smoothing!r}"):
            fitted_codes(vae, torch.rand(5, 1, 8, 5), smoothing=smoothing)
