"""Laws of `vaekit train`: what a run leaves, and where."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import LEFT, QUICK, SMALL, command, write_data
from PIL import Image

import vaekit


def test_train_leaves_a_run_with_weights_history_and_pictures(data, tmp_path, real_pictures):
    out = tmp_path / "run"
    assert command("train", data, *SMALL, *QUICK, "--out", out) == 0
    pictures = {f"{name}.png" for name in ("loss", "reconstructions", "samples", "latent_space", "latent_grid")}
    assert {p.name for p in out.iterdir()} == LEFT | pictures
    for picture in pictures:
        with Image.open(out / picture) as opened:
            opened.verify()
    assert vaekit.load(out / "best").input_shape == vaekit.load(out / "last").input_shape == (1, 8, 8)
    assert vaekit.History.from_csv(out / "history.csv").epochs == 1


@pytest.mark.parametrize(("suffix", "shape"), [(".npy", (3, 8, 8)), (".npz", (6,)), (".npy", (2, 9))])
def test_train_takes_data_of_any_shape_from_either_kind_of_file(suffix, shape, tmp_path):
    out = tmp_path / "run"
    file = write_data(tmp_path / f"x{suffix}", n=20, shape=shape)
    assert command("train", file, *SMALL, *QUICK, "--out", out) == 0
    assert {p.name for p in out.iterdir()} == {*LEFT, "stub.png"}
    assert vaekit.load(out / "best").input_shape == shape


def test_a_vector_quantised_run_is_taken_by_every_command(data, tmp_path, capsys, drawn):
    out = tmp_path / "run"
    options = ["posterior=vector_quantized", "posterior.codes=8", "prior=codes", "loss=vector_quantized", "loss.beta=0.5"]
    options = [argument for option in options for argument in ("--set", option)]
    assert command("train", data, *SMALL, *QUICK, *options, "--out", out) == 0
    assert "1 code out of 8" in capsys.readouterr().out
    for subcommand in (["evaluate", "--samples", 2], ["reconstruct", "--count", 3], ["sample"], ["plot"]):
        assert command(subcommand[0], out, *subcommand[1:]) == 0
    assert "perplexity" in capsys.readouterr().out


def test_a_spatial_latent_and_an_output_bias_from_the_data_can_be_set(data, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["encoder=conv", "encoder.channels=[4]", "encoder.spatial=true", "decoder=conv", "decoder.channels=[4]"]
    options = [argument for option in [*options, "initialize_output_bias=true"] for argument in ("--set", option)]
    still = ["--latent-dim", 3, "--learning-rate", 1e-30]
    assert command("train", data, *options, *QUICK, *still, "--out", out) == 0
    assert "48 latent dimensions" in capsys.readouterr().out
    vae, x = vaekit.load(out / "last"), vaekit.data.load(data)[0].x
    assert vae.latent_shape == (3, 4, 4)
    assert vae.decode(torch.zeros(1, 3, 4, 4)).mean().item() == pytest.approx(x.mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "setting", "says"),
    [
        (["--precision", "auto"], "auto", "in float32 (auto: no GPU that computes in bfloat16)"),
        (["--set", "fit.precision=16"], "16", "networks in float16, all else in float32"),
    ],
)
@pytest.mark.parametrize("progress", ["--progress", "--no-progress"])
def test_the_precision_is_an_option_and_is_said_once(arguments, setting, says, progress, data, tmp_path, capsys):
    out = tmp_path / "run"
    assert command("train", data, *SMALL, *QUICK, progress, *arguments, "--out", out) == 0
    assert json.loads((out / "run.json").read_text())["precision"] == setting
    assert "".join(capsys.readouterr()).count(f"training on cpu, {says}\n") == 1


@pytest.mark.parametrize("posterior", ["full_gaussian", "flow"])
def test_a_run_with_another_posterior_is_taken_by_every_command(posterior, data, tmp_path, capsys, drawn):
    if posterior == "flow":
        pytest.importorskip("zuko", reason="zuko is not installed: pip install 'vaekit[flows]'")
    out, more = tmp_path / "run", ["--set", "posterior.context=2"] if posterior == "flow" else []
    assert command("train", data, *SMALL, *QUICK, "--set", f"posterior={posterior}", *more, "--out", out) == 0
    spec = {"name": posterior, **({"context": 2} if more else {})}
    assert vaekit.load(out / "best").config()["encoder"]["posterior"] == spec
    capsys.readouterr()
    assert command("evaluate", out, "--samples", 5) == 0
    printed = capsys.readouterr().out
    assert "log p(x) at least" in printed
    assert "active" not in printed  # of latents that have no divergence each
    assert command("plot", out) == command("reconstruct", out, "--count", 3) == command("sample", out) == 0


def test_run_json_is_a_whole_run(run, data):
    written = json.loads((run / "run.json").read_text())
    assert Path(written["data"]) == data.resolve()
    assert Path(written["data"]).is_absolute()
    assert written["encoder"] == written["decoder"] == {"hidden": [16]}
    assert (written["epochs"], written["batch_size"], written["seed"], written["preset"]) == (2, 16, 0, "dense-mnist")
    assert written["input_shape"] == [1, 8, 8]


def test_a_run_made_again_from_its_run_json_is_the_same(run, tmp_path):
    again = tmp_path / "again"
    assert command("train", "--config", run / "run.json", "--no-progress", "--out", again) == 0
    assert (again / "history.csv").read_bytes() == (run / "history.csv").read_bytes()
    assert json.loads((again / "run.json").read_text()) == json.loads((run / "run.json").read_text())
    for weights in ("best", "last"):
        one, other = (vaekit.load(folder / weights).state_dict() for folder in (run, again))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_seed_is_another_run(run, tmp_path):
    other = tmp_path / "other"
    assert command("train", "--config", run / "run.json", "--no-progress", "--out", other, "--seed", 1) == 0
    assert (other / "history.csv").read_bytes() != (run / "history.csv").read_bytes()


def test_a_relative_path_to_the_data_is_written_down_whole(tmp_path, monkeypatch):
    write_data(tmp_path / "x.npz")
    monkeypatch.chdir(tmp_path)
    assert command("train", "x.npz", *SMALL, *QUICK, "--out", "run") == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"] == str((tmp_path / "x.npz").resolve())


def test_without_out_every_run_has_a_new_folder(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert command("train", data, *SMALL, *QUICK) == 0
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {data.stem, f"{data.stem}-2"}


def test_the_numbers_that_train_prints_are_those_of_the_best_epoch(data, tmp_path, capsys):
    assert command("train", data, *SMALL, *QUICK, "--epochs", 3, "--out", tmp_path / "run") == 0
    printed = capsys.readouterr().out
    history = vaekit.History.from_csv(tmp_path / "run" / "history.csv")
    best = history.best_epoch
    assert f"epoch {best + 1} of 3" in printed
    for term in ("loss", "reconstruction", "kl"):
        (row,) = [line.split() for line in printed.splitlines() if line.split()[:1] == [term]]
        assert row[1:] == [f"{history[term][best]:.2f}", f"{history[f'val_{term}'][best]:.2f}"]


def test_train_takes_a_folder_of_shards_as_it_takes_their_array(tmp_path, capsys):
    whole, folder = write_data(tmp_path / "x.npz", n=20, shape=(6,)), tmp_path / "shards"
    folder.mkdir()
    with np.load(whole) as arrays:
        for name in ("x", "y"):
            for number, part in enumerate(np.split(arrays[name], [5, 12])):
                np.save(folder / f"{name}-{number}.npy", part)
    for data, out in ((whole, tmp_path / "one"), (folder, tmp_path / "other")):
        assert command("train", data, *SMALL, *QUICK, "--set", "condition=labels", "--out", out) == 0
        assert command("evaluate", out) == 0
    one, other = (vaekit.load(tmp_path / name / "best").state_dict() for name in ("one", "other"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((tmp_path / "other/run.json").read_text())["data"] == str(folder)


def test_a_run_may_be_conditional_and_the_data_says_how_many_labels_there_are(conditional_run, data, capsys, drawn):
    vae = vaekit.load(conditional_run / "best")
    assert vae.config()["condition"] == {"name": "labels", "classes": 3, "dim": 2}
    assert json.loads((conditional_run / "run.json").read_text())["condition"]["classes"] == 3
    assert command("evaluate", conditional_run, "--samples", 5) == 0
    test = vaekit.data.load(str(data))[1]
    assert f"{vaekit.evaluate(vae, test)['loss']:.4f}" in capsys.readouterr().out


def test_the_labels_are_counted_where_the_highest_is_held_out_too(tmp_path):
    file, out = tmp_path / "x.npz", tmp_path / "run"
    x = np.random.default_rng(0).random((60, 6), dtype=np.float32)
    y = np.arange(60) % 31
    y[vaekit.data.load((x, np.arange(60)))[1].y[0]] = 40
    np.savez(file, x=x, y=y)
    assert command("train", file, *SMALL, *QUICK, "--set", "condition=labels", "--out", out) == 0
    assert vaekit.load(out / "best").condition.classes == 41


def test_vectors_in_the_data_are_a_condition_of_their_length(tmp_path, drawn):
    file = tmp_path / "x.npz"
    rng = np.random.default_rng(0)
    np.savez(file, x=rng.random((40, 6), dtype=np.float32), y=rng.random((40, 2)))
    out = tmp_path / "run"
    assert command("train", file, *SMALL, *QUICK, "--set", "condition=vector", "--out", out) == 0
    assert vaekit.load(out / "best").condition.size == 2
    assert command("sample", out, "--condition", "0.5,-1", "--condition", "2,3") == 0
    (_, _, rows), _ = drawn.pop()
    assert rows.tolist() == [[0.5, -1.0], [2.0, 3.0]]


def test_a_run_that_reaches_its_time_limit_is_no_mistake(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert command("train", data, *SMALL, *QUICK, "--epochs", 9, "--time-limit", 1e-9, "--out", out) == 0
    assert f"interrupted by the time limit of 1e-09 minutes after 0 epochs; the weights of this moment are in {out / 'last'}" in (
        capsys.readouterr().err
    )
    assert vaekit.load(out / "last").input_shape == (1, 8, 8)
    assert json.loads((out / "run.json").read_text())["time_limit"] == 1e-9
