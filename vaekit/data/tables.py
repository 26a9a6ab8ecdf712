"""Tables of the package `datasets` of Hugging Face as examples, by their columns' names; the package itself is not imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from vaekit.checks import checked_word
from vaekit.data.arrays import examples_of
from vaekit.data.conversion import check_real
from vaekit.data.examples import Examples
from vaekit.data.map_datasets import X, Y
from vaekit.data.pictures import GREY, Form, arranged_picture, size_of
from vaekit.data.readers import converter
from vaekit.data.row_file import row_numbers


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


class PictureColumn:
    """A column of pictures as an array [N, C, H, W] of bytes, decoded by Pillow when its rows are indexed.

    Args:
        table: of the package `datasets`.
        name: of the column.
        size: height and width of all; that of the first picture by default.
        colour: "colour", "grey", or "auto": what the first picture is.

    Raises:
        ValueError: when indexed, a picture of another size than the first, where no size is said.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, table: Any, name: str, size: int | Sequence[int] | None, colour: str) -> None:
        checked_word("colour", colour, ("auto", "colour", "grey"))
        self._table, self._name, self._is_fixed = table.select_columns([name]).with_format(None), name, size is None
        first = self._table[0][name]
        is_grey = first.mode in GREY if colour == "auto" else colour == "grey"
        self._form = Form(*size_of(size, first.size[::-1]), is_grey, False)
        self.shape = (len(table), 1 if is_grey else 3, self._form.height, self._form.width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        rows = row_numbers(index, len(self), f"the column {self._name!r}")
        values = np.empty((rows.size, *self.shape[1:]), self.dtype)
        flat = rows.reshape(-1).tolist()
        for place, image in enumerate(self._table[flat][self._name] if flat else []):
            if self._is_fixed and image.size != (self._form.width, self._form.height):
                raise ValueError(
                    f"the picture in row {flat[place]} is {image.height} x {image.width}, the first {self._form.height} x "
                    f"{self._form.width}: size=64, or size=[HEIGHT, WIDTH], makes them one"
                )
            values[place] = arranged_picture(image, self._form)
        return values.reshape((*rows.shape, *self.shape[1:]))


def _named(table: Any, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in table.column_names), None)


@converter("tables of the package datasets", is_table, extra="images")
def _of_table(table: Any, *, layout: str = "auto", size: int | Sequence[int] | None = None, colour: str = "auto") -> Examples:
    """Examples of the column x, image, img or pixel_values, and labels of y, label or labels; pictures are decoded when used."""
    x, y = _named(table, X) or "x", _named(table, Y)
    features = getattr(table, "features", None) or {}
    labels = None if y is None else Column(table, y)[:]
    names = getattr(features.get(y), "names", None)  # of a ClassLabel
    if type(features.get(x)).__name__ == "Image" and len(table):
        array = PictureColumn(table, x, size, colour)
        return examples_of(array, labels, layout="NCHW", divisor=255.0, label_names=names)
    if size is not None or colour != "auto":
        raise TypeError(f"size and colour are options of pictures, but the column {x!r} is of {features.get(x)}")
    return examples_of(Column(table, x), labels, layout=layout, label_names=names)
