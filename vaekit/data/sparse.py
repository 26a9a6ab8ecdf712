"""Sparse matrices of SciPy, held sparse: the rows of a batch become dense when they are indexed. SciPy is not imported for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vaekit.data.arrays import examples_of
from vaekit.data.examples import Examples
from vaekit.data.numpy_files import row_numbers
from vaekit.data.readers import converter


class SparseRows:
    """A sparse matrix [N, D] of SciPy as an array whose rows are dense when they are indexed.

    Args:
        matrix: of any format; it is held as CSR, in which a row's entries lie together.

    Attributes:
        shape: [N, D].
        dtype: of the entries.
    """

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix.tocsr()
        self.shape: tuple[int, ...] = tuple(self.matrix.shape)
        self.dtype: np.dtype[Any] = self.matrix.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """The rows at an integer, a slice, integers [B] or a mask bool [N], dense."""
        rows = row_numbers(index, len(self), "the sparse matrix")
        values: npt.NDArray[Any] = self.matrix[rows.reshape(-1)].toarray()
        return values.reshape((*rows.shape, *self.shape[1:]))


def _is_sparse(data: Any) -> bool:
    return type(data).__module__.startswith("scipy.sparse") and hasattr(data, "tocsr")


@converter("sparse matrices of SciPy", _is_sparse)
def of_sparse(matrix: Any) -> Examples:
    """Examples of the rows; what is not stored is 0."""
    if len(matrix.shape) != 2:
        raise ValueError(f"a sparse matrix has to have the shape [examples, features], got {tuple(matrix.shape)}")
    return examples_of(SparseRows(matrix), name="the sparse matrix")
