"""What the benchmarks of imputation and anomalies take away, split and compare."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)  # the scripts import their harness from beside them

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    sys.modules.pop("harness", None)


def test_gaps_are_a_share_of_the_values_and_nothing_else_is_changed(benchmark):
    complete = np.random.default_rng(0).normal(size=(400, 3))
    x = benchmark("imputation").with_gaps(complete, 0.6, seed=1)
    assert np.isnan(x).mean() == pytest.approx(0.55, abs=0.05)
    assert not np.isnan(x).all(1).any()
    np.testing.assert_array_equal(x[~np.isnan(x)], complete[~np.isnan(x)])


def test_the_best_of_scikit_learn_is_the_one_with_the_least_mean_and_is_taken_seed_by_seed(benchmark):
    errors = {"neighbours": (0.5, 0.9), "bayesian ridge": (0.6, 0.7), "vaekit": (0.5, 0.8)}
    rows = [
        {"table": "wine", "contender": name, "seed": seed, "rmse": error}
        for name, both in errors.items()
        for seed, error in enumerate(both)
    ]
    head, line = benchmark("imputation").summary(rows, ["wine"])
    shown = dict(zip(head, line, strict=True))
    assert shown["neighbours"] == "0.700 (0.283)"
    assert shown["less best of scikit-learn"] == "0.000 (0.141)"  # of ridge: -0.1 and 0.1
    assert shown["extra trees"] == ""


def test_contenders_learn_from_ordinary_examples_and_score_the_others_and_all_that_is_strange(benchmark):
    module = benchmark("anomalies")
    train, test, is_strange = module.split("wine 1", seed=0)
    assert len(train) == round(0.6 * 71)
    assert len(test) == 178 - len(train)
    assert is_strange.sum() == 178 - 71
    np.testing.assert_allclose(train.mean(0), 0.0, atol=1e-9)
    assert not {tuple(row) for row in train} & {tuple(row) for row in test[~is_strange]}


def test_the_mean_is_over_settings(benchmark):
    rows = [
        {"setting": setting, "contender": "vaekit", "seed": seed, "auc": area}
        for setting, areas in {"wine 0": (0.8, 1.0), "digits 4": (0.6,)}.items()
        for seed, area in enumerate(areas)
    ]
    lines = benchmark("anomalies").summary(rows, ["vaekit"])
    assert lines[1:] == [("wine 0", "0.900 (0.141)"), ("digits 4", "0.600 (-)"), ("mean", "0.750")]
