"""Examples of frames, in memory or in files: which columns are x, which is y, and which say how they are split.

x are the columns of numbers and booleans, NaN where they are missing; what else a frame has is `label`, `group`, `time` or
`held_out`, or is left out by name.
"""

from __future__ import annotations

import difflib
import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vaekit.data import columnar
from vaekit.data.download import cache_folder
from vaekit.data.examples import Examples
from vaekit.data.frames import (
    ENDINGS,
    as_frame,
    ending_of,
    is_frame,
    is_frame_file,
    is_numeric,
    matrix,
    numbers,
    package,
    read_frame,
)
from vaekit.data.labels import labels_of
from vaekit.data.mapped import MappedArray
from vaekit.data.numpy_files import ArrayFile
from vaekit.data.readers import Parts, converter, reader
from vaekit.data.splits import Marks

if TYPE_CHECKING:
    import narwhals as nw

_MOST_IN_MEMORY = 1 << 26  # numbers of x, 256 MiB; of a larger parquet file they are kept on disk
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


Rows: TypeAlias = "InMemory | columnar.ParquetRows"


@dataclass(frozen=True)
class Choice:
    """What the columns of a frame are for: the options of `_of_frame`."""

    label: str | None = None
    columns: Sequence[str] | None = None
    drop: Sequence[str] | None = None
    group: str | None = None
    time: str | None = None
    held_out: str | None = None

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
                f"column {names.index('') + 1} of {where} has no name; pandas writes its index so: leave it out with drop=[''], "
                "or give it a name"
            )
        if not chosen:
            raise ValueError(f"no column of {where} is left for x: it has {', '.join(map(repr, names))}")
        return chosen


def is_table_source(source: Any) -> bool:
    """Whether a source is a frame, or the file of one."""
    return is_frame(source) or (isinstance(source, (str, os.PathLike)) and is_frame_file(source))


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

    Raises:
        TypeError: a column of x that is not numbers, or one of dates that is not.
        ValueError: a column that is not there or has no name, missing labels, groups or times.
    """
    return examples_of(InMemory(as_frame(data)), Choice(label, columns, drop, group, time, held_out), "the frame")


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
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    sheet: str | None = None,
) -> Parts:
    """Examples in a file; options as those of `_of_frame` and `read_frame`.

    Of a parquet file that is larger than 256 MiB as float32, x is decoded row group by row group into an unnamed array on disk,
    in the cache folder, from which rows are read where they are indexed; it goes with the process. Other files are read whole.
    """
    choice = Choice(label, columns, drop, group, time, held_out)
    told = {"delimiter": delimiter, "decimal": decimal, "encoding": encoding, "header": header, "sheet": sheet}
    if ending_of(path) == ".parquet" and not any(value is not None for value in told.values()):
        with columnar.ParquetRows.open(path) as rows:
            return examples_of(rows, choice, str(path)), None
    frame = read_frame(path, delimiter=delimiter, decimal=decimal, encoding=encoding, header=header, sheet=sheet)
    return examples_of(InMemory(frame), choice, str(path)), None


def examples_of(rows: Rows, choice: Choice, where: str) -> Examples:
    """Examples of the rows of a frame.

    Args:
        rows: in memory or in a file.
        choice: what its columns are for.
        where: they are, for messages.
    """
    of_x = choice.of_x(list(rows.names), where)
    if not len(rows):
        raise ValueError(f"{where} has no rows")
    y, names = (None, None) if choice.label is None else labels_of(rows.read([choice.label])[choice.label])
    marks = _marks(rows, choice)
    try:
        x = (
            _in_memory(rows, of_x)
            if len(rows) * len(of_x) <= _MOST_IN_MEMORY or isinstance(rows, InMemory)
            else _on_disk(rows, of_x)
        )
    except TypeError as error:
        raise TypeError(f"{where}: {error}. Name such a column as label, or leave it out with drop=[...]") from error
    return Examples(x, y, label_names=names, marks=marks, columns=of_x)


def _in_memory(rows: Rows, names: Sequence[str]) -> Tensor:
    return torch.from_numpy(matrix(rows.read(names)))


def _on_disk(rows: Rows, names: Sequence[str]) -> MappedArray:
    """x in a .npy file that goes with the array, written piece by piece."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="table-", suffix=".npy", delete=False) as file:
        try:
            shape, written = (len(rows), len(names)), 0
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)
            for piece in rows.pieces(names):
                values = matrix(piece)
                written += len(values)
                file.write(values.astype("<f4", copy=False).data)
            file.flush()
            assert written == len(rows)
            array = ArrayFile(file.name)
        except BaseException:
            os.unlink(file.name)
            raise
    weakref.finalize(array, os.unlink, file.name)
    return MappedArray(array)


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
