"""Reading an AutoencoderKL without diffusers: frozen numbers, published counts, damaged and foreign files, the hub."""

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers import hub_server
from helpers.autoencoders import config_of
from safetensors.torch import load_file, save_file

import vaekit
from vaekit.diffusers.config import config_of as config_of_model
from vaekit.diffusers.config import model_options
from vaekit.diffusers.names import divided, names_of

GOLDEN = Path(__file__).parent / "golden"  # written by diffusers 0.42.1: `python tests/diffusers/golden/write.py`
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """A copy of the golden model, to be spoiled."""
    for name in ("config.json", WEIGHTS):
        (tmp_path / name).write_bytes((GOLDEN / name).read_bytes())
    return tmp_path


def test_frozen_numbers_of_diffusers():
    vae, numbers = vaekit.from_diffusers(GOLDEN, dtype=torch.float64), load_file(GOLDEN / "numbers.safetensors")
    config = json.loads((GOLDEN / "config.json").read_text())
    with torch.no_grad():
        posterior = vae.encode(numbers["x"])
        mean = (numbers["mean"] - config["shift_factor"]) * config["scaling_factor"]
        torch.testing.assert_close(posterior.mean, mean, rtol=1e-12, atol=1e-12)
        logvar = numbers["logvar"] + 2.0 * math.log(config["scaling_factor"])
        torch.testing.assert_close(posterior.logvar, logvar, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(vae.decode(mean), numbers["reconstruction"], rtol=1e-12, atol=1e-12)


# Parameters of the models as they are quoted; the files themselves are not downloaded here.
PUBLISHED = {
    "stabilityai/sd-vae-ft-mse": (83_653_863, 248, {"scaling_factor": 0.18215}),
    "black-forest-labs/FLUX.1-dev": (
        83_819_683,
        244,
        {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1159},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_as_many_weights(name):
    parameters, tensors, config = PUBLISHED[name]
    sizes = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 256}
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    with torch.device("meta"):
        vae = vaekit.create_vae(**model_options({**sizes, **blocks, **config}, None), likelihood="laplace")
    written = {}
    own = vae.state_dict()
    for here, there in names_of(vae).items():
        written |= divided(own.pop(here), there)
    assert not own, "weights that are not written"
    assert (sum(tensor.numel() for tensor in written.values()), len(written)) == (parameters, tensors)
    assert written["encoder.mid_block.attentions.0.to_q.weight"].shape == (512, 512)


def test_what_was_read_is_written_byte_for_byte(tmp_path):
    vaekit.to_diffusers(vaekit.from_diffusers(GOLDEN), tmp_path)
    ours, theirs = load_file(tmp_path / WEIGHTS), load_file(GOLDEN / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
    config = json.loads((GOLDEN / "config.json").read_text())
    written = json.loads((tmp_path / "config.json").read_text())
    for option in set(config) - {"_diffusers_version", "_name_or_path", "latents_mean", "latents_std"}:
        assert written[option] == config[option], option


def rewrite(folder, **options):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **options}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_class_name": "AutoencoderTiny"}, "AutoencoderTiny.*AutoencoderKL"),
        ({"time_compression": 4}, "no option time_compression"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "AttnDownEncoderBlock2D"),
        ({"up_block_types": ["UpDecoderBlock2D"]}, "as many"),
        ({"act_fn": "mish"}, "act_fn is mish"),
        ({"out_channels": 6}, "in_channels=3 and out_channels=6"),
        ({"latents_mean": [0.0, 1.0]}, "go together"),
        ({"latents_mean": [0.0, 1.0], "latents_std": [1.0, 1.0]}, "without a shift_factor"),
        ({"norm_num_groups": 3}, "groups=3 do not divide"),
        ({"scaling_factor": 0.0}, "latent_scale.*above 0"),
        ({"sample_size": 15}, "15 x 15.*multiple of 2"),
        ({"layers_per_block": 10**9}, "more layers than the"),
        ({"layers_per_block": 2}, "do not fit.*is missing"),
        ({"block_out_channels": [4, 12]}, "do not fit.*has the shape"),
        ({"mid_block_add_attention": False}, "do not fit.*attentions.0.*belongs nowhere"),
        ({"use_quant_conv": "no"}, "quant_conv has to be True or False"),
    ],
)
def test_configs_that_are_no_model_here(folder, options, message):
    rewrite(folder, **options)
    with pytest.raises((ValueError, TypeError), match=message):
        vaekit.from_diffusers(folder)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "no valid JSON"), ("[1]", "mapping of options"), ("[" * 10**5, "no valid JSON")]
)
def test_a_damaged_config(folder, text, message):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        vaekit.from_diffusers(folder)


def test_damaged_weights(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-7])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        vaekit.from_diffusers(folder)


def test_weights_of_another_shape_are_named(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors["decoder.conv_in.weight"] = torch.zeros(8, 2, 3, 4)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ValueError, match=re.escape("decoder.conv_in.weight has the shape (8, 2, 3, 4) instead of (8, 2, 3, 3)")):
        vaekit.from_diffusers(folder)


def test_what_is_missing_is_said(folder, tmp_path):
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pickled weights are not read"):
        vaekit.from_diffusers(folder)
    (folder / "vae").mkdir()
    (folder / "config.json").rename(folder / "vae/config.json")
    with pytest.raises(FileNotFoundError, match="subfolder='vae'"):
        vaekit.from_diffusers(folder)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        vaekit.from_diffusers(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="config=model.config"):
        vaekit.from_diffusers({})
    with pytest.raises(ValueError, match="goes with a state dict"):
        vaekit.from_diffusers(GOLDEN, config={})


def test_a_likelihood_of_two_parameters_is_refused():
    with pytest.raises(ValueError, match="Gaussian takes 2 parameters"):
        vaekit.from_diffusers(GOLDEN, likelihood={"name": "gaussian", "variance": "element"})


def test_size_is_that_of_the_images_to_come():
    vae = vaekit.from_diffusers(GOLDEN, size=8)
    assert (vae.input_shape, vae.latent_shape) == ((3, 8, 8), (2, 4, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {"downsample_padding": "both"}}, "downsample_padding='end'"),
        ({"decoder": {"blocks": 1}}, "one block more"),
        ({"decoder": {"latent_scale": 2.0}}, "one latent_scale"),
        ({"encoder": {"norm_eps": 1e-5}}, "norm_eps=1e-06"),
        ({"likelihood": {"name": "gaussian", "variance": "element"}}, "one parameter"),
        ({"input_shape": (3, 8, 16)}, "square"),
        ({"posterior": "full_gaussian", "encoder": {"latent_scale": 1.0, "latent_shift": 0.0}}, "diagonal_gaussian"),
    ],
)
def test_models_that_are_no_autoencoder_kl(changes, message, tmp_path):
    options = model_options({**config_of("stable diffusion"), "scaling_factor": 1.0}, 8)
    for part, change in {"likelihood": "laplace", **changes}.items():
        options[part] = {**options[part], **change} if part in ("encoder", "decoder") else change
    with pytest.raises(ValueError, match=message):
        vaekit.to_diffusers(vaekit.create_vae(**options), tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_networks_are_no_autoencoder_kl(tmp_path):
    with pytest.raises(ValueError, match="'resnet', not MLPEncoder and MLPDecoder"):
        vaekit.to_diffusers(vaekit.create_vae(input_shape=(3, 8, 8), latent_dim=2), tmp_path)


def test_a_config_is_read_as_it_was_written():
    for kind in ("stable diffusion", "flux", "by channel", "without attention"):
        config = config_of(kind)
        written = config_of_model(vaekit.create_vae(**model_options(config, None), likelihood="laplace"))
        assert model_options(written, None) | {"encoder": None, "decoder": None} == model_options(config, None) | {
            "encoder": None,
            "decoder": None,
        }
        for part in ("encoder", "decoder"):
            ours, theirs = model_options(written, None)[part], model_options(config, None)[part]
            for option, value in theirs.items():
                assert ours[option] == (pytest.approx(value, rel=1e-15) if option.startswith("latent") else value), option


# The hub, on this machine.


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the golden model in someone/pipeline."""
    with hub_server.running() as server:
        hub_server.turn_to(server.address, tmp_path / "cache", monkeypatch)
        server.repositories["someone/pipeline"] = repository = hub_server.Repository()
        repository.commit("main", {f"vae/{name}": (GOLDEN / name).read_bytes() for name in ("config.json", WEIGHTS)}, "a model")
        yield server


def test_a_repository_is_downloaded_once_and_then_read_without_the_hub(hub, monkeypatch):
    x = torch.ones(1, 3, 16, 16)
    first = vaekit.from_diffusers("someone/pipeline", subfolder="vae").encode(x).mean
    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = vaekit.from_diffusers("someone/pipeline", subfolder="vae").encode(x).mean
    assert hub.requests == []
    assert torch.equal(first, again)
    assert torch.equal(first, vaekit.from_diffusers(GOLDEN).encode(x).mean)


def test_a_file_that_a_repository_does_not_have_is_named(hub):
    with pytest.raises(
        FileNotFoundError, match=r"there is no config.json of someone/pipeline; the repository holds: vae/config.json"
    ):
        vaekit.from_diffusers("someone/pipeline")


def test_without_huggingface_hub_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'there is no folder someone/pipeline here.*pip install "vaekit\[hub\]"'):
        vaekit.from_diffusers("someone/pipeline")
