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
    return [Path(folder) for folder in dict.fromkeys([*importable, *installed])]


def find_torch() -> tuple[Path, str]:
    """The folder of a torch with the stable ABI, and its version.

    Raises:
        Obstacle: there is none, or it is too old.
    """
    folders, too_old = torch_folders(), []
    for folder in folders:
        if not (folder / STABLE_ABI_HEADER).is_file() or not (folder / "version.py").is_file():
            continue
        version = re.search(r"^__version__ = ['\"](\d+)\.(\d+)([^'\"]*)", (folder / "version.py").read_text(), re.M)
        if version and (int(version[1]), int(version[2])) >= OLDEST_TORCH:
            return folder, f"{version[1]}.{version[2]}{version[3]}"
        too_old.append(folder)
    if too_old:
        raise Obstacle(
            f"the torch in {too_old[0]} is older than 2.10, the first with what vaekit is built on; upgrade torch and {AGAIN}"
        )
    if os.environ.get("VAEKIT_TORCH_DIR"):
        raise Obstacle(f"VAEKIT_TORCH_DIR named {folders[0]}, which has no {STABLE_ABI_HEADER}; correct it and {AGAIN}")
    raise Obstacle(f"no torch was found when vaekit was built (nor is one in {folders[0]}); install torch and {AGAIN}")


def has_cuda(torch: Path) -> bool:
    """Whether the torch in a folder was built for CUDA."""
    return re.search(r"^cuda\b.*= ['\"]", (torch / "version.py").read_text(), re.M) is not None
