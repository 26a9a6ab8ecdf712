"""A model that is downloaded imports no plugin; the same file on this machine does."""

import sys

import pytest
from helpers.hub_server import Repository

import vaekit
from vaekit.registry import UnknownNameError

PLUGIN = """
import vaekit
class Likeness(vaekit.likelihoods.Bernoulli):
    "A plugin's."
"""


@pytest.fixture
def announced(tmp_path, monkeypatch):
    """A package on the path that announces the likelihood "likeness", and a model with it, in a folder."""
    site = tmp_path / "site"
    (site / "likeness-1.0.dist-info").mkdir(parents=True)
    (site / "likeness-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: likeness\nVersion: 1.0\n")
    (site / "likeness-1.0.dist-info" / "entry_points.txt").write_text(
        "[vaekit.likelihoods]\nlikeness = likeness_of_us:Likeness\n"
    )
    (site / "likeness_of_us.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(site))
    registry = vaekit.likelihoods.registry
    monkeypatch.setattr(registry, "_pending", None)
    monkeypatch.setattr(registry, "_parts", dict(registry._parts))
    folder = vaekit.create_vae(input_shape=(4,), latent_dim=2, likelihood="likeness").save(tmp_path / "model")
    monkeypatch.setattr(registry, "_pending", None)
    registry._parts.pop("likeness")
    monkeypatch.delitem(sys.modules, "likeness_of_us")
    return folder


def test_a_download_imports_no_plugin_and_says_how_to(hub, announced):
    hub.repositories["me/likeness"] = Repository()
    hub.repositories["me/likeness"].commit("main", {"model.safetensors": (announced / "model.safetensors").read_bytes()}, "a")
    with pytest.raises(UnknownNameError) as caught:
        vaekit.load("hf://me/likeness")
    assert "likeness_of_us" not in sys.modules
    assert "An installed package announces one, which is not imported for a model that comes from elsewhere" in str(caught.value)
    assert "vaekit.likelihoods.describe('likeness') imports it" in str(caught.value)
    assert "before loading hf://me/likeness" in str(caught.value)
    vaekit.likelihoods.describe("likeness")
    assert type(vaekit.load("hf://me/likeness").likelihood).__name__ == "Likeness"


def test_the_same_file_on_this_machine_imports_it(announced):
    assert type(vaekit.load(announced).likelihood).__name__ == "Likeness"
    assert "likeness_of_us" in sys.modules
