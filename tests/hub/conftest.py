"""A hub on this machine, and huggingface_hub in this process turned to it."""

import pytest
from helpers import hub_server


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_server.running() as server:
        hub_server.turn_to(server.address, tmp_path / "cache", monkeypatch)
        yield server
