"""The rows of a file with what was missing in them from a model: all else is as the file has it, to the last digit.

A model's numbers are float32, which does not hold 40123.57; so what is observed is never taken from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaekit import data
from vaekit.data.columnar import ParquetRows
from vaekit.data.framed import HOW_A_FILE_IS_READ
from vaekit.data.frames import ending_of, package
from vaekit.data.mapped import MappedArray


class FileRows:
    """The rows of the file of a table, from first to last, a few at a time; a parquet file is never in memory as a whole.

    Args:
        path: of the file.
        reading: the options by which it is read as examples.
    """

    def __init__(self, path: Path, reading: Mapping[str, Any]) -> None:
        told = {option: reading[option] for option in HOW_A_FILE_IS_READ if reading.get(option) is not None}
        self._pieces = _parquet(path) if ending_of(path) == ".parquet" else iter([data.read_frame(path, **told)])
        self._held, self._first = next(self._pieces).to_arrow(), 0

    def take(self, numbers: Tensor) -> Any:
        """Rows as a table of pyarrow, with all columns of the file.

        Args:
            numbers: int64 [B], ascending, and none before those of the last call.
        """
        arrow, last = package("pyarrow"), int(numbers[-1])
        while self._first + len(self._held) <= last:
            passed = min(len(self._held), int(numbers[0]) - self._first)
            self._held = arrow.concat_tables([self._held.slice(passed), next(self._pieces).to_arrow()])
            self._first += passed
        return self._held.take(arrow.array((numbers - self._first).numpy()))


def _parquet(path: Path) -> Iterator[Any]:
    with ParquetRows.open(path) as rows:
        yield from rows.pieces(rows.names)


class Filling:
    """Fills the rows of a file, as many as examples at a time.

    Args:
        rows: of the file that the examples are from.
        examples: with the names of their columns, and the schema by which the file was read, where there was one.
    """

    def __init__(self, rows: FileRows, examples: data.Examples) -> None:
        self._rows, self._examples = rows, examples
        has_gaps = torch.stack([part.isnan().any(0) for part in _parts(examples)]).any(0)
        self._to_fill = [name for name, gaps in zip(examples.columns or (), has_gaps.tolist(), strict=True) if gaps]

    def __call__(self, first: int, x: Tensor) -> dict[str, Any]:
        """The columns of the file, of pyarrow, in the file's order.

        Args:
            first: the number of the first example.
            x: [B, M, F], M draws for each of B examples, or its one mean. The file's rows are repeated for each.
        """
        table = self._rows.take(self._examples.numbers(torch.arange(first, first + len(x))))
        table = table.take(np.repeat(np.arange(len(x)), x.shape[1]))
        made = self._in_units(x.flatten(0, 1))
        return {
            name: _filled(name, column, made[name]) if name in self._to_fill else column
            for name, column in zip(table.column_names, table.columns, strict=True)
        }

    def _in_units(self, x: Tensor) -> Mapping[str, Any]:
        if self._examples.schema is not None:
            return in_units(self._examples.schema, x)
        arrow, names = package("pyarrow"), self._examples.columns or ()
        return {name: arrow.array(values.double().numpy()) for name, values in zip(names, x.unbind(1), strict=True)}


def in_units(schema: data.Schema, x: Tensor) -> dict[str, Any]:
    """The columns of encoded rows [N, F] in their own units, of pyarrow."""
    table = package("narwhals").from_native(schema.decode(x), eager_only=True).to_arrow()
    return dict(zip(table.column_names, table.columns, strict=True))


def as_stored(examples: data.Examples, first: int, x: Tensor) -> npt.NDArray[Any]:
    """x [B, M, *S] of a model, M draws for each of B examples or its one mean, with what is observed as the file has it.

    It is float64 where the examples lie in a file of numbers that float32 does not hold, otherwise as given.

    Args:
        examples: of the model.
        first: the number of the first one.
        x: with what was missing filled.
    """
    filled: npt.NDArray[Any] = x.numpy()
    if not isinstance(examples.x, MappedArray) or examples.x.divisor != 1.0:
        return filled
    stored = examples.x.stored(np.arange(first, first + len(x)))
    if not (stored.dtype.kind in "iuf" and stored.dtype.itemsize > (4 if stored.dtype.kind == "f" else 2)):
        return filled
    observed = np.ma.filled(np.ma.asarray(stored, np.float64), np.nan)[:, None]
    return np.where(np.isnan(observed), filled, observed)


def _filled(name: str, column: Any, made: Any) -> Any:
    """A column with other values where it has none, in a type that has room for both, the same one whatever the values.

    Raises:
        ValueError: whole numbers beyond 2^53 with others that are not whole.
    """
    arrow, compute = package("pyarrow"), package("pyarrow.compute")
    if arrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    missing = compute.is_null(column, nan_is_null=True)
    is_narrow = arrow.types.is_null(column.type) or (_is_whole(column.type) and arrow.types.is_floating(made.type))
    try:
        return compute.if_else(missing, *((made, column.cast(made.type)) if is_narrow else (made.cast(column.type), column)))
    except arrow.ArrowInvalid as error:
        raise ValueError(
            f"the column {name!r} holds {column.type}, which cannot stand beside what the model fills in, {made.type}: {error}; "
            "make the column text if it is none of numbers, or leave it out with --read drop=[...] when training"
        ) from error


def _is_whole(kind: Any) -> bool:
    types = package("pyarrow").types
    return bool(types.is_integer(kind) or types.is_boolean(kind))


def _parts(examples: data.Examples) -> Iterator[Tensor]:
    for first in range(0, len(examples), 1 << 16):
        yield examples.x[first : first + (1 << 16)]
