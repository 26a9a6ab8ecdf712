"""Examples of frames, in memory or in files: which columns are x, which is y, and which say how they are split.

x are the columns of numbers and booleans, NaN where they are missing; what else a frame has is `label`, `group`, `time` or
`held_out`, or is left out by name.
"""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaekit.data import columnar
from vaekit.data.examples import Examples
from vaekit.data.frames import (
    ENDINGS,
    as_frame,
    ending_of,
    is_frame,
    is_numeric,
    matrix,
    numbers,
    package,
    read_frame,
)
from vaekit.data.labels import labels_of
from vaekit.data.mapped import MappedArray
from vaekit.data.parted import Parted, encoded, held_out_of, known_schema
from vaekit.data.readers import Parts, converter, reader
from vaekit.data.row_file import kept_on_disk
from vaekit.data.schema import Schema
from vaekit.data.splits import Marks

if TYPE_CHECKING:
    import narwhals as nw

_MOST_IN_MEMORY = 1 << 26  # numbers of x, 256 MiB; of a larger parquet file they are kept on disk
HOW_A_FILE_IS_READ = ("delimiter", "decimal", "encoding", "header", "sheet")  # the options that are `read_frame`'s
_WORDS = {True: ("test", "validation", "valid", "val", "dev", "holdout", "true", "1"), False: ("train", "training", "false", "0")}


@dataclass(frozen=True)
class InMemory:
    """A frame in memory, as `columnar.ParquetRows` is one in a file."""

    frame: nw.DataFrame[Any]

    @property
    def names(self) -> list[str]:
        return self.frame.columns

    def __len__(self) -> int:
        return len(self.frame)

    def read(self, names: Sequence[str]) -> nw.DataFrame[Any]:
        return self.frame.select(list(names))

    def pieces(self, names: Sequence[str]) -> Iterator[nw.DataFrame[Any]]:
        yield self.read(names)


Rows: TypeAlias = "InMemory | columnar.ParquetRows | columnar.ArrowRows"


@dataclass(frozen=True)
class Choice:
    """What the columns of a frame are for: the options of `_of_frame`."""

    label: str | None = None
    columns: Sequence[str] | None = None
    drop: Sequence[str] | None = None
    group: str | None = None
    time: str | None = None
    held_out: str | None = None
    schema: str | Mapping[str, Any] | Schema | Parted | None = None

    def of_x(self, names: list[str], where: str) -> list[str]:
        """The columns of x.

        Raises:
            TypeError: columns or drop that is no list.
            ValueError: a column that is not there, one without a name, or none left.
        """
        for option in ("columns", "drop"):
            if isinstance(getattr(self, option), str):
                raise TypeError(
                    f"{option} has to be a list of names, got {getattr(self, option)!r}; [{getattr(self, option)!r}] is one"
                )
        others = [name for name in (self.label, self.group, self.time, self.held_out) if name is not None]
        for name in (*others, *(self.columns or ()), *(self.drop or ())):
            if name not in names:
                near = difflib.get_close_matches(str(name), names, n=1)
                raise ValueError(
                    f"{where} has no column {name!r}{f'; did you mean {near[0]!r}?' if near else ''} It has: "
                    f"{', '.join(map(repr, names[:30]))}{', ...' if names[30:] else ''}"
                )
        left_out = {*others, *(self.drop or ())}
        chosen = list(self.columns) if self.columns is not None else [name for name in names if name not in left_out]
        if "" in chosen:
            raise ValueError(
                f"column {names.index('') + 1} of {where} has no name; pandas writes its index so: leave it out with drop=[''] "
                "(--read 'drop=[\"\"]'), or give it a name"
            )
        if not chosen:
            raise ValueError(f"no column of {where} is left for x: it has {', '.join(map(repr, names))}")
        return chosen


def names_in(path: str | os.PathLike[str], reading: Mapping[str, Any]) -> list[str]:
    """The names of the columns in the file of a table.

    Args:
        path: of the file.
        reading: the options by which it is read as examples.
    """
    if ending_of(path) == ".parquet":
        with columnar.ParquetRows.open(Path(path)) as rows:
            return list(rows.names)
    return read_frame(path, **{name: reading[name] for name in HOW_A_FILE_IS_READ if name in reading}).columns


def same_kind_of_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two files of tables end alike, so that what says how one is read may be said of the other."""
    return ending_of(one) == ending_of(other)


@converter("frames", is_frame, extra="tables")
def _of_frame(
    data: Any,
    *,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    group: str | None = None,
    time: str | None = None,
    held_out: str | None = None,
    schema: str | Mapping[str, Any] | Schema | None = None,
) -> Examples:
    """Examples of a frame of pandas, polars or pyarrow.

    Args:
        data: the frame.
        label: the column that is y: text, categories and booleans become numbered labels with names, whole numbers labels, real
            numbers vectors of one number.
        columns: those that are x, in this order; by default all that nothing else is said of.
        drop: columns that are left out.
        group: a column whose values are never on both sides of a split, a patient's number for example; no part of x.
        time: a column of numbers or dates by which the last part is held out; no part of x.
        held_out: a column that says which rows are held out: booleans, 0 and 1, or "train" and "test"; no part of x.
        schema: encodes columns of every kind, see `vaekit.data.Schema`: one that there is, whose columns are x, or what its
            `to_config` gives; "guess", or {column: {setting: value}} of what is known better, for one that is guessed from the
            columns of x. `load` and `fit` guess it from the rows that are not held out. What held-out rows alone have, a level
            for example, is missing in them, with a warning, where values of the column may be missing, as they then may in a
            schema that was guessed; otherwise it is refused.

    Raises:
        TypeError: a column of x that is not numbers, or one of dates that is not.
        ValueError: a column that is not there or has no name, missing labels, groups or times.
    """
    return examples_of(
        InMemory(as_frame(data)), Choice(label, columns, drop, group, time, held_out, known_schema(schema)), "the frame"
    )


@reader(
    f"tables ({', '.join(ENDINGS)})",
    suffixes=(*ENDINGS, *(f"{ending}.gz" for ending in ENDINGS if ending not in (".parquet", ".feather", ".arrow", ".xlsx"))),
    extra="tables",
)
def _read(
    path: Path,
    *,
    label: str | None = None,
    columns: Sequence[str] | None = None,
    drop: Sequence[str] | None = None,
    group: str | None = None,
    time: str | None = None,
    held_out: str | None = None,
    schema: str | Mapping[str, Any] | Schema | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    sheet: str | None = None,
) -> Parts:
    """Examples in a file; options as those of `_of_frame` and `read_frame`.

    Of a parquet, feather or Arrow file that is larger than 256 MiB as float32, x is decoded row group by row group, or record
    batch by record batch, into an unnamed file in the cache folder, from which rows are read where they are indexed; it goes with
    the process. Other files are read whole.
    """
    choice = Choice(label, columns, drop, group, time, held_out, known_schema(schema))
    told = {"delimiter": delimiter, "decimal": decimal, "encoding": encoding, "header": header, "sheet": sheet}
    if not any(value is not None for value in told.values()):
        with columnar.rows_of(path) as rows:
            if rows is not None:
                return examples_of(rows, choice, str(path)), None
    frame = read_frame(path, delimiter=delimiter, decimal=decimal, encoding=encoding, header=header, sheet=sheet)
    return examples_of(InMemory(frame), choice, str(path)), None


def _schema_of(rows: Rows, given: Any, of_x: Sequence[str], where: str, held_out: npt.NDArray[np.bool_] | None) -> Schema | None:
    if given is None or isinstance(given, Schema):
        return given
    if not isinstance(rows, InMemory) and len(rows) * len(of_x) > _MOST_IN_MEMORY:
        raise ValueError(
            f"{where} is too large to guess a schema from all of it; guess one from a part, vaekit.data.Schema.guess(frame), and "
            "give it as schema="
        )
    frame = rows.read(of_x)
    seen = frame if held_out is None else frame[np.flatnonzero(~held_out).tolist()]
    return Schema.guess(seen.to_native(), None if isinstance(given, str) else given)


def examples_of(rows: Rows, choice: Choice, where: str) -> Examples:
    """Examples of the rows of a frame.

    Args:
        rows: in memory or in a file.
        choice: what its columns are for.
        where: they are, for messages.
    """
    names = list(rows.names)
    split = choice.schema if isinstance(choice.schema, Parted) else None
    given = choice.schema if split is None else split.schema
    if isinstance(given, Schema) and choice.columns is None:
        choice = replace(choice, columns=list(given.columns))
    if choice.columns is None and "" in names and "" not in (choice.drop or ()) and _counts_rows(rows.read([""])[""]):
        warnings.warn(f"column {names.index('') + 1} of {where} has no name and counts the rows: it is left out", stacklevel=2)
        choice = replace(choice, drop=[*(choice.drop or ()), ""])
    of_x = choice.of_x(names, where)
    if not len(rows):
        raise ValueError(f"{where} has no rows")
    y, label_names = (None, None) if choice.label is None else labels_of(rows.read([choice.label])[choice.label])
    marks = _marks(rows, choice)
    held_out = None if split is None else held_out_of(split, len(rows), y, marks)
    schema = _schema_of(rows, given, of_x, where, held_out)
    is_small = isinstance(rows, InMemory) or len(rows) * len(of_x) <= _MOST_IN_MEMORY
    if schema is not None and split is not None and held_out is not None and is_small:
        frame, is_guessed = rows.read(of_x), split.is_guessed or not isinstance(given, Schema)
        x_of_all, schema = encoded(frame, schema, held_out, is_guessed)
        return Examples(x_of_all, y, label_names=label_names, marks=marks, columns=of_x, schema=schema)

    def encode(piece: nw.DataFrame[Any]) -> npt.NDArray[Any]:
        return matrix(piece) if schema is None else schema.encode(piece.to_native()).numpy()

    try:
        x = torch.from_numpy(encode(rows.read(of_x))) if is_small else _on_disk(rows, of_x, encode)
    except TypeError as error:
        if schema is not None:
            raise
        raise TypeError(
            f"{where}: {error}. Name such a column as label, leave it out with drop=[...], or let schema='guess' encode it"
        ) from error
    return Examples(x, y, label_names=label_names, marks=marks, columns=of_x, schema=schema)


def _counts_rows(column: nw.Series[Any]) -> bool:
    """Whether a column is 0, 1, 2, ...: the index that pandas writes."""
    return column.dtype.is_integer() and column.to_list() == list(range(len(column)))


def _on_disk(rows: Rows, names: Sequence[str], encode: Callable[[nw.DataFrame[Any]], npt.NDArray[Any]]) -> MappedArray:
    """x in a file that goes with the array, written piece by piece."""
    pieces = (encode(piece).astype("<f4", copy=False) for piece in rows.pieces(names))
    return MappedArray(kept_on_disk((len(rows), len(names)), "<f4", pieces))


def _marks(rows: Rows, choice: Choice) -> Marks | None:
    """What the examples are split by."""
    if choice.group is None and choice.time is None and choice.held_out is None:
        return None

    def column(name: str | None) -> nw.Series[Any] | None:
        return None if name is None else _complete(rows.read([name])[name])

    group, time, held_out = (column(name) for name in (choice.group, choice.time, choice.held_out))
    return Marks(
        None if group is None else torch.from_numpy(np.unique(np.array(group.to_list(), dtype=str), return_inverse=True)[1]),
        None if time is None else _times(time),
        None if held_out is None else _held_out(held_out),
    )


def _complete(column: nw.Series[Any]) -> nw.Series[Any]:
    missing = column.is_null().to_numpy()
    if column.dtype.is_float():
        missing = missing | np.isnan(numbers(column))
    if missing.any():
        raise ValueError(
            f"the column {column.name!r}, by which examples are split, is missing in {int(missing.sum())} of {len(missing)} "
            f"rows, first in row {int(missing.argmax())}; leave those rows out, or fill them"
        )
    return column


def _times(column: nw.Series[Any]) -> Tensor:
    narwhals = package("narwhals")
    if column.dtype == narwhals.Date or isinstance(column.dtype, narwhals.Datetime):
        return torch.from_numpy(column.dt.timestamp("us").to_numpy().astype(np.int64))
    if not is_numeric(column):
        raise TypeError(
            f"the column {column.name!r}, by which examples are split, is {column.dtype}, neither numbers nor dates; write "
            "dates as 2026-11-27, or convert them, pandas.to_datetime for example"
        )
    return torch.from_numpy(column.to_numpy().astype(np.int64) if column.dtype.is_integer() else numbers(column))


def _held_out(column: nw.Series[Any]) -> Tensor:
    words = {word: meaning for meaning, known in _WORDS.items() for word in known}
    values = [words.get(str(value).lower()) for value in column.to_list()]
    if None in values:
        row = values.index(None)
        raise ValueError(
            f"the column {column.name!r} has to say which rows are held out, as true and false, 1 and 0, or "
            f"test and train; it is {column[row]!r} in row {row}"
        )
    return torch.tensor(values)
