"""Laws of repetition: a run's own run.json makes it again, from anywhere, and only its times differ."""

import json
from pathlib import Path

import numpy as np
import torch
from helpers.commands import QUICK, SMALL, command, write_data

import vaekit


def files(run: Path) -> dict[str, bytes]:
    """What a run has left, less times: in its environment, its report, and its checkpoints, which say how long epochs took."""
    kept = {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("*") if file.is_file()}
    for name in kept:
        if name.startswith("checkpoints") and "best" not in name:  # the tensors, without the text before and the seal behind
            kept[name] = kept[name][8 + int.from_bytes(kept[name][:8], "little") : -32]
    del kept["report.html"]
    sessions = json.loads(kept.pop("environment.json"))
    assert len(sessions) == 1
    return {**kept, "environment": [{k: v for k, v in one.items() if k not in ("started", "folder", "git")} for one in sessions]}


def test_the_same_command_gives_the_same_files_but_for_the_time(data, tmp_path, monkeypatch, real_pictures):
    runs = []
    for place in ("one", "other"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        torch.manual_seed(len(runs))  # the global generator does not matter
        assert command("train", data, *SMALL, *QUICK, "--epochs", 2, "--seed", 3, "--out", "run") == 0
        runs.append(files(tmp_path / place / "run"))
    assert runs[0].keys() >= {"run.json", "history.csv", "best/model.safetensors", "last/config.json", "reconstructions.png"}
    assert runs[0] == runs[1]


def test_a_run_json_repeats_its_run_from_another_folder(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, 6), dtype=np.float32))
    monkeypatch.chdir(tmp_path)
    options = ["--seed", 5, "--set", "learning_rate.name=cosine", "--set", "learning_rate.start=0.01"]
    options += ["--set", "learning_rate.end=0.001", "--set", "learning_rate.steps=5", "--set", "optimizer=adamw"]
    assert command("train", "x.npy", *SMALL, *QUICK, "--epochs", 2, *options, "--out", "first") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command("train", "--config", "../first/run.json", "--out", "again", "--no-progress") == 0
    assert files(tmp_path / "first") == files(tmp_path / "elsewhere" / "again")


def test_the_run_json_of_fit_trains_the_same_model_by_command(data, tmp_path):
    train, test = vaekit.data.load(data, seed=4)
    parts = {
        "encoder": {"name": "conv", "channels": (2,), "hidden": (8,), "posterior": "full_gaussian"},
        "decoder": {"name": "mlp", "hidden": (8,)},
        "prior": {"name": "gaussian_mixture", "components": 3},
        "loss": {"name": "elbo", "beta": vaekit.schedules.Linear(steps=3)},
        "condition": {"name": "labels", "classes": 3},
    }
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=3, seed=4, **parts)
    options = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2, "optimizer": "sgd", "gradient_clip": 1.0, "seed": 4}
    vaekit.fit(vae, train, validation=test, out=tmp_path / "api", device="cpu", progress=False, **options)
    assert command("train", data, "--config", tmp_path / "api/run.json", "--out", tmp_path / "run", "--no-progress") == 0
    for file in ("best/model.safetensors", "last/model.safetensors", "history.csv"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "api" / file).read_bytes()
    again = json.loads((tmp_path / "run/run.json").read_text())
    assert "preset" not in again  # which would be a model of its own
    assert again.items() >= json.loads((tmp_path / "api/run.json").read_text()).items()


def test_a_folder_of_no_run_is_named(data, tmp_path, mistake):
    assert f"{tmp_path} has no run.json: it is not the folder of a run" in mistake("train", "--resume", tmp_path)
    (tmp_path / "last").mkdir()
    (tmp_path / "run.json").write_text("{}")
    assert f"; {tmp_path} is the folder of one" in mistake("train", "--resume", tmp_path / "last")


def test_an_optimizer_that_only_code_has_is_named_and_refused(data, tmp_path, mistake):
    vae = vaekit.create_vae("dense-mnist", input_shape=(1, 8, 8), encoder={"hidden": (8,)}, decoder={"hidden": (8,)})
    vaekit.fit(
        vae, torch.rand(20, 1, 8, 8), epochs=1, optimizer=torch.optim.SGD, out=tmp_path / "api", device="cpu", progress=False
    )
    assert "torch.optim.sgd.SGD" in mistake("train", data, "--config", tmp_path / "api/run.json", "--out", tmp_path / "run")


def test_a_run_begun_by_fit_is_gone_on_with_on_data_that_are_named(tmp_path, mistake):
    file = write_data(tmp_path / "x.npz")
    train, test = vaekit.data.load(str(file))
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, encoder={"hidden": (4,)}, decoder={"hidden": (4,)}, seed=0)
    out = tmp_path / "run"
    vaekit.fit(vae, train, validation=test, epochs=1, out=out, progress=False, device="cpu")
    line = mistake("train", "--resume", out)
    assert "run.json does not say on what data: the run was begun by vaekit.fit. Give DATA" in line
    assert f"vaekit.resume('{out}', ...)" in line
    assert command("train", file, "--resume", out, "--epochs", 2, "--no-progress") == 0
    assert vaekit.History.from_csv(out / "history.csv").epochs == 2
