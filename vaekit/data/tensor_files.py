"""Readers of tensors: torch.save's .pt and .pth, read without running code, and .safetensors."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vaekit.data import row_file
from vaekit.data.arrays import parts_of
from vaekit.data.naming import choose, outline_of, parts_named
from vaekit.data.readers import Parts, reader
from vaekit.data.row_file import RowFile
from vaekit.files import open_regular

_DTYPES = {"U8": "u1", "I8": "i1", "BOOL": "?", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_DTYPES |= {"F32": "<f4"}  # of what becomes float32: tensors of other floats keep their dtype


@reader(".pt and .pth files", suffixes=(".pt", ".pth"))
def read_pt(path: Path, *, layout: str = "auto", arrays: Mapping[str, str] | None = None) -> Parts:
    """The examples in a file of `torch.save`: a tensor, a pair (x, y), or tensors by name.

    Of a large x, above 16 MiB, rows are read where they are indexed.

    Raises:
        ValueError: it holds something else, which is not loaded because it could run code.
    """
    open_regular(path).close()
    is_large = path.stat().st_size > row_file.MOST_IN_MEMORY and zipfile.is_zipfile(path)  # older files are none
    saved = _loaded(path, mmap=is_large)
    outlines = _outlined(path) if is_large else saved

    def get(tensor: Any, outline: Any, is_x: bool = True) -> Any:
        if not is_large or not isinstance(tensor, Tensor):
            return tensor
        return _by_rows(path, tensor, outline) if is_x else tensor.clone()

    if isinstance(saved, Mapping):
        found = {str(key): value for key, value in saved.items() if isinstance(value, Tensor)}
        chosen = choose(found, arrays, str(path), lambda: {name: outline_of(tensor) for name, tensor in found.items()})
        by_rows = (chosen.x, chosen.x_test)
        read = {name: get(saved[key], outlines[key], name in by_rows) for key in saved if (name := str(key)) in chosen}
        return parts_named(chosen, read.__getitem__, str(path), layout)
    if arrays is not None:
        raise ValueError(f"{path} holds {type(saved).__name__}, whose tensors have no names: leave out arrays={dict(arrays)!r}")
    pair = saved if isinstance(saved, (tuple, list)) else (saved, None)
    if len(pair) != 2 or not isinstance(pair[0], Tensor) or not isinstance(pair[1], (Tensor, type(None))):
        kinds = ", ".join(type(value).__name__ for value in pair)
        raise ValueError(f"{path} has to hold a tensor, a pair (x, y) of tensors, or tensors by name; it holds ({kinds})")
    outline = outlines[0] if isinstance(saved, (tuple, list)) else outlines
    return parts_of((get(pair[0], outline), get(pair[1], None, is_x=False)), None, layout=layout, name=str(path))


def _outlined(path: Path) -> Any:
    """The same without values; each storage has its place in the file. PyTorch's notes on serialization tell of it."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # not with `import vaekit`

    with FakeTensorMode():
        return _loaded(path)


def _loaded(path: Path, mmap: bool = False) -> Any:
    """What `torch.load` gives without running code.

    Raises:
        ValueError: it cannot be loaded, or not without running code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"a {found[1]}" if found else "Python objects"
        raise ValueError(
            f"{path} holds {what}, or is damaged, and is not loaded because objects can run code; save tensors: "
            "torch.save((x, y), file)"
        ) from error
    except Exception as error:  # zipfile, torch and pickle report damage in many ways
        raise ValueError(f"{path} cannot be read as a file of torch.save ({error}); it may be damaged") from error


def _rows_of_safetensors(path: Path, names: tuple[str | None, ...]) -> dict[str, RowFile]:
    """The large arrays of these names; the format: huggingface.co/docs/safetensors, "Format"."""
    with open_regular(path) as stream:
        length = int.from_bytes(stream.read(8), "little")
        outlines = json.loads(stream.read(length))
    rows = {}
    for name in names:
        if name is None or outlines[name]["dtype"] not in _DTYPES:
            continue
        start, end = outlines[name]["data_offsets"]
        if end - start > row_file.MOST_IN_MEMORY:
            shape, dtype = tuple(outlines[name]["shape"]), _DTYPES[outlines[name]["dtype"]]
            rows[name] = RowFile(path, shape, dtype, 8 + length + start)
    return rows


def _by_rows(path: Path, tensor: Tensor, outline: Tensor) -> Any:
    """The rows of a large tensor that has been mapped, read where they are indexed; whole where it is none, or not in one piece.

    Args:
        path: of the file.
        tensor: as it was loaded.
        outline: what `torch.load` gives of it under FakeTensorMode: without values, but with the storage's place in the file.
    """
    start = getattr(outline.untyped_storage(), "_checkpoint_offset", None)
    becomes_float32 = tensor.dtype in (torch.float32, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)
    is_plain = tensor.is_contiguous() and becomes_float32 and tensor.ndim > 0
    if tensor.nbytes <= row_file.MOST_IN_MEMORY or start is None or not is_plain:
        return tensor.clone()
    dtype = torch.empty(0, dtype=tensor.dtype).numpy().dtype
    return RowFile(path, tuple(tensor.shape), dtype, start + tensor.storage_offset() * tensor.itemsize)


@reader(".safetensors files", suffixes=(".safetensors",))
def read_safetensors(path: Path, *, layout: str = "auto", arrays: Mapping[str, str] | None = None) -> Parts:
    """The examples in a .safetensors file, tensors by name; of a large x, above 16 MiB, rows are read where they are indexed."""
    open_regular(path).close()
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            chosen = choose(names, arrays, str(path), lambda: {name: outline_of(file.get_tensor(name)) for name in names})
            rows = _rows_of_safetensors(path, (chosen.x, chosen.x_test))
            read: dict[str, Any] = {
                name: rows[name] if name in rows else file.get_tensor(name) for name in chosen if name is not None
            }
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as a .safetensors file ({error}); it may be damaged") from error
    return parts_named(chosen, lambda name: read[name], str(path), layout)
