"""Laws of the presets: each composes, trains and comes back, with the sizes of its source."""

import sys

import numpy as np
import pytest
import torch
from helpers.commands import STUB_CATALOGUE
from helpers.densities import data_in_support

import vaekit
from vaekit import cli, create_vae, presets
from vaekit.plots import catalogue


def trainable(module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


SIMILARITY = {"distances": [{"name": "ms_ssim", "scales": 2}], "start": 5}
WITHOUT_DOWNLOADS = {"latent-diffusion": {"input_shape": (3, 32, 32), "loss": SIMILARITY}}


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_composes_trains_and_comes_back(name, tmp_path):
    assert create_vae(name).config() == presets.create(name).config()
    assert presets.describe(name).summary
    vae = create_vae(name, seed=0, **WITHOUT_DOWNLOADS.get(name, {}))
    x = data_in_support(vae.likelihood, (1, *vae.input_shape)).repeat(4, *(1,) * len(vae.input_shape))
    key = vaekit.make_key(0)
    before = vae.eval()(x, key=key).total
    vaekit.fit(vae, x, epochs=10, batch_size=4, progress=False)
    after = vae.eval()(x, key=key).total
    assert after < before
    again = vaekit.load(vae.save(tmp_path)).eval()
    assert torch.equal(again(x, key=key).total, after)
    drawn = again.sample(2, draw=True, key=key)
    assert drawn.shape == (2, *vae.input_shape)


@pytest.mark.parametrize(
    ("name", "encoder", "decoder", "input_shape", "latent_shape"),
    [
        ("dense-mnist", 2_083_284, 2_083_552, (1, 28, 28), (2,)),
        ("keras-mnist", 69_076, 65_089, (1, 28, 28), (2,)),  # as Keras' example prints them
        # 784-200-200-2x50 and 50-200-200-784, with biases
        ("burda-mnist", 785 * 200 + 201 * 200 + 201 * 100, 51 * 200 + 201 * 200 + 201 * 784, (1, 28, 28), (50,)),
        # a layer normalisation has two numbers for each feature
        ("single-cell", 2001 * 128 + 2 * 128 + 129 * 20, 11 * 128 + 2 * 128 + 129 * 4000, (2000,), (10,)),
    ],
)
def test_presets_have_the_parameters_of_their_sources(name, encoder, decoder, input_shape, latent_shape):
    vae = create_vae(name)
    assert (trainable(vae.encoder), trainable(vae.decoder)) == (encoder, decoder)
    assert (vae.input_shape, vae.latent_shape) == (input_shape, latent_shape)


def test_latent_diffusion_is_an_autoencoder_of_diffusers_but_for_its_width():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'vaekit[test]'")
    vae = create_vae("latent-diffusion")
    assert (vae.latent_shape, vae.stride) == ((3, 16, 16), 4)
    with torch.device("meta"):
        wide = {"encoder": {"channels": (128, 256, 512)}, "decoder": {"channels": (512, 256, 128)}}
        ours = create_vae("latent-diffusion", **wide)
        theirs = diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512), layers_per_block=2, latent_channels=3, use_quant_conv=False,
            use_post_quant_conv=False, down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        )  # fmt: skip
    assert trainable(ours.encoder) + trainable(ours.decoder) == trainable(theirs)


def test_latent_diffusion_says_what_lpips_needs_at_its_first_step(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ModuleNotFoundError, match=r"vaekit\[perceptual\].*a network of your own"):
        vaekit.fit(create_vae("latent-diffusion"), torch.rand(4, 3, 64, 64), epochs=1, progress=False)


@pytest.mark.parametrize("name", presets.names())
def test_presets_compose_without_memory(name):
    with torch.device("meta"):  # as `vaekit list presets` counts their parameters
        assert trainable(create_vae(name)) == trainable(create_vae(name, seed=0))


def test_the_vector_quantised_preset_has_a_code_at_each_of_49_positions():
    vae = create_vae("vq-mnist")
    assert vae.latent_shape == (16, 7, 7)
    assert vae.encode(torch.rand(3, 1, 28, 28)).indices.shape == (3, 7, 7)
    assert vae.encoder.family.codebook.shape == (128, 16)
    assert create_vae("vq-mnist", posterior={"codes": 32}).encoder.family.codebook.shape == (32, 16)


def test_burdas_layers_are_tanh():
    vae = create_vae("burda-mnist")
    activations = [type(m) for m in vae.modules() if type(m) in vaekit.layers.ACTIVATIONS.values()]
    assert activations == [torch.nn.Tanh] * 4


def test_the_table_preset_takes_its_shape_from_the_columns_that_replace_its_own():
    assert create_vae("table").input_shape == (4,)
    columns = {"height": "gaussian", "blood": {"name": "categorical", "classes": 4}}
    vae = create_vae("table", likelihood={"columns": columns})
    assert vae.input_shape == (2,)
    assert vae.encoder.input_shape == (5,)
    assert vae.likelihood.names == ("height", "blood")
    assert vae.likelihood.missing == "ignore"
    x = torch.tensor([[0.5, 3.0], [torch.nan, 1.0], [-1.0, torch.nan]])
    vaekit.fit(vae, x, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"2 column.*height, blood.*\(3,\)"):
        create_vae("table", likelihood={"columns": columns}, input_shape=(3,))


@pytest.mark.parametrize("length", [100, 37])
def test_the_series_preset_takes_other_lengths_and_channels(length):
    vae = create_vae("series", input_shape=(3, length))
    assert vae.reconstruct(torch.randn(2, 3, length)).shape == (2, 3, length)


def test_the_command_says_when_the_table_has_other_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(catalogue, "CATALOGUE", STUB_CATALOGUE)
    np.save(tmp_path / "table.npy", np.zeros((20, 5), dtype=np.float32))
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", str(tmp_path / "table.npy"), "--preset", "table", "--out", str(tmp_path / "run"), "--no-progress"])
    assert caught.value.code == 2
    assert "describes tables with 4 column(s) (number 1, number 2, class, count)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    columns = '{"a": "gaussian", "b": "gaussian", "c": {"name": "categorical", "classes": 2}, "d": "poisson", "e": "laplace"}'
    arguments = ["train", str(tmp_path / "table.npy"), "--preset", "table", "--set", f"likelihood.columns={columns}"]
    with pytest.raises(SystemExit) as caught:
        cli.main([*arguments, "--epochs", "1", "--out", str(tmp_path / "run"), "--no-progress"])
    assert caught.value.code == 0
    assert vaekit.load(tmp_path / "run" / "best").likelihood.names == ("a", "b", "c", "d", "e")


def test_names_take_a_pattern():
    assert presets.names("dense*") == ["dense-mnist"]
    assert set(presets.names()) >= {"conv-mnist", "dense-mnist"}
