"""A schema: from a table to a tensor and back, for every dtype of pandas, polars and pyarrow."""

import json

import numpy as np
import pandas
import polars
import pyarrow
import pytest
import torch
from helpers.frames import FRAMES, assert_same
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import vaekit
from vaekit.data import Schema


@given(FRAMES)
def test_what_goes_in_comes_out(frame):
    schema = Schema.guess(frame)
    x = schema.encode(frame, torch.float64)
    assert x.shape == (len(frame), len(schema.columns))
    assert_same(schema.decode(x), frame)


@given(FRAMES)
def test_a_schema_survives_json(frame):
    schema = Schema.guess(frame)
    again = Schema.from_config(json.loads(json.dumps(schema.to_config())))
    assert again == schema
    x = schema.encode(frame, torch.float64)
    assert torch.equal(again.encode(frame, torch.float64).nan_to_num(7.0), x.nan_to_num(7.0))
    assert_same(again.decode(x), frame)


@given(FRAMES, st.integers(0, 2**32))
def test_whatever_a_model_gives_becomes_a_table_of_the_same_kind(frame, seed):
    schema = Schema.guess(frame)
    x = 3 * torch.randn(20, len(schema), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    made = schema.decode(x)
    assert type(made) is type(frame)
    again = schema.encode(made, torch.float64)  # which refuses what lies outside of the kinds and levels
    assert torch.allclose(schema.encode(schema.decode(again), torch.float64), again, atol=1e-6, equal_nan=True)
    for column, values in zip(schema, again.unbind(1), strict=True):
        if column.levels is None and column.transform == "quantile":
            seen = schema.encode(frame, torch.float64)[:, list(schema.columns).index(column.name)]
            if seen.isfinite().any():
                low, high = seen[seen.isfinite()].min(), seen[seen.isfinite()].max()
                assert (values >= low - 1e-6).all()
                assert (values <= high + 1e-6).all()


@given(st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=60), st.sampled_from(["quantile", "log", "standardise", "none"]))
def test_every_transform_of_positive_numbers_has_its_inverse_and_keeps_their_order(values, transform):
    frame = pandas.DataFrame({"x": values})
    schema = Schema.guess(frame, {"x": {"kind": "positive", "transform": transform, "decimals": None, "range": None}})
    beyond = pandas.DataFrame({"x": sorted([*values, min(values) / 3, max(values) * 3])})
    x = schema.encode(beyond, torch.float64)
    assert (x.diff(dim=0) >= 0).all()
    assert np.allclose(schema.decode(x)["x"], beyond["x"], rtol=1e-6, atol=1e-9 * max(values))


def test_the_quantile_transform_makes_any_distribution_normal():
    values = np.random.default_rng(0).exponential(size=20000) ** 3
    x = Schema.guess(pandas.DataFrame({"x": values}), {"x": {"transform": "quantile"}}).encode(pandas.DataFrame({"x": values}))
    assert stats.kstest(x[:, 0].numpy(), "norm").statistic < 0.01


def test_the_others_are_scikit_learns_scaler_and_the_logarithm():
    values = np.random.default_rng(1).exponential(size=257)  # as many as there are quantiles
    frame = pandas.DataFrame({"x": values})
    x = Schema.guess(frame, {"x": {"transform": "standardise"}}).encode(frame, torch.float64)
    assert np.allclose(x[:, 0], stats.zscore(values), atol=0.02)
    x = Schema.guess(frame, {"x": {"kind": "positive", "transform": "log"}}).encode(frame, torch.float64)
    assert np.allclose(x[:, 0], stats.zscore(np.log(values)), atol=0.02)


def table() -> pandas.DataFrame:
    generator = np.random.default_rng(0)
    return pandas.DataFrame(
        {
            "age": generator.integers(18, 90, 400),
            "income": np.round(generator.lognormal(10, 1, 400), -2).astype(int),
            "visits": generator.negative_binomial(1, 0.2, 400),
            "share": generator.beta(2, 5, 400),
            "smoker": generator.choice(["yes", "no"], 400),
            "grade": generator.integers(1, 6, 400),
            "alive": generator.random(400) < 0.5,
            "cured": generator.integers(0, 2, 400),
            "since": pandas.Timestamp("2020-01-01") + pandas.to_timedelta(generator.integers(0, 1000, 400), unit="D"),
            "height": np.where(generator.random(400) < 0.2, np.nan, np.round(generator.normal(170, 10, 400), 1)),
        }
    )


def test_kinds_are_guessed_and_printed():
    schema = Schema.guess(table())
    assert {column.name: column.kind for column in schema} == {
        "age": "number",
        "income": "number",
        "visits": "count",
        "share": "proportion",
        "smoker": "category",
        "grade": "ordered",
        "alive": "boolean",
        "cured": "boolean",
        "since": "datetime",
        "height": "positive",
    }
    assert {column.name: column.decimals for column in schema if column.decimals is not None} == {
        "age": 0,
        "income": -2,
        "visits": 0,
        "height": 1,
    }
    assert schema.columns["since"].resolution == "day"
    assert [column.name for column in schema if column.missing] == ["height"]
    rows = str(schema).splitlines()
    assert rows[0].split() == ["column", "kind", "transform", "values", "rounding", "missing", "dtype"]
    assert [row.split()[:2] for row in rows[1:]] == [[column.name, column.kind] for column in schema]


def test_a_likelihood_is_chosen_for_each_column_and_trains():
    frame = table()
    schema = Schema.guess(frame)
    spec = schema.likelihood()
    assert spec["missing"] == "ignore"
    assert spec["columns"]["visits"] == {"name": "negative_binomial"}
    assert spec["columns"]["share"] == {"name": "beta"}
    assert spec["columns"]["grade"] == {"name": "categorical", "classes": 5}
    assert spec["columns"]["alive"] == {"name": "bernoulli"}
    vae = vaekit.create_vae("table", likelihood=spec, latent_dim=2, seed=0)
    history = vaekit.fit(vae, schema.encode(frame), epochs=3, seed=0, progress=False)
    assert history["loss"][-1] < history["loss"][0]
    made = schema.decode(vae.sample(50, draw=True, key=vaekit.make_key(0)))
    assert list(made.dtypes) == list(frame.dtypes)
    assert set(made["smoker"]) <= {"yes", "no"}
    assert made["since"].between(frame["since"].min(), frame["since"].max()).all()


def test_corrections_by_name():
    schema = Schema.guess(table())
    corrected = schema.with_column("age", kind="count").with_column("income", range=(0, 1e6), decimals=0, missing=True)
    assert corrected.columns["age"].likelihood == {"name": "negative_binomial"}
    assert schema.columns["age"].kind == "number"  # as it was
    made = corrected.decode(torch.full((1, 10), float("nan")).where(torch.arange(10) == 1, torch.zeros(10)))
    assert made["income"].isna().all()
    assert Schema.guess(table(), {"age": {"kind": "category"}}).columns["age"].levels[0] == 18
    assert corrected.with_column("share", kind="number").columns["share"].transform == "quantile"


@pytest.mark.parametrize(
    ("name", "settings", "match"),
    [
        ("ages", {"kind": "count"}, "'ages'.*'age'"),
        ("age", {"kinds": "count"}, "kinds.*transform"),
        ("age", {"kind": "cuont"}, "'age'.*count"),
        ("age", {"kind": "category"}, "'age'.*Schema.guess"),
        ("smoker", {"kind": "number"}, "'smoker'.*text"),
        ("visits", {"kind": "positive"}, "'visits'.*'positive'.*0"),
        ("income", {"transform": "log"}, "transform.*'income'.*'log'"),
        ("since", {"kind": "number"}, "'since'.*datetime"),
        ("age", {"range": (3, 1)}, "'age'.*(3, 1)"),
        ("since", {"resolution": "week"}, "'since'.*day"),
        ("age", {"resolution": "day"}, "'age'.*resolution"),
    ],
)
def test_corrections_that_do_not_fit_are_refused_by_name(name, settings, match):
    with pytest.raises((TypeError, ValueError), match=match):
        Schema.guess(table()).with_column(name, **settings)


def test_tables_of_another_kind_are_refused_by_name():
    frame = table()
    schema = Schema.guess(frame)
    with pytest.raises(ValueError, match=r"lacks 'age'"):
        schema.encode(frame.drop(columns="age"))
    with pytest.raises(ValueError, match=r"does not know 'weight'"):
        schema.encode(frame.assign(weight=1.0))
    with pytest.raises(ValueError, match=r"'smoker'.*'sometimes'.*'no', 'yes'"):
        schema.encode(frame.assign(smoker="sometimes"))
    with pytest.raises(TypeError, match=r"'age'.*text"):
        schema.encode(frame.assign(age="old"))
    with pytest.raises(TypeError, match=r"'since'.*datetime.*float"):
        schema.encode(frame.assign(since=3.5))
    with pytest.raises(ValueError, match=r"'height'.*infinity"):
        schema.encode(frame.assign(height=np.inf))
    with pytest.raises(ValueError, match=r"'visits'.*'count'.*-1"):
        schema.encode(frame.assign(visits=-1))
    with pytest.raises(ValueError, match=r"'age'.*NaN.*missing=True"):
        schema.decode(torch.full((2, 10), float("nan")))
    with pytest.raises(ValueError, match=r"10 columns.*\(2, 3\)"):
        schema.decode(torch.zeros(2, 3))


def test_what_has_no_kind_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'who'.*500.*leave_out=\['who'\]"):
        Schema.guess(pandas.DataFrame({"who": [f"person {number}" for number in range(500)], "x": 1.0}))
    assert len(Schema.guess(pandas.DataFrame({"who": list("abc"), "x": [1, 2, 3]}), leave_out=["who"])) == 1
    with pytest.raises(TypeError, match=r"'mixed'.*int, str"):
        Schema.guess(pandas.DataFrame({"mixed": ["a", 1]}))
    with pytest.raises(ValueError, match=r"'x'.*infinity"):
        Schema.guess(pandas.DataFrame({"x": [1.0, np.inf]}))
    with pytest.raises(ValueError, match="empty"):
        Schema.guess(pandas.DataFrame({"x": []}))
    with pytest.raises(TypeError, match=r"list"):
        Schema.guess([[1.0]])
    for values, match in (
        (pandas.interval_range(0, 3), r"'c'.*Interval.*frame\['c'\]\.astype\(str\)"),
        (pandas.period_range("2020-01", periods=3, freq="M"), r"'c'.*Period.*to_timestamp"),
        ([10**30, 1, 2], r"'c'.*int.*beyond 64 bits"),
        (pandas.date_range("2020", periods=3).date, r"'c'.*date.*pandas\.to_datetime\(frame\['c'\]\)"),
        (pandas.arrays.SparseArray([0.0, 1.5, 0.0]), r"'c'.*to_dense"),
    ):
        with pytest.raises(TypeError, match=match):
            Schema.guess(pandas.DataFrame({"x": [1.5, 2.5, 3.5], "c": values}))
    column = pyarrow.array([1.5, 2.5])
    for twice in (pandas.DataFrame([[1.5, 2.5]], columns=["a", "a"]), pyarrow.Table.from_arrays([column, column], ["a", "a"])):
        with pytest.raises(ValueError, match=r"more than one column of the name 'a' \(columns 1, 2\)"):
            Schema.guess(twice)
    with pytest.raises(TypeError, match=r"names of columns.*'0'"):
        Schema.guess(pandas.DataFrame([[1.0, 2.0]]))
    with pytest.raises(TypeError, match=r"'at'"):
        Schema.guess(polars.DataFrame({"at": polars.Series([0], dtype=polars.Time)}))


def test_a_schema_takes_tables_of_another_library():
    frame = table().drop(columns="since")
    schema = Schema.guess(frame)
    x = schema.encode(frame)
    for other in (polars.from_pandas(frame), pyarrow.Table.from_pandas(frame)):
        assert torch.equal(schema.encode(other).nan_to_num(9.0), x.nan_to_num(9.0))
    assert isinstance(schema.decode(x), pandas.DataFrame)


def test_columns_in_another_order_and_extreme_numbers():
    frame = pandas.DataFrame({"a": [1.7e308, -1.7e308, 1e-300, 0.0], "b": [2**63 - 1, -(2**63), 0, 1], "c": [None] * 4})
    frame["c"] = frame["c"].astype("float64")
    for transform in ("quantile", "standardise"):
        schema = Schema.guess(frame, {"a": {"transform": transform}, "b": {"transform": transform}})
        x = schema.encode(frame[["c", "b", "a"]])
        assert x[:, :2].isfinite().all()
        made = schema.decode(x)
        assert made["c"].isna().all()
        assert np.allclose(made["a"] / 1e308, frame["a"] / 1e308, atol=1e-4)
        assert np.allclose(made["b"].astype(float), frame["b"].astype(float), rtol=0, atol=2**44)
    with pytest.raises(ValueError, match=r"'a'.*float32"):
        schema.with_column("a", transform="none").encode(frame)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
@pytest.mark.parametrize("gaps", [False, True])
def test_what_is_observed_stays_what_it_is_though_the_schema_knows_other_numbers_and_times(library, gaps):
    """Whole numbers that have a fraction now, 64-bit ones, times in other units; a frame of pandas keeps its index."""
    convert = {"pandas": lambda frame: frame, "polars": polars.from_pandas, "pyarrow": pyarrow.Table.from_pandas}[library]
    times = pandas.date_range("2024-02-29 10:00:01", periods=4, freq="17h", unit="ns")
    frame = pandas.DataFrame({"age": [31, 45, 62, 28], "seen": times, "id": [2**60 + row for row in range(4)]})
    schema = Schema.guess(convert(frame), {name: {"missing": True} for name in frame})
    other = frame.assign(age=[31.25, 45.5, 62.0, 28.75], seen=times.as_unit("s")).set_index(pandas.Index([7, 5, 3, 1]))
    if gaps:
        other.loc[5, ["age", "seen"]] = None
    given = other if library == "pandas" else convert(other.reset_index(drop=True))
    filled = schema.filled(given, schema.encode(convert(frame)))
    filled = filled if library == "pandas" else filled.to_pandas()
    rows = [0, 2, 3]
    assert filled["age"].iloc[rows].tolist() == [31.25, 62.0, 28.75]
    assert filled["seen"].iloc[rows].tolist() == [times[row] for row in rows]
    assert filled["id"].tolist() == frame["id"].tolist()
    assert filled.iloc[1].tolist()[:2] == ([45.0, times[1]] if gaps else [45.5, times[1]])
    if library == "pandas":
        assert filled.index.tolist() == [7, 5, 3, 1]


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=5, unique=True),
    st.lists(st.floats(-9, 9), min_size=1, max_size=9),
    st.sampled_from(["quantile", "standardise"]),
)
def test_huge_whole_numbers_stay_within_their_range(values, scores, transform):
    schema = Schema.guess(pandas.DataFrame({"x": values}), {"x": {"kind": "number", "transform": transform}})
    made = schema.decode(torch.tensor(scores, dtype=torch.float64)[:, None])["x"].tolist()
    assert min(values) <= min(made) <= max(made) <= max(values)


def test_a_range_holds_after_rounding():
    schema = Schema.guess(pandas.DataFrame({"tens": [30, 50, 90], "share": [0.5, 1.5, 2.5]}))
    schema = schema.with_column("tens", range=(22, 87)).with_column("share", range=(0.45, 2.04))
    made = schema.decode(torch.tensor([[-9.0, -9.0], [9.0, 9.0]]))
    assert made["tens"].tolist() == [22, 87]
    assert made["share"].tolist() == [0.45, 2.0]


def test_a_config_of_something_else_is_refused():
    config = Schema.guess(table()).to_config()
    for wrong in ({}, {**config, "format": 9}, {**config, "columns": [{"name": "x"}]}, {**config, "library": "excel"}):
        with pytest.raises(ValueError, match="not that of a schema"):
            Schema.from_config(wrong)
