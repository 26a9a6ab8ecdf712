"""NumPy's files, .npy and .npz, read only as far as their headers say and only the members that are wanted.

Format: NEP 1 and `numpy.lib.format` in NumPy's documentation.
"""

from __future__ import annotations

import io
import math
import os
import threading
import weakref
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vaekit.data.conversion import check_real
from vaekit.files import open_regular

_BLOCK = 1 << 20  # bytes
_MOST_HEADER = 10_000  # bytes, NumPy's own limit
_HEADERS = {(1, 0): (2, np.lib.format.read_array_header_1_0), (2, 0): (4, np.lib.format.read_array_header_2_0)}


class Header(NamedTuple):
    """The header of a .npy file; `nbytes` bytes of values follow it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    columns_first: bool
    nbytes: int


class ArrayFile:
    """The array [N, *S] in a .npy file; its rows are read when they are indexed.

    Rows are read with file reads, not through a memory map: if another process cuts the file short, a read fails with an error,
    whereas touching a map kills the process (SIGBUS). Threads and forked processes can share an `ArrayFile`; unpickling one opens
    the file again.

    Args:
        file: in C order, as `np.save` writes an ordinary array.

    Attributes:
        shape: [N, *S].
        dtype: of the values in the file.

    Raises:
        OSError: the file cannot be read.
        TypeError: an array of anything but real numbers.
        ValueError: not a .npy file, one in Fortran order, or one cut short before it was opened or since.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/x.npy", np.arange(6).reshape(3, 2))
        ...     ArrayFile(f"{folder}/x.npy")[np.array([2, 0])].tolist()
        [[4, 5], [0, 1]]
    """

    def __init__(self, file: str | os.PathLike[str]) -> None:
        self._file = os.fspath(file)
        with open_regular(file) as stream:
            header = read_header(stream, self._file)
            if header.columns_first or not header.shape:
                raise ValueError(f"{self._file} is a scalar or in Fortran order, and has no rows to read one by one")
            self.shape, self.dtype, self._start = header.shape, header.dtype, stream.tell()
            size = os.fstat(stream.fileno()).st_size
            if size < self._start + header.nbytes:
                expected = self._start + header.nbytes
                raise ValueError(f"{self._file} is truncated: shape {header.shape} takes {expected} bytes, the file has {size}")
            self._descriptor = os.dup(stream.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self._row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._file,)

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


def open_array(file: Path) -> ArrayFile | np.memmap[Any, Any]:
    """The array in a .npy file, left on disk: an `ArrayFile`, or a memory map where it is in Fortran order.

    Raises: as `ArrayFile`.
    """
    with open_regular(file) as stream:
        header = read_header(stream, str(file))
    if not header.columns_first:
        return ArrayFile(file)
    try:
        mapped: np.memmap[Any, Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy, mmap and the system report a short file in many ways
        raise ValueError(f"{file} cannot be read as a NumPy file ({error}); it may have been cut short") from error
    return mapped


def read_members(file: Path, choose: Callable[[list[str]], Collection[str]]) -> dict[str, npt.NDArray[Any]]:
    """Arrays in a .npz file by name; `choose` gets the names of all and returns those to read.

    Raises:
        OSError: the file cannot be read.
        TypeError: an array of anything but real numbers.
        ValueError: not a .npz file, a damaged one, or an array whose length differs from its header.
    """
    with open_regular(file) as stream:
        try:
            archive = zipfile.ZipFile(stream)
        except Exception as error:  # BadZipFile as a rule, but a damaged archive can raise anything
            raise ValueError(f"{file} cannot be read as a NumPy file ({error}); it may have been cut short") from error
        with archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            return {key: _read_member(file, archive, key, members[key]) for key in choose(list(members))}


def member_outlines(file: Path) -> dict[str, str]:
    """The dtype and shape of each array in a .npz file by its name, in words."""
    found = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.namelist():
            try:
                with archive.open(member) as stream:
                    header = read_header(stream, member)
                shape = header.shape[::-1] if header.columns_first else header.shape
                found[member.removesuffix(".npy")] = f"{header.dtype} {list(shape)}"
            except (TypeError, ValueError):  # a damaged one may be such, too, and is not read here
                found[member.removesuffix(".npy")] = "(no array of numbers)"
    return found


def _read_member(file: Path, archive: zipfile.ZipFile, key: str, name: str) -> npt.NDArray[Any]:
    where = f"{file}, the array {key!r},"
    try:
        with archive.open(name) as member:
            header = read_header(member, where)
            values = np.empty(header.nbytes, np.uint8)
            found = _fill(values, member)
            if found < header.nbytes or member.read(1):
                is_longer = found == header.nbytes
                raise ValueError(
                    f"{where} is {'longer than it says' if is_longer else 'truncated'}: shape {header.shape} takes "
                    f"{header.nbytes} bytes, it has {'more' if is_longer else found}"
                )
            shape = header.shape[::-1] if header.columns_first else header.shape
            array = values.view(header.dtype).reshape(shape)
            return array.T if header.columns_first else array
    except TypeError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy report damage in many ways
        if isinstance(error, ValueError) and str(error).startswith(where):
            raise
        raise ValueError(f"{where} cannot be read ({error or type(error).__name__}); the file may be damaged") from error


def _fill(values: npt.NDArray[np.uint8], stream: IO[bytes]) -> int:
    """Read a stream into an array until either ends; returns the number of bytes. Memory is committed only as it fills."""
    found = 0
    while found < len(values) and (block := stream.read(min(_BLOCK, len(values) - found))):
        values[found : found + len(block)] = np.frombuffer(block, np.uint8)
        found += len(block)
    return found


def read_header(stream: IO[bytes], where: str) -> Header:
    """Read the header of a .npy file; the stream is left at the first value.

    Raises:
        TypeError: an array of anything but real numbers; the message begins with `where`.
        ValueError: an invalid header; the message begins with `where`.
    """
    try:
        width, parse = _HEADERS[np.lib.format.read_magic(stream)]
        prefix = stream.read(width)
        length = int.from_bytes(prefix, "little")
        if length > _MOST_HEADER:
            raise ValueError(f"its header claims {length} bytes, more than {_MOST_HEADER}")
        shape, columns_first, dtype = parse(io.BytesIO(prefix + stream.read(length)))
    except Exception as error:  # NumPy's parser and Python's report a damaged header in many ways
        raise ValueError(f"{where} cannot be read as a NumPy file ({error}); it may have been cut short") from error
    if dtype.hasobject:
        raise ValueError(f"{where} holds Python objects, which are not loaded because they can run code; save real numbers")
    try:
        check_real(dtype)
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from error
    if any(size < 0 for size in shape):
        raise ValueError(f"{where} has the shape {shape}, which no array can have")
    return Header(shape, dtype, columns_first and len(shape) > 1, math.prod(shape) * dtype.itemsize)
