"""Does `vae.score` tell what is out of the ordinary from what is not?

Ten one-class settings from tables that come with scikit-learn: of digits the 0, 1, 4, 6 and 8 in turn are ordinary, of wine each
class, of breast cancer the benign and the malignant. Contenders learn from a random 60% of the ordinary examples, standardised by
them, and score the other 40% and all examples of the other classes; no label is seen in training. The figure is the area under
the ROC curve: the probability that something strange has a lower score than something ordinary.

    isolation forest   scikit-learn's, 300 trees
    pyod               pyod's VAE with its defaults but for batches of 32 and 100 epochs, scored by the reconstruction's error
    vaekit             `vae.score`, the mean of log p(x) over several models that differ in their seed; `recipe` says which

Means over seeds with the standard deviation from seed to seed in brackets; the last line is the mean over the settings.

    python benchmarks/anomalies.py --csv benchmarks/results/anomalies.csv
    python benchmarks/anomalies.py --setting "wine 0" --seeds 1 --only vaekit "isolation forest"
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from harness import Row, compared, comparison, header, mean_and_deviation, rounded, table
from sklearn import datasets
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

import vaekit

Array = npt.NDArray[np.float64]

HEAD = ("setting", "contender", "seed", "auc", "seconds")
SETTINGS = {
    **{f"digits {digit}": (datasets.load_digits, digit) for digit in (0, 1, 4, 6, 8)},
    **{f"wine {kind}": (datasets.load_wine, kind) for kind in range(3)},
    **{f"breast cancer {kind}": (datasets.load_breast_cancer, kind) for kind in range(2)},
}
MODELS = 3
_TRAINED_ON = 0.6  # of the ordinary examples
_LEAST_DEVIATION = 0.1  # of all deviations' mean: a pixel that is all but constant would outweigh all others


def isolation_forest(train: Array, test: Array, seed: int) -> Array:
    return IsolationForest(n_estimators=300, random_state=seed).fit(train).score_samples(test)


def pyod(train: Array, test: Array, seed: int) -> Array:
    from pyod.models.vae import VAE

    model = VAE(batch_size=min(32, len(train)), epoch_num=100, preprocessing=False, random_state=seed, verbose=0, device="cpu")
    return -model.fit(train).decision_function(test)


def recipe(rows: int, columns: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of `vaekit.create_vae` and of `vaekit.fit` for a table of this size."""
    model = {
        "input_shape": (columns,),
        "latent_dim": min(columns // 2, 8),
        "encoder": {"name": "mlp", "hidden": (64,), "activation": "tanh"},
        "decoder": {"name": "mlp", "hidden": (64,), "activation": "tanh"},
        "likelihood": {"name": "gaussian", "variance": "shared"},
    }
    return model, {"epochs": max(1, round(1000 * 32 / rows)), "batch_size": 32, "learning_rate": 1e-3}


def vaekit_score(train: Array, test: Array, seed: int) -> Array:
    ordinary, scored, scores = torch.from_numpy(train).float(), torch.from_numpy(test).float(), []
    model, fit = recipe(*train.shape)
    for number in range(MODELS):
        vae = vaekit.create_vae(**model, seed=1000 * seed + number)
        vaekit.fit(vae, ordinary, **fit, seed=1000 * seed + number, device="cpu", progress=False)
        scores.append(vae.score(scored, samples=200, seed=number).log_likelihood.numpy())
    return np.mean(scores, axis=0)


CONTENDERS: Mapping[str, Callable[[Array, Array, int], Array]] = {
    "isolation forest": isolation_forest,
    "pyod": pyod,
    "vaekit": vaekit_score,
}


def split(setting: str, seed: int) -> tuple[Array, Array, Array]:
    """Ordinary examples to learn from, examples to score, and which of those are strange."""
    load, kind = SETTINGS[setting]
    x, y = load(return_X_y=True)
    ordinary = np.random.default_rng(seed).permutation(x[y == kind])
    count = round(_TRAINED_ON * len(ordinary))
    train, test = ordinary[:count], np.concatenate([ordinary[count:], x[y != kind]])
    deviation = train.std(0)
    if setting.startswith("digits"):  # of one unit, unlike the columns of the others
        deviation = np.full_like(deviation, np.sqrt(np.mean(deviation**2)))
    mean, deviation = train.mean(0), np.maximum(deviation, _LEAST_DEVIATION * deviation.mean())
    is_strange = np.arange(len(test)) >= len(ordinary) - count
    return (train - mean) / deviation, (test - mean) / deviation, is_strange


def measured(setting: str, seed: int, contenders: Sequence[str]) -> list[Row]:
    """How well every contender does in a setting with the split of a seed."""
    train, test, is_strange = split(setting, seed)
    rows = []
    for contender in contenders:
        start = time.perf_counter()
        area = roc_auc_score(is_strange, -CONTENDERS[contender](train, test, seed))
        seconds = rounded(time.perf_counter() - start)
        rows.append({"setting": setting, "contender": contender, "seed": seed, "auc": f"{area:.5f}", "seconds": seconds})
    return rows


def summary(rows: Sequence[Row], contenders: Sequence[str]) -> list[tuple[str, ...]]:
    """A line for each setting, and one for their mean."""
    areas: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        of_setting = areas.setdefault(str(row["setting"]), {contender: [] for contender in contenders})
        of_setting[str(row["contender"])].append(float(str(row["auc"])))
    lines = [(name, *(mean_and_deviation(by[contender], 3) for contender in contenders)) for name, by in areas.items()]
    means = [statistics.fmean(statistics.fmean(by[contender]) for by in areas.values()) for contender in contenders]
    return [("setting", *contenders), *lines, ("mean", *(f"{mean:.3f}" for mean in means))]


def main(arguments: Sequence[str] | None = None) -> None:
    options = comparison("setting", SETTINGS, CONTENDERS, __doc__).parse_args(arguments)
    print(header())
    print(f"area under the ROC curve, {options.seeds} seeds; mean (standard deviation); --help says more\n", flush=True)
    work = functools.partial(measured, contenders=options.only)
    print(table(summary(compared(options, work, HEAD, ("setting", "contender", "seed")), options.only)))


if __name__ == "__main__":
    main()
