"""Laws of exported models: in ONNX Runtime, and as programs of torch, they give the model's numbers for batches of any size."""

import builtins

import onnxruntime
import pytest
import torch
from helpers.commands import QUICK, SMALL, command, write_data

import vaekit

SMALL_NETWORKS = {"encoder": {"name": "mlp", "hidden": (8,)}, "decoder": {"name": "mlp", "hidden": (8,)}}
TABLE = {
    "input_shape": (3,),
    "likelihood": {
        "name": "columns",
        "columns": ["gaussian", {"name": "categorical", "classes": 3}, "poisson"],
        "missing": "ignore",
    },
    "condition": {"name": "labels", "classes": 3},
    "prior": "diagonal_gaussian",
    **SMALL_NETWORKS,
}
PICTURES = {
    "input_shape": (1, 9, 7),
    "encoder": {"name": "conv", "channels": (4,), "normalization": "batch"},
    "decoder": {"name": "conv", "channels": (4,)},
}
VECTORS = {"input_shape": (4,), "likelihood": "gaussian", "condition": {"name": "vector", "size": 2}, **SMALL_NETWORKS}


def model(parts):
    vae = vaekit.create_vae(latent_dim=2, seed=0, **parts)
    with torch.no_grad():
        for weight in vae.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return vae


def run_onnx(file, inputs):
    session = onnxruntime.InferenceSession(file)
    assert [each.name for each in session.get_inputs()] == list(inputs)
    assert all(isinstance(each.shape[0], str) for each in (*session.get_inputs(), *session.get_outputs()))
    names = [each.name for each in session.get_outputs()]
    values = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return dict(zip(names, map(torch.from_numpy, values), strict=True))


def run_torch(file, inputs):
    made = torch.export.load(file).module()(*inputs.values())
    names = ("mean", "standard_deviation") if isinstance(made, tuple) else ("x",)
    return dict(zip(names, made if isinstance(made, tuple) else (made,), strict=True))


@pytest.mark.parametrize(
    ("to", "parts"),
    [("torch", TABLE), ("torch", PICTURES), ("torch", VECTORS), ("onnx", TABLE), ("onnx", PICTURES)],
    ids=["torch-table", "torch-pictures", "torch-vectors", "onnx-table", "onnx-pictures"],
)
def test_encoder_decoder_and_sampler_give_the_models_numbers_for_batches_of_any_size(tmp_path, to, parts):
    vae = model(parts).train()
    run = {"onnx": run_onnx, "torch": run_torch}[to]
    files = vaekit.export(vae, tmp_path / "made", to=to)
    assert vae.training
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == sorted(path.name for path in files.values())
    vae.eval().requires_grad_(False)
    for count in (1, 2, 7):
        generator = torch.Generator().manual_seed(count)
        x = torch.rand(count, *vae.input_shape, generator=generator).round()
        if vae.likelihood.missing == "ignore":
            x[0, 1] = torch.nan
        given = {"labels": torch.arange(count) % 3, "vector": torch.rand(count, 2)}
        told = {"condition": given[parts["condition"]["name"]]} if vae.condition is not None else {}
        noise = torch.randn(count, 2, generator=generator)
        posterior = vae.encode(x, **told)
        got = run(files["encoder"], {"x": x, **told})
        torch.testing.assert_close(got["mean"], posterior.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got["standard_deviation"], posterior.variances.sqrt(), rtol=1e-4, atol=1e-5)
        for name, z, expected in (("decoder", "z", noise), ("sampler", "noise", vae.prior.from_noise(noise))):
            got = run(files[name], {z: noise, **told})
            torch.testing.assert_close(got["x"], vae.decode(expected, **told), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["standard_normal", "diagonal_gaussian", "flow"])
def test_draws_from_a_prior_are_what_it_makes_of_the_noise_of_the_key(name):
    prior, key = model({"input_shape": (4,), "prior": name}).prior, vaekit.make_key(1)
    noise = vaekit.StandardNormal().sample((5, 2), key=key, dtype=torch.float32)
    torch.testing.assert_close(prior.from_noise(noise), prior.sample((5, 2), key=key, dtype=torch.float32))


def test_a_prior_that_chooses_a_component_has_no_sampler(tmp_path):
    vae = model({"input_shape": (4,), "prior": {"name": "gaussian_mixture", "components": 2}, **SMALL_NETWORKS})
    assert list(vaekit.export(vae, tmp_path, to="torch")) == ["encoder", "decoder"]


def test_without_the_extra_it_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("onnxscript"):
            raise ModuleNotFoundError("no", name="onnxscript")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "vaekit\[export\]"'):
        vaekit.export(model(VECTORS), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="'onnx', 'torch', got 'onxx'; did you mean 'onnx'"):
        vaekit.export(model(VECTORS), tmp_path / "out", to="onxx")


def test_the_command_exports_a_run_and_keeps_what_is_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vaekit.cli.train.draw_pictures", lambda *arguments, **options: None)
    data, run = write_data(tmp_path / "x.npy", shape=(4,)), tmp_path / "run"
    assert command("train", data, *SMALL, *QUICK, "--latent-dim", 2, "--out", run) == 0
    capsys.readouterr()
    assert command("export", run, "--to", "torch") == 0
    files = [run / "torch" / f"{name}.pt2" for name in ("encoder", "decoder", "sampler")]
    assert capsys.readouterr().out.splitlines() == list(map(str, files))
    z = torch.zeros(3, 2)
    torch.testing.assert_close(run_torch(files[1], {"z": z})["x"], vaekit.load(run / "best").decode(z).detach())
    assert command("export", run, "--to", "torch") == 2
    assert "encoder.pt2 is there already" in capsys.readouterr().err
    assert command("export", run, "--to", "torch", "--overwrite") == 0
    assert command("export", run, "--to", "caffe") == 2
    assert "--to has to be one of 'onnx', 'torch', got 'caffe'" in capsys.readouterr().err
