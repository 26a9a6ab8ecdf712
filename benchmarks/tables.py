"""Synthetic tables: vaekit.Table beside ctgan's TVAE (SDV's TVAESynthesizer where there are dates and missing values).

    pip install ".[tables,sampler]" ctgan sdv sdmetrics statsmodels plotnine
    OMP_NUM_THREADS=1 python benchmarks/tables.py --seeds 3 --csv benchmarks/results/tables.csv

Each table is split, four fifths to train on. The peer is told which columns are levels: text, booleans, and whole numbers of few
values, by SDV's rule; vaekit guesses. The peer trains as its defaults say (300 epochs); vaekit.Table as its own say, in at most
as much processor time: it is given fewer epochs where it would take longer. As many rows are drawn as the training part has.

"seconds" are those of the process from the frame to the synthetic frame: transforms, training, what is fitted after it, and
sampling. Finding how many epochs vaekit is given is not counted, as nobody who uses it does that; a run that took longer than
the peer's, or much less, is repeated with other epochs. Column shapes and pair trends are sdmetrics' (QualityReport, against the
training part; 1 is best); "tstr" is what gradient boosting, trained on the synthetic rows, reaches on the fifth that was held
out: accuracy for levels, R2 for numbers (of log(1 + y) where the target is mostly 0); the diagnostic is sdmetrics'
DiagnosticReport. Means over seeds. "real" is the training part itself, "resampled" as many rows drawn from it with replacement:
what chance leaves to a perfect model.
"""

from __future__ import annotations

import argparse
import csv
import gc
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
import torch

import vaekit

SCORES = ("shapes", "pairs", "tstr", "diagnostic", "seconds")
FIELDS = ("table", "library", "seed", "rows", *SCORES, "epochs")
MOST_ROWS = {"diamonds": 5000}
USUAL_MOST_ROWS = 2500
SKEWED = ("fair", "randhie")  # whose target is mostly 0: R2 is that of log(1 + y), as a few rows decide that of y
MOST_LEVELS = 10  # of whole numbers; SDV's rule, as is a tenth of the rows
TRIALS = (100, 500)  # steps that are timed
SPARE, LEAST, MOST_RUNS = 0.95, 0.8, 6  # of the peer's seconds: what a run plans with, and has to use; how many there are


def sklearn_table(name: str, levels: bool = True) -> pandas.DataFrame:
    from sklearn import datasets

    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    if levels:
        frame["target"] = "class " + frame["target"].astype(str)
    return frame.rename(columns=lambda column: column.replace("/", " "))


def of_statsmodels(name: str, target: str, levels: tuple[str, ...] = (), drop: tuple[str, ...] = ()) -> pandas.DataFrame:
    import statsmodels.api as sm

    frame = getattr(sm.datasets, name).load_pandas().data.drop(columns=list(drop))
    for column in levels:
        frame[column] = "level " + frame[column].astype(int).astype(str)
    return target_last(frame, target)


def of_plotnine(name: str, target: str) -> pandas.DataFrame:
    import plotnine.data

    frame = getattr(plotnine.data, name).copy()
    for column in frame.select_dtypes("category"):
        frame[column] = frame[column].astype(object)  # TVAE takes no categories of pandas
    if name == "txhousing":
        frame["date"] = pandas.to_datetime({"year": frame["year"], "month": frame["month"], "day": 1})
        frame = frame.drop(columns=["year", "month"])
    return target_last(frame, target)


def target_last(frame: pandas.DataFrame, target: str) -> pandas.DataFrame:
    return frame[[*(column for column in frame if column != target), target]]


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


class Made(NamedTuple):
    """A synthetic table, the seconds that it took, and the epochs of its model."""

    rows: pandas.DataFrame
    seconds: float
    epochs: int | None


class Seconds:
    """Of the processor, in a block."""

    taken = 0.0

    def __enter__(self) -> Seconds:
        gc.collect()
        self._start = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.taken = time.process_time() - self._start


TABLES: dict[str, Callable[[], pandas.DataFrame]] = {
    "iris": lambda: sklearn_table("iris"),
    "wine": lambda: sklearn_table("wine"),
    "breast cancer": lambda: sklearn_table("breast_cancer"),
    "diabetes": lambda: sklearn_table("diabetes", levels=False),
    "anes96": lambda: of_statsmodels("anes96", "vote", ("vote",)),
    "fair": lambda: of_statsmodels("fair", "affairs", ("occupation", "occupation_husb")),
    "modechoice": lambda: of_statsmodels("modechoice", "choice", ("mode", "choice"), drop=("individual",)),
    "randhie": lambda: of_statsmodels("randhie", "mdvis"),
    "star98": lambda: of_statsmodels("star98", "NABOVE"),
    "diamonds": lambda: of_plotnine("diamonds", "price"),
    "penguins": lambda: of_plotnine("penguins", "species"),
    "txhousing": lambda: of_plotnine("txhousing", "median"),
    "people": people,
}


def metadata_of(frame: pandas.DataFrame) -> dict[str, Any]:
    """What sdmetrics and the peers are told of the columns, as SDV detects it."""
    kinds = {}
    for name, values in frame.items():
        if pandas.api.types.is_bool_dtype(values):
            kinds[name] = {"sdtype": "boolean"}
        elif pandas.api.types.is_datetime64_any_dtype(values):
            kinds[name] = {"sdtype": "datetime", "datetime_format": "%Y-%m-%d"}
        elif not pandas.api.types.is_numeric_dtype(values) or is_of_levels(values.dropna()):
            kinds[name] = {"sdtype": "categorical"}
        else:
            kinds[name] = {"sdtype": "numerical"}
    return {"columns": kinds, "METADATA_SPEC_VERSION": "SINGLE_TABLE_V1"}


def is_of_levels(numbers: pandas.Series) -> bool:
    few = min(round(len(numbers) / 10), MOST_LEVELS)
    return bool((numbers % 1 == 0).all()) and numbers.nunique() <= few


def by_vaekit(frame: pandas.DataFrame, seed: int, limit: float | None, options: dict[str, Any]) -> Made:
    """Synthetic rows in at most `limit` seconds, of as many epochs as go into them."""

    def of_epochs(epochs: int | None) -> Made:
        with Seconds() as seconds:
            table = vaekit.Table.fit(frame, seed=seed, **{"epochs": epochs, **options})
            made = table.sample(len(frame), seed=seed)
        return Made(made, seconds.taken, epochs)

    batch_size = options.get("batch_size", vaekit.table.BATCH)
    usual = vaekit.table.usual_epochs(len(frame), batch_size)
    if limit is None or "epochs" in options:
        return of_epochs(options.get("epochs", usual))
    few, more = (math.ceil(steps / math.ceil(len(frame) / batch_size)) for steps in TRIALS)
    more = max(more, few + 1)
    least, most = (of_epochs(epochs).seconds for epochs in (few, more))
    an_epoch = max((most - least) / (more - few), 1e-6)
    once = max(least - few * an_epoch, 0.0)
    epochs, best = max(1, min(usual, rounded(int((SPARE * limit - once) / an_epoch)))), None
    for _ in range(MOST_RUNS):
        made = of_epochs(epochs)
        if made.seconds <= limit and (best is None or made.seconds > best.seconds):
            best = made
        if best and (epochs == usual or best.seconds > LEAST * limit):
            return best
        scaled = rounded(int(epochs * max(SPARE * limit - once, 0.0) / max(made.seconds - once, 1e-3)))
        epochs = max(1, min(usual, scaled if made.seconds <= limit else min(scaled, epochs - 1)))
    if best is None:
        raise RuntimeError(f"no run of vaekit came out within the peer's {limit:.1f} seconds; the machine is too busy to measure")
    return best


def rounded(epochs: int) -> int:
    """Down to a multiple by which `vaekit.Table.fit` can repeat a small table's rows."""
    return epochs - epochs % 50 if epochs >= 100 else epochs


def by_tvae(frame: pandas.DataFrame, seed: int, epochs: int) -> Made:
    from ctgan import TVAE
    from sdv.metadata import Metadata
    from sdv.single_table import TVAESynthesizer

    torch.manual_seed(seed)
    np.random.seed(seed)
    kinds = metadata_of(frame)["columns"]
    if frame.isna().any().any() or any(kind["sdtype"] == "datetime" for kind in kinds.values()):
        metadata = Metadata.load_from_dict({"tables": {"table": {"columns": kinds}}, "relationships": []})
        with Seconds() as seconds:
            synthesizer = TVAESynthesizer(metadata, epochs=epochs, enable_gpu=False)
            synthesizer.fit({"table": frame})
            made = synthesizer.sample(len(frame))
        return Made(made["table"] if isinstance(made, dict) else made, seconds.taken, epochs)
    levels = [name for name, kind in kinds.items() if kind["sdtype"] in ("categorical", "boolean")]
    with Seconds() as seconds:
        model = TVAE(epochs=epochs, enable_gpu=False)
        model.fit(frame, levels)
        made = model.sample(len(frame))
    return Made(made, seconds.taken, epochs)


def quality(name: str, real: pandas.DataFrame, made: pandas.DataFrame, held_out: pandas.DataFrame) -> dict[str, float]:
    from sdmetrics.reports.single_table import DiagnosticReport, QualityReport

    metadata = metadata_of(real)
    report, diagnostic = QualityReport(), DiagnosticReport()
    report.generate(real, made, metadata, verbose=False)
    diagnostic.generate(real, made, metadata, verbose=False)
    scores = report.get_properties().set_index("Property")["Score"]
    return {
        "shapes": scores["Column Shapes"],
        "pairs": scores["Column Pair Trends"],
        "tstr": tstr(name, made, held_out),
        "diagnostic": diagnostic.get_score(),
    }


def tstr(name: str, made: pandas.DataFrame, held_out: pandas.DataFrame) -> float:
    """How well the last column is told from the others on real rows, by a model that was trained on synthetic ones."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    target = held_out.columns[-1]
    made, held_out = (frame[frame[target].notna()] for frame in (made, held_out))
    x, held_out_x = (as_numbers(frame.drop(columns=target), held_out) for frame in (made, held_out))
    y, held_out_y = made[target], held_out[target]
    if pandas.api.types.is_numeric_dtype(held_out_y):
        if name in SKEWED:
            y, held_out_y = np.log1p(y.clip(lower=0)), np.log1p(held_out_y)
        return float(HistGradientBoostingRegressor(random_state=0).fit(x, y).score(held_out_x, held_out_y))
    if y.nunique() < 2:
        return float((held_out_y == y.iloc[0]).mean())
    return float(HistGradientBoostingClassifier(random_state=0).fit(x, y).score(held_out_x, held_out_y))


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
    whole = TABLES[name]().sample(frac=1, random_state=seed)
    frame = whole.head(MOST_ROWS.get(name, USUAL_MOST_ROWS)).reset_index(drop=True)
    cut = len(frame) * 4 // 5
    real, held_out = frame.iloc[:cut].reset_index(drop=True), frame.iloc[cut:]
    by, limit = {}, None
    if peer:
        by["tvae"] = by_tvae(real, seed, epochs)
        limit = by["tvae"].seconds
    by["vaekit"] = by_vaekit(real, seed, limit, options)
    scores = {
        library: {**quality(name, real, made.rows, held_out), "seconds": made.seconds, "epochs": made.epochs}
        for library, made in by.items()
    }
    again = real.sample(len(real), replace=True, random_state=seed).reset_index(drop=True)
    scores["resampled"] = {**quality(name, real, again, held_out), "seconds": 0.0, "epochs": 0}
    perfect = {"shapes": 1.0, "pairs": 1.0, "tstr": tstr(name, real, held_out), "diagnostic": 1.0}
    scores["real"] = {**perfect, "seconds": 0.0, "epochs": 0}
    return {library: {**of, "rows": len(real)} for library, of in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="*", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=300, help="of the peer")
    parser.add_argument("--without-peer", action="store_true", help="vaekit alone")
    parser.add_argument("--set", nargs="*", default=[], help="options of vaekit.Table.fit, beta=0.5 for example")
    parser.add_argument("--csv", type=Path, help="a file for the rows")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    options = {key: eval(value, {}) for key, _, value in (pair.partition("=") for pair in given.set)}  # what its author types
    by_vaekit(people().head(100), 0, None, {"epochs": 1})  # what is imported and compiled once
    if not given.without_peer:
        by_tvae(people().head(100), 0, 1)
    rows: list[dict[str, Any]] = []
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}, one thread, {given.seeds} seed(s)", flush=True)
    print(f"{'table':<14}{'library':<11}" + "".join(f"{score:>12}" for score in SCORES), flush=True)
    for name in given.tables:
        runs = []
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            runs.append(compared(name, seed, given.epochs, not given.without_peer, options))
            rows += [{"table": name, "library": library, "seed": seed, **scores} for library, scores in runs[-1].items()]
            if given.csv:
                write(rows, given.csv)
        for library in runs[0]:
            means = {score: statistics.fmean(run[library][score] for run in runs) for score in SCORES}
            print(f"{name:<14}{library:<11}" + "".join(f"{means[score]:>12.3f}" for score in SCORES), flush=True)


def write(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})


if __name__ == "__main__":
    main()
