"""The compiled kernels of the operators: which are loaded, and why the others are not.

`setup.py` builds a library for each kind of device beside the package and leaves a record, `_build.json`, of what it did. Loading
a library registers its kernels for the operators `vaekit::reparameterize_kl` and `vaekit::*_nll`; where none is loaded the
reference of each in PyTorch (`vaekit/ops/reference.py`, the likelihoods' formulas) gives the same numbers, slower.

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
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

_SCHEMA = 2  # of the record and of the operator that the libraries serve: raised when an older library no longer fits
_PACKAGE = Path(__file__).parents[1]
_RECORD = "_build.json"
_SUFFIX = ".dll" if sys.platform == "win32" else ".so"
_CAPABILITIES = ("x86-64", "x86-64-v3", "x86-64-v4", "baseline")  # as in csrc/cpu/instruction_sets.h
_AGAIN = "install vaekit again (pip's --force-reinstall --no-deps --no-cache-dir --no-binary vaekit)"


class _NotLoaded(Exception):
    """Why there is no kernel, and what to do about it. `deliberate`: the user asked for none."""

    def __init__(self, reason: str, *, deliberate: bool = False) -> None:
        super().__init__(reason)
        self.deliberate = deliberate


class _Broken(_NotLoaded):
    """Why a library that was built cannot be used."""


class Torch(NamedTuple):
    """What a library has to fit in the running torch: its version, and those of its CUDA and ROCm."""

    version: str
    cuda: str | None
    hip: str | None


class Kernels(NamedTuple):
    """What serves each device type, in words; for each that no compiled kernel serves, why; and which operators have kernels."""

    states: Mapping[str, str]
    missing: Mapping[str, _NotLoaded]
    operators: Mapping[str, frozenset[str]] = MappingProxyType({})  # that have kernels on a device type

    @property
    def loaded(self) -> frozenset[str]:
        """The device types that a compiled kernel serves."""
        return frozenset(self.states) - frozenset(self.missing)

    def warning(self, device_type: str) -> str | None:
        """What to warn of, or None: a kernel that nobody wanted is not missed."""
        reason = self.missing.get(device_type)
        if reason is None or reason.deliberate:
            return None
        silence = {"cpu": "VAEKIT_NO_NATIVE=1", "cuda": "VAEKIT_CUDA=0"}[device_type]
        return (
            f"vaekit has no compiled {device_type.upper()} kernel: {reason}. It works in pure PyTorch: "
            f"the same numbers, several times slower. {silence} silences this warning."
        )


def load(environment: Mapping[str, str], running: Torch, package: Path) -> Kernels:
    """Loads the libraries of `package` that the environment, the build's record and the running torch allow.

    Raises:
        ImportError: VAEKIT_REQUIRE_NATIVE is set and a library is missing.
        ValueError: an environment variable with a value that it does not take.
    """
    states: dict[str, str] = {}
    missing: dict[str, _NotLoaded] = {}
    operators: dict[str, frozenset[str]] = {}
    for device_type in ("cpu", "cuda"):
        try:
            check_wanted(device_type, environment, running)
            entry = built(device_type, package)
            states[device_type], operators[device_type] = open_library(device_type, package / f"_C_{device_type}{_SUFFIX}", entry)
        except _NotLoaded as reason:
            if _is_set(environment, "VAEKIT_REQUIRE_NATIVE") and (device_type == "cpu" or isinstance(reason, _Broken)):
                raise ImportError(
                    f"VAEKIT_REQUIRE_NATIVE is set, and vaekit has no compiled {device_type.upper()} kernel: {reason}"
                ) from reason
            states[device_type], missing[device_type] = f"reference ({reason})", reason
    return Kernels(states, missing, operators)


def _is_set(environment: Mapping[str, str], variable: str) -> bool:
    return environment.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


def check_wanted(device_type: str, environment: Mapping[str, str], running: Torch) -> None:
    """Raises _NotLoaded if the library must not be loaded, whatever was built."""
    with_cuda = environment.get("VAEKIT_CUDA", "").strip()
    if with_cuda not in ("", "0", "1"):
        raise ValueError(f"VAEKIT_CUDA has to be 0 or 1, or unset; got {with_cuda!r}")
    rocm = running.hip is not None  # its tensors are on "cuda" too
    if device_type == "cuda" and running.cuda is None and not rocm:
        raise _NotLoaded(f"this torch ({running.version}) has no CUDA")
    if _is_set(environment, "VAEKIT_NO_NATIVE"):
        raise _NotLoaded("VAEKIT_NO_NATIVE is set; unset it to use the compiled kernel", deliberate=True)
    if device_type == "cuda" and with_cuda == "0":
        raise _NotLoaded("VAEKIT_CUDA=0 is set; unset it to use the compiled kernel", deliberate=True)
    if device_type == "cuda" and rocm:
        raise _NotLoaded(f"this torch ({running.version}) is for ROCm, which vaekit has no kernel for")
    capability_limit = environment.get("VAEKIT_CPU_CAPABILITY")
    if capability_limit and capability_limit not in _CAPABILITIES:
        raise ValueError(f"VAEKIT_CPU_CAPABILITY has to be one of {', '.join(_CAPABILITIES)}, got {capability_limit!r}")


def built(device_type: str, package: Path) -> dict[str, Any]:
    """The build's record of a library; raises _NotLoaded if there is none to load."""
    file = package / _RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        schema, kernels = record["schema"], record["kernels"]
        entry = kernels.get(device_type)
    except FileNotFoundError:
        raise _NotLoaded(
            f"vaekit is imported from {package}, where nothing was ever built; "
            f"run `pip install -e .` in {package.parent}, or leave that folder to import an installed vaekit"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _NotLoaded(f"{file} cannot be read ({type(error).__name__}: {error}); {_AGAIN}") from error
    if schema != _SCHEMA or entry is None:
        raise _NotLoaded(
            f"what was built is of another version (schema {schema} for {', '.join(kernels)}; "
            f"this vaekit needs schema {_SCHEMA} for {device_type}); {_AGAIN}"
        )
    if not entry["built"]:
        raise _NotLoaded(entry["reason"], deliberate=entry["deliberate"])
    return dict(entry)


def open_library(device_type: str, library: Path, entry: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
    """Loads a library that was built: its description and its operators; raises _Broken if it cannot be used."""
    if not library.is_file():
        raise _Broken(f"{library} is missing although it was built; {_AGAIN}")
    # Checked first because the system's loader does not: a file that was cut short ends the process with a bus error.
    if (size := library.stat().st_size) != entry["bytes"]:
        raise _Broken(f"{library} has {size} bytes, but the library that was built has {entry['bytes']}; {_AGAIN}")
    try:
        torch.ops.load_library(str(library))
        loaded = ctypes.CDLL(str(library))
        capability = getattr(loaded, f"vaekit_{device_type}_capability")
        obstacle = loaded.vaekit_cuda_obstacle if device_type == "cuda" else None
    except (OSError, AttributeError) as error:
        cause = error.__cause__ or error  # torch's own message has only the path
        raise _Broken(f"the library could not be loaded: {cause}; {_AGAIN}") from error
    if obstacle is not None:
        obstacle.restype = ctypes.c_char_p
        if reason := obstacle().decode():  # then the library itself has registered nothing
            raise _Broken(f"{reason}; update the driver, or {_AGAIN} with a CUDA toolkit as old as the driver (CUDA_HOME)")
    capability.restype = ctypes.c_char_p
    description = f"native ({capability().decode()}; {entry['compiler']}, torch {entry['torch']} headers)"
    listed = getattr(loaded, f"vaekit_{device_type}_operators", None)
    if listed is None:
        return description, frozenset({"reparameterize_kl"})
    listed.restype = ctypes.c_char_p
    return description, frozenset(listed().decode().split())


_KERNELS = load(os.environ, Torch(torch.__version__, torch.version.cuda, torch.version.hip), _PACKAGE)
LOADED = _KERNELS.loaded
_CPU, _CUDA = "cpu" in LOADED, "cuda" in LOADED
_declared: set[str] = set()  # the operators that a library may have kernels of
_warned = False


def declare(operator: str) -> None:
    """Says that there is an operator, so that `build_info` names it where a library has no kernel of it."""
    _declared.add(operator)


def warn_when_missing() -> None:
    """For the last line of vaekit/__init__.py, so that the warning names the line that imports vaekit."""
    if message := _KERNELS.warning("cpu"):
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def warn_without_cuda_kernel(stacklevel: int = 3) -> None:
    """For the wrapper that meets a CUDA tensor: warns once if there is no kernel for it, at the line that calls the wrapper.

    At import there is nothing to warn of yet: a torch with CUDA does not mean that there is a GPU. torch.compile cannot trace a
    warning, and makes one kernel of the reference anyway.
    """
    global _warned
    if not torch.compiler.is_compiling() and not _warned and (message := _KERNELS.warning("cuda")):
        _warned = True
        warnings.warn(message, RuntimeWarning, stacklevel=stacklevel)


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


def operators(device_type: str) -> frozenset[str]:
    """The operators of which compiled kernels serve tensors on `device_type`.

    Example:
        >>> "reparameterize_kl" in operators("cpu") or not has_native("cpu")
        True
    """
    return _KERNELS.operators.get(device_type, frozenset())


def has_kernel(device_type: str, operator: str) -> bool:
    """Whether a compiled kernel of an operator serves tensors on `device_type`.

    Example:
        >>> has_kernel("cpu", "reparameterize_kl") == has_native("cpu")
        True
    """
    return operator in operators(device_type)


def serves(tensor: torch.Tensor) -> bool:
    """Whether a compiled kernel of `reparameterize_kl` serves the tensor's device; called in every step."""
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
        **{f"{device_type} kernel": _described(device_type, state) for device_type, state in _KERNELS.states.items()},
    }


def _described(device_type: str, state: str) -> str:
    lacking = sorted(_declared - operators(device_type)) if device_type in LOADED else []
    return f"{state}, but the reference for {', '.join(lacking)}" if lacking else state
