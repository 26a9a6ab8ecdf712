"""`vaekit doctor`: what is installed, what it runs on, and what is missing for what."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version

import torch
from packaging.requirements import Requirement

from vaekit import data, dense
from vaekit.cli.console import say, table, terminal_width
from vaekit.ops import build_info

_PACKAGES = ("numpy", "safetensors", "lightning-fabric", "matplotlib", "mlxtend")
_NOT_FOR_USE = {"dev", "docs", "peers", "test"}  # extras for whoever works on vaekit itself


def doctor() -> None:
    """Print versions, devices, threads, kernels in use, and what was measured of dense layers."""
    gpus = [f"cuda:{number} ({torch.cuda.get_device_name(number)})" for number in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    rows = [
        *build_info().items(),
        *((package, _version(package) or "not installed") for package in _PACKAGES),
        *_extras(),
        ("system", platform.platform()),
        ("devices", ", ".join(["cpu", *gpus, *mps])),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        *dense.described().items(),
        ("data folder", str(data.cache_folder())),
    ]
    say(table(rows, width=terminal_width()))


def _extras() -> Iterator[tuple[str, str]]:
    """A line for the extras that are there, and one for each that is not, with the command that installs it."""
    try:
        metadata("vaekit")
    except PackageNotFoundError:
        yield "extras", "not known, as vaekit is not installed here: it runs from its folder"
        return
    complete = []
    for extra in sorted(set(metadata("vaekit").get_all("Provides-Extra") or []) - _NOT_FOR_USE):
        if missing := list(_missing_for(extra)):
            yield f"without {extra}", f'{", ".join(missing)}; pip install "vaekit[{extra}]"'
        else:
            complete.append(extra)
    yield "with", ", ".join(complete) or "none of the extras"


def _missing_for(extra: str) -> Iterator[str]:
    """What an extra asks for and is not here, or is too old."""
    for requirement in map(Requirement, metadata("vaekit").get_all("Requires-Dist") or []):
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": extra}):
            continue
        installed = _version(requirement.name)
        if installed is None:
            yield f"no {requirement.name}"
        elif not requirement.specifier.contains(installed, prereleases=True):
            yield f"{requirement.name} {installed} is not {requirement.specifier}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
