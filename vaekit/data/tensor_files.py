"""Readers of tensors: torch.save's .pt and .pth, read without running code, and .safetensors."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vaekit.data.arrays import parts_of
from vaekit.data.naming import choose, outline_of, parts_named
from vaekit.data.readers import Parts, reader
from vaekit.files import open_regular


@reader(".pt and .pth files", suffixes=(".pt", ".pth"))
def read_pt(path: Path, *, layout: str = "auto", arrays: Mapping[str, str] | None = None) -> Parts:
    """The examples in a file of `torch.save`: a tensor, a pair (x, y), or tensors by name.

    Raises:
        ValueError: it holds something else, which is not loaded because it could run code.
    """
    with open_regular(path) as stream:
        try:
            saved = torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} holds Python objects, or is damaged, and is not loaded because objects can run code; save tensors: "
                f"torch.save((x, y), file). {str(error).splitlines()[0]}"
            ) from error
        except Exception as error:  # zipfile, torch and pickle report damage in many ways
            raise ValueError(f"{path} cannot be read as a file of torch.save ({error}); it may be damaged") from error
    if isinstance(saved, Mapping):
        found = {str(key): value for key, value in saved.items() if isinstance(value, Tensor)}
        chosen = choose(found, arrays, str(path), lambda: {name: outline_of(tensor) for name, tensor in found.items()})
        return parts_named(chosen, found.__getitem__, str(path), layout)
    if arrays is not None:
        raise ValueError(f"{path} holds {type(saved).__name__}, whose tensors have no names: leave out arrays={dict(arrays)!r}")
    pair = saved if isinstance(saved, (tuple, list)) else (saved, None)
    if len(pair) != 2 or not isinstance(pair[0], Tensor) or not isinstance(pair[1], (Tensor, type(None))):
        kinds = ", ".join(type(value).__name__ for value in pair)
        raise ValueError(f"{path} has to hold a tensor, a pair (x, y) of tensors, or tensors by name; it holds ({kinds})")
    return parts_of((pair[0], pair[1]), None, layout=layout, name=str(path))


@reader(".safetensors files", suffixes=(".safetensors",))
def read_safetensors(path: Path, *, layout: str = "auto", arrays: Mapping[str, str] | None = None) -> Parts:
    """The examples in a .safetensors file, tensors by name."""
    open_regular(path).close()
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            chosen = choose(names, arrays, str(path), lambda: {name: outline_of(file.get_tensor(name)) for name in names})
            read: dict[str, Any] = {name: file.get_tensor(name) for name in chosen if name is not None}
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as a .safetensors file ({error}); it may be damaged") from error
    return parts_named(chosen, lambda name: read[name], str(path), layout)
