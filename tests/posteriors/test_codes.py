"""Every posterior over codes: indices and vectors stand for each other, gradients pass, priors and objectives know no more."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

import vaekit
from vaekit import posteriors
from vaekit.posteriors import CodeFamily

VQ = {"name": "vector_quantized", "codes": 20}
ROUNDING = {
    "finite_scalar": {"name": "finite_scalar", "levels": (3, 4, 5)},
    "lookup_free": {"name": "lookup_free"},
    "residual_vector_quantized": {"name": "residual_vector_quantized", "codes": 20, "quantizers": 3},
    "vector_quantized": VQ,
    "heads": {**VQ, "heads": 3},
    "cosine": {**VQ, "distance": "cosine"},
    "projected": {**VQ, "codebook_dim": 2},
    "projected heads": {**VQ, "codebook_dim": 2, "heads": 2, "distance": "cosine"},
}
SUMS = ("residual_vector_quantized", "projected heads")  # of several codes, which do not say of which
EACH = pytest.mark.parametrize("name", ROUNDING)
SPATIAL = pytest.mark.parametrize("spatial", [True, False])


def model(name, spatial=True, dtype=torch.float64, **options):
    small = {"name": "mlp", "hidden": (8,)}
    convolutions = {"name": "conv", "channels": (4, 4)}
    return vaekit.create_vae(
        input_shape=(1, 8, 5), latent_dim=3, encoder={**convolutions, "spatial": True} if spatial else small,
        decoder=convolutions if spatial else small, posterior={**ROUNDING[name], **options}, prior="codes",
        loss="vector_quantized", seed=0,
    ).to(dtype)  # fmt: skip


def data(count, dtype=torch.float64):
    return torch.rand(count, 1, 8, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))


def test_every_posterior_over_codes_is_held_to_these_laws():
    families = {name: type(posteriors.create(name, latent_shape=(3,))) for name in posteriors.names()}
    of_codes = {name for name, family in families.items() if issubclass(family, CodeFamily)}
    assert {options["name"] for options in ROUNDING.values()} | {"gumbel_softmax"} == of_codes


@EACH
@SPATIAL
def test_numbers_and_vectors_stand_for_each_other(name, spatial):
    vae = model(name, spatial)
    family = vae.encoder.family
    indices = torch.randint(family.codes, (40, *family.code_shape), generator=torch.Generator().manual_seed(0))
    z = family.embedded(indices)
    assert z.shape == (40, *vae.latent_shape)
    assert z.dtype == torch.float64
    if name in SUMS:
        with pytest.raises(NotImplementedError, match="do not say which codes"):
            vae.prior.log_prob(z)
        return
    found, is_code = family.indices_of(z)
    assert torch.equal(found, indices)
    assert is_code.all()
    z[(3, *(0 for _ in vae.latent_shape))] += 1e-6
    z[5] = math.nan
    _, is_code = family.indices_of(z)
    assert not is_code[3].all()
    assert not is_code[5].any()
    assert is_code.reshape(40, -1).all(1).sum().item() == 38
    assert vae.prior.log_prob(z).isnan().sum() == 1
    assert vae.prior.log_prob(z)[3] == -math.inf


@EACH
@SPATIAL
def test_the_model_reads_and_writes_by_numbers(name, spatial):
    vae, x = model(name, spatial), data(30)
    indices = vae.indices(x)
    assert indices.dtype == torch.int64
    assert indices.shape == (30, *vae.encoder.family.code_shape)
    assert torch.equal(indices, vae.eval().encode(x).indices)
    assert torch.equal(vae.decode_codes(indices), vae.reconstruct(x))
    with pytest.raises(ValueError, match=r"shape \[batch"):
        vae.decode_codes(indices[None])
    with pytest.raises(TypeError, match="whole numbers"):
        vae.decode_codes(indices.double())


@EACH
def test_the_divergence_is_places_log_codes_and_draws_are_codes(name):
    vae, x = model(name), data(6)
    family, places = vae.encoder.family, math.prod(vae.encoder.family.code_shape)
    terms = vae(x)
    assert_close(terms.kl, torch.full((6,), places * math.log(family.codes), dtype=torch.float64), rtol=1e-12, atol=0.0)
    z = vae.prior.sample((500, *vae.latent_shape), key=vaekit.make_key(0), dtype=torch.float64)
    indices = vae.prior.sample_indices(500, key=vaekit.make_key(0), dtype=torch.float64)
    assert torch.equal(family.embedded(indices), z)
    counts = np.bincount(indices.flatten(), minlength=family.codes)
    assert stats.chisquare(counts).pvalue > 1e-3
    q = vae.encode(x)
    assert torch.equal(q.log_prob(q.mean), torch.zeros(6, dtype=torch.float64))
    assert q.log_prob(q.mean + 0.1).isinf().all()


@pytest.mark.parametrize("name", [name for name in ROUNDING if "projected" not in name])  # those have a linear map in between
def test_the_decoders_gradient_is_handed_on_to_what_was_rounded(name):
    q = model(name).encode(data(5))
    weight = torch.randn(q.mean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((weight * q.mean**3).sum(), q.encoded)
    assert_close(gradient, 3.0 * weight * q.mean.detach() ** 2)
    assert torch.equal(q.mean, q.family.embedded(q.indices))


@EACH
def test_what_is_not_finite_stays_in_its_row(name):
    vae, x = model(name), data(4)
    x[2, 0, 1, 1] = math.nan
    terms = vae.eval()(x)
    for values in (terms.kl, terms.reconstruction):
        assert values.isnan().tolist() == [False, False, True, False]


@EACH
def test_perplexity_and_counts_are_those_of_numpy(name):
    q = model(name).encode(data(40))
    books = q.indices.unbind(1) if q.family.books > 1 else [q.indices]
    counts = np.stack([np.bincount(book.flatten(), minlength=q.family.codes) for book in books])
    assert torch.equal(q.family.counts(q.indices).double(), torch.from_numpy(counts).double())
    assert float(q.perplexity()) == pytest.approx(np.exp(stats.entropy(counts, axis=1).mean()), rel=1e-6)


@EACH
@SPATIAL
def test_it_trains_is_saved_and_comes_back(name, spatial, tmp_path):
    vae, x = model(name, spatial, torch.float32), data(60, torch.float32).mean((2, 3), keepdim=True).sub(0.5).mul(8.0).sigmoid()
    x = x.expand(60, 1, 8, 5).contiguous()
    before = vaekit.evaluate(vae, x)["reconstruction"]
    vaekit.fit(vae, x, epochs=20, batch_size=20, learning_rate=1e-2, progress=False, device="cpu")
    assert vaekit.evaluate(vae, x)["reconstruction"] < before
    again = vaekit.load(vae.save(tmp_path))
    assert torch.equal(again.indices(x), vae.indices(x))
    key = vaekit.make_key(0)
    assert torch.equal(again.sample(3, key=key), vae.sample(3, key=key))


def test_vectors_have_no_numbers():
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=3)
    with pytest.raises(TypeError, match="of DiagonalGaussianFamily are vectors of real numbers, which have no numbers"):
        vae.indices(torch.rand(2, 4))
    with pytest.raises(TypeError, match="which have no numbers"):
        vae.decode_codes(torch.zeros(2, dtype=torch.int64))
