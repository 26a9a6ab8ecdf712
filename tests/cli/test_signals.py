"""Laws of being interrupted: ^C, SIGTERM and SIGHUP leave the weights so far, and an exit code that says which it was."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import LEFT, QUICK, SMALL, command
from helpers.terminal import NUMBERS, usual_signals

import vaekit
from vaekit.cli import signals
from vaekit.encoders import MLPEncoder
from vaekit.plots import catalogue
from vaekit.plots.catalogue import Entry
from vaekit.training.snapshots import Snapshots


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal():
    with usual_signals():
        yield


@pytest.fixture
def ends_itself(own_registries):
    """An encoder that sends its process signals in a step of training; set `numbers` and `step`."""

    @vaekit.encoders.register("ends-itself")
    class EndsItself(MLPEncoder):
        numbers, step, steps = (), 3, 0

        def forward(self, x):
            if self.training:
                EndsItself.steps += 1
                if EndsItself.steps == self.step:
                    send(self.numbers)
            return super().forward(x)

    return EndsItself


def send(numbers) -> None:
    first, *others = numbers
    try:
        signal.raise_signal(first)
    finally:
        for number in others:
            signal.raise_signal(number)


def train(data, out, *arguments) -> int:
    return command("train", data, *QUICK, *SMALL, "--set", "encoder.name=ends-itself", "--out", out, *arguments)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_weights_so_far_are_kept(number, ends_itself, data, tmp_path, capsys):
    ends_itself.numbers, ends_itself.step = (number,), 5  # of three steps an epoch
    out = tmp_path / "run"
    assert train(data, out, "--epochs", 9) == 128 + number
    assert {file.name for file in out.iterdir()} == {*LEFT, "stub.png"}
    assert vaekit.History.from_csv(out / "history.csv").epochs == 1
    assert vaekit.load(out / "last").latent_shape == (2,)
    printed = capsys.readouterr()
    assert "after 1 epoch" in printed.err
    assert str(out / "last") in printed.err


@pytest.mark.parametrize("number", NUMBERS)
def test_an_interrupted_run_is_gone_on_with(number, ends_itself, data, tmp_path, capsys):
    ends_itself.step, whole, out = 0, tmp_path / "whole", tmp_path / "run"
    assert train(data, whole, "--epochs", 3) == 0
    ends_itself.numbers, ends_itself.step, ends_itself.steps = (number,), 5, 0
    assert train(data, out, "--epochs", 3) == 128 + number
    assert f"vaekit train --resume {out}" in capsys.readouterr().err
    assert command("train", "--resume", out, "--no-progress") == 0
    for name in ("best/model.safetensors", "last/model.safetensors", "history.csv", "stub.png"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    longer = json.loads((out / "run.json").read_text())
    assert longer == json.loads((whole / "run.json").read_text())
    assert command("train", "--resume", out, "--no-progress", "--epochs", 4) == 0
    assert vaekit.History.from_csv(out / "history.csv").epochs == 4
    assert json.loads((out / "run.json").read_text()) == {**longer, "epochs": 4}


def test_a_run_that_is_gone_on_with_stays_what_it_is(data, tmp_path, mistake):
    out = tmp_path / "run"
    assert command("train", data, *SMALL, *QUICK, "--out", out) == 0
    assert "batch_size was 16 and is 8" in mistake("train", "--resume", out, "--batch-size", 8)
    assert "the loss's beta was not set and is 3" in mistake("train", "--resume", out, "--set", "loss.beta=3")
    assert "without --config and --out" in mistake("train", "--resume", out, "--out", out)
    assert "run.json" in mistake("train", "--resume", tmp_path / "other")


@pytest.mark.parametrize("number", NUMBERS)
def test_before_the_first_step_nothing_is_left_and_nothing_is_said_of_folders(
    number, ends_itself, data, tmp_path, capsys, monkeypatch
):
    ends_itself.step, out, write = 0, tmp_path / "run", Snapshots.write

    def interrupted(*arguments):
        signal.raise_signal(number)
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Snapshots, "write", interrupted)
        assert train(data, out) == 128 + number
    assert not out.exists()
    printed = capsys.readouterr()
    assert "before the first step" in printed.err
    assert str(out) not in printed.out + printed.err
    assert train(data, out) == 0


def test_a_second_signal_does_not_end_the_saving(ends_itself, data, tmp_path):
    ends_itself.numbers = (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM)
    assert train(data, tmp_path / "run") == 128 + signal.SIGTERM
    assert vaekit.load(tmp_path / "run" / "last").latent_shape == (2,)


@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_interrupted_while_it_draws_ends_with_the_signals_code_and_its_weights(
    number, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(catalogue.CATALOGUE, "stub", Entry(lambda _: True, lambda _: signal.raise_signal(number)))
    assert command("train", data, *SMALL, *QUICK, "--out", tmp_path / "run") == 128 + number
    assert capsys.readouterr().err == "vaekit: interrupted\n"
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        "run.json",
        "environment.json",
        "best",
        "last",
        "history.csv",
        "checkpoints",
    }


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_in_the_last_save_loses_nothing(number, data, tmp_path, monkeypatch):
    out, save, sent = tmp_path / "run", vaekit.VAE.save, []

    def interrupted(vae, folder):
        if Path(folder).name == "last" and not sent:
            sent.append(number)
            signal.raise_signal(number)
        return save(vae, folder)

    monkeypatch.setattr(vaekit.VAE, "save", interrupted)
    assert command("train", data, *SMALL, *QUICK, "--out", out) == 128 + number
    assert sent
    assert {file.name for file in out.iterdir()} == {*LEFT, "stub.png"}
    assert vaekit.load(out / "last").latent_shape == (2,)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP here")
def test_a_signal_that_is_ignored_stays_so(ends_itself, data, tmp_path):
    ends_itself.numbers = (signal.SIGHUP,)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        assert train(data, tmp_path / "run") == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_afterwards_the_signals_do_what_they_did():
    before = [signal.getsignal(number) for number in NUMBERS]
    with signals.as_interrupts():
        assert signal.getsignal(signal.SIGTERM) is not before[NUMBERS.index(signal.SIGTERM)]
    assert [signal.getsignal(number) for number in NUMBERS] == before


MODULE = """
import json
import signal
import vaekit
from vaekit.encoders import MLPEncoder
from vaekit.plots.catalogue import CATALOGUE

CATALOGUE.clear()

@vaekit.encoders.register("ends-itself")
class EndsItself(MLPEncoder):
    steps = 0
    def forward(self, x):
        EndsItself.steps += self.training
        if EndsItself.steps == 5:
            signal.raise_signal(signal.SIGTERM)
        return super().forward(x)
"""


def test_a_process_that_is_asked_to_end_saves_first(data, tmp_path):
    (tmp_path / "ends_itself.py").write_text(MODULE)
    arguments = ["train", data, *SMALL, *QUICK, "--epochs", 3, "--set", "encoder.name=ends-itself", "--out", tmp_path / "run"]
    program = [sys.executable, "-m", "vaekit", "--import", "ends_itself", *map(str, arguments)]
    environment = {"PYTHONPATH": str(Path(vaekit.__file__).parents[1]), "VAEKIT_NO_NATIVE": "1"}
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 143, done.stderr
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()
