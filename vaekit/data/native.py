"""Columns of pandas, polars and pyarrow: read as NumPy arrays, and made again with the dtype that they had.

Reading goes through narwhals, which knows all three; making does not, as only each library has its own dtypes: pandas' nullable
integers and categories, polars' Enum, pyarrow's dictionaries.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from vaekit.data.frames import check_names, package

LIBRARIES = ("pandas", "polars", "pyarrow")
_TICKS = {"ns": 10**9, "us": 10**6, "ms": 10**3, "s": 1}  # of a second
_DAY = 86400
_REMEDIES = {  # for values of pandas that have no kind
    "Decimal": "frame[{name!r}].astype(float)",
    "Period": "frame[{name!r}].dt.to_timestamp()",
    "date": "pandas.to_datetime(frame[{name!r}])",
    "float64": "frame[{name!r}].sparse.to_dense()",
    "int": "frame[{name!r}].astype(float), as these are beyond 64 bits,",
    "complex": "their real and imaginary parts, each a column",
}
_AS_TEXT = "frame[{name!r}].astype(str)"
_OFFSET = re.compile(r"(?<=\d)(?:Z|([+-])(\d\d):?(\d\d))$")  # from UTC, at the end of a time as text

Array: TypeAlias = npt.NDArray[Any]


class Read(NamedTuple):
    """One column as arrays.

    Attributes:
        sort: "integer", "float", "boolean", "text", "date", "datetime" or "duration".
        values: [N - missing] without the missing ones: integers (of dates and times the ticks since 1970), float64, or objects.
        missing: bool [N].
        null: what stands for a missing value, "null" or "nan".
        dtype: what its library calls its dtype.
        ticks: of a date or time, how many there are in a second; in a day for a date.
        categories: all those of a categorical dtype, whether they occur or not.
        ordered: whether they have an order.
        decimals: of a decimal dtype.
    """

    sort: str
    values: Array
    missing: npt.NDArray[np.bool_]
    null: str
    dtype: str
    ticks: int = 1
    categories: tuple[Any, ...] | None = None
    ordered: bool = False
    decimals: int | None = None


def columns_of(frame: Any) -> tuple[str, dict[str, Any]]:
    """The library of a frame, and its columns as narwhals' series by name.

    Raises:
        TypeError: something else; a column whose name is no string.
        ValueError: two columns of one name.
    """
    nw = package("narwhals")
    try:
        view = nw.from_native(frame, eager_only=True)
        library = view.implementation.value
        names = list(view.columns)
    except TypeError as error:
        raise TypeError(
            f"a table has to be a DataFrame of pandas or polars, or a pyarrow.Table, got {type(frame).__name__}"
        ) from error
    except nw.exceptions.DuplicateError as error:
        check_names(getattr(frame, "column_names", frame.columns), "the table")
        raise ValueError(f"the table has two columns of one name: {error}") from error
    if library not in LIBRARIES:
        raise TypeError(f"a table has to be of {', '.join(LIBRARIES)}, got one of {library}; convert it first")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"the names of columns have to be strings, got {name!r}; rename it, to {str(name)!r} for example: "
                "frame.columns = list(map(str, frame.columns)) does it for all"
            )
    check_names(names, "the table")
    return library, {name: view[name] for name in names}


def read(series: Any) -> Read:
    """A series of narwhals as arrays.

    Raises:
        TypeError: values of another dtype; the message names the column.
    """
    dtype, missing, null = series.dtype, series.is_null().to_numpy().astype(bool), "null"
    if dtype.is_float():
        values = series.cast(package("narwhals").Float64).to_numpy().astype(np.float64)
        missing = missing | np.isnan(values)
        null = "null" if series.is_null().any() and not _is_numpy(series) else "nan"
        return Read("float", values[~missing], missing, null, _native_dtype(series))
    present, name = series.drop_nulls(), _native_dtype(series)
    if dtype.is_integer():
        kind = np.uint64 if dtype.is_unsigned_integer() else np.int64
        return Read("integer", present.to_numpy().astype(kind), missing, null, name)
    if dtype.is_decimal():
        decimals = re.search(r"(\d+)\)", name)
        values = np.array([float(value) for value in present.to_list()], dtype=np.float64)
        return Read("float", values, missing, null, name, decimals=int(decimals[1]) if decimals else None)
    if dtype.is_temporal():
        return _read_time(series.name, present, missing, name)
    return _read_levels(series, present, missing, name)


def single(value: Any, column: Any) -> Read:
    """One value of a column as `read` has a whole one: a number, a level, a date or time as ISO text or an object, a timedelta.

    Raises:
        TypeError: a value of another sort.
        ValueError: text that is no date.
    """
    missing = np.zeros(1, dtype=bool)
    if column.sort in ("date", "datetime", "duration") and column.levels is None:
        ticks = _ticks_of_duration(value, column) if column.sort == "duration" else _ticks_of_time(value, column)
        return Read(column.sort, np.array([ticks], np.int64), missing, "null", column.dtype, column.ticks)
    if isinstance(value, (bool, np.bool_)):
        return Read("boolean", np.array([bool(value)]), missing, "null", "")
    if isinstance(value, (int, np.integer)):
        if not -(2**63) <= value < 2**64:
            raise ValueError(f"the value of the column {column.name!r} is beyond 64 bits: {value}")
        return Read("integer", np.array([int(value)]), missing, "null", "", column.ticks)
    if isinstance(value, (float, np.floating)):
        return Read("float", np.array([float(value)]), missing, "null", "")
    if isinstance(value, str):
        return Read("text", np.array([value], dtype=object), missing, "null", "")
    raise TypeError(f"the value of the column {column.name!r} has to be a number, a level or a date, got {value!r}")


def is_missing(value: Any) -> bool:
    """Whether a single value stands for a missing one: None, NaN, pandas' NA and NaT.

    Example:
        >>> is_missing(float("nan")), is_missing(0.0)
        (True, False)
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating, np.datetime64, np.timedelta64)) and bool(value != value)


def _unit_of(column: Any) -> str:
    units: dict[int, str] = {number: unit for unit, number in _TICKS.items()}
    return "D" if column.sort == "date" else units[column.ticks]


def _ticks_of_time(value: Any, column: Any) -> int:
    """The ticks since 1970 of a date or a time; one with an offset is a moment, and so is one without it, in UTC, in a zone."""
    text = str(value)
    offset = _OFFSET.search(text)
    has_zone = ", " in column.dtype and "time_zone=None" not in column.dtype
    if offset and not has_zone:
        raise TypeError(
            f"the column {column.name!r} holds {column.sort} values without a time zone, but {text!r} has one; leave it out"
        )
    try:
        ticks = np.array([text[: offset.start()] if offset else text], f"M8[{_unit_of(column)}]")
    except ValueError as error:
        raise ValueError(
            f"the value of the column {column.name!r} has to be a {column.sort}, '2020-01-31' for example, got {value!r}"
        ) from error
    sign, hours, minutes = (offset[1], offset[2], offset[3]) if offset and offset[1] else ("+", 0, 0)
    seconds = 3600 * int(hours) + 60 * int(minutes)
    return int(ticks.astype(np.int64)[0] - (-seconds if sign == "-" else seconds) * column.ticks)


def _ticks_of_duration(value: Any, column: Any) -> int:
    value = value.to_timedelta64() if hasattr(value, "to_timedelta64") else value  # pandas', whose nanoseconds would be lost
    if not isinstance(value, (datetime.timedelta, np.timedelta64)):
        raise TypeError(
            f"the value of the column {column.name!r} has to be a timedelta, datetime.timedelta(hours=5) for example, got "
            f"{value!r}"
        )
    return int(np.array([value], f"m8[{_unit_of(column)}]").astype(np.int64)[0])


def _read_time(name: str, present: Any, missing: Any, dtype: str) -> Read:
    nw, kind = package("narwhals"), present.dtype
    if kind == nw.Date:
        ticks = present.dt.timestamp("ms").to_numpy().astype(np.int64)
        return Read("date", ticks // (_DAY * 1000), missing, "null", dtype, 1)
    if kind not in (nw.Datetime, nw.Duration):
        raise TypeError(f"the column {name!r} holds {kind}, which has no kind here; make it a number or text, or leave it out")
    ticks = present.cast(nw.Int64).to_numpy().astype(np.int64)  # exact, where total_nanoseconds of pandas goes through floats
    return Read("duration" if kind == nw.Duration else "datetime", ticks, missing, "null", dtype, _TICKS[kind.time_unit])


def _read_levels(series: Any, present: Any, missing: Any, name: str) -> Read:
    nw, dtype, categories = package("narwhals"), series.dtype, None
    values = np.empty(len(present), dtype=object)
    values[:] = present.to_list()
    if dtype == nw.Boolean:
        return Read("boolean", values.astype(bool), missing, "null", name)
    ordered = dtype == nw.Enum
    if dtype in (nw.Categorical, nw.Enum):
        native = series.to_native()
        if hasattr(native, "cat") and hasattr(native.cat, "ordered"):  # pandas
            categories, ordered = tuple(native.cat.categories.tolist()), bool(native.cat.ordered)
        elif ordered:
            categories = tuple(dtype.categories)
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return Read("boolean", values.astype(bool), missing, "null", name, categories=categories)
    if not (kinds <= {str} or (categories is not None and kinds <= {int, float})):
        shown = ", ".join(sorted(kind.__name__ for kind in kinds)) or str(dtype)
        raise TypeError(
            f"the column {series.name!r} holds values of {shown}; make it numbers, text, booleans or dates, "
            f"{_REMEDIES.get(shown, _AS_TEXT).format(name=series.name)} for example, or leave it out"
        )
    null = "nan" if dtype == nw.String and name == "object" and _holds_nan(series, missing) else "null"
    return Read("text", values, missing, null, name, categories=categories, ordered=ordered)


def frame_of(library: str, columns: Mapping[str, Any], rows: int) -> Any:
    """A frame of that library, of the columns that `series_of` made."""
    if library == "pandas":
        pandas = package("pandas")

        return pandas.DataFrame(dict(columns), index=pandas.RangeIndex(rows))
    if library == "polars":
        polars = package("polars")

        return polars.DataFrame(list(columns.values()))
    pyarrow = package("pyarrow")

    return pyarrow.table(dict(columns))


def series_of(library: str, name: str, values: Array, missing: Array, column: Any) -> Any:
    """A column of that library with the dtype that it had.

    Args:
        library: "pandas", "polars" or "pyarrow".
        name: of the column.
        values: [N]: integers, ticks, float64 or objects; what stands where one is missing does not matter.
        missing: bool [N].
        column: with `dtype`, `null` and `categories` as `Read` has them, and its `sort`.
    """
    made = {"pandas": _pandas, "polars": _polars, "pyarrow": _arrow}[library]
    return made(name, values, missing, column)


def _pandas(name: str, values: Array, missing: Array, column: Any) -> Any:
    pandas = package("pandas")

    if column.dtype.endswith("[pyarrow]"):
        return pandas.Series(pandas.arrays.ArrowExtensionArray(_arrow(name, values, missing, column)), name=name)
    if column.categories is not None:
        kind = pandas.CategoricalDtype(list(column.categories), ordered=column.kind == "ordered")
        return pandas.Series(pandas.Categorical(_with_none(values, missing), dtype=kind), name=name)
    if column.sort in ("datetime", "duration", "date"):
        unit = {number: unit for unit, number in _TICKS.items()}[column.ticks]
        ticks = np.where(missing, np.iinfo(np.int64).min, values)  # NaT
        series = pandas.Series(ticks.view(f"{'m' if column.sort == 'duration' else 'M'}8[{unit}]"), name=name)
        zone = re.search(r", (.+)\]", column.dtype)
        return (series.dt.tz_localize("UTC").dt.tz_convert(zone[1]) if zone else series).astype(column.dtype)
    if column.sort == "float" and column.dtype.startswith("float"):
        return pandas.Series(np.where(missing, np.nan, values).astype(column.dtype), name=name)
    if not missing.any() and values.dtype != object:
        return pandas.Series(values, name=name).astype(column.dtype)
    fill = np.nan if column.null == "nan" else None
    # NumPy's whole numbers and booleans have no missing values; pandas' own have.
    dtype = {"bool": "boolean"}.get(column.dtype, re.sub(r"^(u?)int", lambda of: f"{of[1].upper()}Int", column.dtype))
    return pandas.Series(_with_none(values, missing, fill), name=name, dtype=dtype)


def _polars(name: str, values: Array, missing: Array, column: Any) -> Any:
    polars = package("polars")

    dtype = _polars_dtype(column.dtype, column.categories)
    if values.dtype == object:
        return polars.Series(name, _with_none(values, missing), dtype=dtype)
    if column.sort == "float":
        values = np.where(missing, np.nan, values)
    made = polars.Series(name, values)
    if column.null == "null" and missing.any():
        made = made.set(polars.Series(missing), None)
    if column.decimals is not None and column.dtype.startswith("Decimal"):
        made = made.round(column.decimals)
    return made.cast(dtype)


def _arrow(name: str, values: Array, missing: Array, column: Any) -> Any:
    pyarrow = package("pyarrow")

    dtype = _arrow_dtype(column.dtype.removesuffix("[pyarrow]"))
    if values.dtype == object:
        if pyarrow.types.is_dictionary(dtype):
            return pyarrow.array(_with_none(values, missing), dtype.value_type).dictionary_encode().cast(dtype)
        return pyarrow.array(_with_none(values, missing), dtype)
    if column.sort == "float":
        values = np.where(missing, np.nan, values)
    made = pyarrow.array(values, mask=missing if column.null == "null" else None)
    if pyarrow.types.is_date32(dtype):
        return made.cast(pyarrow.int32()).cast(dtype)
    if pyarrow.types.is_date64(dtype):
        return pyarrow.array(values * _DAY * 1000, mask=missing).cast(dtype)
    if column.sort in ("datetime", "duration"):
        unit = {number: unit for unit, number in _TICKS.items()}[column.ticks]
        exact = pyarrow.duration(unit) if column.sort == "duration" else pyarrow.timestamp(unit, getattr(dtype, "tz", None))
        return made.cast(exact).cast(dtype)
    if pyarrow.types.is_decimal(dtype):
        rounded = pyarrow.array(np.round(values, column.decimals), mask=missing)
        return rounded.cast(pyarrow.decimal128(38, dtype.scale)).cast(dtype)
    return made.cast(dtype)


def _polars_dtype(name: str, categories: Sequence[Any] | None) -> Any:
    polars = package("polars")

    if name.startswith("Enum"):
        return polars.Enum(list(categories or ()))
    if time := re.fullmatch(r"(Datetime|Duration)\(time_unit='(\w+)'(?:, time_zone=(?:None|'([^']*)'))?\)", name):
        return polars.Datetime(time[2], time[3]) if time[1] == "Datetime" else polars.Duration(time[2])
    if decimal := re.fullmatch(r"Decimal\(precision=(\w+), scale=(\d+)\)", name):
        return polars.Decimal(None if decimal[1] == "None" else int(decimal[1]), int(decimal[2]))
    return getattr(polars, name.partition("(")[0])


def _arrow_dtype(name: str) -> Any:
    pyarrow = package("pyarrow")

    if dictionary := re.fullmatch(r"dictionary<values=(\w+), indices=(\w+), ordered=(\d)>", name):
        index, value = pyarrow.type_for_alias(dictionary[2]), pyarrow.type_for_alias(dictionary[1])
        return pyarrow.dictionary(index, value, ordered=dictionary[3] == "1")
    if time := re.fullmatch(r"timestamp\[(\w+), tz=(.+)\]", name):
        return pyarrow.timestamp(time[1], time[2])
    if decimal := re.fullmatch(r"decimal(\d+)\((\d+), (\d+)\)", name):
        return getattr(pyarrow, f"decimal{decimal[1]}")(int(decimal[2]), int(decimal[3]))
    return pyarrow.type_for_alias(name.replace("[day]", "").replace("date64[ms]", "date64"))


def _native_dtype(series: Any) -> str:
    native = series.to_native()
    return str(native.type if hasattr(native, "type") and not hasattr(native, "dtype") else native.dtype)


def _is_numpy(series: Any) -> bool:
    """Whether it is of pandas, in an array of NumPy, where NaN alone stands for what is missing."""
    return isinstance(getattr(series.to_native(), "dtype", None), np.dtype)


def _holds_nan(series: Any, missing: Array) -> bool:
    """Whether NaN and not None stands for the first missing value, of objects of pandas."""
    first = np.flatnonzero(missing)[:1]
    return bool(len(first)) and isinstance(series.to_native().iloc[int(first[0])], float)


def _with_none(values: Array, missing: Array, none: Any = None) -> list[Any]:
    listed: list[Any] = values.tolist()
    for row in np.flatnonzero(missing):
        listed[row] = none
    return listed
