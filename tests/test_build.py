"""Laws of the build and of loading what it built: a library where there can be one, and otherwise a reason that helps.

Each build runs in a copy of the repository, each import in a process of its own. A stand-in takes the place of the kernels, which
compiles in a moment, except in the one wheel that is meant to work.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import vaekit
from vaekit.ops import native

ROOT = Path(__file__).parents[1]
SOURCE = "csrc/cpu/reparameterize_kl.cpp"
LIBRARY = f"vaekit/_C_cpu{native._SUFFIX}"
RECORD = "vaekit/_build.json"
STAND_IN = 'extern "C" __attribute__((visibility("default"))) const char* vaekit_cpu_capability() { return "stand-in"; }\n'

COMPILER = os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++"
needs_compiler = pytest.mark.skipif(shutil.which(COMPILER.split()[0]) is None, reason=f"no C++ compiler {COMPILER!r} here")
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="a shell script plays the compiler")


def environment(**changes):
    """This one, without what decides about libraries."""
    decides = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "PYTHONPATH", "PYTHONWARNINGS")
    kept = {k: v for k, v in os.environ.items() if k not in decides and not k.startswith("VAEKIT_")}
    return {**kept, **({"CXX": os.environ["CXX"]} if "CXX" in os.environ else {}), **{k: str(v) for k, v in changes.items()}}


def copy_repository(folder: Path) -> Path:
    folder.mkdir(parents=True)
    unwanted = shutil.ignore_patterns("__pycache__", "_build.json", "_C_*")
    for name in ("vaekit", "csrc"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def repository(tmp_path) -> Path:
    """A copy whose library is the stand-in."""
    folder = copy_repository(tmp_path / "repository")
    (folder / SOURCE).parent.mkdir(parents=True, exist_ok=True)
    (folder / SOURCE).write_text(STAND_IN)
    return folder


def hook(folder: Path, name: str, *arguments: str, python: Path | str = sys.executable, isolated=False, **variables):
    """Calls a hook of the build backend as pip does; gives the process and what the hook returned."""
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


def entry_of(wheel: Path) -> dict:
    """What the wheel's record says of the CPU library, having seen that the wheel is what it says."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry = json.loads(archive.read(RECORD))["kernels"]["cpu"]
        about = next(archive.read(name).decode() for name in names if name.endswith(".dist-info/WHEEL"))
    assert entry["built"] == (LIBRARY in names)
    assert wheel.name.startswith(f"vaekit-{vaekit.__version__}-py3-none-")
    assert wheel.name.endswith("-any.whl") == (not entry["built"])
    assert ("Root-Is-Purelib: true" in about) == (not entry["built"])
    assert not [name for name in names if name.startswith("csrc")]
    return entry


def script(file: Path, text: str) -> Path:
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


# --- building ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def native_wheel(tmp_path_factory) -> Path:
    """The wheel with the real library, built once for all workers."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with FileLock(shared / "native-wheel.lock"):
        if not (folder := shared / "native-wheel").exists():
            build_wheel(copy_repository(folder))
        return next((folder / "dist").glob("*.whl"))


@needs_compiler
def test_a_library_is_built_and_used(native_wheel, tmp_path):
    entry = entry_of(native_wheel)
    assert entry["torch"] == torch.__version__
    with zipfile.ZipFile(native_wheel) as archive:
        archive.extractall(tmp_path / "site")
    seen = imported(tmp_path / "site")
    assert seen["native"]
    assert seen["loaded"] == ["cpu"]
    assert seen["warnings"] == []
    assert seen["kernel"].startswith("native (")
    assert seen["kernel"].endswith(f"; {entry['compiler']}, torch {torch.__version__} headers)")


@needs_compiler
@needs_posix
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64 compilers")
def test_a_processor_that_the_users_flags_name_does_not_break_the_wider_instructions(tmp_path):
    folder = copy_repository(tmp_path / "repository")
    assert entry_of(build_wheel(folder, CXXFLAGS="-O2 -march=nocona -mtune=haswell"))["built"]


@pytest.mark.parametrize("variables", [{"CXX": "/nowhere/c++"}, {"PATH": "", "CXX": "c++"}], ids=["no such file", "empty PATH"])
@needs_posix
def test_without_a_compiler_it_installs_and_says_so(repository, variables):
    entry = entry_of(build_wheel(repository, **variables))
    assert not entry["deliberate"]
    assert "no C++ compiler" in entry["reason"]
    assert "install" in entry["reason"]


@needs_posix
def test_a_compiler_that_fails_is_quoted(repository, tmp_path):
    compiler = script(tmp_path / "c++", '[ "$1" = --version ] && echo "planted 1.2" || { echo "error: no room" >&2; exit 1; }')
    entry = entry_of(build_wheel(repository, CXX=compiler))
    assert entry["compiler"] == "planted 1.2"
    assert entry["reason"].endswith("The compiler said: error: no room")


@needs_compiler
def test_a_mistake_in_the_source_is_quoted(repository):
    (repository / SOURCE).write_text(STAND_IN + "int planted( {\n")
    assert f"{SOURCE}:2:" in entry_of(build_wheel(repository))["reason"]


def test_none_is_built_where_none_is_wanted(repository):
    entry = entry_of(build_wheel(repository, VAEKIT_NO_NATIVE=1))
    assert entry["deliberate"]
    assert "VAEKIT_NO_NATIVE" in entry["reason"]


@needs_compiler
@pytest.mark.parametrize("value", ["", "0"])
def test_an_empty_variable_and_0_are_not_set(repository, value):
    assert entry_of(build_wheel(repository, VAEKIT_NO_NATIVE=value))["built"]


@needs_posix
def test_a_library_can_be_required(repository):
    done, _ = hook(repository, "build_wheel", "dist", VAEKIT_REQUIRE_NATIVE=1, CXX="/nowhere/c++")
    assert done.returncode != 0
    assert "vaekit: VAEKIT_REQUIRE_NATIVE is set, and the cpu library was not built: no C++ compiler" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((repository / "dist").glob("*.whl"))


def test_none_and_required_contradict_each_other(repository):
    done, _ = hook(repository, "build_wheel", "dist", VAEKIT_REQUIRE_NATIVE=1, VAEKIT_NO_NATIVE=1)
    assert done.returncode != 0
    assert "VAEKIT_NO_NATIVE and VAEKIT_REQUIRE_NATIVE are both set" in done.stderr


@needs_compiler
def test_a_failed_build_leaves_nothing_of_an_earlier_one(repository):
    assert entry_of(build_wheel(repository))["built"]
    assert list(repository.glob(f"build/*/{LIBRARY}"))
    assert hook(repository, "build_editable", "dist")[0].returncode == 0
    in_place = (repository / LIBRARY).read_bytes()

    assert not entry_of(build_wheel(repository, VAEKIT_NO_NATIVE=1))["built"]
    assert (repository / LIBRARY).read_bytes() == in_place, "a wheel leaves an editable install alone"

    (repository / SOURCE).write_text("planted\n")
    assert not entry_of(build_wheel(repository))["built"]
    assert hook(repository, "build_editable", "dist")[0].returncode == 0
    assert not (repository / LIBRARY).exists()
    assert not json.loads((repository / RECORD).read_text())["kernels"]["cpu"]["built"]


@needs_compiler
def test_the_sources_travel_without_what_was_built(repository):
    assert hook(repository, "build_editable", "dist")[0].returncode == 0
    assert (repository / LIBRARY).exists()
    done, name = hook(repository, "build_sdist", "dist")
    assert done.returncode == 0, done.stderr
    with tarfile.open(repository / "dist" / name) as archive:
        names = {member.partition("/")[2] for member in archive.getnames()}
    assert {path.relative_to(repository).as_posix() for path in (repository / "csrc").rglob("*")} | {"setup.py"} <= names
    assert not {LIBRARY, RECORD} & names


# --- which torch ---------------------------------------------------------------------------------------------------------


def fake_torch(folder: Path, version: str) -> Path:
    """What the build looks at in a torch, with this one's library to link with."""
    (folder / "include/torch/csrc/stable").mkdir(parents=True)
    (folder / "include/torch/csrc/stable/library.h").touch()
    (folder / "version.py").write_text(f"__version__ = '{version}'\n")
    (folder / "lib").symlink_to(Path(torch.__file__).parent / "lib", target_is_directory=True)
    return folder


@needs_compiler
@needs_posix
def test_torch_is_taken_from_the_folder_that_is_named(repository, tmp_path):
    entry = entry_of(build_wheel(repository, VAEKIT_TORCH_DIR=fake_torch(tmp_path / "torch", "2.99.0")))
    assert (entry["built"], entry["torch"]) == (True, "2.99.0")


@needs_compiler
def test_a_folder_without_torch_is_named(repository, tmp_path):
    assert f"VAEKIT_TORCH_DIR named {tmp_path}," in entry_of(build_wheel(repository, VAEKIT_TORCH_DIR=tmp_path))["reason"]


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
def test_torch_is_asked_for_only_where_it_is_missing_and_needed(repository, without_torch, tmp_path):
    def asked(**variables):
        paths = {"PYTHONPATH": without_torch / "packages", "HOME": tmp_path, "isolated": True}
        done, result = hook(repository, "get_requires_for_build_wheel", python=without_torch / "bin/python", **paths, **variables)
        assert done.returncode == 0, done.stderr
        return result

    assert hook(repository, "get_requires_for_build_wheel")[1] == []
    assert asked() == ["torch>=2.10"]
    assert asked(VAEKIT_NO_NATIVE=1) == []
    assert asked(CXX="/nowhere/c++") == []
    assert asked(VAEKIT_TORCH_DIR=tmp_path) == []
    site = next((without_torch / "lib").glob("python*/site-packages"))
    old = fake_torch(site / "torch", "2.9.1")
    assert asked() == ["torch>=2.10"], "one that is too old does not count"
    shutil.rmtree(old)
    fake_torch(site / "torch", "2.10.0+cpu")
    assert asked() == [], "the environment that vaekit goes to has one"


@needs_compiler
@needs_posix
def test_a_torch_that_is_too_old_is_named(repository, tmp_path):
    old = fake_torch(tmp_path / "torch", "2.9.1")
    entry = entry_of(build_wheel(repository, VAEKIT_TORCH_DIR=old))
    assert not entry["built"]
    assert f"{old} is older than 2.10" in entry["reason"]


# --- loading -------------------------------------------------------------------------------------------------------------

PROGRAM = """
import json, warnings
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    import vaekit
    import vaekit.ops.native
print(json.dumps({
    "file": vaekit.__file__, "native": vaekit.has_native("cpu"), "loaded": sorted(vaekit.ops.native.LOADED),
    "kernel": vaekit.build_info()["cpu kernel"], "cuda": vaekit.build_info()["cuda kernel"],
    "warnings": [[w.category.__name__, w.filename, str(w.message)] for w in seen if "vaekit" in str(w.message)],
}))
"""


def run(site: Path, *arguments, **variables):
    return subprocess.run(
        [sys.executable, *arguments], cwd=site, env=environment(PYTHONPATH=site, **variables), capture_output=True, text=True
    )


def imported(site: Path, **variables) -> dict:
    """What a process sees that imports the vaekit in `site`."""
    (site / "program.py").write_text(PROGRAM)
    done = run(site, "program.py", **variables)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert Path(seen["file"]) == site / "vaekit/__init__.py"
    return seen


@pytest.fixture
def site(tmp_path) -> Path:
    """An installed vaekit whose library was built; without the library."""
    shutil.copytree(ROOT / "vaekit", tmp_path / "vaekit", ignore=shutil.ignore_patterns("__pycache__", "_build.json", "_C_*"))
    write_record(tmp_path, built=True, bytes=1000, compiler="g++ 1.0", torch="2.10.0")
    return tmp_path


def write_record(site: Path, schema: int = native._SCHEMA, **entry) -> None:
    record = {"schema": schema, "kernels": {"cpu": {"deliberate": False, **entry}}}
    (site / RECORD).write_text(json.dumps(record))


def never_built(site):
    (site / RECORD).unlink()
    return "pip install -e ."


def not_built(site):
    write_record(site, built=False, reason="no C++ compiler; install one")
    return "no C++ compiler; install one"


def another_schema(site):
    write_record(site, native._SCHEMA + 1, built=True)
    return "of another version"


def no_record(site):
    (site / RECORD).write_text("{")
    return "cannot be read"


def no_file(site):
    return "is missing although it was built; install vaekit again"


def cut_short(site):
    whole = Path(torch.__file__).parent / "lib/libc10.so"  # loading half a library ends a process
    (site / LIBRARY).write_bytes(whole.read_bytes()[:5000])
    write_record(site, built=True, bytes=whole.stat().st_size)
    return "has 5000 bytes"


def no_library(site):
    (site / LIBRARY).write_text("x" * 1000)
    return "could not be loaded"


def a_symbol_that_torch_lacks(site):
    source = site / "library.cpp"
    source.write_text(STAND_IN.replace("{ return", "{ torch_has_no_such_function(); return").replace("extern", PLANTED, 1))
    subprocess.run([*COMPILER.split(), "-shared", "-fPIC", "-o", site / LIBRARY, source], check=True)
    write_record(site, built=True, bytes=(site / LIBRARY).stat().st_size)
    return "torch_has_no_such_function"


PLANTED = 'extern "C" void torch_has_no_such_function();\nextern'
DEFECTS = [
    never_built, not_built, another_schema, no_record, no_file, no_library,
    pytest.param(cut_short, marks=pytest.mark.skipif(sys.platform != "linux", reason="takes one of torch's ELF files")),
    pytest.param(a_symbol_that_torch_lacks, marks=[needs_compiler, needs_posix]),
]  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_missing_kernel_is_explained_once(site, defect):
    expected = defect(site)
    seen = imported(site)
    assert not seen["native"]
    assert seen["loaded"] == []
    assert seen["kernel"].startswith("reference (")
    assert expected in seen["kernel"]
    [(category, file, message)] = seen["warnings"]
    assert category == "RuntimeWarning"
    assert Path(file).name == "program.py", "the line that imports vaekit"
    assert seen["kernel"][len("reference (") : -1] in message
    assert "slower" in message
    assert "VAEKIT_NO_NATIVE=1" in message


def test_no_kernel_at_all_is_nothing_to_warn_of_where_that_was_wanted(site):
    assert imported(site, VAEKIT_NO_NATIVE=1)["warnings"] == []
    write_record(site, built=False, reason="because", deliberate=True)
    seen = imported(site)
    assert (seen["kernel"], seen["warnings"]) == ("reference (because)", [])


@needs_compiler
def test_a_library_that_is_there_can_be_left_out(native_wheel, tmp_path):
    with zipfile.ZipFile(native_wheel) as archive:
        archive.extractall(tmp_path)
    seen = imported(tmp_path, VAEKIT_NO_NATIVE="true")
    assert (seen["native"], seen["warnings"]) == (False, [])
    assert seen["kernel"] == "reference (VAEKIT_NO_NATIVE is set; unset it to use the compiled kernel)"


@pytest.mark.parametrize("variables", [{}, {"VAEKIT_NO_NATIVE": 1}], ids=["missing", "left out"])
def test_a_kernel_can_be_required(site, variables):
    done = run(site, "-c", "import vaekit", VAEKIT_REQUIRE_NATIVE=1, **variables)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: VAEKIT_REQUIRE_NATIVE is set, and vaekit has no compiled CPU kernel: ")
    assert ("VAEKIT_NO_NATIVE is set" if variables else "is missing although it was built") in last


def test_the_doctor_repeats_the_reason(site):
    reason = not_built(site)
    done = run(site, "-m", "vaekit", "doctor")
    rows = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert rows["cpu kernel"].strip() == f"reference ({reason})"
    assert rows["cuda kernel"].strip() == "reference (this version of vaekit has no CUDA kernel)"
    assert done.stderr.count("RuntimeWarning") == 1


def test_the_lookup_is_what_was_loaded():
    assert vaekit.has_native("cpu") == ("cpu" in native.LOADED)
    assert isinstance(native.LOADED, frozenset)
