"""The compiled kernels of the operator: which are loaded, and why the others are not.

`setup.py` builds a library for each kind of device beside the package and leaves a record, `_build.json`, of what it did. Loading
a library registers its kernels for the operator `vaekit::reparameterize_kl`; where none is loaded the dispatcher runs the
pure-PyTorch reference (`vaekit/ops/reference.py`), which gives the same numbers, slower.

Environment variables that are read when vaekit is imported: VAEKIT_NO_NATIVE=1 loads no library, VAEKIT_CUDA=0 not CUDA's.
VAEKIT_REQUIRE_NATIVE=1 turns a missing one into an ImportError: the CPU's, and CUDA's where it was built and torch has CUDA.
VAEKIT_CPU_CAPABILITY names the instruction set that the CPU kernel may use at most; without it, it uses the widest that the
processor has.
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


class _NotLoaded(Exception):
    """Why there is no kernel and what to do about it; deliberate where somebody asked for none."""

    def __init__(self, reason: str, *, deliberate: bool = False) -> None:
        super().__init__(reason)
        self.deliberate = deliberate


class _Broken(_NotLoaded):
    """Why a library that was built cannot be used."""


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


def _load(device_type: str) -> str:
    """Loads the library of a device type, and says what it is."""
    with_cuda = os.environ.get("VAEKIT_CUDA", "").strip()
    if with_cuda not in ("", "0", "1"):
        raise ValueError(f"VAEKIT_CUDA has to be 0 or 1, or unset; got {with_cuda!r}")
    rocm = torch.version.hip is not None  # its tensors are on "cuda" too
    if device_type == "cuda" and torch.version.cuda is None and not rocm:
        raise _NotLoaded(f"this torch ({torch.__version__}) has no CUDA")
    if _is_set("VAEKIT_NO_NATIVE"):
        raise _NotLoaded("VAEKIT_NO_NATIVE is set; unset it to use the compiled kernel", deliberate=True)
    if device_type == "cuda" and with_cuda == "0":
        raise _NotLoaded("VAEKIT_CUDA=0 is set; unset it to use the compiled kernel", deliberate=True)
    if device_type == "cuda" and rocm:
        raise _NotLoaded(f"this torch ({torch.__version__}) is for ROCm, which vaekit has no kernel for")
    capability_limit = os.environ.get("VAEKIT_CPU_CAPABILITY")
    if capability_limit and capability_limit not in _CAPABILITIES:
        raise ValueError(f"VAEKIT_CPU_CAPABILITY has to be one of {', '.join(_CAPABILITIES)}, got {capability_limit!r}")
    built = _built(device_type)
    library = _PACKAGE / f"_C_{device_type}{_SUFFIX}"
    if not library.is_file():
        raise _Broken(f"{library} is missing although it was built; {_AGAIN}")
    # Checked first because the system's loader does not: a file that was cut short ends the process with a bus error.
    if (size := library.stat().st_size) != built["bytes"]:
        raise _Broken(f"{library} has {size} bytes, but the library that was built has {built['bytes']}; {_AGAIN}")
    try:
        torch.ops.load_library(str(library))
        loaded = ctypes.CDLL(str(library))
        capability = getattr(loaded, f"vaekit_{device_type}_capability")
        obstacle = loaded.vaekit_cuda_obstacle if device_type == "cuda" else None
    except (OSError, AttributeError) as error:
        said = error.__cause__ or error  # torch's own message only has the path
        raise _Broken(f"the library could not be loaded: {said}; {_AGAIN}") from error
    if obstacle is not None:
        obstacle.restype = ctypes.c_char_p
        if reason := obstacle().decode():  # then the library itself has registered nothing
            raise _Broken(f"{reason}; update the driver, or {_AGAIN} with a CUDA toolkit as old as the driver (CUDA_HOME)")
    capability.restype = ctypes.c_char_p
    return f"native ({capability().decode()}; {built['compiler']}, torch {built['torch']} headers)"


def _built(device_type: str) -> dict[str, Any]:
    """The build's record of a library that it built."""
    try:
        record = json.loads(_RECORD.read_text(encoding="utf-8"))
        schema, kernels = record["schema"], record["kernels"]
        entry = kernels.get(device_type)
    except FileNotFoundError:
        raise _NotLoaded(
            f"vaekit is imported from {_PACKAGE}, where nothing was ever built; "
            f"run `pip install -e .` in {_PACKAGE.parent}, or leave that folder to import an installed vaekit"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _NotLoaded(f"{_RECORD} cannot be read ({type(error).__name__}: {error}); {_AGAIN}") from error
    if schema != _SCHEMA or entry is None:
        raise _NotLoaded(
            f"what was built is of another version (schema {schema} for {', '.join(kernels)}; "
            f"this vaekit needs schema {_SCHEMA} for {device_type}); {_AGAIN}"
        )
    if not entry["built"]:
        raise _NotLoaded(entry["reason"], deliberate=entry["deliberate"])
    return dict(entry)


def warn_when_missing() -> None:
    """For the last line of vaekit/__init__.py, so that the warning names the line that imports vaekit."""
    if (reason := _missing.get("cpu")) and not reason.deliberate:
        warnings.warn(
            f"vaekit has no compiled CPU kernel: {reason}. It works in pure PyTorch: the same numbers, several times slower. "
            "VAEKIT_NO_NATIVE=1 silences this warning.",
            RuntimeWarning,
            stacklevel=3,
        )


def warn_without_cuda_kernel(stacklevel: int = 3) -> None:
    """For the wrapper that meets a CUDA tensor: warns once if there is no kernel for it, at the line that calls the wrapper.

    At import there is nothing to warn of yet: a torch with CUDA does not mean that there is a GPU. torch.compile cannot trace a
    warning, and makes one kernel of the reference anyway.
    """
    global _warned
    if not torch.compiler.is_compiling() and not _warned and (reason := _missing.get("cuda")) and not reason.deliberate:
        _warned = True
        warnings.warn(
            f"vaekit has no compiled CUDA kernel: {reason}. It works in pure PyTorch: the same numbers, several times slower. "
            "VAEKIT_CUDA=0 silences this warning.",
            RuntimeWarning,
            stacklevel=stacklevel,
        )


def has_native(device_type: str) -> bool:
    """Whether a compiled kernel serves tensors on `device_type` ("cpu" or "cuda").

    Raises:
        ValueError: another device type.

    Example:
        >>> has_native("cuda") == build_info()["cuda kernel"].startswith("native")
        True
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
        **{f"{device_type} kernel": state for device_type, state in _states.items()},
    }


_states: dict[str, str] = {}
_missing: dict[str, _NotLoaded] = {}
_warned = False
for _device_type in ("cpu", "cuda"):
    try:
        _states[_device_type] = _load(_device_type)
    except _NotLoaded as reason:
        if _is_set("VAEKIT_REQUIRE_NATIVE") and (_device_type == "cpu" or isinstance(reason, _Broken)):
            _kernel = f"{_device_type.upper()} kernel"
            raise ImportError(f"VAEKIT_REQUIRE_NATIVE is set, and vaekit has no compiled {_kernel}: {reason}") from reason
        _states[_device_type], _missing[_device_type] = f"reference ({reason})", reason

LOADED = frozenset(_states) - frozenset(_missing)  # the device types that a compiled kernel serves
_CPU, _CUDA = "cpu" in LOADED, "cuda" in LOADED
