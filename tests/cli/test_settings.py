"""Laws of a run's settings: flags win over --set, --set over --config, --config over the preset."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import QUICK, SMALL, command

import vaekit
from vaekit import runs
from vaekit.data import as_examples, readers
from vaekit.training import FitOptions


@pytest.fixture
def config_file(tmp_path) -> Path:
    file = tmp_path / "config.json"
    encoder, decoder, loss = {"name": "mlp", "hidden": [4]}, {"hidden": [4]}, {"beta": 2.0}
    values = {"latent_dim": 3, "seed": 5, "learning_rate": 0.01, "encoder": encoder, "decoder": decoder, "loss": loss}
    file.write_text(json.dumps(values))
    return file


def test_the_preset_decides_what_nothing_else_does(trained):
    written, model = trained("--preset", "conv-mnist", "--set", "encoder.channels=[2]", "--set", "decoder.channels=[2]")
    assert model["encoder"] == {"name": "conv", "input_shape": [1, 8, 8], "latent_dim": 2, "channels": [2], "hidden": [256]}
    assert "latent_dim" not in written


def test_the_config_wins_over_the_preset(trained, config_file):
    written, model = trained("--config", config_file)
    assert (model["encoder"]["latent_dim"], model["encoder"]["hidden"], model["decoder"]["hidden"]) == (3, [4], [4])
    assert model["loss"] == {"name": "elbo", "beta": 2.0}
    assert (written["seed"], written["learning_rate"]) == (5, 0.01)


def test_set_wins_over_the_config_and_only_where_it_says(trained, config_file):
    written, model = trained(
        "--config", config_file, *("--set", "latent_dim=4"), *("--set", "seed=6"), *("--set", "encoder.hidden=[5]"),
        *("--set", "encoder.activation=tanh"),
    )  # fmt: skip
    assert model["encoder"] == {"name": "mlp", "input_shape": [1, 8, 8], "latent_dim": 4, "hidden": [5], "activation": "tanh"}
    assert (model["decoder"]["hidden"], model["loss"]["beta"]) == ([4], 2.0)
    assert (written["seed"], written["learning_rate"]) == (6, 0.01)


def test_flags_win_over_set_in_any_order(trained, config_file):
    settings = ["--set", "latent_dim=4", "--set", "seed=6", "--set", "learning_rate=0.02"]
    flags = ["--latent-dim", 5, "--seed", 7, "--learning-rate", 0.03]
    for arguments in ([*settings, *flags], [*flags, *settings]):
        written, model = trained("--config", config_file, *arguments)
        assert model["encoder"]["latent_dim"] == model["decoder"]["latent_dim"] == 5
        assert (written["seed"], written["learning_rate"]) == (7, 0.03)


def test_the_data_argument_wins_over_the_configs(data, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"data": "nowhere.npz", "encoder": {"hidden": [4]}, "decoder": {"hidden": [4]}}))
    assert command("train", data, "--config", file, *QUICK, "--out", tmp_path / "run") == 0


def test_a_later_set_wins_over_an_earlier_one(trained):
    _, model = trained(*SMALL, "--set", "loss.beta=3", "--set", "loss.beta=4")
    assert model["loss"]["beta"] == 4


@pytest.mark.parametrize("first", ["encoder=conv", "encoder.channels=[2]"])
def test_a_part_and_its_options_may_be_set_in_any_order(trained, first):
    rest = ["encoder.hidden=[3]", *({"encoder=conv", "encoder.channels=[2]"} - {first})]
    _, model = trained("--set", "decoder.hidden=[4]", *(a for s in [first, *rest] for a in ("--set", s)))
    assert model["encoder"] == {"name": "conv", "input_shape": [1, 8, 8], "latent_dim": 2, "channels": [2], "hidden": [3]}


def test_set_reaches_options_of_options(trained):
    schedule = [a for s in ("loss.beta.name=linear", "loss.beta.steps=2") for a in ("--set", s)]
    _, model = trained(*SMALL, *schedule)
    assert model["loss"] == {"name": "elbo", "beta": {"name": "linear", "steps": 2}}


def test_set_reaches_the_groups_of_an_optimizer_the_clip_and_the_rate(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"optimizer": {"name": "adamw", "groups": {"*.bias": {"lr": 1e-4}}}, "gradient_clip": 1.0}))
    changes = [
        "optimizer.groups.encoder*.lr_factor=0.5",
        "fit.gradient_clip.value=0.5",
        "learning_rate.name=one_cycle",
        "learning_rate.peak=0.01",
    ]
    settings = runs.merged_settings(config, changes, {})
    assert settings["optimizer"] == {"name": "adamw", "groups": {"*.bias": {"lr": 1e-4}, "encoder*": {"lr_factor": 0.5}}}
    assert settings["gradient_clip"] == {"value": 0.5}
    assert settings["learning_rate"] == {"name": "one_cycle", "peak": 0.01}
    FitOptions(**{key: settings[key] for key in ("optimizer", "gradient_clip", "learning_rate")})


def test_set_changes_one_column_of_a_config(tmp_path):
    file = tmp_path / "x.npy"
    np.save(file, np.random.default_rng(0).poisson(2.0, (40, 2)).astype(np.float32))
    columns = {"a": "gaussian", "b": {"name": "negative_binomial", "dispersion": "shared"}}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"likelihood": {"name": "columns", "columns": columns}}))
    likelihoods = []
    for number, change in enumerate(("data=x.npy", "likelihood.columns.a=laplace", "likelihood.columns.b.theta=2.0")):
        out = tmp_path / f"run{number}"
        assert command("train", file, *SMALL, *QUICK, "--config", config, "--set", change, "--out", out) == 0
        likelihoods.append(vaekit.load(out / "best").config()["likelihood"]["columns"])
    assert likelihoods == [columns, {**columns, "a": "laplace"}, {**columns, "b": {**columns["b"], "theta": 2.0}}]


def test_another_name_by_set_takes_none_of_the_configs_options_along(data, tmp_path):
    run = {"encoder": {"name": "conv", "channels": [4]}, "epochs": 1}
    (tmp_path / "config.json").write_text(json.dumps(run))
    arguments = ["--config", tmp_path / "config.json", "--set", "encoder=mlp", "--out", tmp_path / "run", "--no-progress"]
    assert command("train", data, *arguments) == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["encoder"] == "mlp"


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ('{"epochs": 3,}', "config.json"),
        ("", "config.json"),
        ("[1, 2]", "config.json"),
        ("[" * 100_000, "config.json"),
        ('{"epoch": 3}', "'epoch'"),
        ('{"encoder": {"name": "mpl"}}', "'mlp'"),
        ('{"encoder": 5}', "encoder"),
    ],
    ids=lambda text: text[:30],
)
def test_a_mistake_in_the_config_is_one_line(text, fact, data, tmp_path, mistake):
    file = tmp_path / "config.json"
    file.write_text(text)
    assert fact in mistake("train", data, "--config", file, *QUICK, *SMALL[2:], "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["5", "null", "[1]"])
def test_an_option_of_a_part_that_the_config_has_as_no_part_is_one_line(value, data, tmp_path, mistake):
    file = tmp_path / "config.json"
    file.write_text(f'{{"encoder": {value}}}')
    if value == "null":  # as if it were not there
        assert command("train", data, "--config", file, *QUICK, *SMALL, "--out", tmp_path / "run") == 0
    else:
        assert "encoder" in mistake("train", data, "--config", file, *QUICK, *SMALL, "--out", tmp_path / "run")


def test_read_passes_options_to_what_reads_the_data_and_the_run_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "readers", list(readers.readers))

    @readers.reader(".bytes files", suffixes=(".bytes",))
    def read_bytes(path, *, width):
        return as_examples(np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, width)), None

    (tmp_path / "x.bytes").write_bytes(bytes(range(240)))
    run = tmp_path / "run"
    small = ["--set", "encoder.hidden=[4]", "--set", "decoder.hidden=[4]"]
    assert command("train", tmp_path / "x.bytes", "--read", "width=6", *small, *QUICK, "--out", run) == 0
    assert runs.read_settings(run / "run.json")["reading"] == {"width": 6}
    assert runs.saved_model(run).input_shape == (6,)
    assert runs.held_out_data(run).x.shape == (4, 6)
