"""Runs to look at, made once; and a catalogue of one stub, since drawing takes most of a short run."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.commands import QUICK, SMALL, STUB_CATALOGUE, StubFigure, command, write_data

import vaekit
from vaekit import plots
from vaekit.plots import catalogue


@pytest.fixture(autouse=True)
def _stub_catalogue(request, monkeypatch):
    if "real_pictures" not in request.fixturenames:
        monkeypatch.setattr(catalogue, "CATALOGUE", STUB_CATALOGUE)


@pytest.fixture
def real_pictures():
    """For tests about pictures."""


@pytest.fixture
def drawn(monkeypatch):
    """What `plots.reconstructions` and `plots.samples` are asked to draw: a list of (positional arguments, options)."""
    calls = []
    for name in ("reconstructions", "samples"):
        monkeypatch.setattr(plots, name, lambda *arguments, **options: calls.append((arguments, options)) or StubFigure())
    return calls


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "x.npz")


def _trained(out: Path, *arguments) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "CATALOGUE", STUB_CATALOGUE)
        assert command("train", *SMALL, *QUICK, *arguments, "--out", out) == 0
    return out


@pytest.fixture(scope="session")
def run(data, tmp_path_factory) -> Path:
    """The folder of a run of two epochs, to be looked at only."""
    return _trained(tmp_path_factory.mktemp("runs") / "run", data, "--epochs", 2)


@pytest.fixture(scope="session")
def conditional_run(data, tmp_path_factory) -> Path:
    """The folder of a conditional run, to be looked at only."""
    options = ["--set", "condition=labels", "--set", "condition.dim=2"]
    return _trained(tmp_path_factory.mktemp("runs") / "conditional", data, *options)


@pytest.fixture
def own_run(run, tmp_path) -> Path:
    """A copy of the run, which a test may write into."""
    return Path(shutil.copytree(run, tmp_path / "own-run"))


@pytest.fixture
def mistake(capsys):
    """Runs the command and gives the one line on stderr."""

    def line(*arguments, code=2) -> str:
        capsys.readouterr()
        got = command(*arguments)
        stderr = capsys.readouterr().err
        assert got == code, stderr
        assert stderr.startswith("vaekit: ")
        assert stderr.endswith("\n")
        assert stderr.count("\n") == 1, stderr
        assert len(stderr) > len("vaekit: \n")
        return stderr.removeprefix("vaekit: ").strip()

    return line


@pytest.fixture
def trained(data, tmp_path):
    """Trains with the given arguments and gives what the run and its model say they are."""

    def train(*arguments):
        out = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        assert command("train", data, *QUICK, "--out", out, *arguments) == 0
        return json.loads((out / "run.json").read_text()), vaekit.load(out / "last").config()

    return train
