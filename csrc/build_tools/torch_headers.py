"""The torch whose headers a library is built with, found without importing it."""

import importlib.util
import os
import re
import sys
import sysconfig
from pathlib import Path

from .settings import AGAIN, Obstacle

OLDEST_TORCH = (2, 10)
TORCH_TARGET = ("TORCH_TARGET_VERSION", "0x020a000000000000")  # the same version, as torch's headers write it
STABLE_ABI_HEADER = "include/torch/csrc/stable/library.h"
VERSION_HEADER = "include/torch/headeronly/version.h"


def torch_folders() -> list[Path]:
    """Where torch may be, the best guess first."""
    if named := os.environ.get("VAEKIT_TORCH_DIR"):
        return [Path(named)]
    spec = importlib.util.find_spec("torch")
    importable = list(spec.submodule_search_locations or []) if spec else []
    # An isolated build cannot import torch, but it still runs the Python of the environment that vaekit is installed into.
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}  # where a virtual environment's system packages are
    schemes = [
        sysconfig.get_paths(),
        sysconfig.get_paths(vars=base),
        sysconfig.get_paths(sysconfig.get_preferred_scheme("user")),
    ]
    installed = [os.path.join(paths[key], "torch") for paths in schemes for key in ("purelib", "platlib")]
    # conda's packages have the headers and libraries of torch where those of everything else are.
    conda = [
        prefix
        for prefix in (sys.prefix, os.path.join(sys.prefix, "Library"))
        if os.path.exists(os.path.join(sys.prefix, "conda-meta"))
    ]
    return [Path(folder) for folder in dict.fromkeys([*importable, *installed, *conda])]


def find_torch() -> tuple[Path, str]:
    """The folder of a torch with the stable ABI, and its version.

    Raises:
        Obstacle: there is none, or it is too old.
    """
    folders, too_old = torch_folders(), []
    for folder in folders:
        if not (folder / STABLE_ABI_HEADER).is_file() or (version := version_of(folder)) is None:
            continue
        if tuple(map(int, version.split(".")[:2])) >= OLDEST_TORCH:
            return folder, version
        too_old.append(folder)
    if too_old:
        raise Obstacle(
            f"the torch in {too_old[0]} is older than 2.10, the first with what vaekit is built on; upgrade torch and {AGAIN}"
        )
    if os.environ.get("VAEKIT_TORCH_DIR"):
        raise Obstacle(f"VAEKIT_TORCH_DIR named {folders[0]}, which has no {STABLE_ABI_HEADER}; correct it and {AGAIN}")
    raise Obstacle(f"no torch was found when vaekit was built (nor is one in {folders[0]}); install torch and {AGAIN}")


def version_of(folder: Path) -> str | None:
    """What a torch says of its version in its package or, where that lies elsewhere, in its headers; None if it does not."""
    if (package := folder / "version.py").is_file():
        version = re.search(r"^__version__ = ['\"](\d+\.\d+[^'\"]*)", package.read_text(), re.M)
        return version[1] if version else None
    if (header := folder / VERSION_HEADER).is_file():
        numbers = dict(re.findall(r"^#define TORCH_VERSION_(MAJOR|MINOR|PATCH) (\d+)$", header.read_text(), re.M))
        return ".".join(numbers.values()) if len(numbers) == 3 else None
    return None


def has_cuda(torch: Path) -> bool:
    """Whether the torch in a folder was built for CUDA."""
    if (package := torch / "version.py").is_file():
        return re.search(r"^cuda\b.*= ['\"]", package.read_text(), re.M) is not None
    return any((torch / "lib").glob("*torch_cuda.*"))
