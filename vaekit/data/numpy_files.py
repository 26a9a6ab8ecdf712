"""NumPy's files, .npy and .npz, read only as far as their headers say and only the members that are wanted.

Format: NEP 1 and `numpy.lib.format` in NumPy's documentation.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vaekit.data import row_file
from vaekit.data.conversion import check_real
from vaekit.data.row_file import RowFile
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


class ArrayFile(RowFile):
    """The array [N, *S] in a .npy file; its rows are read when they are indexed.

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
        with open_regular(file) as stream:
            header, start = read_header(stream, os.fspath(file)), stream.tell()
        if header.columns_first or not header.shape:
            raise ValueError(f"{os.fspath(file)} is a scalar or in Fortran order, and has no rows to read one by one")
        super().__init__(file, header.shape, header.dtype, start)


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


def read_members(
    file: Path, choose: Callable[[list[str]], Collection[str]], is_x: Callable[[str], bool] = lambda name: True
) -> dict[str, npt.NDArray[Any] | RowFile]:
    """Arrays in a .npz file by name.

    Args:
        file: the archive.
        choose: gets the names of all and returns those to read.
        is_x: whether an array, by its name, is examples, which stay on disk where they are large: in the archive, or unpacked
            into a file in the cache folder where they are compressed. Others, labels, may be text.

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
            return {key: _read_member(file, archive, key, members[key], is_x(key)) for key in choose(list(members))}


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


def _read_member(file: Path, archive: zipfile.ZipFile, key: str, name: str, is_x: bool) -> npt.NDArray[Any] | RowFile:
    where = f"{file}, the array {key!r},"
    try:
        with archive.open(name) as member:
            header = read_header(member, where, takes_text=not is_x)
            is_whole = archive.getinfo(name).file_size == member.tell() + header.nbytes
            if is_x and is_whole and header.nbytes > row_file.MOST_IN_MEMORY and not header.columns_first:
                return _rows_of(file, archive.getinfo(name), member, header)
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


def _rows_of(file: Path, info: zipfile.ZipInfo, member: IO[bytes], header: Header) -> RowFile:
    """The rows of a member of which the header has been read."""
    if info.compress_type != zipfile.ZIP_STORED:
        rows = max(1, _BLOCK // max(1, header.nbytes // header.shape[0]))
        return row_file.kept_on_disk(header.shape, header.dtype, _pieces(member, header, rows))
    with open_regular(file) as stream:  # PKWARE's .ZIP File Format Specification, 4.3.7: the local header has lengths of its own
        stream.seek(info.header_offset + 26)
        of_name, of_extra = struct.unpack("<HH", stream.read(4))
    return RowFile(file, header.shape, header.dtype, info.header_offset + 30 + of_name + of_extra + member.tell())


def _pieces(member: IO[bytes], header: Header, rows: int) -> Iterator[npt.NDArray[Any]]:
    left, of_row = header.nbytes, header.nbytes // header.shape[0]
    while left:
        block = member.read(min(rows * of_row, left))
        if not block:
            raise ValueError("it ends before its last value")
        left -= len(block)
        yield np.frombuffer(block, np.uint8).view(np.uint8)
    member.read(1)  # at its end the checksum is compared


def _fill(values: npt.NDArray[np.uint8], stream: IO[bytes]) -> int:
    """Read a stream into an array until either ends; returns the number of bytes. Memory is committed only as it fills."""
    found = 0
    while found < len(values) and (block := stream.read(min(_BLOCK, len(values) - found))):
        values[found : found + len(block)] = np.frombuffer(block, np.uint8)
        found += len(block)
    return found


def read_header(stream: IO[bytes], where: str, takes_text: bool = False) -> Header:
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
        if not (takes_text and dtype.kind in "US"):
            check_real(dtype)
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from error
    if any(size < 0 for size in shape):
        raise ValueError(f"{where} has the shape {shape}, which no array can have")
    return Header(shape, dtype, columns_first and len(shape) > 1, math.prod(shape) * dtype.itemsize)
