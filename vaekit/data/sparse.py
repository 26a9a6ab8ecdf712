"""Matrices that are sparse or on disk: they stay what they are, and the rows of a batch become dense when they are indexed.

SciPy is not imported for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vaekit.data.arrays import examples_of
from vaekit.data.conversion import check_real
from vaekit.data.examples import Examples
from vaekit.data.readers import converter
from vaekit.data.row_file import row_numbers


class MatrixRows:
    """A matrix [N, D], dense or sparse by rows, in memory or on disk, as an array whose rows are dense when they are indexed.

    Args:
        matrix: SciPy's CSR, anndata's of a file, an h5py dataset or an array.
        columns: int64 [K], those to take, in this order; -1 is one that is not there, whose entries are 0. All by default.

    Attributes:
        matrix: as given.
        shape: (N, D), or (N, K).
        dtype: of the entries.

    Raises:
        TypeError: entries that are not real numbers.

    Example:
        >>> from scipy.sparse import csr_array
        >>> MatrixRows(csr_array(np.eye(3)), columns=np.array([2, -1, 0]))[[2, 0]]
        array([[1., 0., 0.],
               [0., 0., 1.]])
    """

    def __init__(self, matrix: Any, columns: npt.NDArray[np.int64] | None = None) -> None:
        self.matrix, self._columns = matrix, columns
        self.dtype: np.dtype[Any] = np.dtype(matrix.dtype)
        check_real(self.dtype)
        self.shape = (int(matrix.shape[0]), int(matrix.shape[1]) if columns is None else len(columns))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """The rows at an integer, a slice, integers [B] or a mask bool [N], dense."""
        rows = row_numbers(index, len(self), "the matrix")
        chosen, places = np.unique(rows.reshape(-1), return_inverse=True)  # files are read in one order, each row once
        read = self.matrix[chosen] if len(chosen) else np.empty((0, self.matrix.shape[1]), self.dtype)
        dense = read.toarray() if hasattr(read, "toarray") else np.asarray(read)
        return self._taken(dense)[places].reshape((*rows.shape, self.shape[1]))

    def of_columns(self, columns: npt.NDArray[np.int64]) -> MatrixRows:
        """The same rows, with these of their columns."""
        own = columns if self._columns is None else np.where(columns < 0, -1, self._columns[columns.clip(min=0)])
        return MatrixRows(self.matrix, own)

    def _taken(self, dense: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self._columns is None:
            return dense
        taken = dense[:, self._columns.clip(min=0)]
        taken[:, self._columns < 0] = 0
        return taken


def _is_sparse(data: Any) -> bool:
    return type(data).__module__.startswith("scipy.sparse") and hasattr(data, "tocsr")


@converter("sparse matrices of SciPy", _is_sparse)
def of_sparse(matrix: Any) -> Examples:
    """Examples of the rows; what is not stored is 0."""
    if len(matrix.shape) != 2:
        raise ValueError(f"a sparse matrix has to have the shape [examples, features], got {tuple(matrix.shape)}")
    return examples_of(MatrixRows(matrix.tocsr()), name="the sparse matrix")
