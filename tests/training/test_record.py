"""Laws of what a run's folder says of where the run took place and what it was made from."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy
import pytest
import torch
from helpers.small_runs import X, fit, model

import vaekit
from vaekit.training import FitOptions, record


def written(folder, name):
    return json.loads((folder / name).read_text())


def test_the_environment_is_what_python_torch_git_and_the_host_say(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    monkeypatch.chdir(Path(__file__).parent)
    fit(model(), epochs=1, out=tmp_path / "run")
    text = (tmp_path / "run" / "environment.json").read_text()
    [session] = json.loads(text)
    assert session["versions"] == {
        "vaekit": vaekit.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "safetensors": version("safetensors"),
        "lightning-fabric": version("lightning-fabric"),
    }
    assert session["kernels"]["cpu"] == vaekit.build_info()["cpu kernel"]
    assert (session["command"], session["folder"]) == (sys.orig_argv, os.getcwd())
    assert (session["device"], session["threads"], session["cores"]) == ("cpu", torch.get_num_threads(), os.cpu_count())
    assert "float32" in session["precision"]
    assert session["host"]["name"] == platform.node()
    assert session["variables"].items() >= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}.items()
    assert "hunter2" not in text
    if session["git"] is not None:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
        assert session["git"]["commit"] == asked.stdout.strip()


def test_the_variables_that_are_recorded_hold_no_names_of_people_or_secrets():
    personal = ("USER", "HOME", "TOKEN", "KEY", "SECRET", "PASS", "PATH", "DATA", "URL", "HOST", "MIRROR")
    assert not [name for name in record._VARIABLES if any(word in name for word in personal)]


def test_a_run_without_git_or_a_current_folder_is_recorded_too(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    fit(model(), epochs=1, out=tmp_path / "run")
    [session] = written(tmp_path / "run", "environment.json")
    assert (session["folder"], session["git"]) == (None, None)
    monkeypatch.chdir(tmp_path)


def test_run_json_has_every_option_and_part_as_plain_data(tmp_path):
    rate = vaekit.schedules.as_schedule({"name": "cosine", "start": 1e-2, "end": 1e-3, "steps": 9})
    loss, labels = {"name": "elbo", "beta": {"name": "linear", "steps": 2}}, {"name": "labels", "classes": 3}
    vae = model(loss=loss, condition=labels)
    options = {"learning_rate": rate, "optimizer": {"name": "adamw", "betas": (0.8, 0.9)}, "device": torch.device("cpu")}
    fit(vae, (X, torch.arange(50) % 3), epochs=1, out=tmp_path, seed=7, **options)
    settings = written(tmp_path, "run.json")
    assert settings.keys() >= {name for name, _, _ in FitOptions.describe()}
    assert settings["learning_rate"] == {"name": "cosine", "start": 1e-2, "end": 1e-3, "steps": 9}
    assert settings["optimizer"] == {"name": "adamw", "betas": [0.8, 0.9]}
    assert (settings["epochs"], settings["batch_size"], settings["seed"], settings["device"]) == (1, 16, 7, "cpu")
    assert (settings["input_shape"], settings["latent_dim"]) == ([6], 2)
    config = vae.config()
    for kind in ("encoder", "decoder", "likelihood", "prior", "loss", "condition"):
        assert settings[kind] == config[kind]


def test_a_folder_with_another_runs_json_is_refused_and_not_touched(tmp_path):
    (tmp_path / "run.json").write_text("of an earlier run")
    with pytest.raises(FileExistsError, match=r"run\.json"):
        fit(model(), epochs=1, out=tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("run.json", "of an earlier run")]


def test_a_run_that_comes_to_nothing_leaves_nothing(tmp_path):
    class Fails(vaekit.Callback):
        def on_fit_start(self, state):
            assert (tmp_path / "run.json").is_file()
            raise RuntimeError("of a callback")

    with pytest.raises(RuntimeError, match="of a callback"):
        fit(model(), out=tmp_path, callbacks=[Fails()])
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_runs_files_stay_where_another_claims_its_folder_at_the_same_moment(tmp_path):
    first, second = record.Record(tmp_path, tmp_path), record.Record(tmp_path, tmp_path)
    with first.kept():
        first.write(model(), FitOptions(), torch.device("cpu"), "32")
        with pytest.raises(FileExistsError), second.kept():
            second.write(model(), FitOptions(), torch.device("cpu"), "32")
        assert {file.name for file in tmp_path.iterdir()} == {"run.json", "environment.json"}
        (tmp_path / "last").mkdir()
    assert {file.name for file in tmp_path.iterdir()} == {"run.json", "environment.json", "last"}


@pytest.mark.parametrize("damage", [None, b"[", b"{}", b"\xff", b"[" * 100_000])
def test_a_run_that_goes_on_notes_what_changes_and_adds_where_it_goes_on(damage, tmp_path):
    begun = record.Record(tmp_path, tmp_path)
    begun.write(model(), FitOptions(), torch.device("cpu"), "32")
    before, file = (tmp_path / "run.json").read_bytes(), tmp_path / "environment.json"
    [first] = written(tmp_path, "environment.json")
    if damage is not None:
        file.write_bytes(damage)
    with record.Record(tmp_path, tmp_path, is_resumed=True).kept():
        record.Record(tmp_path, tmp_path, is_resumed=True).write(model(), FitOptions(epochs=3), torch.device("cpu"), "32")
    earlier, second = written(tmp_path, "environment.json")
    assert earlier == (first if damage is None else "this file was damaged before the run went on")
    assert {**second, "started": None} == {**first, "started": None}
    assert json.loads((tmp_path / "run.json").read_bytes()) == {**json.loads(before), "epochs": 3}
