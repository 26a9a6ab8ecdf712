"""Examples held whole: in memory, or in a memory-mapped file that is converted a batch at a time."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset


class MappedArray:
    """Rows of a memory-mapped array [N, *S], which indexing turns into float32 tensors.

    Args:
        array: the memory map.
        rows: int64 [M], which of its rows, in which order; None is all of them.
        divisor: what values are divided by.
    """

    dtype = torch.float32

    def __init__(self, array: npt.NDArray[Any], rows: npt.NDArray[np.int64] | None = None, divisor: float = 1.0) -> None:
        self.array, self.rows, self.divisor = array, rows, divisor

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self.array.shape[1:]))

    def __len__(self) -> int:
        return len(self.array) if self.rows is None else len(self.rows)

    def __getitem__(self, index: Any) -> Tensor:
        index = index.numpy() if isinstance(index, Tensor) else index
        rows = self.array[index if self.rows is None else self.rows[index]]
        values = torch.from_numpy(np.array(rows, dtype=np.float32))  # a copy: the map may be read-only, tensors are not
        return values if self.divisor == 1.0 else values.div_(self.divisor)


class Examples(Dataset[Any]):
    """N examples, with labels or without; also a map-style dataset for `torch.utils.data.DataLoader`.

    Attributes:
        x: float [N, *S]: a tensor, or a `MappedArray`, which is indexed like one.
        y: int64 [N], labels; float [N, K], vectors; or None. What a conditional model is told; labels also colour pictures.
        rows: int64 [N], the examples' numbers in the file or array that they were split from; None where they are 0 to N - 1.

    Raises:
        ValueError: no feature dimension, or another number of labels than of examples.

    Example:
        >>> examples = Examples(torch.rand(10, 1, 8, 8), torch.arange(10))
        >>> len(examples), examples.x[:5].shape
        (10, torch.Size([5, 1, 8, 8]))
    """

    def __init__(self, x: Tensor | MappedArray, y: Tensor | None = None, rows: Tensor | None = None) -> None:
        if len(x.shape) < 2:
            raise ValueError(f"data has to have the shape [examples, ...], got {tuple(x.shape)}; a single column is x[:, None]")
        if y is not None and len(y) != len(x):
            raise ValueError(f"there are {len(x)} examples but {len(y)} labels")
        self.x, self.y, self.rows = x, y, rows

    def numbers(self, index: Tensor) -> Tensor:
        """The numbers by which a person knows the examples at `index` int64 [B]."""
        return index if self.rows is None else self.rows[index]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Any:
        return self.x[index] if self.y is None else (self.x[index], self.y[index])


def as_examples(data: Any) -> Examples:
    """Examples, a tensor, an array, or a pair (x, y) of them, as `Examples`.

    uint8 is read as grey levels and divided by 255; other integers and booleans become float32 with the values they have;
    arrays become float32; floating-point tensors stay as they are. y [N] becomes int64, y [N, K] floats.

    Raises:
        TypeError: something else, or values that are not real numbers.

    Example:
        >>> as_examples(np.full((2, 3), 255, dtype=np.uint8)).x
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    if isinstance(data, Examples):
        return data
    x, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    _hint_at_axes(x)
    if isinstance(x, np.memmap) and x.ndim > 0:
        return Examples(MappedArray(x, divisor=_divisor(x.dtype)), _as_y(y))
    if isinstance(x, np.ndarray):
        divisor = _divisor(x.dtype)
        x = torch.from_numpy(np.array(x, dtype=np.float32, order="C")) / divisor
    if not isinstance(x, Tensor):
        raise TypeError(
            f"data has to be a tensor, an array, a pair (x, y) of them or vaekit.data.Examples, got {type(x).__name__}"
            + (f"; vaekit.data.load({x!r}) loads by name" if isinstance(x, str) else "")
            + ("; put it into a torch.utils.data.DataLoader" if isinstance(x, Dataset) else "")
        )
    if x.is_complex():
        raise TypeError("data has to be real numbers, got a complex tensor")
    if not x.is_floating_point():
        x = x.float() / (255.0 if x.dtype == torch.uint8 else 1.0)
    return Examples(x, _as_y(y))


def _hint_at_axes(x: Any) -> None:
    """Warn where bytes look like images whose channel axis is missing or last: they would be read as something else."""
    if str(getattr(x, "dtype", "")).rpartition(".")[2] != "uint8":
        return
    shape = tuple(x.shape)
    grey, last = len(shape) == 3, len(shape) == 4 and shape[-1] in (1, 3, 4) and shape[1] > 4
    if grey or last:
        advice = "x[:, None] adds the channel axis" if grey else "move the channels, np.moveaxis(x, -1, 1)"
        warnings.warn(
            f"bytes of shape {shape} look like images, but those are [examples, channels, height, width] here: {advice}",
            UserWarning,
            stacklevel=3,
        )


def _divisor(dtype: np.dtype[Any]) -> float:
    """255 for uint8, grey levels, and 1 otherwise; TypeError for what is not real numbers."""
    if dtype.kind not in "fiub":
        raise TypeError(f"data has to be real numbers, got an array of {dtype}")
    return 255.0 if dtype == np.uint8 else 1.0


def _as_y(y: Any) -> Tensor | None:
    """Labels as int64 [N], where they are whole numbers; vectors as floats [N, K]."""
    if y is None:
        return None
    values = y.detach().cpu() if isinstance(y, Tensor) else np.asarray(y)
    if values.ndim not in (1, 2):
        raise ValueError(f"labels have to have the shape [examples], vectors [examples, size], got {tuple(values.shape)}")
    is_number = not values.is_complex() if isinstance(values, Tensor) else values.dtype.kind in "fiub"
    if values.ndim == 2 and is_number:
        floating = isinstance(values, Tensor) and values.is_floating_point()
        return values if floating else torch.as_tensor(np.asarray(values, dtype=np.float32))  # type: ignore[return-value]
    labels = np.asarray(values)
    if not is_number or not np.array_equal(labels, np.trunc(labels.astype(np.float64))):
        raise ValueError(
            f"labels have to be whole numbers, got {labels.dtype} such as {labels.flat[0] if labels.size else 'none'!r}; "
            "one number for each example as a condition is y[:, None]"
        )
    return torch.from_numpy(labels.astype(np.int64))
