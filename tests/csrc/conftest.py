"""Builds test-only C++ modules with ninja and pybind11, once for all workers."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from filelock import FileLock
from helpers import cuda_on_cpu

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
FLAGS = "-std=c++17 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -fvisibility=hidden -fPIC -shared"

NINJA = """
rule module
  command = {compiler} {flags} -DMODULE_NAME={name} -MMD -MF $out.d -I{include} -I{pybind11} -I{python} $in -o $out
  depfile = $out.d
build {out}: module {source}
"""


def build_module(name, source, folder, flags=(), include=CSRC):
    """The file of the module `name`, built in `folder` unless it is there and up to date; a skip where nothing can be built.

    `flags` come after ours, and those of the environment variable CXXFLAGS last. `include` may be a copy of csrc/ with changes.
    One process cannot load two modules of one name: a source that is built in several ways calls itself MODULE_NAME.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), None)
    if compiler is None or sys.platform == "win32":
        pytest.skip("no C++ compiler that takes GNU options")
    pybind11 = pytest.importorskip("pybind11")
    ninja = pytest.importorskip("ninja")
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    shared = "-undefined dynamic_lookup" if sys.platform == "darwin" else ""
    rules = folder / "build.ninja"
    text = NINJA.format(
        name=name,
        compiler=compiler,
        flags=" ".join([FLAGS, shared, *flags, os.environ.get("CXXFLAGS", "")]),
        include=include,
        pybind11=pybind11.get_include(),
        python=sysconfig.get_path("include"),
        out=out.name,
        source=source,
    )
    with FileLock(folder / "lock"):
        if not rules.exists() or rules.read_text() != text:
            rules.write_text(text)
        command = [Path(ninja.BIN_DIR) / "ninja", "-C", folder]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-5000:]
    return out


def load_module(file):
    spec = importlib.util.spec_from_file_location(file.name.partition(".")[0], file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", name="build_module")
def _build_module():
    return build_module


@pytest.fixture(scope="session", name="load_module")
def _load_module():
    return load_module


@pytest.fixture(scope="session")
def build_folder(tmp_path_factory):
    """A folder that all workers of this run share: a module is built in a folder of its own in it."""
    folder = tmp_path_factory.getbasetemp()
    return folder if os.environ.get("PYTEST_XDIST_WORKER") is None else folder.parent


@pytest.fixture(scope="session")
def internals(build_folder):
    return load_module(build_module("vaekit_internals", HERE / "internals.cpp", build_folder / "internals"))


@pytest.fixture(scope="session")
def library(build_folder):
    """The CUDA library that runs on the CPU."""
    if not sys.platform.startswith("linux") or not any(map(shutil.which, ("g++", "c++", "clang++"))):
        pytest.skip("no C++ compiler that is known to make such a library here")
    out = build_folder / "cuda_library.so"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            command = [sys.executable, HERE / "cuda_library.py", out, *os.environ.get("CXXFLAGS", "").split()]
            built = subprocess.run(command, capture_output=True, text=True, check=False)
            assert built.returncode == 0, built.stderr
    return cuda_on_cpu.load(out)


@pytest.fixture
def launches(library):
    """launches(order, seed, processors) sets how the next kernels are run."""
    library.set_launches(cuda_on_cpu.NATURAL, 0, 1)
    yield library.set_launches
    library.set_launches(cuda_on_cpu.NATURAL, 0, 1)
