"""Strategies for tables of pandas, polars and pyarrow: every dtype, missing values, extreme ranges, time zones, categories."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas
import polars
import pyarrow
from hypothesis import strategies as st

ROWS = 6
ZONES = (None, "UTC", "Europe/Berlin", "Asia/Kolkata")
WORDS = st.sampled_from(["yes", "no", "", "ä b", "1"])
TIMES = st.datetimes(datetime.datetime(1950, 1, 1), datetime.datetime(2040, 1, 1))
LENGTHS = st.timedeltas(datetime.timedelta(days=-4000), datetime.timedelta(days=4000))
EPOCH, MICRO = datetime.datetime(1970, 1, 1), datetime.timedelta(microseconds=1)
CENTS = st.integers(-(10**9), 10**9).map(lambda number: Decimal(number).scaleb(-2))
# A float64 of the encoded tensor holds whole numbers up to 2^53 exactly; the normal score of a rank a little less.
NARROW = 2**40


def whole(bits: int, signed: bool) -> st.SearchStrategy[int]:
    """Whole numbers of a dtype, at any place of it but no further apart than the tensor can tell exactly."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.integers(low, high)


def narrow(bits: int, signed: bool) -> st.SearchStrategy[list[int]]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return whole(bits, signed).flatmap(lambda start: lists(st.integers(start, min(high, start + NARROW))))


def lists(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=ROWS, max_size=ROWS)


def floats(width: int) -> st.SearchStrategy[float]:
    return st.floats(allow_nan=False, allow_infinity=False, width=width)  # type: ignore[arg-type]


def holed(values: list[Any], holes: list[bool]) -> list[Any]:
    return [None if hole else value for value, hole in zip(values, holes, strict=True)]


HOLES = st.one_of(st.just([False] * ROWS), lists(st.booleans()))


@st.composite
def columns(draw: Any, values: st.SearchStrategy[list[Any]], make: Callable[[list[Any]], Any], holes: bool = True) -> Any:
    """A column: values with some of them missing, made by a library."""
    listed = draw(values)
    return make(holed(listed, draw(HOLES)) if holes else listed)


def pandas_columns() -> dict[str, st.SearchStrategy[pandas.Series]]:
    """NumPy's and nullable numbers, text, categories, times with and without a zone, durations, pyarrow's dtypes."""

    def of(dtype: Any) -> Callable[[list[Any]], Any]:
        return lambda values: pandas.Series(values, dtype=dtype)

    made = {f"arrow {name}": arrow.map(as_arrow_series) for name, arrow in arrow_columns().items()}
    for bits in (8, 16, 32, 64):
        for signed, name in ((True, f"Int{bits}"), (False, f"UInt{bits}")):
            made[name.lower()] = columns(narrow(bits, signed), of(name.lower()), holes=False)
            made[name] = columns(narrow(bits, signed), of(name))
    for width in (32, 64):
        made[f"float{width}"] = columns(lists(floats(width)), of(f"float{width}"))
        made[f"Float{width}"] = columns(lists(floats(width)), of(f"Float{width}"))
    made["bool"] = columns(lists(st.booleans()), of(bool), holes=False)
    made["boolean"] = columns(lists(st.booleans()), of("boolean"))
    made["object"] = columns(lists(WORDS), of(object))
    made["objects with NaN"] = made["object"].map(lambda series: series.where(series.notna(), np.nan))
    made["booleans as objects"] = columns(lists(st.booleans()), of(object))
    made["string"] = columns(lists(WORDS), of("string"))
    for ordered in (True, False):
        dtype = pandas.CategoricalDtype(["no", "yes", "", "never", "ä b", "1"], ordered=ordered)
        made[f"category {ordered}"] = columns(lists(WORDS), of(dtype))
    made["category of numbers"] = columns(lists(st.integers(0, 3)), of(pandas.CategoricalDtype([3, 2, 1, 0])))
    for unit in ("s", "ms", "us", "ns"):
        made[f"duration {unit}"] = columns(lists(LENGTHS), in_unit(pandas.to_timedelta, f"timedelta64[{unit}]"))
        made[f"time {unit}"] = columns(lists(TIMES), in_unit(pandas.to_datetime, f"datetime64[{unit}]"))
    for zone in ZONES[1:]:
        made[f"time in {zone}"] = made["time us"].map(lambda series, z=zone: series.dt.tz_localize("UTC").dt.tz_convert(z))
    return made


def in_unit(convert: Any, dtype: str) -> Callable[[list[Any]], Any]:
    return lambda values: pandas.Series(convert(values)).astype(dtype)


def as_arrow_series(values: pyarrow.Array) -> pandas.Series:
    return pyarrow.table({"x": values}).to_pandas(types_mapper=pandas.ArrowDtype)["x"]


def polars_columns() -> dict[str, st.SearchStrategy[polars.Series]]:
    """polars' dtypes; missing numbers are null, or NaN."""

    def of(dtype: Any) -> Callable[[list[Any]], Any]:
        return lambda values: polars.Series(values, dtype=dtype)

    made = {}
    for bits in (8, 16, 32, 64):
        made[f"Int{bits}"] = columns(narrow(bits, True), of(getattr(polars, f"Int{bits}")))
        made[f"UInt{bits}"] = columns(narrow(bits, False), of(getattr(polars, f"UInt{bits}")))
    for width in (32, 64):
        made[f"Float{width}"] = columns(lists(floats(width)), of(getattr(polars, f"Float{width}")))
    made["NaN"] = made["Float64"].map(lambda series: series.fill_null(float("nan")))
    made["Boolean"] = columns(lists(st.booleans()), of(polars.Boolean))
    made["String"] = columns(lists(WORDS), of(polars.String))
    made["Categorical"] = columns(lists(WORDS), of(polars.Categorical))
    made["Enum"] = columns(lists(WORDS), of(polars.Enum(["no", "yes", "", "never", "ä b", "1"])))
    made["Date"] = columns(lists(TIMES.map(lambda time: time.date())), of(polars.Date))
    made["Decimal"] = columns(lists(CENTS), of(polars.Decimal(12, 2)))
    for unit in ("ms", "us", "ns"):
        made[f"Duration {unit}"] = columns(lists(LENGTHS), of(polars.Duration(unit)))
        for zone in ZONES:
            made[f"Datetime {unit} {zone}"] = columns(lists(in_zone(zone)), of(polars.Datetime(unit, zone)))
    return made


def in_zone(zone: str | None) -> st.SearchStrategy[datetime.datetime]:
    if zone is None:
        return TIMES
    return TIMES.map(lambda time: time.replace(tzinfo=datetime.timezone.utc).astimezone(ZoneInfo(zone)))


def arrow_columns() -> dict[str, st.SearchStrategy[pyarrow.Array]]:
    """pyarrow's dtypes."""

    def of(dtype: Any) -> Callable[[list[Any]], Any]:
        return lambda values: pyarrow.array(values, dtype)

    made = {}
    for bits in (8, 16, 32, 64):
        made[f"int{bits}"] = columns(narrow(bits, True), of(getattr(pyarrow, f"int{bits}")()))
        made[f"uint{bits}"] = columns(narrow(bits, False), of(getattr(pyarrow, f"uint{bits}")()))
    for width in (32, 64):
        made[f"float{width}"] = columns(lists(floats(width)), of(getattr(pyarrow, f"float{width}")()))
    made["bool"] = columns(lists(st.booleans()), of(pyarrow.bool_()))
    made["string"] = columns(lists(WORDS), of(pyarrow.string()))
    made["large string"] = columns(lists(WORDS), of(pyarrow.large_string()))
    made["dictionary"] = made["string"].map(lambda values: values.dictionary_encode())
    made["date"] = columns(lists(TIMES.map(lambda time: time.date())), of(pyarrow.date32()))
    made["decimal"] = columns(lists(CENTS), of(pyarrow.decimal128(12, 2)))
    for unit, step in (
        ("s", datetime.timedelta(seconds=1)),
        ("ms", datetime.timedelta(milliseconds=1)),
        ("us", MICRO),
        ("ns", MICRO),
    ):
        whole_times = TIMES.map(lambda time, s=step: EPOCH + (time - EPOCH) // s * s)
        made[f"duration {unit}"] = columns(lists(LENGTHS.map(lambda length, s=step: length // s * s)), of(pyarrow.duration(unit)))
        for zone in ZONES:
            made[f"timestamp {unit} {zone}"] = columns(lists(whole_times), of(pyarrow.timestamp(unit, zone)))
    return made


def tables(of: dict[str, st.SearchStrategy[Any]], make: Callable[[dict[str, Any]], Any]) -> st.SearchStrategy[Any]:
    """Tables of a few of these columns, in any order."""
    names = st.lists(st.sampled_from(sorted(of)), min_size=1, max_size=4, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: of[name] for name in chosen})).map(make)


def as_pandas(frame: Any) -> pandas.DataFrame:
    """A table of any of the three in pandas, to be compared: without loss, by pyarrow's dtypes."""
    if isinstance(frame, polars.DataFrame):
        frame = frame.to_arrow()
    return frame.to_pandas(types_mapper=pandas.ArrowDtype) if isinstance(frame, pyarrow.Table) else frame


def assert_same(found: Any, expected: Any) -> None:
    """Names, dtypes, order, missing values, levels, times and whole numbers are the same; other numbers to rounding."""
    assert type(found) is type(expected)
    if isinstance(expected, polars.DataFrame):
        assert found.schema == expected.schema
        for name in expected.columns:
            assert found[name].is_null().to_list() == expected[name].is_null().to_list(), name
    if isinstance(expected, pyarrow.Table):
        assert found.schema.equals(expected.schema), (found.schema, expected.schema)
    found, expected = as_pandas(found), as_pandas(expected)
    assert list(found.columns) == list(expected.columns)
    for name in expected.columns:
        assert found[name].dtype == expected[name].dtype, name
        one, other = found[name], expected[name]
        is_float = pandas.api.types.is_float_dtype(other.dtype) or "float" in str(other.dtype) or "double" in str(other.dtype)
        if is_float:
            a, b = (np.asarray(series.astype("float64").to_numpy(na_value=np.nan), np.float64) for series in (one, other))
            assert (np.isnan(a) == np.isnan(b)).all(), name
            size = np.nanmax(np.abs(b), initial=0.0)
            assert np.allclose(a / max(size, 1e-300), b / max(size, 1e-300), rtol=0, atol=1e-9, equal_nan=True), (name, a, b)
        else:
            pandas.testing.assert_series_equal(one, other)


FRAMES = st.one_of(
    tables(pandas_columns(), pandas.DataFrame), tables(polars_columns(), polars.DataFrame), tables(arrow_columns(), pyarrow.table)
)
