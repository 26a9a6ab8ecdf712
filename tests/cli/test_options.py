"""Laws of `fit`'s options in the command: one record gives the flags, what --set and run.json may say, and what `fit` gets."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pytest
import typer
from helpers.commands import QUICK, SMALL, command

import vaekit
from vaekit import runs
from vaekit.cli.options import with_flags_of
from vaekit.training import FitOptions

VALUES = {
    "epochs": 3,
    "planned_epochs": 3,
    "batch_size": 7,
    "learning_rate": 0.25,
    "optimizer": "sgd",
    "precision": "bf16",
    "accumulate": 2,
    "ema": 0.5,
    "gradient_clip": 1.5,
    "compile": True,
    "keep": 3,
    "checkpoint_minutes": 2.5,
    "seed": 4,
    "device": "cpu",
    "devices": 1,  # two are a process each
    "strategy": "ddp",
    "trackers": ["csv", "jsonl"],
    "time_limit": 30.0,
    "on_nonfinite": "skip",
    "initialize_output_bias": True,
}


@dataclass(frozen=True)
class Options:
    count: int = field(default=30, metadata={"help": "How many."})
    rate: float | Mapping[str, Any] = field(default=0.5, metadata={"help": "How fast."})
    limit: float | None = field(default=None, metadata={"help": "How far; no limit by default."})
    name: str = field(default="auto", metadata={"help": "Which."})
    deep: bool = field(default=False, metadata={"help": "Whether."})
    many: Sequence[str | Mapping[str, Any]] = field(default=("a", "b"), metadata={"help": "All of them."})
    parts: Mapping[str, Any] | None = field(default=None, metadata={"help": "Not to be typed."})


@pytest.fixture
def given_flags():
    """Runs a command with a flag for each of the options above and gives what it got."""
    app, got = typer.Typer(), {}

    @app.command()
    @with_flags_of(Options)
    def run(word: str = "none", **options: Any) -> None:
        got.clear()
        got.update(options, word=word)

    def call(*arguments: str) -> dict[str, Any]:
        app(list(arguments), standalone_mode=False)
        return got

    return call


def test_a_record_gives_a_command_its_flags(given_flags):
    arguments = [
        "--word",
        "x",
        "--count",
        "3",
        "--rate",
        "0.25",
        "--limit",
        "2",
        "--name",
        "cpu",
        "--deep",
        "--many",
        "x",
        "--many",
        "y",
    ]
    expected = {"word": "x", "count": 3, "rate": 0.25, "limit": 2.0, "name": "cpu", "deep": True, "many": ["x", "y"]}
    assert given_flags(*arguments) == expected
    assert given_flags("--no-deep")["deep"] is False


def test_a_flag_that_is_not_given_says_nothing(given_flags):
    assert given_flags() == {"word": "none", **dict.fromkeys(("count", "rate", "limit", "name", "deep", "many"))}


def test_help_says_what_an_option_is_and_what_it_usually_is(given_flags, capsys):
    given_flags("--help")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())  # in a frame, where the package rich is installed
    for words in (
        "How many. 30 by default.",
        "How fast. 0.5 by default.",
        "How far; no limit by default.",
        "Which. auto by default.",
        "All of them. a, b by default.",
    ):
        assert words in text
    assert "--parts" not in text


def test_every_option_of_fit_has_an_example_here():
    assert set(VALUES) == {option.name for option in fields(FitOptions)}


@pytest.mark.parametrize("way", ["flag", "set", "set fit", "config", "config fit"])
@pytest.mark.parametrize("name", VALUES)
def test_every_option_of_fit_reaches_it_every_way(name, way, data, tmp_path, monkeypatch):
    got, value = {}, VALUES[name]
    monkeypatch.setattr(runs, "fit", lambda *_, **options: got.update(options) or runs.History())
    flag = f"--{name.replace('_', '-')}"
    settings = {name: value} if way == "config" else {"fit": {name: value}}
    (tmp_path / "run.json").write_text(json.dumps(settings))
    arguments = {
        "flag": [flag]
        if value is True
        else [part for each in value for part in (flag, each)]
        if isinstance(value, list)
        else [flag, value],
        "set": ["--set", f"{name}={json.dumps(value)}"],
        "set fit": ["--set", f"fit.{name}={json.dumps(value)}"],
    }.get(way, ["--config", tmp_path / "run.json"])
    command("train", data, *SMALL, "--no-progress", "--out", tmp_path / "out", *arguments)
    assert got[name] == value


@pytest.mark.parametrize(
    ("settings", "assignments", "name", "value"),
    [
        ({}, ["optimizer=sgd", "optimizer.momentum=0.9"], "optimizer", {"name": "sgd", "momentum": 0.9}),
        ({"optimizer": "sgd"}, ["fit.optimizer.momentum=0.9"], "optimizer", {"name": "sgd", "momentum": 0.9}),
        ({"optimizer": {"name": "sgd", "momentum": 0.9}}, ["optimizer=adamw"], "optimizer", "adamw"),
        (
            {"learning_rate": 0.1},
            ["learning_rate.name=linear", "learning_rate.steps=5"],
            "learning_rate",
            {"name": "linear", "steps": 5},
        ),
        ({"learning_rate": {"name": "linear", "steps": 5}}, ["learning_rate=0.1"], "learning_rate", 0.1),
    ],
)
def test_an_optimizer_and_a_schedule_have_options(settings, assignments, name, value, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(settings))
    assert runs.merged_settings(tmp_path / "run.json", assignments, {})[name] == value


def test_a_run_trains_with_another_optimizer_and_a_scheduled_learning_rate(data, tmp_path):
    changes = ["optimizer=sgd", "optimizer.momentum=0.9", "learning_rate.name=linear", "learning_rate.steps=3"]
    changes = [argument for change in changes for argument in ("--set", change)]
    assert command("train", data, *SMALL, *QUICK, *changes, "--out", tmp_path / "run") == 0
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["optimizer"] == {"name": "sgd", "momentum": 0.9}
    assert written["learning_rate"] == {"name": "linear", "steps": 3}
    again = ["train", "--config", tmp_path / "run" / "run.json", "--no-progress", "--out", tmp_path / "again"]
    assert command(*again) == 0
    assert (tmp_path / "again" / "history.csv").read_bytes() == (tmp_path / "run" / "history.csv").read_bytes()


def test_a_wrong_option_is_found_before_the_data_is_read(tmp_path, mistake):
    assert "epochs" in mistake("train", tmp_path / "nowhere.npy", "--epochs", 0)


@pytest.mark.parametrize("assignment", ["fit.momentum=1", "fit.epochs.first=3", "fit.encoder=mlp", "fit=3", "fit.=3"])
def test_what_is_not_an_option_of_fit_is_refused(assignment, data, tmp_path, mistake):
    assert assignment in mistake("train", data, *SMALL, *QUICK, "--out", tmp_path / "out", "--set", assignment)


def test_a_run_json_that_says_an_option_twice_is_refused(tmp_path, data, mistake):
    (tmp_path / "run.json").write_text('{"epochs": 3, "fit": {"epochs": 4}}')
    assert "epochs" in mistake("train", data, "--config", tmp_path / "run.json", "--out", tmp_path / "out")


def test_layout_and_array_say_what_is_in_the_data(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (20, 3, 6, 3), np.uint8)
    np.savez(tmp_path / "x.npz", mine=pictures, kinds=np.arange(20) % 2)
    small = ["--set", "encoder.hidden=[4]", "--set", "decoder.hidden=[4]"]
    said = ["--layout", "NHWC", "--array", "x=mine", "--array", "y=kinds"]
    assert command("train", tmp_path / "x.npz", *said, *small, *QUICK, "--out", tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["reading"] == {
        "layout": "NHWC",
        "arrays": {"x": "mine", "y": "kinds"},
    }
    assert vaekit.load(tmp_path / "run" / "last").input_shape == (3, 3, 6)


@pytest.mark.parametrize("array", ["mine", "x=", "=mine"])
def test_an_array_without_a_role_or_a_name_is_one_line(tmp_path, mistake, array):
    np.savez(tmp_path / "x.npz", mine=np.ones((20, 3)))
    assert "takes x=NAME" in mistake("train", tmp_path / "x.npz", "--array", array)
