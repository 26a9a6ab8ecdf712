"""A hub on this machine, and a run to share."""

import pytest
import torch
from helpers import hub_server
from helpers.small_pictures import model

import vaekit


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_server.running() as server:
        hub_server.turn_to(server.address, tmp_path / "cache", monkeypatch)
        yield server


@pytest.fixture(scope="session")
def held_out():
    return torch.rand(30, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def run(tmp_path_factory, held_out):
    """A run of two epochs from Python, with a picture."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    vaekit.fit(model(), held_out, validation=held_out, epochs=2, batch_size=8, out=folder, progress=False, device="cpu")
    (folder / "samples.png").write_bytes(b"\x89PNG")
    return folder
