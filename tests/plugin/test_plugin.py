"""The example plugin, found through entry-point metadata as an installer would write it, without installing anything."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vaekit
from vaekit import Registry, UnknownNameError, specs


@pytest.fixture
def encoders(site, monkeypatch):
    """A registry of encoders that sees the plugins, in the place of vaekit's own."""
    monkeypatch.syspath_prepend(site)
    registry = Registry("encoder", "vaekit.encoders", vaekit.Encoder)
    monkeypatch.setitem(specs.KINDS, "encoder", replace(specs.KINDS["encoder"], registry=registry))
    yield registry
    for module in ("vaekit_series", "vaekit_broken"):
        sys.modules.pop(module, None)


@pytest.fixture
def model(encoders):
    """A small model with the plugin's encoder."""
    return vaekit.create_vae(
        input_shape=(6, 2), latent_dim=3, encoder={"name": "series-gru", "width": 5}, decoder={"hidden": (8,)}, seed=0
    )


def test_the_metadata_is_what_an_installer_would_give(encoders):
    found = {e.name: e.value for e in importlib.metadata.entry_points(group="vaekit.encoders")}
    assert found.items() >= {"series-gru": "vaekit_series:SeriesGRU", "broken": "vaekit_broken:Broken"}.items()
    assert importlib.metadata.version("vaekit-example") == "0.1"


def test_the_plugins_encoder_trains(model):
    before = [p.detach().clone() for p in model.encoder.parameters()]
    history = vaekit.fit(model, torch.rand(8, 6, 2), epochs=1, batch_size=8, device="cpu", progress=False)
    assert len(history["loss"]) == 1
    assert all(not torch.equal(p, b) for p, b in zip(model.encoder.parameters(), before, strict=True))


def test_the_plugins_encoder_is_saved_and_loaded(model, tmp_path):
    loaded = vaekit.load(model.save(tmp_path / "model"))
    assert json.loads((tmp_path / "model" / "config.json").read_text())["encoder"] == {
        "name": "series-gru",
        "input_shape": [6, 2],
        "latent_dim": 3,
        "width": 5,
    }
    x = torch.rand(4, 6, 2)
    assert type(loaded.encoder) is type(model.encoder)
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))


def test_a_plugins_options_are_checked_like_any_other(encoders):
    with pytest.raises(TypeError, match=r"'series-gru'.*'widht'.*'width'"):
        encoders.create("series-gru", input_shape=(6, 2), latent_dim=3, widht=5)


def test_the_broken_plugin_is_warned_about_and_named_in_the_error(encoders):
    with pytest.warns(RuntimeWarning, match=r"'broken'.*vaekit_broken:Broken"):
        assert encoders.names() == ["series-gru"]
    with pytest.raises(UnknownNameError, match="'broken'.*this plugin needs a newer"):
        encoders.create("broken")


PROGRAM = """
import json, sys, warnings
import torch, vaekit

plugins = {"vaekit_series", "vaekit_broken"}
found = {"after import": sorted(plugins & set(sys.modules))}
vaekit.create_vae(input_shape=(3,), latent_dim=1, encoder={"hidden": (2,)}, decoder={"hidden": (2,)})
found["after a built-in"] = sorted(plugins & set(sys.modules))
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    loaded = vaekit.load(sys.argv[1])
    found["after the load"] = sorted(plugins & set(sys.modules))
    found["names"] = vaekit.encoders.names()
found["warnings"] = [str(w.message) for w in seen if "plugin" in str(w.message)]
found["reconstruction"] = loaded.reconstruct(torch.ones(1, 6, 2)).flatten().tolist()
print(json.dumps(found))
"""


def test_another_process_loads_the_model_without_importing_the_plugin_itself(model, site, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(Path(vaekit.__file__).parents[1])])}
    folder = model.save(tmp_path / "model")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["after import"] == found["after a built-in"] == []
    assert found["after the load"] == ["vaekit_series"]
    assert len(found["warnings"]) == 1
    assert {"series-gru", "mlp", "conv"} <= set(found["names"])
    assert "broken" not in found["names"]
    expected = model.reconstruct(torch.ones(1, 6, 2)).flatten()
    torch.testing.assert_close(torch.tensor(found["reconstruction"]), expected)
