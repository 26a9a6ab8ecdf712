"""Builds as pip makes them, in a copy of the repository, and stand-ins for what they need: a torch, an nvcc, the kernels."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import torch

import vaekit

from .installs import CUDA_LIBRARY, LIBRARY, RECORD, ROOT, STAND_IN, environment

SOURCE = "csrc/cpu/library.cpp"
NOWHERE = "/nowhere/c++"  # a compiler that is not there

NVCC = """
case "$1" in
    --version) echo "Cuda compilation tools, release 13.0, V13.0.88" ;;
    --list-gpu-code) printf "sm_%s\\n" 70 75 87 90 100 121 ;;
    --help) echo "--threads <number>" ;;
    *)
        echo "$@" >> "$0.called"
        while [ "$1" != -o ]; do shift; done
        echo library > "$2" ;;
esac"""


def copy_repository(folder: Path, *, stand_in: bool = True) -> Path:
    """What a build reads, with a stand-in for the kernels, which compiles in a moment, if wanted."""
    folder.mkdir(parents=True)
    unwanted = shutil.ignore_patterns("__pycache__", "_build.json", "_C_*")
    for name in ("vaekit", "csrc"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in (
        "setup.py",
        "pyproject.toml",
        "MANIFEST.in",
        "README.md",
        "LICENSE",
        "NOTICE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
    ):
        shutil.copy(ROOT / name, folder)
    if stand_in:
        for source in (folder / SOURCE).parent.glob("*.cpp"):
            source.unlink()
        (folder / SOURCE).write_text(STAND_IN)
    return folder


def hook(folder: Path, name: str, *arguments: str, python: Path | str = sys.executable, isolated=False, **variables):
    """Calls a hook of the build backend as pip does, by default without CUDA; gives the process and what the hook returned."""
    variables = {"VAEKIT_CUDA": 0, **variables}
    program = (
        "import json, sys\n"
        + ("sys.path = [p for p in sys.path if not p.endswith('site-packages')]\n" if isolated else "")
        + "from setuptools import build_meta\n"
        "name, *arguments = sys.argv[1:]\n"
        "print('RESULT', json.dumps(getattr(build_meta, name)(*arguments)))"
    )
    done = subprocess.run(
        [python, "-c", program, name, *arguments], cwd=folder, env=environment(**variables), capture_output=True, text=True
    )
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return done, json.loads(results[-1].partition(" ")[2]) if results else None


def build_wheel(folder: Path, **variables) -> Path:
    done, name = hook(folder, "build_wheel", "dist", **variables)
    assert done.returncode == 0, done.stderr
    return folder / "dist" / name


def refused_wheel(folder: Path, **variables) -> str:
    """What a build that has to fail says."""
    done, _ = hook(folder, "build_wheel", "dist", **variables)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not list((folder / "dist").glob("*.whl"))
    return done.stderr


def build_editable(folder: Path, **variables) -> dict:
    """Builds beside the sources, as an editable install does; gives the record's entries."""
    done, _ = hook(folder, "build_editable", "dist", **variables)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / RECORD).read_text())["kernels"]


def entry_of(wheel: Path, device="cpu") -> dict:
    """What the wheel's record says of a library, having seen that the wheel is what it says."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entries = json.loads(archive.read(RECORD))["kernels"]
        about, listed = (
            next(archive.read(n).decode() for n in names if n.endswith(f".dist-info/{m}")) for m in ("WHEEL", "RECORD")
        )
    libraries = {{"cpu": LIBRARY, "cuda": CUDA_LIBRARY}[name] for name, entry in entries.items() if entry["built"]}
    modules_and_data = (".py", ".json", "py.typed", ".safetensors")
    assert {name for name in names if not name.endswith(modules_and_data) and "dist-info" not in name} == libraries
    assert all(name.startswith(("vaekit/", "vaekit-")) for name in names)
    assert all(f"{library},sha256=" in listed for library in libraries)
    assert wheel.name.startswith(f"vaekit-{vaekit.__version__}-py3-none-")
    assert wheel.name.endswith("-any.whl") == (not libraries)
    assert ("Root-Is-Purelib: true" in about) == (not libraries)
    return entries[device]


def script(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def fake_nvcc(folder: Path, text: str = NVCC) -> Path:
    """A CUDA toolkit with nothing but an nvcc that writes what it is called with into a file."""
    script(folder / "bin/nvcc", text)
    return folder


def calls(toolkit: Path) -> list[str]:
    """What the nvcc of a toolkit was called with."""
    file = toolkit / "bin/nvcc.called"
    return file.read_text().splitlines() if file.exists() else []


def fake_torch(folder: Path, version: str, cuda: str | None = None) -> Path:
    """What a build looks at in a torch, with this one's library to link with."""
    (folder / "include/torch/csrc/stable").mkdir(parents=True)
    (folder / "include/torch/csrc/stable/library.h").touch()
    (folder / "version.py").write_text(f"__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\n")
    (folder / "lib").symlink_to(Path(torch.__file__).parent / "lib", target_is_directory=True)
    return folder
