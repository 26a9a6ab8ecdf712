"""Frames, tables whose columns have names and kinds: pandas', polars' and pyarrow's, or files of them, in one view.

The view is a `narwhals.DataFrame`, which leaves the frame in its own library: `frame.to_native()` gives it back.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import narwhals as nw

_LIBRARIES = {"cudf", "modin", "narwhals", "pandas", "polars", "pyarrow"}
_KINDS = {"DataFrame", "LazyFrame", "RecordBatch", "Table"}
DELIMITED = (".csv", ".tsv", ".tab")
_COMPRESSED = (*DELIMITED, ".json", ".jsonl", ".ndjson")
ENDINGS = (*DELIMITED, ".parquet", ".feather", ".arrow", ".json", ".jsonl", ".ndjson", ".xlsx")


def package(name: str) -> Any:
    """A package of the extra `tables`.

    Raises:
        ModuleNotFoundError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'tables need the package {name.partition(".")[0]}, but {error.name} is not installed: pip install "vaekit[tables]"',
            name=error.name,
        ) from error


def is_frame(data: Any) -> bool:
    """Whether the data is a frame of pandas, polars, pyarrow or narwhals; none of them is imported.

    Example:
        >>> import pandas
        >>> is_frame(pandas.DataFrame({"age": [45]})), is_frame([[45]])
        (True, False)
    """
    return any(kind.__name__ in _KINDS and kind.__module__.partition(".")[0] in _LIBRARIES for kind in type(data).__mro__)


def is_frame_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name ends as one does that `read_frame` reads.

    Example:
        >>> is_frame_file("people.csv.gz"), is_frame_file("digits.npy")
        (True, False)
    """
    return ending_of(path) is not None


def ending_of(path: str | os.PathLike[str]) -> str | None:
    """The ending that says how a file is read, in small letters and without ".gz"; None where `read_frame` does not read it."""
    name = os.fspath(path).lower()
    for ending in ENDINGS:
        if name.endswith(ending) or (ending in _COMPRESSED and name.endswith(f"{ending}.gz")):
            return ending
    return None


def is_table_source(source: Any) -> bool:
    """Whether a source is a frame, or the file of one."""
    return is_frame(source) or (isinstance(source, (str, os.PathLike)) and is_frame_file(source))


def as_frame(data: Any) -> nw.DataFrame[Any]:
    """The view of a frame; a lazy one is collected.

    Names that are not text, as pandas gives to columns without a name, become text: 0 is "0". The index of a pandas frame is no
    column; `frame.reset_index()` makes it one.

    Raises:
        ModuleNotFoundError: narwhals is not installed.
        TypeError: something else than a frame.
        ValueError: two columns of one name, or names of several levels.

    Example:
        >>> import pandas
        >>> as_frame(pandas.DataFrame([[1, 2.5]])).columns
        ['0', '1']
    """
    narwhals = package("narwhals")
    if not is_frame(data):
        raise TypeError(f"a frame of pandas, polars or pyarrow is expected, got {type(data).__name__}")
    native = data.to_native() if isinstance(data, (narwhals.DataFrame, narwhals.LazyFrame)) else data
    if type(native).__name__ == "RecordBatch":
        native = package("pyarrow").Table.from_batches([native])
    names = _names(native)
    check_names(names, "the frame")
    if hasattr(native, "set_axis"):  # pandas, which alone has names that are not text, and columns of objects
        native = native.set_axis([str(name) for name in names], axis=1)
        objects = native.select_dtypes(include="object")
        native = native.assign(**{name: objects[name].convert_dtypes() for name in objects})
    view = narwhals.from_native(native)
    return view.collect() if isinstance(view, narwhals.LazyFrame) else view  # type: ignore[no-any-return]


def _names(native: Any) -> list[Any]:
    """The names of a frame's columns, which pyarrow and pandas do not keep from being equal."""
    if hasattr(native, "collect_schema"):
        return list(native.collect_schema().names())
    names = list(getattr(native, "column_names", native.columns))
    if any(isinstance(name, tuple) for name in names):
        raise ValueError(
            f"the frame's columns have names of several levels, {names[0]!r} for example; "
            "frame.columns = ['_'.join(map(str, name)) for name in frame.columns] joins them"
        )
    return names


def check_names(names: Iterable[Any], where: str) -> None:
    """Raise ValueError where two columns have one name."""
    names = [str(name) for name in names]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        places = ", ".join(str(place) for place, name in enumerate(names, 1) if name == twice[0])
        raise ValueError(
            f"{where} has more than one column of the name {twice[0]!r} (columns {places}); each needs a name of its own"
            + (f"; so do those called {', '.join(map(repr, twice[1:]))}" if twice[1:] else "")
        )


def read_frame(
    path: str | os.PathLike[str],
    *,
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    sheet: str | None = None,
) -> nw.DataFrame[Any]:
    """The frame in a file, read whole into memory. Every row and every column of the file is there, under its own name.

    In text (.csv, .json, .xlsx) an empty field, NA, N/A, NaN and null are missing. Lines without anything in them are no rows,
    except in a file of one column.

    Args:
        path: a file whose name ends in .csv, .tsv, .tab, .json (a list of records, or columns), .jsonl or .ndjson, each also
            with .gz after it; in .parquet, .feather, .arrow or .xlsx.
        delimiter: between the fields of a delimited file; a comma, a semicolon, a tab or a bar is recognised.
        decimal: "." or "," in its numbers; a comma is recognised where it is not the delimiter.
        encoding: of a delimited file; by default UTF-8, or UTF-16 where the file begins with its mark.
        header: whether its first line names the columns. By default it does, and a line of numbers is refused; without a header
            the columns are called "0", "1", ...
        sheet: of a workbook (.xlsx); needed where it has several.

    Raises:
        ModuleNotFoundError: a package of the extra `tables` is missing.
        OSError: the file cannot be read.
        ValueError: another ending, a damaged file, with the line and the column where they are known, two columns of one name,
            no row at all, or an option that the kind of file does not take.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "people.csv")
        ...     _ = file.write_text("name;height\\nAnna;1,75\\nBo;NA\\n")
        ...     read_frame(file).rows()
        [('Anna', 1.75), ('Bo', None)]
    """
    ending = ending_of(path)
    if ending is None:
        raise ValueError(f"{os.fspath(path)} is no file of a table that can be read here: {', '.join(ENDINGS)} are")
    given = {"delimiter": delimiter, "decimal": decimal, "encoding": encoding, "header": header, "sheet": sheet}
    takes = ("delimiter", "decimal", "encoding", "header") if ending in DELIMITED else ("sheet",) if ending == ".xlsx" else ()
    for option, value in given.items():
        if value is not None and option not in takes:
            raise ValueError(f"{os.fspath(path)} is a {ending} file, which takes no {option}; leave it out")
    table = _reader_of(ending)(Path(path), **{option: given[option] for option in takes})
    check_names(table.column_names, os.fspath(path))
    if not table.num_rows:
        raise ValueError(f"{os.fspath(path)} names {table.num_columns} columns, but has no rows")
    return as_frame(table)


def _reader_of(ending: str) -> Callable[..., Any]:
    """What reads a file of a kind as a table of pyarrow."""
    from vaekit.data import columnar, delimited, records

    if ending in DELIMITED:
        return delimited.read
    of_rest: Mapping[str, Callable[..., Any]] = {".parquet": columnar.read_parquet, ".xlsx": records.read_xlsx}
    return of_rest.get(ending, columnar.read_feather if ending in (".feather", ".arrow") else records.read_json)


def is_numeric(column: nw.Series[Any]) -> bool:
    """Whether a column holds numbers or booleans, missing or not."""
    return column.dtype.is_numeric() or column.dtype == package("narwhals").Boolean


def numbers(column: nw.Series[Any]) -> npt.NDArray[np.float64]:
    """A column of numbers or booleans as float64 [N], NaN where they are missing."""
    values = column.cast(package("narwhals").Float64).to_numpy()
    return np.asarray(values, dtype=np.float64)


def matrix(frame: nw.DataFrame[Any]) -> npt.NDArray[np.float32]:
    """The columns of a frame, numbers or booleans, as float32 [N, F], NaN where they are missing.

    Raises:
        TypeError: a column of another kind; the message names them all.
        ValueError: no column, or a finite number beyond float32's range; the message names the column and the row.

    Example:
        >>> import pandas
        >>> matrix(as_frame(pandas.DataFrame({"age": [45, None], "smokes": [True, False]}))).tolist()
        [[45.0, 1.0], [nan, 0.0]]
    """
    if not frame.columns:
        raise ValueError("the frame has no columns of data")
    if others := [name for name in frame.columns if not is_numeric(frame[name])]:
        raise TypeError(f"not all columns are numbers: {'; '.join(describe(frame[name]) for name in others)}")
    x = np.empty((len(frame), len(frame.columns)), np.float32)
    for place, name in enumerate(frame.columns):
        values = numbers(frame[name])
        with np.errstate(over="ignore"):
            x[:, place] = values
        beyond = np.isinf(x[:, place]) & np.isfinite(values)
        if beyond.any():
            row = int(beyond.argmax())
            raise ValueError(
                f"the column {name!r} has {values[row]:g} in row {row}, beyond the range of float32, 3.4e38; rescale it"
            )
    return x


def categories(column: nw.Series[Any]) -> list[Any] | None:
    """The levels of a column of categories in their own order, whether they occur or not; None where they have none.

    A `Categorical` of polars has no order of its own, and shares its levels with other columns; its `Enum` has.

    Example:
        >>> import pandas
        >>> sizes = pandas.Categorical(["big", "small"], categories=["small", "big", "huge"])
        >>> categories(as_frame(pandas.DataFrame({"size": sizes}))["size"])
        ['small', 'big', 'huge']
    """
    narwhals, native = package("narwhals"), column.to_native()
    if isinstance(column.dtype, narwhals.Enum):
        return list(column.dtype.categories)
    if column.dtype != narwhals.Categorical:
        return None
    if hasattr(native, "combine_chunks"):  # pyarrow
        whole = native.unify_dictionaries().combine_chunks()
        return list((whole.chunk(0) if hasattr(whole, "chunk") else whole).dictionary.to_pylist()) if len(whole) else []
    return list(native.cat.categories) if hasattr(native.cat, "categories") else None


def describe(column: nw.Series[Any]) -> str:
    """A column's name, kind and first values, in words; where most of it is numbers, the first that is not.

    Example:
        >>> import pandas
        >>> describe(as_frame(pandas.DataFrame({"age": ["45", "31", "old"]}))["age"])
        "'age' is text where most are numbers: 'old' in row 2"
    """
    narwhals = package("narwhals")
    if column.dtype not in (narwhals.String, narwhals.Categorical, narwhals.Enum):
        return f"{column.name!r} {f'is {column.dtype}' if column.count() else 'has no value at all'}"
    values = column.to_list()
    odd = [row for row, value in enumerate(values) if value is not None and not reads_as_number(value)]
    if odd and len(odd) < column.count() / 2:
        return f"{column.name!r} is text where most are numbers: {values[odd[0]]!r} in row {odd[0]}"
    found = list(dict.fromkeys(value for value in values if value is not None))
    return f"{column.name!r} is text: {', '.join(map(repr, found[:3]))}{', ...' if found[3:] else ''}"


def reads_as_number(text: str) -> bool:
    """Whether a text is a number as Python writes it."""
    try:
        float(text)
    except ValueError:
        return False
    return True
