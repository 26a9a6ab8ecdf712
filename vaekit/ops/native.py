"""Which compiled kernels of the operator are in use, and why not when they are not.

This version ships none: every device runs the pure-PyTorch reference (`vaekit/ops/reference.py`).
"""

from __future__ import annotations

import platform

import torch

_REASON = "this version of vaekit ships no compiled kernel; the pure-PyTorch reference is in use"


def has_native(device_type: str) -> bool:
    """Whether a compiled kernel serves tensors on `device_type` ("cpu" or "cuda").

    Raises:
        ValueError: another device type.

    Example:
        >>> has_native("cpu")
        False
    """
    if device_type not in ("cpu", "cuda"):
        raise ValueError(f"has_native takes 'cpu' or 'cuda', got {device_type!r}")
    return False


def build_info() -> dict[str, str]:
    """Versions, and for each device type which kernel is in use and why.

    Example:
        >>> sorted(build_info())
        ['cpu kernel', 'cuda kernel', 'python', 'torch', 'vaekit']
    """
    from vaekit import __version__

    return {
        "vaekit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu kernel": f"reference ({_REASON})",
        "cuda kernel": f"reference ({_REASON})",
    }
