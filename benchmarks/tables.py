"""Synthetic tables: vaekit.Table beside ctgan's TVAE (SDV's TVAESynthesizer where there are dates and missing values).

    pip install ".[tables,sampler]" ctgan sdv sdmetrics statsmodels
    OMP_NUM_THREADS=1 python benchmarks/tables.py --seeds 3 --csv benchmarks/results/tables.csv

Each table is split, four fifths to train on. The peer trains as its defaults say (300 epochs); vaekit.Table as its own say, in at
most as much processor time: it is given fewer epochs where it would take longer. As many rows are drawn as the training part has.
Column shapes and pair trends are sdmetrics' (QualityReport, against the training part; 1 is best); "tstr" is what gradient
boosting, trained on the synthetic rows, reaches on the fifth that was held out: accuracy for levels, R2 for numbers; the
diagnostic is sdmetrics' DiagnosticReport. Means over seeds.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch

import vaekit

SCORES = ("shapes", "pairs", "tstr", "diagnostic", "seconds")
MOST_ROWS = 5000
MOST_LEVELS = 10  # whole numbers that the peers are told to be levels


def sklearn_table(name: str, levels: bool = True) -> pandas.DataFrame:
    from sklearn import datasets

    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    if levels:
        frame["target"] = "class " + frame["target"].astype(str)
    return frame.rename(columns=lambda column: column.replace("/", " "))


def statsmodels_table(name: str) -> pandas.DataFrame:
    import statsmodels.api as sm

    return getattr(sm.datasets, name).load_pandas().data


def of_statsmodels(name: str, levels: tuple[str, ...], target: str) -> Callable[[], pandas.DataFrame]:
    def load() -> pandas.DataFrame:
        frame = statsmodels_table(name).dropna(axis=1, how="all")
        for column in levels:
            frame[column] = "level " + frame[column].astype(int).astype(str)
        return frame[[*(column for column in frame if column != target), target]]

    return load


def people() -> pandas.DataFrame:
    """Generated: dates, booleans, levels and values that are missing for a reason."""
    generator = np.random.default_rng(0)
    rows = 2000
    old = generator.random(rows) < 0.4
    income = np.round(generator.lognormal(10 + old, 0.4))
    since = pandas.Timestamp("2015-01-01") + pandas.to_timedelta(generator.integers(0, 1500, rows) // (1 + old), unit="D")
    return pandas.DataFrame(
        {
            "age": generator.integers(20, 45, rows) + 30 * old,
            "income": np.where(generator.random(rows) < np.where(old, 0.4, 0.05), np.nan, income),
            "region": generator.choice(["north", "south", "east", "west"], rows, p=[0.4, 0.3, 0.2, 0.1]),
            "since": pandas.Series(since).where(generator.random(rows) > 0.1),
            "member": generator.random(rows) < np.where(old, 0.9, 0.2),
            "group": np.where(old, "old", "young"),
        }
    )


TABLES: dict[str, Callable[[], pandas.DataFrame]] = {
    "iris": lambda: sklearn_table("iris"),
    "wine": lambda: sklearn_table("wine"),
    "breast cancer": lambda: sklearn_table("breast_cancer"),
    "diabetes": lambda: sklearn_table("diabetes", levels=False),
    "anes96": of_statsmodels("anes96", ("vote",), "vote"),
    "fair": of_statsmodels("fair", ("occupation", "occupation_husb"), "affairs"),
    "modechoice": of_statsmodels("modechoice", ("mode",), "choice"),
    "randhie": of_statsmodels("randhie", (), "mdvis"),
    "star98": of_statsmodels("star98", (), "NABOVE"),
    "people": people,
}


def metadata_of(frame: pandas.DataFrame) -> dict[str, Any]:
    """What sdmetrics and SDV are told of the columns: as much as vaekit guesses."""
    kinds = {}
    for name, values in frame.items():
        if pandas.api.types.is_bool_dtype(values):
            kinds[name] = {"sdtype": "boolean"}
        elif pandas.api.types.is_datetime64_any_dtype(values):
            kinds[name] = {"sdtype": "datetime", "datetime_format": "%Y-%m-%d"}
        elif not pandas.api.types.is_numeric_dtype(values):
            kinds[name] = {"sdtype": "categorical"}
        else:
            kinds[name] = {"sdtype": "numerical"}
    return {"columns": kinds, "METADATA_SPEC_VERSION": "SINGLE_TABLE_V1"}


def by_vaekit(frame: pandas.DataFrame, seed: int, limit: float | None, options: dict[str, Any]) -> pandas.DataFrame:
    if limit is not None and "epochs" not in options:
        start = time.process_time()
        vaekit.Table.fit(frame, epochs=4, seed=seed, components=0, **options)
        of_four = time.process_time() - start
        start = time.process_time()
        vaekit.Table.fit(frame, epochs=12, seed=seed, components=0, **options)
        an_epoch = max((time.process_time() - start - of_four) / 8, 1e-6)
        usual = vaekit.table.usual_epochs(len(frame), options.get("batch_size", vaekit.table.BATCH))
        options = {**options, "epochs": max(1, min(usual, int(0.9 * limit / an_epoch)))}
    return vaekit.Table.fit(frame, seed=seed, **options).sample(len(frame), seed=seed)


def by_tvae(frame: pandas.DataFrame, seed: int, epochs: int) -> pandas.DataFrame:
    torch.manual_seed(seed)
    np.random.seed(seed)
    if frame.isna().any().any() or any(kind["sdtype"] == "datetime" for kind in metadata_of(frame)["columns"].values()):
        from sdv.metadata import Metadata
        from sdv.single_table import TVAESynthesizer

        metadata = Metadata.load_from_dict({"tables": {"table": {"columns": metadata_of(frame)["columns"]}}, "relationships": []})
        synthesizer = TVAESynthesizer(metadata, epochs=epochs, enable_gpu=False)
        synthesizer.fit({"table": frame})
        made = synthesizer.sample(len(frame))
        return made["table"] if isinstance(made, dict) else made
    from ctgan import TVAE

    levels = [name for name, kind in metadata_of(frame)["columns"].items() if kind["sdtype"] in ("categorical", "boolean")]
    model = TVAE(epochs=epochs, enable_gpu=False)
    model.fit(frame, levels)
    return model.sample(len(frame))


def quality(real: pandas.DataFrame, made: pandas.DataFrame, held_out: pandas.DataFrame) -> dict[str, float]:
    from sdmetrics.reports.single_table import DiagnosticReport, QualityReport

    metadata = metadata_of(real)
    report, diagnostic = QualityReport(), DiagnosticReport()
    report.generate(real, made, metadata, verbose=False)
    diagnostic.generate(real, made, metadata, verbose=False)
    scores = report.get_properties().set_index("Property")["Score"]
    return {
        "shapes": scores["Column Shapes"],
        "pairs": scores["Column Pair Trends"],
        "tstr": tstr(made, held_out),
        "diagnostic": diagnostic.get_score(),
    }


def tstr(made: pandas.DataFrame, held_out: pandas.DataFrame) -> float:
    """How well the last column is told from the others on real rows, by a model that was trained on synthetic ones."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    target = held_out.columns[-1]
    rows = [as_numbers(frame.drop(columns=target), held_out) for frame in (made, held_out)]
    if pandas.api.types.is_numeric_dtype(held_out[target]):
        model = HistGradientBoostingRegressor(random_state=0)
    else:
        model = HistGradientBoostingClassifier(random_state=0)
        if made[target].nunique() < 2:
            return float((held_out[target] == made[target].iloc[0]).mean())
    return float(model.fit(rows[0], made[target]).score(rows[1], held_out[target]))


def as_numbers(frame: pandas.DataFrame, like: pandas.DataFrame) -> np.ndarray[Any, Any]:
    columns = []
    for name in frame:
        if pandas.api.types.is_datetime64_any_dtype(like[name]):
            days = (pandas.to_datetime(frame[name]) - pandas.Timestamp("2000-01-01")) / pandas.Timedelta(days=1)
            columns.append(days.to_numpy(dtype=float))
        elif pandas.api.types.is_numeric_dtype(like[name]):
            columns.append(frame[name].to_numpy(dtype=float, na_value=np.nan))
        else:
            levels = sorted(like[name].dropna().unique())
            columns.append(pandas.Categorical(frame[name], categories=levels).codes.astype(float))
    return np.stack(columns, 1)


def compared(name: str, seed: int, epochs: int, peer: bool, options: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The scores of each library on one table with one seed."""
    frame = TABLES[name]().sample(frac=1, random_state=seed).head(MOST_ROWS).reset_index(drop=True)
    cut = len(frame) * 4 // 5
    real, held_out = frame.iloc[:cut].reset_index(drop=True), frame.iloc[cut:]
    limit, scores = None, {}
    if peer:
        start = time.process_time()
        made = by_tvae(real, seed, epochs)
        limit = time.process_time() - start
        scores["tvae"] = {**quality(real, made, held_out), "seconds": limit}
    start = time.process_time()
    made = by_vaekit(real, seed, limit, options)
    scores["vaekit"] = {"seconds": time.process_time() - start, **quality(real, made, held_out)}
    scores["real"] = {"shapes": 1.0, "pairs": 1.0, "tstr": tstr(real, held_out), "diagnostic": 1.0, "seconds": 0.0}
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="*", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=300, help="of the peer")
    parser.add_argument("--without-peer", action="store_true", help="vaekit alone")
    parser.add_argument("--set", nargs="*", default=[], help="options of vaekit.Table.fit, beta=0.5 for example")
    parser.add_argument("--csv", type=Path, help="a file for the rows")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    options = {key: eval(value, {}) for key, _, value in (pair.partition("=") for pair in given.set)}  # what its author types
    rows = []
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}, one thread, {given.seeds} seed(s)", flush=True)
    print(f"{'table':<14}{'library':<9}" + "".join(f"{score:>12}" for score in SCORES), flush=True)
    for name in given.tables:
        runs = [compared(name, seed, given.epochs, not given.without_peer, options) for seed in range(given.seeds)]
        for library in runs[0]:
            means = {score: statistics.fmean(run[library][score] for run in runs) for score in SCORES}
            rows += [{"table": name, "library": library, "seed": n, **run[library]} for n, run in enumerate(runs)]
            print(f"{name:<14}{library:<9}" + "".join(f"{means[score]:>12.3f}" for score in SCORES), flush=True)
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["table", "library", "seed", *SCORES])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
