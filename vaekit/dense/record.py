"""What was measured on this machine, kept in the user's cache folder, so that every process takes the same decision.

A timing is never the same twice, and a decision that came from it would make two runs of one command differ in their last digits.
So the first measurement of a shape is the machine's: a file, which is never replaced. Whoever wants another removes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vaekit.data.download import cache_folder
from vaekit.files import write_once

FORMAT = 1  # raised when measurements of an earlier vaekit no longer hold
# Of the environment: what makes MKL or oneDNN compute otherwise.
_VARIABLES = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


@cache
def machine() -> dict[str, Any]:
    """What the measurements depend on besides the shape, as plain data: processor, cores, torch, some variables."""
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return {
        "format": FORMAT,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "variables": variables,
    }


def name() -> str:
    """Of this machine, the same on every one like it."""
    return hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()[:12]


def folder() -> Path:
    """Where this machine's measurements are kept."""
    return cache_folder() / "dense" / name()


def read(shape: str) -> dict[str, Any] | None:
    """What is kept of a shape, by its name; None where nothing is, or nothing that can be read."""
    try:
        kept = json.loads((folder() / f"{shape}.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return kept if isinstance(kept, dict) else None


def keep(shape: str, measured: Mapping[str, Any]) -> None:
    """Keep what was measured of a shape, unless another process was first, or the folder cannot be written."""
    content = json.dumps({**measured, "machine": machine()}, indent=2) + "\n"
    try:
        folder().mkdir(parents=True, exist_ok=True)
        write_once(folder() / f"{shape}.json", content.encode())
    except OSError:  # the decision then holds for this process, and for runs that go on from its checkpoints
        return


def shapes() -> Iterator[str]:
    """The names of the shapes that something is kept of."""
    yield from sorted(file.stem for file in folder().glob("*.json"))


def _processor() -> str:
    """The processor, as precisely as the system tells."""
    wanted = ("vendor_id", "model name", "cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU variant")
    found: dict[str, str] = {}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system than Linux
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in wanted:
            found.setdefault(key.strip(), value.strip())
    return ", ".join(f"{key} {value}" for key, value in found.items()) or platform.processor() or platform.machine()
