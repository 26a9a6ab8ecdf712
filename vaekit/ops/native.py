"""The compiled kernels of the operator: which are loaded, and why the others are not.

`setup.py` builds a library for each kind of device beside the package and leaves a record, `_build.json`, of what it did. Loading
a library registers its kernels for the operator `vaekit::reparameterize_kl`; where none is loaded the dispatcher runs the
pure-PyTorch reference (`vaekit/ops/reference.py`), which gives the same numbers, slower.

Environment variables that are read when vaekit is imported: VAEKIT_NO_NATIVE=1 loads no library, VAEKIT_REQUIRE_NATIVE=1 turns a
missing one into an ImportError, and VAEKIT_CPU_CAPABILITY names the instruction set that the CPU kernel may use at most; without
it, it uses the widest that the processor has.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

_SCHEMA = 1  # of the record and of the operator that the libraries serve: raised when an older library no longer fits
_PACKAGE = Path(__file__).parents[1]
_RECORD = _PACKAGE / "_build.json"
_SUFFIX = ".dll" if sys.platform == "win32" else ".so"
_CAPABILITIES = ("x86-64", "x86-64-v3", "x86-64-v4", "baseline")  # as in csrc/cpu/instruction_sets.h
_AGAIN = "install vaekit again (pip's --force-reinstall --no-deps --no-cache-dir)"
_NO_CUDA = "reference (this version of vaekit has no CUDA kernel)"


class _NotLoaded(Exception):
    """Why there is no kernel and what to do about it; deliberate where somebody asked for none."""

    def __init__(self, reason: str, *, deliberate: bool = False) -> None:
        super().__init__(reason)
        self.deliberate = deliberate


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


def _load(device_type: str) -> str:
    """Loads the library of a device type, and says what it is."""
    if _is_set("VAEKIT_NO_NATIVE"):
        raise _NotLoaded("VAEKIT_NO_NATIVE is set; unset it to use the compiled kernel", deliberate=True)
    capability_limit = os.environ.get("VAEKIT_CPU_CAPABILITY")
    if capability_limit and capability_limit not in _CAPABILITIES:
        raise ValueError(f"VAEKIT_CPU_CAPABILITY has to be one of {', '.join(_CAPABILITIES)}, got {capability_limit!r}")
    built = _built(device_type)
    library = _PACKAGE / f"_C_{device_type}{_SUFFIX}"
    if not library.is_file():
        raise _NotLoaded(f"{library} is missing although it was built; {_AGAIN}")
    # Checked first because the system's loader does not: a file that was cut short ends the process with a bus error.
    if (size := library.stat().st_size) != built["bytes"]:
        raise _NotLoaded(f"{library} has {size} bytes, but the library that was built has {built['bytes']}; {_AGAIN}")
    try:
        torch.ops.load_library(str(library))
        capability = getattr(ctypes.CDLL(str(library)), f"vaekit_{device_type}_capability")
    except (OSError, AttributeError) as error:
        said = error.__cause__ or error  # torch's own message only has the path
        raise _NotLoaded(f"the library could not be loaded: {said}; {_AGAIN}") from error
    capability.restype = ctypes.c_char_p
    return f"native ({capability().decode()}; {built['compiler']}, torch {built['torch']} headers)"


def _built(device_type: str) -> dict[str, Any]:
    """The build's record of a library that it built."""
    try:
        record = json.loads(_RECORD.read_text(encoding="utf-8"))
        schema, entry = record["schema"], record["kernels"].get(device_type)
    except FileNotFoundError:
        raise _NotLoaded(
            f"vaekit is imported from {_PACKAGE}, where nothing was ever built; "
            f"run `pip install -e .` in {_PACKAGE.parent}, or leave that folder to import an installed vaekit"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _NotLoaded(f"{_RECORD} cannot be read ({type(error).__name__}: {error}); {_AGAIN}") from error
    if schema != _SCHEMA or entry is None:
        raise _NotLoaded(f"the library is of another version (schema {schema}, this vaekit needs {_SCHEMA}); {_AGAIN}")
    if not entry["built"]:
        raise _NotLoaded(entry["reason"], deliberate=entry["deliberate"])
    return dict(entry)


def warn_when_missing() -> None:
    """For the last line of vaekit/__init__.py, so that the warning names the line that imports vaekit."""
    if _missing is not None and not _missing.deliberate:
        warnings.warn(
            f"vaekit has no compiled CPU kernel: {_missing}. It works in pure PyTorch: the same numbers, several times slower. "
            "VAEKIT_NO_NATIVE=1 silences this warning.",
            RuntimeWarning,
            stacklevel=3,
        )


def has_native(device_type: str) -> bool:
    """Whether a compiled kernel serves tensors on `device_type` ("cpu" or "cuda").

    Raises:
        ValueError: another device type.

    Example:
        >>> has_native("cuda")
        False
    """
    if device_type not in ("cpu", "cuda"):
        raise ValueError(f"has_native takes 'cpu' or 'cuda', got {device_type!r}")
    return device_type in LOADED


def serves(tensor: torch.Tensor) -> bool:
    """Whether a compiled kernel serves the tensor's device; called in every step."""
    return (_CPU and tensor.is_cpu) or (_CUDA and tensor.is_cuda)


def build_info() -> dict[str, str]:
    """Versions, and for each device type which kernel is in use: what it was built with, or why there is none and what to do.

    Example:
        >>> sorted(build_info())
        ['cpu kernel', 'cuda kernel', 'python', 'torch', 'vaekit']
    """
    from vaekit import __version__

    return {
        "vaekit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu kernel": _cpu_kernel,
        "cuda kernel": _NO_CUDA,
    }


_missing: _NotLoaded | None = None
try:
    _cpu_kernel = _load("cpu")
    LOADED = frozenset({"cpu"})  # the device types that a compiled kernel serves
except _NotLoaded as reason:
    if _is_set("VAEKIT_REQUIRE_NATIVE"):
        raise ImportError(f"VAEKIT_REQUIRE_NATIVE is set, and vaekit has no compiled CPU kernel: {reason}") from reason
    _cpu_kernel, _missing, LOADED = f"reference ({reason})", reason, frozenset()

_CPU, _CUDA = "cpu" in LOADED, "cuda" in LOADED
