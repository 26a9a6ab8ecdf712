"""Builds the test-only module `vaekit_internals` from internals.cpp with ninja and pybind11, once for all workers."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from filelock import FileLock

HERE = Path(__file__).parent
FLAGS = "-std=c++17 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -fvisibility=hidden -fPIC -shared"

NINJA = """
rule module
  command = {compiler} {flags} -MMD -MF $out.d -I{csrc} -I{pybind11} -I{python} $in -o $out
  depfile = $out.d
build {out}: module {source}
"""


@pytest.fixture(scope="session")
def internals(tmp_path_factory):
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), None)
    if compiler is None or sys.platform == "win32":
        pytest.skip("no C++ compiler that takes GNU options")
    pybind11 = pytest.importorskip("pybind11")
    ninja = pytest.importorskip("ninja")
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    folder = tmp_path_factory.mktemp("internals") if worker is None else tmp_path_factory.getbasetemp().parent / "internals"
    folder.mkdir(exist_ok=True)
    out = folder / f"vaekit_internals{sysconfig.get_config_var('EXT_SUFFIX')}"
    shared = "-undefined dynamic_lookup" if sys.platform == "darwin" else ""
    rules = folder / "build.ninja"
    text = NINJA.format(
        compiler=compiler,
        flags=f"{FLAGS} {shared}",
        csrc=HERE.parents[1] / "csrc",
        pybind11=pybind11.get_include(),
        python=sysconfig.get_path("include"),
        out=out.name,
        source=HERE / "internals.cpp",
    )
    with FileLock(folder / "lock"):
        if not rules.exists() or rules.read_text() != text:
            rules.write_text(text)
        command = [Path(ninja.BIN_DIR) / "ninja", "-C", folder]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-5000:]
    spec = importlib.util.spec_from_file_location("vaekit_internals", out)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
