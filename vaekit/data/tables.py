"""Tables of the package `datasets` of Hugging Face, whose columns x and y are examples; the package itself is not imported."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from vaekit.data.arrays import examples_of
from vaekit.data.conversion import check_real
from vaekit.data.examples import Examples
from vaekit.data.numpy_files import row_numbers
from vaekit.data.readers import converter


def is_table(data: Any) -> bool:
    """Whether the data is a `datasets.Dataset` (an `IterableDataset` has no length), or looks like one."""
    return all(hasattr(data, name) for name in ("column_names", "with_format", "__len__", "__getitem__"))


class Column:
    """A column of a table as an array [N, *S] whose rows are read when they are indexed.

    Args:
        table: with rows of one shape, in any format but that of `set_transform`.
        name: of the column.

    Attributes:
        shape: [N, *S].
        dtype: of the values.

    Raises:
        TypeError: values that are not numbers, or a table with a transform.
        ValueError: no such column, or rows of different shapes.
    """

    def __init__(self, table: Any, name: str) -> None:
        kind = (table.format or {}).get("type")
        if kind == "custom":
            raise TypeError(
                "the dataset has a transform (set_transform), which may give other values each time; put it into a "
                "torch.utils.data.DataLoader"
            )
        if name not in table.column_names:
            raise ValueError(
                f"the dataset needs the column {name!r}, it has: {', '.join(table.column_names)}; "
                f"rename_column(..., {name!r}) renames one"
            )
        column = table.select_columns([name])
        self._table = column if kind in (None, "numpy", "torch") else column.with_format("numpy")  # "arrow" or "pandas" otherwise
        self._name = name
        first = self._rows([0]) if len(table) else np.empty((0, 0), np.float32)
        self.dtype = first.dtype
        self.shape: tuple[int, ...] = (len(table), *first.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        rows = row_numbers(index, len(self), f"the column {self._name!r}")
        values = self._rows(rows.reshape(-1).tolist()) if rows.size else np.empty((0, *self.shape[1:]), self.dtype)
        return values.reshape((*rows.shape, *self.shape[1:]))

    def _rows(self, rows: list[int]) -> npt.NDArray[Any]:
        values = self._table[rows][self._name]
        try:
            array = values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        except ValueError as error:
            raise ValueError(f"the rows of the column {self._name!r} have different shapes; pad them to one") from error
        check_real(array.dtype)
        return array


@converter("tables of the package datasets", is_table)
def _of_table(table: Any, *, layout: str = "auto") -> Examples:
    y = Column(table, "y")[:] if "y" in table.column_names else None
    return examples_of(Column(table, "x"), y, layout=layout)
