"""Laws of what encoders make of their last layer: the bound of logvar, where it starts, spatial latents."""

import json
import math

import mpmath
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions
from torch.testing import assert_close

import vaekit
from vaekit import encoders
from vaekit.posteriors.family import bounded

ENCODERS = [
    {"name": "mlp", "input_shape": (7,), "hidden": (6,)},
    {"name": "conv1d", "input_shape": (2, 7), "channels": (4,)},
    {"name": "conv", "input_shape": (2, 7, 5), "channels": (4, 6)},
    {"name": "conv", "input_shape": (2, 7, 5), "channels": (4, 6), "spatial": True},
    {"name": "conv3d", "input_shape": (1, 3, 7, 5), "channels": (4,), "spatial": True},
    {"name": "resnet", "input_shape": (2, 7, 5), "channels": (4, 6)},
    {"name": "resnet", "input_shape": (2, 7), "channels": (4, 6), "spatial": True, "attention": True},
]
every_encoder = pytest.mark.parametrize("options", ENCODERS, ids=str)


def encoder_and_data(options, latent_dim=3, n=5, **more):
    torch.manual_seed(0)
    options = {**options, **more}
    encoder = encoders.create(options.pop("name"), latent_dim=latent_dim, **options)
    return encoder, torch.randn(n, *encoder.input_shape)


# The bound.

values = st.floats(-1e8, 1e8, width=32)
bounds = st.floats(0.125, 100.0, width=32)


@given(value=values, bound=bounds)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_bound_is_a_scaled_arctan_with_its_exact_slope(dtype, value, bound):
    x = torch.tensor(value).clamp(-6e4, 6e4).to(dtype).requires_grad_()
    y = bounded(x, bound)
    (slope,) = torch.autograd.grad(y, x)
    eps = torch.finfo(dtype).eps * (1 if dtype.itemsize == 2 else 4)  # computed in float32 and rounded once, or in dtype itself
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    u = mpmath.pi * x.item() / (2 * bound)
    assert y.dtype == dtype
    assert abs(y.item()) <= bound * (1 + 2 * eps)
    assert y.item() == pytest.approx(float(2 * bound / mpmath.pi * mpmath.atan(u)), rel=eps, abs=tiny * (1 + bound))
    assert slope.item() == pytest.approx(float(1 / (1 + u**2)), rel=2 * eps, abs=tiny)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bound", [0.1, 1.0, 10.0, 30.0])
def test_a_logvar_that_has_run_away_still_finds_back(dtype, bound):
    x = torch.tensor([-1e4, 0.0, 1e4], dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(bounded(x, bound).sum(), x)
    assert (slope > 0).all()
    assert slope[1] == 1
    assert torch.autograd.gradcheck(lambda v: bounded(v, bound), x.detach().double()[1:2].requires_grad_())


@every_encoder
def test_every_encoder_keeps_its_logvar_within_the_bound_and_its_mean_as_it_was(options):
    free, x = encoder_and_data(options)
    kept, _ = encoder_and_data(options, posterior={"name": "diagonal_gaussian", "logvar_bound": 4.0})
    for encoder in (free, kept):
        with torch.no_grad():
            encoder.head.weight.mul_(1e6)
    q, r = free(x), kept(x)
    assert q.logvar.abs().max() > 1e4
    assert r.logvar.abs().max() <= 4.0 * (1 + 1e-6)
    assert torch.equal(q.mu, r.mu)
    assert_close(r.logvar, bounded(q.logvar, 4.0))
    r.logvar.sum().backward()
    assert all(p.grad.isfinite().all() for p in kept.parameters())
    assert (kept.head.bias.grad[3:] > 0).all()


# Where logvar starts.


@every_encoder
@pytest.mark.parametrize(("start", "bound"), [(-4.0, None), (0.0, None), (1.5, 2.0), (-9.0, 10.0)])
def test_logvar_starts_where_it_is_told_for_every_x_and_the_mean_as_ever(options, start, bound):
    usual, x = encoder_and_data(options)
    told, _ = encoder_and_data(options, posterior={"name": "diagonal_gaussian", "logvar_bound": bound, "initial_logvar": start})
    q = told(x)
    assert_close(q.logvar, torch.full_like(q.logvar, start), rtol=1e-6, atol=1e-6)
    assert torch.equal(q.mu, usual(x).mu)
    assert usual(x).logvar.std() > 0
    q.logvar.sum().backward()
    assert (told.head.weight.grad[3:] != 0).any()  # it can be learned


@pytest.mark.parametrize("family", ["diagonal_gaussian", "full_gaussian"])
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"logvar_bound": 0.0}, ValueError, r"logvar_bound .* above 0, got 0\.0"),
        ({"logvar_bound": -1}, ValueError, "logvar_bound .* got -1"),
        ({"logvar_bound": math.inf}, ValueError, "logvar_bound .* got inf"),
        ({"logvar_bound": True}, TypeError, "logvar_bound .* got True"),
        ({"logvar_bound": "10"}, TypeError, "logvar_bound .* got '10'"),
        ({"initial_logvar": math.nan}, ValueError, "initial_logvar .* got nan"),
        ({"initial_logvar": -5.0, "logvar_bound": 5.0}, ValueError, r"initial_logvar=-5\.0 is not between -5\.0 and 5\.0"),
    ],
)
def test_bounds_and_starts_that_make_no_sense_are_refused(family, wrong, error, message):
    with pytest.raises(error, match=message):
        encoder_and_data(ENCODERS[0], posterior={"name": family, **wrong})


# What was the encoder's before.


def test_options_that_are_the_posteriors_are_refused_of_an_encoder_with_what_to_write():
    for option in ("logvar_bound", "initial_logvar"):
        with pytest.raises(TypeError, match=f"posterior={{'{option}': 10}}"):
            vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder={option: 10})
    with pytest.raises(TypeError, match="posterior={'logvar_bound': 10}"):
        vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder={"logvar_bound": 10}, posterior="full_gaussian")


def test_a_posterior_without_a_name_sets_options_of_the_default_one_and_of_the_presets():
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior={"logvar_bound": 3.0})
    assert type(vae.encoder.family).__name__ == "DiagonalGaussianFamily"
    assert vae.encoder.family.logvar_bound == 3.0
    assert vaekit.create_vae("vq-mnist", posterior={"codes": 5}).encoder.family.codes == 5


@pytest.mark.parametrize(
    ("posterior", "old"),
    [
        ("diagonal_gaussian", {}),
        ("diagonal_gaussian", {"posterior": "diagonal_gaussian"}),
        ("full_gaussian", {"posterior": {"name": "full_gaussian"}}),
    ],
)
def test_a_model_saved_when_they_were_the_encoders_options_is_loaded(posterior, old, tmp_path):
    moved = {"logvar_bound": 2.0, "initial_logvar": -1.0}
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, posterior={"name": posterior, **moved}, seed=0)
    with torch.no_grad():
        vae.encoder.head.weight.normal_(std=10.0)
    config = vae.config()
    del config["encoder"]["posterior"]
    config = {**config, "format": 1, "encoder": {**config["encoder"], **moved, **old}}
    weights = safetensors.torch.save(vae.state_dict(), metadata={"vaekit": json.dumps(config)})
    (tmp_path / "model.safetensors").write_bytes(weights)
    again, x = vaekit.load(tmp_path), torch.randn(5, 4)
    assert again.encoder.family.logvar_bound == 2.0
    assert torch.equal(again.encode(x).logvar, vae.encode(x).logvar)
    assert again.config() == vae.config()
    assert vaekit.load(again.save(tmp_path / "new")).config() == vae.config()


# Spatial latents.


@pytest.mark.parametrize("options", [o for o in ENCODERS if o.get("spatial")], ids=str)
def test_the_divergence_of_a_spatial_latent_is_the_sum_over_all_of_it(options):
    encoder, x = encoder_and_data(options)
    q = encoder(x)
    assert q.mu.shape == (5, *encoder.latent_shape)
    assert q.mu.data_ptr() + 4 * q.mu[0].numel() == q.logvar.data_ptr()  # the halves of one output, where they lie
    z, kl = q.rsample_kl(vaekit.StandardNormal(), key=vaekit.make_key(0))
    standard = distributions.Normal(0.0, 1.0)
    elements = distributions.kl_divergence(distributions.Normal(q.mu, torch.exp(0.5 * q.logvar)), standard)
    assert z.shape == q.mu.shape
    assert_close(kl, elements.flatten(1).sum(1))


@pytest.mark.parametrize("name", ["conv1d", "conv", "conv3d", "resnet"])
def test_a_spatial_latent_keeps_what_is_where(name):
    """Latents far from a change of x do not change: no dense layer mixes positions."""
    shape = {"conv1d": (1, 64), "conv3d": (1, 64, 4, 4)}.get(name, (1, 64, 8))
    options = {"channels": (4, 4), "spatial": True, **({"normalization": "none"} if name == "resnet" else {})}
    encoder, x = encoder_and_data({"name": name, "input_shape": shape, **options}, n=1)
    changed = x.clone()
    changed[:, :, :2] += 1.0
    difference = (encoder(changed).mu - encoder(x).mu).abs().transpose(0, 2).flatten(1).sum(1)  # by the first position
    assert difference[0] > 0
    assert (difference[len(difference) // 2 :] == 0).all()


def test_dense_layers_and_a_spatial_latent_are_refused_together():
    with pytest.raises(ValueError, match=r"hidden=\(5,\).*spatial=True"):
        encoders.create("conv", input_shape=(1, 8, 8), latent_dim=2, hidden=(5,), spatial=True)
