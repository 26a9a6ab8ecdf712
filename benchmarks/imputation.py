"""Is what vaekit fills in nearer to what was taken away than what scikit-learn fills in?

Of each table a share of the values is taken away at random, the same ones for every contender. They are fitted on what is left,
standardised by it, and fill it; nobody sees a complete row. Tables come with packages: diabetes, wine and breast cancer with
scikit-learn, diamonds (its seven columns of numbers, 5,000 rows of it drawn once) with plotnine.

    mean            the column's mean: 1.0 to sampling error
    neighbours      scikit-learn's KNNImputer, 5 neighbours weighted by distance
    bayesian ridge  scikit-learn's IterativeImputer with BayesianRidge, its default, up to 30 rounds
    extra trees     the same with ExtraTreesRegressor, 100 trees, up to 10 rounds
    vaekit          `vae.impute`, on small tables the mean over models that differ in their seed; `recipe` says what they are

Figures are root mean squared errors in standard deviations of the observed values, means over seeds with the standard deviation
from seed to seed in brackets. "less best of scikit-learn" is the difference from the best of its three within a seed, where the
best is the one with the least mean over all seeds: below 0 vaekit is nearer.

    python benchmarks/imputation.py --csv benchmarks/results/imputation.csv
    python benchmarks/imputation.py --table wine --seeds 1 --only vaekit "bayesian ridge"
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from harness import Row, compared, comparison, header, mean_and_deviation, rounded, table
from sklearn import datasets
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 (which makes the next line possible)
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.linear_model import BayesianRidge

import vaekit

Array = npt.NDArray[np.float64]

HEAD = ("table", "contender", "share", "seed", "rmse", "seconds")
STEPS = 3000  # of training
MODELS, MODELS_OF_LARGE = 5, 1  # whose imputations are averaged: what differs from model to model is not in the data
LARGE = 2000  # rows, from which on a table is large
_DIAMONDS = 5000


def diamonds() -> Array:
    from plotnine.data import diamonds

    numbers = diamonds.select_dtypes("number").to_numpy(dtype=np.float64)
    return numbers[np.random.default_rng(0).permutation(len(numbers))[:_DIAMONDS]]


TABLES: Mapping[str, Callable[[], Array]] = {
    "diabetes": lambda: datasets.load_diabetes().data,
    "wine": lambda: datasets.load_wine().data,
    "breast cancer": lambda: datasets.load_breast_cancer().data,
    "diamonds": diamonds,
}


def fill_by_mean(x: Array, seed: int) -> Array:
    return np.where(np.isnan(x), 0.0, x)  # of standardised columns


def fill_by_neighbours(x: Array, seed: int) -> Array:
    return KNNImputer(n_neighbors=5, weights="distance").fit_transform(x)


def fill_by_ridge(x: Array, seed: int) -> Array:
    return _iterated(x, BayesianRidge(), 30, seed)


def fill_by_trees(x: Array, seed: int) -> Array:
    return _iterated(x, ExtraTreesRegressor(100, random_state=seed), 10, seed)


def _iterated(x: Array, estimator: Any, rounds: int, seed: int) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it has its rounds
        return IterativeImputer(estimator, max_iter=rounds, random_state=seed).fit_transform(x)


def recipe(rows: int, columns: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of `vaekit.create_vae` and of `vaekit.fit` for a table of this size."""
    is_large = rows >= LARGE
    batch = 256 if is_large else 64
    network = {"name": "mlp", "hidden": (256, 256) if is_large else (256,), "activation": "relu"}
    # A large table says how sure a value is, and shows the encoder most gaps that there are; a small one is learned by heart.
    variance, missing = ("element", {"mark": True}) if is_large else ("feature", {"mark": True, "hide": 0.4})
    model = {
        "input_shape": (columns,),
        "latent_dim": min(columns, 15),
        "encoder": network,
        "decoder": network,
        "likelihood": {"name": "gaussian", "variance": variance, "missing": missing},
        "loss": {"name": "iwae", "num_samples": 10},
    }
    rate = {"name": "warmup_cosine", "peak": 2e-3, "warmup": 100, "end": 4e-5}
    fit = {"epochs": max(1, round(STEPS * batch / rows)), "batch_size": batch, "learning_rate": rate}
    if is_large:
        fit["gradient_clip"] = 1.0  # a variance of its own for each value overflows at an outlier of 16 standard deviations
    return model, fit


def fill_by_vaekit(x: Array, seed: int) -> Array:
    data, filled = torch.from_numpy(x).float(), []
    model, fit = recipe(*x.shape)
    for number in range(MODELS_OF_LARGE if len(x) >= LARGE else MODELS):
        vae = vaekit.create_vae(**model, seed=1000 * seed + number)
        vaekit.fit(vae, data, **fit, seed=1000 * seed + number, device="cpu", progress=False)
        filled.append(vae.impute(data, samples=1000, seed=number).x.double().numpy())
    return np.mean(filled, axis=0)


CONTENDERS: Mapping[str, Callable[[Array, int], Array]] = {
    "mean": fill_by_mean,
    "neighbours": fill_by_neighbours,
    "bayesian ridge": fill_by_ridge,
    "extra trees": fill_by_trees,
    "vaekit": fill_by_vaekit,
}
SCIKIT_LEARN = ("neighbours", "bayesian ridge", "extra trees")


def with_gaps(complete: Array, share: float, seed: int) -> Array:
    """The table without a share of its values, and with at least one of each row."""
    missing = np.random.default_rng(seed).random(complete.shape) < share
    missing[missing.all(1), 0] = False
    return np.where(missing, np.nan, complete)


def measured(name: str, seed: int, contenders: Sequence[str], share: float) -> list[Row]:
    """What every contender makes of a table with the gaps of a seed."""
    complete = TABLES[name]()
    x = with_gaps(complete, share, seed)
    mean, deviation = np.nanmean(x, 0), np.nanstd(x, 0)
    x, complete, rows = (x - mean) / deviation, (complete - mean) / deviation, []
    for contender in contenders:
        start = time.perf_counter()
        filled = CONTENDERS[contender](x, seed)
        error = float(np.sqrt(np.mean((filled - complete)[np.isnan(x)] ** 2)))
        seconds = time.perf_counter() - start
        values = {"rmse": f"{error:.5f}", "seconds": rounded(seconds)}
        rows.append({"table": name, "contender": contender, "share": f"{share:g}", "seed": seed, **values})
    return rows


def summary(rows: Sequence[Row], names: Sequence[str]) -> list[tuple[str, ...]]:
    """A line for each table: every contender's error, and vaekit's less that of the best of scikit-learn."""
    lines = [("table", *CONTENDERS, "less best of scikit-learn")]
    for name in names:
        errors: dict[str, dict[str, float]] = {contender: {} for contender in CONTENDERS}
        for row in rows:
            if row["table"] == name:
                errors[str(row["contender"])][str(row["seed"])] = float(str(row["rmse"]))
        shown = [mean_and_deviation(list(by_seed.values()), 3) if by_seed else "" for by_seed in errors.values()]
        rivals = [errors[rival] for rival in SCIKIT_LEARN if errors[rival]]
        difference = ""
        if rivals and errors["vaekit"]:
            best = min(rivals, key=lambda by_seed: float(np.mean(list(by_seed.values()))))
            difference = mean_and_deviation([v - best[seed] for seed, v in errors["vaekit"].items() if seed in best], 3)
        lines.append((name, *shown, difference))
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = comparison("table", TABLES, CONTENDERS, __doc__)
    parser.add_argument("--share", type=float, default=0.3, help="of the values that are taken away (0.3)")
    options = parser.parse_args(arguments)
    print(header())
    print(
        f"{options.share:g} of the values missing, {options.seeds} seeds; mean (standard deviation); --help says more\n",
        flush=True,
    )
    work = functools.partial(measured, contenders=options.only, share=options.share)
    print(table(summary(compared(options, work, HEAD, ("table", "contender", "share", "seed")), options.cases)))


if __name__ == "__main__":
    main()
