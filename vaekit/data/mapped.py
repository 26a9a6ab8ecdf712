"""Arrays that stay on disk and become float32 tensors a batch at a time."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaekit.data.axes import arranged, arranged_shape
from vaekit.data.conversion import float32


class MappedArray:
    """Rows of an array [N, *S] on disk; indexing gives float32 tensors, NaN where the array is masked.

    Args:
        array: a memory map, a `RowFile`, or any array.
        rows: int64 [M], the rows to take, in this order; all of them by default.
        divisor: of the values.
        form: what `vaekit.data.axes.arranged` makes of the axes.

    Raises:
        ValueError: when indexed, if the file has been cut short since, or holds numbers beyond float32's range.

    Example:
        >>> MappedArray(np.arange(6).reshape(3, 2), rows=np.array([2, 0]))[:]
        tensor([[4., 5.],
                [0., 1.]])
    """

    dtype = torch.float32

    def __init__(self, array: Any, rows: npt.NDArray[np.int64] | None = None, divisor: float = 1.0, form: str = "") -> None:
        self.array, self.rows, self.divisor, self.form = array, rows, divisor, form

    @property
    def shape(self) -> torch.Size:
        return arranged_shape((len(self), *self.array.shape[1:]), self.form)

    def __len__(self) -> int:
        return len(self.array) if self.rows is None else len(self.rows)

    def take(self, rows: Tensor) -> MappedArray:
        """The rows int64 [M] alone, still on disk."""
        numbers = rows.numpy() if self.rows is None else self.rows[rows.numpy()]
        return MappedArray(self.array, numbers, self.divisor, self.form)

    def __getitem__(self, index: Any) -> Tensor:
        values = float32(self.stored(index))
        if self.divisor != 1.0:
            values /= self.divisor  # in NumPy: torch would start threads of its own for each thread that reads
        return torch.from_numpy(values)

    def stored(self, index: Any) -> Any:
        """The rows as the file has them, in its own dtype, with the axes of examples."""
        index = index.cpu().numpy() if isinstance(index, Tensor) else index
        _check_not_cut(self.array)
        return arranged(self.array[index if self.rows is None else self.rows[index]], self.form)


def _check_not_cut(array: Any) -> None:
    """Raise ValueError if the file behind a memory map has shrunk: reading past its end would kill the process."""
    mapped = array.data if isinstance(array, np.ma.MaskedArray) else array
    if not isinstance(mapped, np.memmap):
        return
    pages: Any = mapped
    while isinstance(pages, np.ndarray):
        pages = pages.base
    if not isinstance(pages, mmap.mmap):
        return
    end = mapped.offset - mapped.offset % mmap.ALLOCATIONGRANULARITY + len(pages)
    if (size := pages.size()) < end:
        raise ValueError(f"{mapped.filename} has been cut short while it was in use: it had {end} bytes, now it has {size}")
