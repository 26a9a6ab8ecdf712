"""IDX, the file format of MNIST and its successors (Y. LeCun, C. Cortes, C. Burges, "The MNIST database"), plain or gzipped.

Two zero bytes, a type code, the number of dimensions, each size as a big-endian 32-bit integer, then the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(file: Path) -> npt.NDArray[Any]:
    """The array in an IDX file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not IDX, or truncated, or with bytes left over; says how many bytes were expected.
    """
    content = file.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{file} is a damaged or truncated gzip file ({error}); fetch it again") from error
    if len(content) < 4:
        raise ValueError(f"{file} is truncated: {len(content)} bytes, where the header alone takes at least 4")
    if content[:2] != b"\0\0" or content[2] not in _DTYPES:
        raise ValueError(f"{file} is not an IDX file: it begins with the bytes {content[:4].hex(' ')}")
    dtype, ndim = np.dtype(_DTYPES[content[2]]), content[3]
    header = 4 + 4 * ndim
    if len(content) < header:
        raise ValueError(f"{file} is truncated: {len(content)} bytes are less than its header of {header}")
    shape = struct.unpack_from(f">{ndim}I", content, 4)
    expected = header + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        state = "truncated" if len(content) < expected else "longer than it says"
        raise ValueError(f"{file} is {state}: shape {shape} takes {expected} bytes, the file has {len(content)}")
    values = np.frombuffer(content, dtype, offset=header).astype(dtype.newbyteorder("="))
    try:
        return values.reshape(shape)
    except ValueError as error:  # a size of 0 beside sizes that overflow, or more dimensions than NumPy has
        raise ValueError(f"{file} has the shape {shape}, which no array can have ({error})") from error
