"""How time and memory grow: slopes are those of power laws, models those that are named, and a run keeps what others measured."""

import csv
import importlib
import math
import re
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("scaling")
    for name in ("scaling", "harness", "peers", "peers.torch_networks"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_slope_of_a_power_law_is_its_power_at_the_largest_sizes(scaling, power):
    sizes = [1, 2, 8, 32, 64]
    assert scaling.slope(sizes, [100.0, 50.0, *(3.0 * size**power for size in sizes[2:])]) == pytest.approx(power, abs=1e-12)
    assert scaling.slope([4], [1.0]) is None
    assert scaling.slope([4, 8, 16], [1.0, 2.0, 0.0]) is None


def test_what_grows_faster_than_its_arithmetic_is_marked(scaling):
    def rows(contender, power):
        figures = {"memory_mib": "5", "gflop": ""}
        return [
            {"axis": "batch", "threads": "1", "contender": contender, "size": n, "ms": n**power, **figures} for n in (4, 8, 16)
        ]

    linear = [{**row, "gflop": row["size"]} for row in rows("bare loop", 1.0)]
    head, vaekit, bare = scaling.slopes([*rows("vaekit", 1.5), *linear], ["batch"], [1])
    assert vaekit == ("batch", 1, "vaekit", "4, 8, 16", "1.50", "1.00", "0.00", "above")
    assert bare == ("batch", 1, "bare loop", "4, 8, 16", "1.00", "1.00", "0.00", "")
    quadratic = [{**row, "gflop": row["size"] ** 2} for row in linear]
    assert scaling.slopes([*rows("vaekit", 2.0), *quadratic], ["batch"], [1])[1][-1] == "", "the arithmetic is quadratic"


@pytest.mark.parametrize("axis", ["batch", "latent", "width", "image", "draws"])
def test_both_contenders_train_the_same_model_and_the_arithmetic_grows_with_the_axis(scaling, axis):
    sizes = scaling.SIZES[axis][:3]
    for size in sizes:
        point = scaling.Point.at(axis, size)
        shapes = [sorted(tuple(p.shape) for p in model.parameters()) for model in (point.vae(), point.bare())]
        assert shapes[0] == shapes[1]
        assert point.vae()(point.data()[:4]).total.isfinite()
    flops = [scaling.gflop(scaling.Point.at(axis, size)) for size in sizes]
    assert flops == sorted(flops)
    assert axis in ("latent", "width") or flops[2] / flops[1] == pytest.approx(sizes[2] / sizes[1], rel=0.2)


def test_the_bare_bound_of_a_decoder_that_ignores_z_is_the_likelihood(scaling):
    model = scaling.Point(draws=7).bare()
    for layer in (model.head, model.decoder[-1]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    assert model(torch.rand(5, 784)).item() == pytest.approx(784 * math.log(2), rel=1e-5)


def test_a_run_goes_up_the_sizes_and_keeps_what_others_measured(scaling, tmp_path, capsys):
    file, picture = tmp_path / "scaling.csv", tmp_path / "scaling.png"
    others = [{"axis": axis, "threads": 1, "contender": "vaekit", "size": 4, "ms": "5e9"} for axis in ("latent", "draws")]
    scaling.record(file, scaling.HEAD, scaling.KEY, others)
    options = ["--threads", "1", "--epochs", "2", "--csv", str(file), "--plot", str(picture)]
    scaling.main(["--axes", "latent", "--sizes", "4", "2", "--contenders", "vaekit", *options])
    with open(file, newline="") as stream:
        rows = {(row["axis"], row["size"]): float(row["ms"]) for row in csv.DictReader(stream)}
    assert list(rows) == [("latent", "4"), ("draws", "4"), ("latent", "2")]
    assert rows["draws", "4"] == 5e9
    assert max(rows["latent", "4"], rows["latent", "2"]) < 1e9
    assert picture.stat().st_size > 0
    assert "2, 4" in capsys.readouterr().out


def test_a_size_that_takes_too_long_is_left_early(scaling):
    clock = scaling.Clock(0.0)
    clock.on_epoch_end(None)  # the first is not measured
    with pytest.raises(scaling.Enough):
        clock.on_epoch_end(None)
    assert len(clock.seconds) == 1


@pytest.mark.parametrize(("options", "message"), [(["--sizes", "4"], "--axes"), (["--epochs", "1"], "at least 2, .* got 1")])
def test_options_that_do_not_fit_are_refused(scaling, options, message, capsys):
    with pytest.raises(SystemExit):
        scaling.main(options)
    assert re.search(message, capsys.readouterr().err)
