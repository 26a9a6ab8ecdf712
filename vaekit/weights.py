"""Named tensors with a few words about them in one safetensors file, written and read tensor by tensor.

The format: eight bytes with the length of the header, the header (JSON: of each tensor its dtype, shape and place, and in
`__metadata__` whatever text the writer adds), and the tensors' bytes. https://huggingface.co/docs/safetensors

A sealed file has one tensor more, its last: the SHA-256 of all bytes before it. Any reader of the format reads it as well.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from vaekit.files import open_regular, printable

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}  # torch's name -> the format's
SEAL = "~sha256"  # sorted behind every other name
_TORCH_NAMES = {name: torch_name for torch_name, name in DTYPES.items()}


class Outline(NamedTuple):
    """What a tensor is without its values; the dtype by torch's name, "float32"."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def outline_of(tensor: Tensor) -> Outline:
    return Outline(name_of(tensor.dtype), tuple(tensor.shape))


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def unwritable(value: object) -> str | None:
    """Why a value cannot be written as a tensor; None if it can."""
    if type(value) is not Tensor:
        return f"a {type(value).__name__}, not a plain tensor"
    if value.is_meta:
        return "on the device 'meta' and has no values"
    if value.layout != torch.strided:
        return f"{str(value.layout).removeprefix('torch.')}, and only dense tensors can be saved"
    dtype = name_of(value.dtype)
    return None if dtype in DTYPES else f"of dtype {dtype}, which safetensors cannot hold"


class Stored:
    """An open file.

    Attributes:
        metadata: the text beside the tensors.
        outlines: what the header says of each tensor; nothing of it has been read.
    """

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self.metadata: dict[str, str] = opened.metadata() or {}
        self.outlines: dict[str, Outline] = {}
        for name in opened.keys():  # noqa: SIM118 (not a mapping)
            entry = opened.get_slice(name)
            dtype: str = entry.get_dtype()
            self.outlines[name] = Outline(_TORCH_NAMES.get(dtype, dtype), tuple(entry.get_shape()))

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`: a view of the file, to be copied before it is closed."""
        tensor: Tensor = self._opened.get_tensor(name)
        return tensor


@contextmanager
def opened(file: Path) -> Iterator[Stored]:
    """The safetensors file at `file`, open for reading.

    Raises:
        ValueError: it is something else, or not whole.
        OSError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as reader:
            yield Stored(reader)
    except SafetensorError as error:
        reason = printable(error)
        raise ValueError(
            f"{file} is not a complete safetensors file ({reason}); it may have been cut short: copy it again"
        ) from error


def write(stream: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, sealed: bool = False) -> None:
    """Write a safetensors file, holding in memory no more than one tensor besides the given ones.

    Args:
        tensors: strided, of the dtypes in `DTYPES`, on any device; they may share memory.
        metadata: text by name.
        sealed: end the file with its checksum, for `check_seal`.

    Example:
        >>> import io
        >>> from safetensors.torch import load
        >>> stream = io.BytesIO()
        >>> write(stream, {"ones": torch.ones(2), "twos": torch.full((1, 1), 2)}, {"by": "me"})
        >>> load(stream.getvalue())["ones"]
        tensor([1., 1.])
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    digest = hashlib.sha256()
    if sealed:
        tensors = {**tensors, SEAL: torch.zeros(digest.digest_size, dtype=torch.uint8)}
    # In an order in which each begins where its dtype may.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name == SEAL, name))
    end = 0
    for name in names:
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        outline = outline_of(tensors[name])
        header[name] = {"dtype": DTYPES[outline.dtype], "shape": outline.shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    # One tensor after the other.
    data: Iterator[bytes | memoryview] = (little_endian(tensors[name]) for name in names if not (sealed and name == SEAL))
    for piece in itertools.chain((len(text).to_bytes(8, "little"), text), data):
        stream.write(piece)
        if sealed:
            digest.update(piece)
    if sealed:
        stream.write(digest.digest())


def check_seal(file: Path) -> None:
    """Check that a sealed file is as it was written.

    Raises:
        ValueError: it is not: cut short, changed, or of another origin.
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(file) as stream:
        left = stream.seek(0, 2) - digest.digest_size
        stream.seek(0)
        while left > 0 and (data := stream.read(min(left, 1 << 20))):
            digest.update(data)
            left -= len(data)
        if left or stream.read() != digest.digest():
            raise ValueError(f"{file} is damaged, or is no sealed file: its last 32 bytes are not the checksum of the others")


def little_endian(tensor: Tensor) -> memoryview:
    """The tensor's bytes in row-major order, each value little-endian; its own memory where that holds them so on the CPU."""
    flat = tensor.detach().cpu().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    if sys.byteorder == "big":
        flat = flat.reshape(-1, tensor.element_size()).flip(1)
    data: memoryview = flat.numpy().data
    return data
