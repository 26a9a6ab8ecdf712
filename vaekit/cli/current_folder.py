"""What of the current folder may run: the modules that `--import` names, and nothing else."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path


def import_named(module: str) -> None:
    """Import a module that is installed or lies in the current folder, without putting that folder on `sys.path`.

    What is installed wins, so that a folder cannot put something else in its place. Of the current folder only the module itself
    is imported, and of a package the modules in it: not what lies beside it, which has to be named before.

    Raises:
        ImportError: there is no such module, or it imports something that there is not.
    """
    top = module.partition(".")[0]
    if top not in sys.modules and not _is_installed(top):
        _import_from(os.getcwd(), top)
    importlib.import_module(module)


def _is_installed(name: str) -> bool:
    """Whether `sys.path` has it; a folder without an __init__.py, which any folder may be taken for, does not count."""
    spec = importlib.util.find_spec(name) if name else None
    return spec is not None and spec.origin is not None


def _import_from(folder: str, name: str) -> None:
    spec = PathFinder.find_spec(name, [folder])
    if spec is None:
        return
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    if spec.loader is None:  # a package without an __init__.py
        return
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise


def import_matplotlib() -> None:
    """Import matplotlib without the settings in a file `matplotlibrc` of the current folder, which can have it start LaTeX."""
    if "matplotlib" in sys.modules:
        return
    here = os.getcwd()
    os.chdir(Path(__file__).parent)  # it looks into the current folder when it is imported
    try:
        importlib.import_module("matplotlib")
    finally:
        os.chdir(here)
