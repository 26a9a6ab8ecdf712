"""A model read from an AutoencoderKL computes what diffusers' own does, and one that is written is what diffusers reads."""

import json
import math

import pytest
import torch
from helpers.autoencoders import KINDS, autoencoder, images, units

import vaekit

diffusers = pytest.importorskip("diffusers")
every_kind = pytest.mark.parametrize("kind", KINDS)


def assert_equal(ours, theirs):
    """To 1e-12 of the largest number."""
    assert ours.dtype == theirs.dtype == torch.float64
    assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


def assert_same_function(vae, model, x):
    shift, scale = units(model.config)
    with torch.no_grad():
        theirs, ours = model.encode(x).latent_dist, vae.encode(x)
        assert theirs.logvar.abs().max() < 20, "diffusers' limits to logvar would show"
        assert_equal(ours.mean, (theirs.mean - shift) * scale)
        log_scale = scale.log() if isinstance(scale, torch.Tensor) else math.log(scale)
        assert_equal(ours.logvar, theirs.logvar + 2.0 * log_scale)
        assert_equal(vae.decode(ours.mean), model.decode(theirs.mean).sample)
        assert_equal(vae.reconstruct(x), model(x).sample)


@every_kind
def test_a_state_dict_with_its_config(kind):
    model = autoencoder(kind)
    vae = vaekit.from_diffusers(model.state_dict(), config=model.config, dtype=torch.float64)
    assert not vae.training
    assert_same_function(vae, model, images(24, 24))


@every_kind
def test_a_folder_that_diffusers_wrote(kind, tmp_path):
    model = autoencoder(kind)
    model.save_pretrained(tmp_path / "vae")
    vae = vaekit.from_diffusers(tmp_path, subfolder="vae", dtype=torch.float64)
    assert_same_function(vae, model, images(24, 24))


@every_kind
def test_a_folder_that_vaekit_wrote_is_read_by_diffusers_with_the_same_weights(kind, tmp_path):
    model = autoencoder(kind)
    vae = vaekit.from_diffusers(model.state_dict(), config=model.config, dtype=torch.float64)
    vaekit.to_diffusers(vae, tmp_path)
    again = diffusers.AutoencoderKL.from_pretrained(tmp_path, torch_dtype=torch.float64)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert len(again.state_dict()) == len(model.state_dict())
    read = dict(again.config)
    shift, scale = units(read)
    expected_shift, expected_scale = units(model.config)
    torch.testing.assert_close(torch.as_tensor(shift), torch.as_tensor(expected_shift), rtol=1e-15, atol=0)
    torch.testing.assert_close(torch.as_tensor(scale), torch.as_tensor(expected_scale), rtol=1e-15, atol=0)
    units_of = {"scaling_factor", "shift_factor", "latents_mean", "latents_std", "_use_default_values", "_name_or_path"}
    for option in set(model.config) - units_of:
        value = model.config[option]
        assert read[option] == (list(value) if isinstance(value, tuple) else value), option


@every_kind
@pytest.mark.parametrize("sizes", [(32, 48), (4, 8)], ids=str)
def test_images_of_other_sizes(kind, sizes):
    model = autoencoder(kind)
    vae = vaekit.from_diffusers(model.state_dict(), config=model.config, dtype=torch.float64)
    assert_same_function(vae, model, images(*sizes))


def test_a_model_composed_and_trained_here_is_read_by_diffusers(tmp_path):
    both = {"name": "resnet", "groups": 4, "norm_eps": 1e-6, "attention": True, "latent_scale": 0.5, "latent_shift": 0.25}
    vae = vaekit.create_vae(
        input_shape=(3, 16, 16),
        latent_dim=2,
        encoder={**both, "channels": (8, 12), "blocks": 1, "spatial": True, "downsample_padding": "end", "quant_conv": True},
        decoder={**both, "channels": (12, 8), "blocks": 2},
        likelihood="laplace",
        seed=0,
    )
    vaekit.fit(vae, images(16, 16, dtype=torch.float32, count=8), epochs=2, batch_size=4, learning_rate=0.1, progress=False)
    vae.double()
    model = diffusers.AutoencoderKL.from_pretrained(vaekit.to_diffusers(vae, tmp_path), torch_dtype=torch.float64)
    assert_same_function(vae, model, images(16, 16))


def test_names_of_layers_before_diffusers_0_17(tmp_path):
    model = autoencoder("stable diffusion")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in model.state_dict().items():
        for new, earlier in old.items():
            if f".attentions.0.{new}." in name:
                name, tensor = name.replace(new, earlier), tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        state[name] = tensor
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in state
    assert_same_function(vaekit.from_diffusers(state, config=model.config, dtype=torch.float64), model, images(24, 24))


def test_a_saved_model_comes_back_the_same(tmp_path):
    model = autoencoder("flux")
    vae = vaekit.from_diffusers(model.state_dict(), config=model.config, dtype=torch.float64)
    again = vaekit.load(vae.save(tmp_path))
    assert_same_function(again, model, images(24, 24))


def test_a_half_precision_variant_is_widened(tmp_path):
    model = autoencoder("stable diffusion", torch.float32).half()
    model.save_pretrained(tmp_path, variant="fp16")
    assert vaekit.from_diffusers(tmp_path, variant="fp16").dtype == torch.float32
    vae = vaekit.from_diffusers(tmp_path, variant="fp16", dtype=torch.float64)
    assert_same_function(vae, model.double(), images(24, 24))


def test_defaults_are_those_of_diffusers():
    from vaekit.diffusers.config import _IGNORED, DEFAULTS

    own = {name: value for name, value in diffusers.AutoencoderKL().config.items() if name not in _IGNORED}
    assert own == dict(DEFAULTS)


@every_kind
def test_the_gradients_of_a_training_step_are_the_same(kind):
    """Of sum |x - x'| + KL, by the weights of diffusers' names."""
    from vaekit.diffusers.names import divided, names_of

    model = autoencoder(kind)
    vae = vaekit.from_diffusers(model.state_dict(), config=model.config, dtype=torch.float64)
    x, (shift, scale) = images(24, 24), units(model.config)
    theirs = model.encode(x).latent_dist
    loss = (model.decode(theirs.mean).sample - x).abs().sum()
    (loss + 0.5 * (((theirs.mean - shift) * scale) ** 2 + theirs.logvar.exp() * scale**2 - theirs.logvar).sum()).backward()
    ours = vae.encode(x)
    ((vae.decode(ours.mean) - x).abs().sum() + 0.5 * (ours.mean**2 + ours.logvar.exp() - ours.logvar).sum()).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    rounding = 1e-12 * max(gradient.abs().max().item() for gradient in expected.values())
    for name, names in names_of(vae).items():
        for their, gradient in divided(vae.get_parameter(name).grad, names).items():
            torch.testing.assert_close(gradient, expected[their], rtol=1e-10, atol=rounding)


def test_the_config_is_plain_json(tmp_path):
    model = autoencoder("by channel")
    vae = vaekit.from_diffusers(model.state_dict(), config=model.config)
    config = json.loads((vaekit.to_diffusers(vae, tmp_path) / "config.json").read_text())
    assert config["_class_name"] == "AutoencoderKL"
