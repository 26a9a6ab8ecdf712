"""IDX, the file format of MNIST and its successors (Y. LeCun, C. Cortes, C. Burges, "The MNIST database"), plain or gzipped.

Two zero bytes, a type code, the number of dimensions, each size as a big-endian 32-bit integer, then the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from vaekit.files import open_regular

_BLOCK = 1 << 20  # bytes
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(file: Path) -> npt.NDArray[Any]:
    """The array in an IDX file, which is read and unpacked no further than its header says.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not a regular file, not IDX, or truncated, or with bytes left over; says how many bytes were expected.
    """
    with open_regular(file) as stream:
        start = stream.read(2)
        stream.seek(0)
        if start != b"\x1f\x8b":
            return _read(file, stream)
        try:
            with gzip.open(stream) as unpacked:
                return _read(file, unpacked)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{file} is a damaged or truncated gzip file ({error}); fetch it again") from error


def _read(file: Path, stream: IO[bytes] | gzip.GzipFile) -> npt.NDArray[Any]:
    start = stream.read(4)
    if len(start) < 4:
        raise ValueError(f"{file} is truncated: {len(start)} bytes, where the header alone takes at least 4")
    if start[:2] != b"\0\0" or start[2] not in _DTYPES:
        raise ValueError(f"{file} is not an IDX file: it begins with the bytes {start.hex(' ')}")
    dtype, ndim = np.dtype(_DTYPES[start[2]]), start[3]
    sizes, header = stream.read(4 * ndim), 4 + 4 * ndim
    if len(sizes) < 4 * ndim:
        raise ValueError(f"{file} is truncated: {4 + len(sizes)} bytes are less than its header of {header}")
    shape = struct.unpack(f">{ndim}I", sizes)
    expected = math.prod(shape) * dtype.itemsize
    content = bytearray()
    while len(content) <= expected and (block := stream.read(min(_BLOCK, expected + 1 - len(content)))):
        content += block
    if len(content) != expected:
        state = "truncated" if len(content) < expected else "longer than it says"
        found = header + len(content) if len(content) < expected else "more"
        raise ValueError(f"{file} is {state}: shape {shape} takes {header + expected} bytes, the file has {found}")
    values = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="))
    try:
        return values.reshape(shape)
    except ValueError as error:  # a size of 0 beside sizes that overflow, or more dimensions than NumPy has
        raise ValueError(f"{file} has the shape {shape}, which no array can have ({error})") from error
