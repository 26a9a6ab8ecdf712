"""Labels of any kind as numbers, with the names of those that are words: text, categories, booleans, a column of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaekit.data.conversion import MISSING, labels
from vaekit.data.frames import categories, is_numeric, numbers, package

if TYPE_CHECKING:
    import narwhals as nw

Named = tuple["Tensor | None", "tuple[str, ...] | None"]

_SERIES = ("cudf", "modin", "pandas", "polars", "pyarrow")


def named_labels(y: Any) -> Named:
    """(y, names): what a person gives for y as a tensor, and what its labels are called where they are words.

    - Text is numbered in sorted order, categories in their own, False and True are 0 and 1; all have names.
    - Whole numbers are int64 [N], also those of shape [N, 1].
    - Real numbers are floats [N, 1], a vector each; vectors are floats [N, K].
    - Text, categories, booleans and whole numbers may be missing, None, NaN or masked: -1, which has no name.

    Args:
        y: anything array-like, a series of pandas, polars or narwhals, an array of pyarrow, or None.

    Raises:
        TypeError: a column of another kind.
        ValueError: real numbers that are missing, labels that all are, or as `vaekit.data.conversion.labels` says. Names the
            first such example.

    Example:
        >>> named_labels(["rome", None, "london"])
        (tensor([ 1, -1,  0]), ('london', 'rome'))
        >>> named_labels(["rome", "london", "rome"])
        (tensor([1, 0, 1]), ('london', 'rome'))
        >>> named_labels([0.5, 1.0])
        (tensor([[0.5000],
                [1.0000]]), None)
    """
    if y is None or isinstance(y, Tensor):
        return labels(y), None
    if type(y).__module__.partition(".")[0] in (*_SERIES, "narwhals"):
        return labels_of(_series(y))
    if isinstance(y, np.ma.MaskedArray):
        return labels(y), None
    array = y if isinstance(y, np.ndarray) else _as_array(y)
    if array is None or array.ndim != 1 or not _is_text(array):
        return labels(y), None
    return _numbered((array.astype(str) if array.dtype.kind == "S" else array).tolist(), None)


def _numbered(values: Sequence[Any], names: Sequence[Any] | None) -> Named:
    """Values as the numbers of their names, which are the values in sorted order where they are not given."""
    names = sorted({value for value in values if not _is_missing(value)}) if names is None else names
    number = {name: place for place, name in enumerate(names)} | {value: MISSING for value in values if _is_missing(value)}
    return torch.tensor([number[value] for value in values], dtype=torch.int64), tuple(map(str, names))


def _is_missing(value: Any) -> bool:
    """Whether a label is None, NaN or pandas' NA."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def _as_array(y: Any) -> npt.NDArray[Any] | None:
    """y as NumPy has it; None where its rows have different lengths, of which `labels` tells."""
    try:
        return np.asarray(y, dtype=object if isinstance(y, Sequence) and any(isinstance(value, str) for value in y) else None)
    except ValueError:
        return None


def _is_text(array: npt.NDArray[Any]) -> bool:
    """Whether the labels are text.

    Raises:
        ValueError: some are, and others are of another kind.
    """
    if array.dtype.kind in "US":
        return True
    if array.dtype.kind != "O" or not any(isinstance(value, str) for value in array):
        return False
    others = [row for row, value in enumerate(array) if not isinstance(value, str) and not _is_missing(value)]
    if others:
        raise ValueError(
            f"labels are text in some examples, and {array[others[0]]!r} in example {others[0]}; give all of them "
            "text, and None where a label is missing"
        )
    return True


def _series(y: Any) -> nw.Series[Any]:
    if type(y).__module__.startswith("pyarrow"):
        arrow = package("pyarrow")
        y = arrow.chunked_array([y]) if isinstance(y, arrow.Array) else y
    elif type(y).__module__.startswith("pandas") and not hasattr(y, "iloc"):  # its arrays, and an index
        y = package("pandas").Series(y)
    series: nw.Series[Any] = package("narwhals").from_native(y, series_only=True, pass_through=False)
    return series


def labels_of(column: nw.Series[Any]) -> Named:
    """(y, names) of a column of a frame: see `named_labels`."""
    narwhals, what = package("narwhals"), f"the labels{'' if column.name is None else f', column {column.name!r},'}"
    missing = column.is_null().to_numpy()
    if column.dtype.is_float():
        missing = missing | np.isnan(numbers(column))
    if missing.all():
        raise ValueError(f"{what} are missing in all {len(missing)} rows; name no label")
    if column.dtype == narwhals.Boolean:
        numbered = [MISSING if gone else int(value) for gone, value in zip(missing, column.to_list(), strict=True)]
        return torch.tensor(numbered, dtype=torch.int64), ("False", "True")
    if is_numeric(column):
        return labels(_whole(column, missing, what) if missing.any() or column.dtype.is_integer() else numbers(column)), None
    if column.dtype not in (narwhals.String, narwhals.Categorical, narwhals.Enum):
        raise TypeError(f"{what} are {column.dtype}; labels are text, categories, booleans or numbers")
    return _numbered(column.to_list(), categories(column))


def _whole(column: nw.Series[Any], missing: npt.NDArray[np.bool_], what: str) -> npt.NDArray[Any]:
    """Whole numbers with -1 where they are missing.

    Raises:
        ValueError: real numbers of which one is.
    """
    if not missing.any():
        return column.to_numpy()
    values = numbers(column)
    if (values[~missing] != np.trunc(values[~missing])).any():
        raise ValueError(
            f"{what} are real numbers, and missing in {int(missing.sum())} of {len(missing)} rows, first in row "
            f"{int(missing.argmax())}; leave those rows out, or fill them"
        )
    return np.where(missing, MISSING, values)
