"""What the benchmarks of objectives show follows from the library's figures, seed by seed."""

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import vaekit

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY_DIGITS = ["--every", "50", "--passes", "2", "--copies", "1", "--samples", "10", "--latent-dim", "3"]
TINY_SHAPES = ["--size", "8", "--scales", "2", "--positions", "3", "--epochs", "1", "--width", "8", "--latent-dim", "2"]


def script(name, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)  # the scripts import their harness from beside them
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def as_it_was():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    sys.modules.pop("harness", None)


@pytest.fixture(scope="module")
def mnist5k():
    return vaekit.data.load("mnist5k")


@pytest.fixture
def weighting(monkeypatch, mnist5k):
    monkeypatch.setattr(vaekit.data, "load", lambda name: mnist5k)  # reading it takes seconds
    return script("importance_weighting", monkeypatch)


@pytest.fixture
def disentangling(monkeypatch):
    return script("disentangling", monkeypatch)


def read(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def printed_rows(printed):
    """The cells of each line that a table has, by what it begins with."""
    return {line.split("  ")[0]: [cell.strip() for cell in line.split("  ") if cell] for line in printed.splitlines()}


def mean_and_deviation(values, digits):
    return f"{np.mean(values):.{digits}f} ({np.std(values, ddof=1):.{digits}f})"


def test_a_mean_has_its_deviation_from_seed_to_seed(weighting):
    values = [1.0, 2.5, 7.25]
    assert weighting.mean_and_deviation(values, 3) == mean_and_deviation(values, 3)
    assert weighting.mean_and_deviation([1.0], 1) == "1.0 (-)"


def test_a_pixel_is_one_as_often_as_it_is_grey(weighting):
    grey, times = torch.linspace(0.0, 1.0, 11), 20_000
    drawn = weighting.binarised(grey.expand(times, -1), vaekit.make_key(3))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    errors = torch.sqrt(grey * (1.0 - grey) / times)
    assert bool(((drawn.mean(0) - grey).abs() <= 4.0 * errors).all())  # black and white exactly


def test_no_digit_is_both_learned_and_judged(weighting, mnist5k):
    train, test = mnist5k
    data = weighting.digits(copies=2)
    assert [len(part) for part in data] == [2 * 4000, 500, 500]
    first, second = data.train.chunk(2)
    assert not torch.equal(first, second)
    held_out = torch.arange(4500) % 9 == 8
    for drawn, grey in ((first, train.x[~held_out]), (second, train.x[~held_out]), (data.validation, train.x[held_out])):
        assert bool(((drawn == grey) | ((grey > 0) & (grey < 1))).all())  # each is a draw of the digit in its place
    assert bool(((data.test == test.x) | ((test.x > 0) & (test.x < 1))).all())
    assert train.y[held_out].bincount().tolist() == [50] * 10
    again = weighting.digits(copies=1)
    assert torch.equal(again.validation, data.validation)
    assert torch.equal(again.test, data.test)


def test_the_outcome_is_that_of_the_epoch_with_the_best_validation(weighting):
    """Against a run that looks at validation and test digits after every epoch, at a rate that overfits at once."""
    scale = weighting.Scale(draws=(2,), every=50, latent_dim=3, passes=12, copies=2, batch_size=5, learning_rate=0.05, samples=10)
    data = weighting.digits(scale.copies, scale.every)
    seen = []

    class Look(vaekit.Callback):
        def on_epoch_end(self, state):
            bound, test = (
                vaekit.evaluation.importance_weighted_bound(state.vae, x, num_samples=samples)
                for x, samples in ((data.validation, weighting.VALIDATION_SAMPLES), (data.test, 10))
            )
            active = int(vaekit.evaluation.latent_statistics(state.vae, data.test).active.sum())
            outcome = (2 * (state.epoch + 1), -test.log_likelihood, test.standard_error, active)
            seen.append((bound.log_likelihood, outcome))

    vae = vaekit.create_vae("burda-mnist", latent_dim=3, loss={"name": "iwae", "num_samples": 2}, seed=4)
    options = {"batch_size": 5, "learning_rate": 0.05, "seed": 4, "progress": False, "initialize_output_bias": True}
    torch.set_num_threads(1)
    vaekit.fit(vae, data.train, epochs=6, callbacks=[Look()], device="cpu", **options)
    bounds = [bound for bound, _ in seen]
    assert bounds.index(max(bounds)) < 5, "the last epoch is the best: the choice would not show"
    assert weighting.outcomes(scale, seed=4)["IWAE", 2] == pytest.approx(max(seen)[1], rel=1e-12)


def test_differences_of_importance_weighting_are_taken_within_a_seed(weighting, tmp_path, capsys):
    file = tmp_path / "runs.csv"
    weighting.main([*TINY_DIGITS, "--draws", "2", "1", "--seeds", "3", "--processes", "1", "--csv", str(file)])
    rows, runs = printed_rows(capsys.readouterr().out), read(file)
    objectives = ["VAE-1", "VAE-2", "IWAE-1", "IWAE-2"]
    assert [(run["seed"], run["objective"]) for run in runs] == [(str(s), o) for s in range(3) for o in objectives]

    def column(name, objective):
        return np.array([float(run[name]) for run in runs if run["objective"] == objective])

    for objective in objectives:
        nll, error, active = (column(name, objective) for name in ("nll", "error", "active"))
        expected = [mean_and_deviation(nll, 2), f"{error.max():.2f}", mean_and_deviation(active, 1)]
        assert rows[objective][2:] == expected
    pairs = [("VAE-2", "VAE-1"), ("IWAE-2", "IWAE-1"), ("IWAE-1", "VAE-1"), ("IWAE-2", "VAE-2")]
    for first, second in pairs:
        nll, active = (column(name, first) - column(name, second) for name in ("nll", "active"))
        assert rows[f"{first} - {second}"][1:] == [mean_and_deviation(nll, 2), mean_and_deviation(active, 1)]


def test_an_outcome_does_not_depend_on_what_else_is_compared(weighting):
    few = weighting.Scale(draws=(5,), every=50, latent_dim=3, passes=2, copies=1, batch_size=20, learning_rate=1e-3, samples=10)
    more = few._replace(draws=(1, 5))
    together = weighting.outcomes(more, seed=1)
    assert all(together[objective] == outcome for objective, outcome in weighting.outcomes(few, seed=1).items())


TINY_SCALE = {"size": 8, "scales": 1, "positions": 3, "latent_dim": 2, "width": 8, "epochs": 2, "batch_size": 10}


def test_the_pictures_have_no_factor_with_one_value(disentangling):
    x, factors = disentangling.pictures(disentangling.Scale((), **TINY_SCALE, learning_rate=1e-2))
    assert len(x) == len(factors) == 3 * 1 * 3 * 3
    assert [len(column.unique()) for column in factors.T] == [3, 3, 3]  # shape, x, y


def test_the_scores_are_the_library_s(disentangling):
    scale = disentangling.Scale((("beta_tc", 3.0),), **TINY_SCALE, learning_rate=1e-2)
    x, factors = disentangling.pictures(scale)
    torch.set_num_threads(1)
    networks = {"encoder": {"hidden": (8, 8)}, "decoder": {"hidden": (8, 8)}}
    loss = {"name": "beta_tc", "beta": 3.0}
    vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2, loss=loss, seed=5, **networks)
    history = vaekit.fit(vae, x, epochs=2, batch_size=10, learning_rate=1e-2, seed=5, device="cpu", progress=False)
    scores = vaekit.evaluation.disentanglement(vae, x, factors, seed=5)
    found = disentangling.trained_scores(scale, seed=5)["beta_tc", 3.0]
    expected = {name: scores[name.lower()] for name in ("MIG", "SAP")}
    expected |= {"DCI": scores["dci_disentanglement"], "FactorVAE": scores["factor_vae"]}
    expected |= {name: history[name][-1] for name in ("reconstruction", "kl")}
    expected["active"] = vaekit.evaluation.latent_statistics(vae, x).active.sum()
    assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-12)


def test_disentangling_has_a_row_for_each_objective_on_any_number_of_processes(disentangling, tmp_path, capsys):
    objectives = [word for name in ("elbo:1", "beta_tc:6", "elbo:1") for word in ("--objective", name)]
    options = [*TINY_SHAPES, *objectives, "--seeds", "2", "--first-seed", "7"]
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    disentangling.main([*options, "--processes", "1", "--csv", str(one)])
    averages, _, gaps = capsys.readouterr().out.partition("difference from the ELBO")
    command = [sys.executable, FOLDER / "disentangling.py", *options, "--processes", "2", "--csv", two]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert two.read_text() == one.read_text()

    runs = {(run["seed"], run["objective"], run["beta"]): run for run in read(one)}
    kinds = [("elbo", "1"), ("beta_tc", "6")]
    assert list(runs) == [(seed, *kind) for seed in ("7", "8") for kind in kinds]

    def column(name, kind):
        return np.array([float(runs[(seed, *kind)][name]) for seed in ("7", "8")])

    cells = [line.split() for line in averages.splitlines()]
    for kind in kinds:
        expected = [mean_and_deviation(column(name, kind), 3) for name in ("MIG", "SAP", "DCI", "FactorVAE")]
        expected += [mean_and_deviation(column(name, kind), 1) for name in ("reconstruction", "kl", "active")]
        assert [*kind, *" ".join(expected).split()] in cells
    gap = [column(name, kinds[1]) - column(name, kinds[0]) for name in ("MIG", "SAP", "DCI", "FactorVAE")]
    cells = [line.split() for line in gaps.splitlines()]
    assert [*kinds[1], *" ".join(mean_and_deviation(values, 3) for values in gap).split()] in cells


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("disentangling", ["--objective", "iwae:5"], "elbo:BETA or beta_tc:BETA, beta_tc:6 for example; got 'iwae:5'"),
        ("disentangling", ["--objective", "elbo"], "an objective is elbo:BETA"),
        ("disentangling", ["--seeds", "0"], "--seeds has to be at least 1, got 0"),
        ("importance_weighting", ["--draws", "5", "0"], "--draws has to name numbers of at least 1, got 0"),
        ("importance_weighting", ["--copies", "0"], "--copies has to be at least 1, got 0"),
        ("importance_weighting", ["--passes", "25"], "--passes has to be a multiple of --copies, 10, got 25"),
    ],
)
def test_options_that_mean_nothing_are_refused(name, arguments, message, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        script(name, monkeypatch).main(arguments)
    assert message in capsys.readouterr().err
