"""`vaekit doctor`: what is installed, and what it runs on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from vaekit import data, dense
from vaekit.cli.console import say, table
from vaekit.ops import build_info

_PACKAGES = ("numpy", "safetensors", "lightning-fabric", "matplotlib", "mlxtend")


def doctor() -> None:
    """Print versions, devices, threads, kernels in use, and what was measured of dense layers."""
    gpus = [f"cuda:{number} ({torch.cuda.get_device_name(number)})" for number in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    rows = [
        *build_info().items(),
        *((package, _version(package)) for package in _PACKAGES),
        ("system", platform.platform()),
        ("devices", ", ".join(["cpu", *gpus, *mps])),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        *dense.described().items(),
        ("data folder", str(data.cache_folder())),
    ]
    say(table(rows))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
