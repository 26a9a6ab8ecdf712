"""The table of presets is whole, and what it calls a step is one."""

import csv
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

import vaekit

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)  # the scripts import their harness from beside them
    spec = importlib.util.spec_from_file_location("benchmarks_presets", FOLDER / "presets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TIMED_SECONDS", 0.0)
    yield module
    sys.modules.pop("harness", None)


def test_the_table_has_a_line_for_each_preset_that_was_asked_for(benchmark, tmp_path, capsys):
    asked = ["dense-mnist", "conv-mnist", "dense-mnist"]
    options = ["--batch-size", "2", "--rounds", "1", "--threads", "1", "--csv", str(tmp_path / "table.csv")]
    benchmark.main([*(word for name in asked for word in ("--preset", name)), *options])
    head, *lines = csv.reader((tmp_path / "table.csv").read_text().splitlines())
    assert head == ["preset", "parameters", "forward", "training", "memory, MiB"]
    assert [line[:2] for line in lines] == [["dense-mnist", "4,166,836"], ["conv-mnist", "1,685,317"]]
    for _, _, forward, training, memory in lines:
        assert all(re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", speed) for speed in (forward, training))
        assert memory == "unknown" or float(memory) > 0
    printed = capsys.readouterr().out
    assert all(cell in printed for line in lines for cell in line)


@pytest.mark.parametrize("name", vaekit.presets.names())
def test_every_preset_can_draw_the_batch_that_it_is_timed_on(benchmark, name):
    vae = benchmark.model(name)
    x = benchmark.drawn_batch(vae, 2)
    assert x.shape == (2, *vae.input_shape)
    vae.likelihood.check(x)
    assert vae(x).total.isfinite()


def test_a_step_makes_every_gradient_and_leaves_the_weights(benchmark):
    vae = vaekit.create_vae(input_shape=(3,), latent_dim=2, encoder={"hidden": (4,)}, decoder={"hidden": (4,)}, seed=0)
    before, with_gradient = [p.detach().clone() for p in vae.parameters()], set()
    for name, parameter in vae.named_parameters():
        parameter.register_hook(lambda gradient, name=name: with_gradient.add(name))
    benchmark.training(vae, benchmark.drawn_batch(vae, 5))()
    assert with_gradient == {name for name, _ in vae.named_parameters()}
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    assert vae.training


def test_forward_keeps_no_graph_and_is_in_evaluation_mode(benchmark):
    vae = vaekit.create_vae(input_shape=(3,), latent_dim=2, seed=0)
    terms = benchmark.forward(vae, benchmark.drawn_batch(vae, 5))()
    assert terms.reconstruction.shape == (5,)
    assert not terms.total.requires_grad
    assert not vae.training


@pytest.mark.parametrize("option", ["--batch-size", "--rounds", "--threads"])
def test_a_size_below_one_is_refused(benchmark, option, capsys):
    with pytest.raises(SystemExit):
        benchmark.main([option, "0"])
    assert f"{option} has to be at least 1, got 0" in capsys.readouterr().err
