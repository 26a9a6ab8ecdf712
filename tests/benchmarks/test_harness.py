"""What all benchmarks rest on: contenders take turns, a comparison is taken within a round, a table is what it was given."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "harness.py"


@pytest.fixture(scope="module")
def harness():
    spec = importlib.util.spec_from_file_location("benchmarks_harness", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_contenders_take_turns_in_an_order_that_changes_after_one_warm_up_each(harness):
    turns = []

    def contender(name):
        def run():
            turns.append(name)
            return float(len(turns))

        return run

    seconds = harness.interleaved({name: contender(name) for name in "abc"}, rounds=20)
    rounds = [turns[start : start + 3] for start in range(0, len(turns), 3)]
    assert len(rounds) == 21
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds[1:]}) > 1, "the order is shuffled"
    for name in "abc":
        assert seconds[name] == [4.0 + 3 * number + names.index(name) for number, names in enumerate(rounds[1:])]


def test_a_slow_round_slows_all_and_so_changes_no_ratio(harness):
    drift = [1.0, 7.0, 3.0]
    assert harness.ratios([2 * slow for slow in drift], drift) == [2.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="shorter"):
        harness.ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize("count", [3, 4, 9, 10])
def test_quartiles_are_those_of_the_textbook(harness, count):
    values = np.random.default_rng(0).normal(size=count)
    expected = np.quantile(values, (0.25, 0.5, 0.75), method="weibull")
    np.testing.assert_allclose(harness.quartiles(values.tolist()), expected)


def test_a_figure_of_few_rounds_shows_its_range(harness):
    assert harness.quartiles([3.0, 1.0]) == (1.0, 2.0, 3.0)
    assert harness.spread([0.001, 0.003], scale=1000, digits=1) == "2.0 (1.0 to 3.0)"
    assert harness.mean_and_deviation([1.0, 3.0]) == "2.00 (1.41)"
    assert harness.mean_and_deviation([1.0]) == "1.00 (-)"


def test_the_columns_of_a_table_are_aligned_and_its_csv_has_its_rows(harness, tmp_path):
    rows = [("name", "s"), ("a", 1.5), ("longer", 10)]
    assert harness.table(rows) == "name    s\n------  ---\na       1.5\nlonger  10"
    harness.write_csv(tmp_path / "table.csv", rows)
    assert list(csv.reader((tmp_path / "table.csv").read_text().splitlines())) == [[str(cell) for cell in row] for row in rows]
