"""Tests of dense layers keep what they measure in folders of their own, and forget it afterwards."""

import pytest

from vaekit.dense import choice, onednn


@pytest.fixture(autouse=True)
def _own_measurements(tmp_path, monkeypatch):
    monkeypatch.setenv("VAEKIT_DATA", str(tmp_path / "measurements"))
    monkeypatch.setattr(choice, "_decided", {})
    onednn.obstacle.cache_clear()
    yield
    onednn.obstacle.cache_clear()
