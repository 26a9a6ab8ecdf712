"""Laws of the torch that a build takes its headers from: this environment's, the one that is named, or none and why."""

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from build_tools import commands, torch_headers
from build_tools.settings import Obstacle
from helpers.builds import NOWHERE, fake_torch, hook
from helpers.installs import needs_compiler, needs_posix


def test_the_torch_that_this_python_would_import_comes_first():
    assert torch_headers.find_torch() == (Path(torch.__file__).parent, torch.__version__)


@needs_posix
def test_torch_is_taken_from_the_folder_that_is_named(monkeypatch, tmp_path):
    folder = fake_torch(tmp_path / "torch", "2.99.0+cpu")
    monkeypatch.setenv("VAEKIT_TORCH_DIR", str(folder))
    assert torch_headers.find_torch() == (folder, "2.99.0+cpu")


def test_a_folder_without_torch_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("VAEKIT_TORCH_DIR", str(tmp_path))
    with pytest.raises(Obstacle, match="VAEKIT_TORCH_DIR") as raised:
        torch_headers.find_torch()
    assert str(tmp_path) in str(raised.value)


@needs_posix
@pytest.mark.parametrize(("version", "accepted"), [("1.13.1", False), ("2.9.1", False), ("2.10.0a0", True), ("3.0.0", True)])
def test_a_torch_older_than_2_10_is_named(monkeypatch, tmp_path, version, accepted):
    folder = fake_torch(tmp_path / "torch", version)
    monkeypatch.setenv("VAEKIT_TORCH_DIR", str(folder))
    if accepted:
        assert torch_headers.find_torch() == (folder, version)
        return
    with pytest.raises(Obstacle, match=r"2\.10") as raised:
        torch_headers.find_torch()
    assert str(folder) in str(raised.value)


@needs_posix
@pytest.mark.parametrize(("cuda", "expected"), [(None, False), ("13.0", True)])
def test_a_torch_tells_whether_it_has_cuda(tmp_path, cuda, expected):
    assert torch_headers.has_cuda(fake_torch(tmp_path / "torch", "2.99.0", cuda)) is expected


def conda_torch(folder: Path, *libraries: str) -> Path:
    """conda's torch: headers and libraries beside everybody else's, and no version.py there."""
    for header in (torch_headers.STABLE_ABI_HEADER, torch_headers.VERSION_HEADER):
        (folder / header).parent.mkdir(parents=True, exist_ok=True)
        (folder / header).touch()
    numbers = "\n".join(f"#define TORCH_VERSION_{name} {number}" for name, number in (("MAJOR", 2), ("MINOR", 99), ("PATCH", 1)))
    (folder / torch_headers.VERSION_HEADER).write_text(f"#pragma once\n{numbers}\n")
    (folder / "lib").mkdir()
    for library in libraries:
        (folder / "lib" / library).touch()
    return folder


@pytest.mark.parametrize(("libraries", "cuda"), [(("libtorch_cpu.so",), False), (("libtorch_cpu.so", "libtorch_cuda.so"), True)])
def test_in_a_conda_environment_the_headers_tell_the_version_and_the_libraries_whether_there_is_cuda(
    nothing_installed, monkeypatch, tmp_path, libraries, cuda
):
    prefix = tmp_path / "prefix"
    monkeypatch.setattr(sys, "prefix", str(prefix))
    folder = conda_torch(prefix, *libraries)
    with pytest.raises(Obstacle, match="no torch was found"):
        torch_headers.find_torch()  # /usr is a prefix too, and what lies there may be of another Python's torch
    (prefix / "conda-meta").mkdir()
    assert torch_headers.find_torch() == (folder, "2.99.1")
    assert torch_headers.has_cuda(folder) is cuda


def test_on_windows_conda_has_them_in_a_folder_of_its_own(nothing_installed, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    (tmp_path / "prefix/conda-meta").mkdir(parents=True)
    folder = conda_torch(tmp_path / "prefix/Library", "torch_cpu.lib")
    assert torch_headers.find_torch() == (folder, "2.99.1")


def test_the_real_headers_tell_the_version_of_their_torch(tmp_path):
    (tmp_path / "include").symlink_to(Path(torch.__file__).parent / "include", target_is_directory=True)
    assert torch_headers.version_of(tmp_path) == torch.__version__.partition("+")[0]


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path) -> dict[str, Path]:
    """An interpreter that cannot import torch, in a virtual environment over a base; where packages of each would be."""

    def paths(scheme=None, vars=None):
        place = "user" if scheme else "base" if vars else "environment"
        return {key: str(tmp_path / place) for key in ("purelib", "platlib")}

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sysconfig, "get_paths", paths)
    return {place: tmp_path / place / "torch" for place in ("environment", "base", "user")}


@needs_posix
def test_an_isolated_build_looks_into_the_environment_its_base_and_the_users_packages(nothing_installed):
    with pytest.raises(Obstacle, match="no torch was found") as raised:
        torch_headers.find_torch()
    assert str(nothing_installed["environment"]) in str(raised.value)
    for place in ("user", "base", "environment"):
        fake_torch(nothing_installed[place], "2.99.0")
        assert torch_headers.find_torch()[0] == nothing_installed[place]


@needs_compiler
@needs_posix
def test_torch_is_asked_for_only_where_it_is_missing_and_needed(nothing_installed, monkeypatch, tmp_path):
    def required(**variables):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, str(value))
            return commands.build_requirements()

    assert required() == ["torch>=2.10"]
    assert required(VAEKIT_NO_NATIVE=1) == []
    assert required(CXX=NOWHERE) == []
    assert required(VAEKIT_TORCH_DIR=tmp_path) == []
    old = fake_torch(nothing_installed["environment"], "2.9.1")
    assert required() == ["torch>=2.10"], "one that is too old does not count"
    shutil.rmtree(old)
    fake_torch(nothing_installed["environment"], "2.10.0+cpu")
    assert required() == []


@pytest.fixture
def without_torch(tmp_path) -> Path:
    """A virtual environment that has setuptools and not torch, as an isolated build has."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    import setuptools

    (folder / "packages").mkdir()
    for pattern in ("setuptools*", "_distutils_hack"):
        for package in Path(setuptools.__file__).parents[1].glob(pattern):
            (folder / "packages" / package.name).symlink_to(package)
    where = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    if any(Path(sysconfig.get_paths(vars=where)[key], "torch").exists() for key in ("purelib", "platlib")):
        pytest.skip("the Python under this virtual environment has a torch of its own")
    return folder


@needs_compiler
@needs_posix
def test_pips_isolated_build_gets_torch_exactly_where_the_environment_has_none(repository, without_torch, tmp_path):
    def requirements():
        paths = {"PYTHONPATH": without_torch / "packages", "HOME": tmp_path, "isolated": True}
        done, result = hook(repository, "get_requires_for_build_wheel", python=without_torch / "bin/python", **paths)
        assert done.returncode == 0, done.stderr
        return result

    assert requirements() == ["torch>=2.10"]
    fake_torch(next((without_torch / "lib").glob("python*/site-packages")) / "torch", "2.10.0+cpu")
    assert requirements() == []
