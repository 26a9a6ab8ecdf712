"""Rows of an array that are read from a file where they are indexed, and such files that go with the array."""

from __future__ import annotations

import math
import os
import tempfile
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from vaekit.data.download import cache_folder
from vaekit.files import open_regular

MOST_IN_MEMORY = 1 << 24  # bytes: of a larger array, the rows are read where they are indexed


class RowFile:
    """The array [N, *S] whose values are in a file from some byte on; its rows are read when they are indexed.

    Rows are read with file reads, not through a memory map: if another process cuts the file short, a read fails with an error,
    whereas touching a map kills the process (SIGBUS). Threads and forked processes can share a `RowFile`; unpickling one opens
    the file again.

    Args:
        file: the path.
        shape: [N, *S], in C order.
        dtype: of the values.
        start: the byte at which they begin.

    Attributes:
        shape, dtype: as given.

    Raises:
        OSError: the file cannot be read.
        ValueError: one cut short before it was opened or since.
    """

    def __init__(self, file: str | os.PathLike[str], shape: tuple[int, ...], dtype: npt.DTypeLike, start: int) -> None:
        self._file, self.shape, self.dtype, self._start = os.fspath(file), tuple(shape), np.dtype(dtype), start
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        with open_regular(file) as stream:
            size, expected = os.fstat(stream.fileno()).st_size, start + self.shape[0] * self._row_bytes
            if size < expected:
                raise ValueError(f"{self._file} is truncated: shape {self.shape} takes {expected} bytes, the file has {size}")
            self._descriptor = os.dup(stream.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RowFile, (self._file, self.shape, self.dtype, self._start)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """A copy of the rows at an integer, a slice, integers [B] or a mask bool [N], in the file's dtype."""
        rows = row_numbers(index, len(self), self._file)
        values = np.frombuffer(self._read(rows.reshape(-1)), self.dtype)
        return values.reshape((*rows.shape, *self.shape[1:]))

    def _read(self, rows: npt.NDArray[np.int64]) -> bytes:
        """The bytes of rows int64 [B]; consecutive rows are read together."""
        if not len(rows):
            return b""
        breaks = ((np.diff(rows) != 1).nonzero()[0] + 1).tolist()
        starts, ends = [0, *breaks], [*breaks, len(rows)]
        return b"".join([self._read_run(row, e - s) for row, s, e in zip(rows[starts].tolist(), starts, ends, strict=True)])

    def _read_run(self, row: int, count: int) -> bytes:
        start, missing = self._start + row * self._row_bytes, count * self._row_bytes
        found = self._read_some(missing, start)
        while len(found) < missing:  # Linux reads at most 2 GiB at a time
            piece = self._read_some(missing - len(found), start + len(found))
            if not piece:
                size = os.fstat(self._descriptor).st_size
                raise ValueError(
                    f"{self._file} has been cut short while it was in use: it has {size} bytes now, row {row} is gone"
                )
            found += piece
        return found

    def _read_some(self, count: int, start: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, count, start)
        with self._lock:  # Windows: two calls, between which another thread may seek
            os.lseek(self._descriptor, start, os.SEEK_SET)
            return os.read(self._descriptor, count)


def row_numbers(index: Any, count: int, name: str) -> npt.NDArray[np.int64]:
    """An integer, a slice, integers [B] or a mask bool [N] as row numbers int64 [B] or [], all from 0 to N - 1.

    Args:
        index: of rows.
        count: N, the number of rows.
        name: what the rows are of, for messages.

    Raises:
        IndexError: an index of another kind, or a row that is not there.
    """
    if isinstance(index, slice):
        return np.arange(*index.indices(count))
    rows = np.asarray(index)
    if isinstance(index, tuple) or rows.ndim > 1 or rows.dtype.kind not in "iub":
        raise IndexError(f"rows of {name} are indexed by an integer, a slice, integers or a mask, got {index!r}")
    if rows.dtype.kind == "b":
        if rows.shape != (count,):
            raise IndexError(f"a mask for the rows of {name} has to have {count} entries, got {rows.size}")
        return rows.nonzero()[0]
    rows = rows.astype(np.int64)
    if ((rows < -count) | (rows >= count)).any():
        raise IndexError(f"there are {count} rows in {name}, and no row {rows.min() if (rows < 0).any() else rows.max()}")
    return np.where(rows < 0, rows + count, rows)


def kept_on_disk(shape: tuple[int, ...], dtype: npt.DTypeLike, pieces: Iterable[npt.NDArray[Any]]) -> RowFile:
    """Rows [N, *S] in a file in the cache folder, which is removed when nothing has the array any more.

    Args:
        shape: [N, *S].
        dtype: of the values in the file.
        pieces: some rows after the other.

    Raises:
        OSError: it cannot be written.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="rows-", suffix=".tmp", delete=False) as file:
        try:
            for piece in pieces:
                file.write(np.ascontiguousarray(piece).data)
            file.flush()
            array = RowFile(file.name, shape, dtype, 0)
        except BaseException:
            os.unlink(file.name)
            raise
    weakref.finalize(array, os.unlink, file.name)
    return array
