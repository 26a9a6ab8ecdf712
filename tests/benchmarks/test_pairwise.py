"""The benchmark of the pairwise objectives compares forms that agree, and has a line for each size."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
from torch.testing import assert_close

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)  # the script imports its harness from beside it
    spec = importlib.util.spec_from_file_location("benchmarks_pairwise_objectives", FOLDER / "pairwise_objectives.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("harness", None)


@pytest.mark.parametrize("objective", ["beta_tc", "mmd"])
def test_all_forms_have_one_value_and_gradient(benchmark, objective):
    inputs = [t.double().detach().requires_grad_(t.requires_grad) for t in benchmark.codes(40, 5, "cpu")]
    values = [benchmark.value(objective, form, *inputs) for form in benchmark.FORMS]
    gradients = [benchmark.torch.autograd.grad(value, inputs[:2]) for value in values]
    for value, gradient in zip(values[1:], gradients[1:], strict=True):
        assert_close(value, values[0], rtol=1e-10, atol=0.0)
        assert_close(gradient, gradients[0], rtol=1e-8, atol=1e-12)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of the resident memory")
@pytest.mark.parametrize("objective", ["beta_tc", "mmd"])
def test_less_than_a_number_for_each_pair_is_ever_held(benchmark, objective):
    """Whoever asked for it: what compiled kernels take is no tensor that PyTorch knows."""
    assert float(benchmark.memory(objective, "vaekit", "4000x8", "cpu", 1)) < 4 * 4000 * 4000 / 2**20


def test_the_table_has_a_line_for_each_objective_and_size(benchmark, tmp_path, monkeypatch):
    file, measured = tmp_path / "table.csv", benchmark.memory
    # Each in a process of its own, which takes seconds: one stands for all.
    monkeypatch.setattr(benchmark, "memory", lambda *of: measured(*of) if of[:2] == ("mmd", "naive") else f"memory of {of[1]}")
    benchmark.main(["--size", "4x2", "--rounds", "1", "--threads", "1", "--csv", str(file)])
    head, *lines = csv.reader(file.read_text().splitlines())
    assert [line[:3] for line in lines] == [["beta_tc", "4", "2"], ["mmd", "4", "2"]]
    assert all(cell not in ("", "-") for line in lines for cell in line)


@pytest.mark.parametrize("size", ["1024", "1x4", "8x0", "axb"])
def test_sizes_that_are_none_are_refused(benchmark, size, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--size", size])
    assert "a size is ROWSxLATENTS" in capsys.readouterr().err
