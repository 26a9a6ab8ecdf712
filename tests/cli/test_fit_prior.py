"""Laws of `vaekit fit-prior`: what it leaves, which commands take it, and how an interrupted fit goes on."""

import json

import pytest
import torch
from helpers.commands import LEFT, QUICK, command
from helpers.terminal import usual_signals

import vaekit
from vaekit import cli

PRIOR = ["--set", "prior.width=8", "--set", "prior.layers=1"]
CODES = [
    argument
    for option in ("posterior=vector_quantized", "posterior.codes=8", "prior=codes", "loss=vector_quantized")
    for argument in ("--set", option)
]
SPATIAL = ["encoder=conv", "encoder.channels=[4,4]", "encoder.spatial=true", "decoder=conv", "decoder.channels=[4,4]"]


@pytest.fixture(scope="session")
def model(data, tmp_path_factory):
    """The folder of a run whose model has codes."""
    out = tmp_path_factory.mktemp("runs") / "codes"
    networks = [argument for option in SPATIAL for argument in ("--set", option)]
    assert command("train", data, *QUICK, *CODES, *networks, "--latent-dim", 3, "--out", out) == 0
    return out


def test_a_fit_leaves_the_model_with_its_prior_and_every_command_takes_it(model, tmp_path, capsys, drawn):
    out = tmp_path / "fit"
    assert command("fit-prior", model, *PRIOR, *QUICK, "--learning-rate", 0.01, "--out", out) == 0
    assert "fitting autoregressive_codes to the model in" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == LEFT
    before, after = vaekit.load(model / "best"), vaekit.load(out / "best")
    assert after.config()["prior"] == {"name": "autoregressive_codes", "width": 8, "layers": 1, "latent_shape": [3, 2, 2]}
    networks = {name: weight for name, weight in before.state_dict().items() if not name.startswith("prior")}
    assert all(torch.equal(weight, after.state_dict()[name]) for name, weight in networks.items())
    settings = json.loads((out / "run.json").read_text())
    assert (settings["model"], settings["learning_rate"], settings["optimizer"]) == (str(model / "best"), 0.01, "adamw")
    some = {"reconstruct": ["--count", 3]}
    for name in ("evaluate", "reconstruct", "sample", "plot", "report"):  # on what the model's run held out
        assert command(name, out, *some.get(name, [])) == 0, name
    assert f"the codes of {model / 'best'}" in (out / "report.html").read_text()


def test_results_go_into_a_new_folder_of_the_run_by_default(model, capsys):
    for number in (1, 2):
        assert command("fit-prior", model, "--prior", "codes") == 0
        assert f"everything is in {model / f'prior-{number}'}" in capsys.readouterr().out
        assert type(vaekit.load(model / f"prior-{number}" / "best").prior) is vaekit.priors.Codes


def test_a_prior_is_told_the_labels_of_the_data(model, data, tmp_path, drawn):
    out = tmp_path / "told"
    told = ["--prior", "pixel_cnn", "--set", "prior.width=8", "--set", "prior.condition=labels"]
    assert command("fit-prior", model, *told, *QUICK, "--data", data, "--out", out) == 0
    vae = vaekit.load(out / "best")
    assert (vae.condition, vae.prior.condition.classes) == (None, 3)
    assert command("sample", out, "--condition", 1, "--condition", 2) == 0
    assert drawn[0][0][2].tolist() == [1, 2]
    assert command("evaluate", out) == 0


def test_an_interrupted_fit_goes_on_and_is_the_one_that_was_not(model, tmp_path, capsys, monkeypatch):
    whole, again = tmp_path / "whole", tmp_path / "again"
    epochs = ["--epochs", 3]
    assert command("fit-prior", model, *PRIOR, *QUICK, *epochs, "--out", whole) == 0
    assert command("fit-prior", model, *PRIOR, *QUICK, *epochs, "--out", again, "--time-limit", 1e-9) == 0
    told = capsys.readouterr().err
    assert f"vaekit fit-prior {model} --resume {again} goes on with it" in told
    assert (again / "last" / "model.safetensors").read_bytes() != (whole / "last" / "model.safetensors").read_bytes()
    assert command("fit-prior", model, "--resume", again, "--time-limit", 60, "--no-progress") == 0
    for name in ("best", "last"):
        assert (again / name / "model.safetensors").read_bytes() == (whole / name / "model.safetensors").read_bytes()


def test_what_is_no_fit_of_a_prior_is_refused(model, tmp_path, mistake):
    out = tmp_path / "fit"
    assert command("fit-prior", model, *PRIOR, *QUICK, "--out", out) == 0
    assert "--set encoder: the model stays as it is" in mistake("fit-prior", model, "--set", "encoder.hidden=3")
    assert "the prior's width was 8 and is 16" in mistake("fit-prior", model, "--resume", out, "--set", "prior.width=16")
    assert "was fitted to" in mistake("fit-prior", model, "--resume", model)
    assert "the settings of a prior" in mistake("train", "--config", out / "run.json")
    assert "the settings of a prior" in mistake("train", "--resume", out)
    assert "without --out" in mistake("fit-prior", model, "--resume", out, "--out", tmp_path / "other")
    assert "StandardNormal" in mistake("fit-prior", model, "--prior", "standard_normal")
    assert "has no 'last' weights" in mistake("fit-prior", out / "best", "--weights", "last")


def test_there_is_no_flag_for_what_a_fit_of_a_prior_does_not_do(capsys):
    with usual_signals(), pytest.raises(SystemExit):
        cli.main(["fit-prior", "--help"])
    said = capsys.readouterr().out
    assert "--gradient-clip" in said
    assert "output-bias" not in said
