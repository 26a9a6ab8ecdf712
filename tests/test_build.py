"""Laws of the build: a library where there can be one, and otherwise a reason that helps.

Each build runs in a copy of the repository. A stand-in takes the place of the kernels, which compiles in a moment, except in the
two wheels that are meant to work; a script that of nvcc, and a few files that of a torch with CUDA.
"""

import json
import os
import platform
import re
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
from helpers.installs import (
    COMPILER,
    CUDA_LIBRARY,
    LIBRARY,
    RECORD,
    ROOT,
    STAND_IN,
    environment,
    imported,
    needs_compiler,
    needs_posix,
)

import vaekit
from vaekit.ops import native

SOURCE = "csrc/cpu/reparameterize_kl.cpp"


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
    """Calls a hook of the build backend as pip does, without CUDA if not told; gives the process and what the hook returned."""
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


def entry_of(wheel: Path, device="cpu") -> dict:
    """What the wheel's record says of a library, having seen that the wheel is what it says."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entries = json.loads(archive.read(RECORD))["kernels"]
        about, listed = (
            next(archive.read(n).decode() for n in names if n.endswith(f".dist-info/{m}")) for m in ("WHEEL", "RECORD")
        )
    libraries = {f"vaekit/_C_{name}{native._SUFFIX}" for name, entry in entries.items() if entry["built"]}
    assert {name for name in names if not name.endswith((".py", ".json", "py.typed")) and "dist-info" not in name} == libraries
    assert all(f"{library},sha256=" in listed for library in libraries)
    assert wheel.name.startswith(f"vaekit-{vaekit.__version__}-py3-none-")
    assert wheel.name.endswith("-any.whl") == (not libraries)
    assert ("Root-Is-Purelib: true" in about) == (not libraries)
    return entries[device]


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


def fake_torch(folder: Path, version: str, cuda: str | None = None) -> Path:
    """What the build looks at in a torch, with this one's library to link with."""
    (folder / "include/torch/csrc/stable").mkdir(parents=True)
    (folder / "include/torch/csrc/stable/library.h").touch()
    (folder / "version.py").write_text(f"__version__ = '{version}'\ncuda: Optional[str] = {cuda!r}\n")
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


# --- CUDA ----------------------------------------------------------------------------------------------------------------

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


def fake_nvcc(folder: Path, text: str = NVCC) -> Path:
    """A CUDA toolkit with nothing but an nvcc that writes what it is called with into a file."""
    (folder / "bin").mkdir(parents=True)
    script(folder / "bin/nvcc", text)
    return folder


@pytest.fixture
def toolkit(tmp_path) -> Path:
    return fake_nvcc(tmp_path / "toolkit")


@pytest.fixture
def with_cuda(tmp_path, toolkit) -> dict:
    """The variables of a build for which there are a torch with CUDA and an nvcc."""
    torch_with_cuda = fake_torch(tmp_path / "torch-with-cuda", "2.99.0+cu130", "13.0")
    return {"VAEKIT_CUDA": "", "VAEKIT_TORCH_DIR": torch_with_cuda, "CUDA_HOME": toolkit}


def calls(toolkit: Path) -> list[str]:
    file = toolkit / "bin/nvcc.called"
    return file.read_text().splitlines() if file.exists() else []


@needs_posix
@needs_compiler
def test_the_cuda_library_is_built_where_torch_has_cuda_and_there_is_an_nvcc(repository, with_cuda, toolkit):
    wheel = build_wheel(repository, VAEKIT_REQUIRE_NATIVE=1, **with_cuda)
    assert entry_of(wheel)["built"]
    architectures = [
        "sm_75",
        "sm_90",
        "sm_100",
        "compute_100",
    ]  # of those by default what this nvcc has, and the last for later GPUs
    about = {"torch": "2.99.0+cu130", "compiler": "nvcc 13.0.88", "architectures": architectures, "bytes": len("library\n")}
    assert entry_of(wheel, "cuda") == {"built": True, "deliberate": False, **about}
    call = calls(toolkit)[-1]
    for number in ("75", "90", "100"):
        assert f" -gencode=arch=compute_{number},code=sm_{number} " in call
    assert " -gencode=arch=compute_100,code=compute_100 " in call
    assert call.count("-gencode") == 4
    assert ' -DVAEKIT_CUDA_ARCHITECTURES="sm_75 sm_90 sm_100 compute_100" ' in call
    for flag in ("-shared", "-std=c++17", "-fmad=false", "--threads 0", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-Icsrc"):
        assert f" {flag} " in f" {call} "
    assert "-ccbin" not in call


@needs_posix
def test_nothing_but_the_cuda_library_fails_without_a_cxx_compiler(repository, with_cuda, toolkit):
    wheel = build_wheel(repository, **{**with_cuda, "CXX": "ccache /nowhere/c++ -m64"})
    assert not entry_of(wheel)["built"]
    assert entry_of(wheel, "cuda")["built"]
    assert all(" -ccbin /nowhere/c++ " in call for call in calls(toolkit))


@needs_posix
@needs_compiler
def test_without_cuda_in_torch_the_cuda_library_is_built_only_if_told(repository, with_cuda, toolkit, tmp_path):
    with_cuda["VAEKIT_TORCH_DIR"] = fake_torch(tmp_path / "torch", "2.99.0")
    wheel = build_wheel(repository, VAEKIT_REQUIRE_NATIVE=1, **with_cuda)
    assert entry_of(wheel)["built"]
    entry = entry_of(wheel, "cuda")
    assert not entry["built"]
    assert not entry["deliberate"], "whoever gets a torch with CUDA later wants to know"
    assert entry["reason"].startswith("the torch 2.99.0 that vaekit was built with has no CUDA; ")
    assert "VAEKIT_CUDA=1" in entry["reason"]
    assert calls(toolkit) == []
    assert entry_of(build_wheel(repository, **{**with_cuda, "VAEKIT_CUDA": 1}), "cuda")["built"]


@needs_posix
@pytest.mark.parametrize("variable", ["VAEKIT_CUDA=0", "VAEKIT_NO_NATIVE"])
def test_no_cuda_library_is_built_where_none_is_wanted(repository, with_cuda, toolkit, variable):
    name, _, value = variable.partition("=")
    wheel = build_wheel(repository, **{**with_cuda, name: value or 1})
    entry = entry_of(wheel, "cuda")
    assert (entry["built"], entry["deliberate"]) == (False, True)
    assert entry["reason"].startswith(f"{variable} was set when vaekit was built; ")
    assert entry_of(wheel)["deliberate"] == (variable == "VAEKIT_NO_NATIVE")
    assert calls(toolkit) == []


@needs_posix
@pytest.mark.parametrize("place", ["PATH", "the usual folder"])
def test_nvcc_is_found_and_otherwise_named(repository, with_cuda, toolkit, tmp_path, place):
    compilers = repository / "csrc/build_tools/compilers.py"
    compilers.write_text(compilers.read_text().replace("/usr/local/cuda", str(tmp_path / "usual")))
    compiler = shutil.which(COMPILER.split()[0])
    with_cuda |= {"CUDA_HOME": "", "PATH": tmp_path / "path/bin", **({"CXX": compiler} if compiler else {})}
    entry = entry_of(build_wheel(repository, **with_cuda), "cuda")
    assert not entry["deliberate"]
    assert entry["reason"].startswith("no CUDA compiler (nvcc) was found when vaekit was built")
    assert f"{tmp_path}/usual" in entry["reason"]
    assert "install" in entry["reason"]
    # A script in place of nvcc, from whose place nothing follows.
    found = script(fake_nvcc(tmp_path / ("path" if place == "PATH" else "usual")) / "bin/nvcc", f'exec {toolkit}/bin/nvcc "$@"')
    found.write_text(found.read_text().replace("exec", "PATH=/usr/bin:/bin exec"))
    assert entry_of(build_wheel(repository, **with_cuda), "cuda")["built"]
    assert calls(toolkit)


@needs_posix
def test_a_cuda_home_without_nvcc_is_named_and_an_nvcc_elsewhere_is_not_taken(repository, with_cuda, toolkit, tmp_path):
    with_cuda |= {"CUDA_HOME": tmp_path, "PATH": f"{toolkit}/bin:{os.environ['PATH']}"}
    reason = entry_of(build_wheel(repository, VAEKIT_REQUIRE_NATIVE=1, **with_cuda), "cuda")["reason"]
    assert reason.startswith(f"CUDA_HOME named {tmp_path}, which has no bin/nvcc; ")
    assert calls(toolkit) == []


@needs_posix
@pytest.mark.parametrize("variable", ["VAEKIT_CUDA", "VAEKIT_REQUIRE_NATIVE"])
def test_a_cuda_library_can_be_required(repository, with_cuda, toolkit, variable):
    if variable == "VAEKIT_CUDA":
        (toolkit / "bin/nvcc").unlink()
        expected = f"vaekit: VAEKIT_CUDA=1 is set, and the cuda library was not built: CUDA_HOME named {toolkit}"
    else:
        script(toolkit / "bin/nvcc", "exit 1")
        expected = f"vaekit: VAEKIT_REQUIRE_NATIVE is set, and the cuda library was not built: {toolkit}/bin/nvcc did not say"
    done, _ = hook(repository, "build_wheel", "dist", **{**with_cuda, variable: 1})
    assert done.returncode != 0
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((repository / "dist").glob("*.whl"))


@pytest.mark.parametrize("value", ["2", "yes"])
def test_the_variable_for_cuda_is_0_or_1(repository, value):
    done, _ = hook(repository, "build_wheel", "dist", VAEKIT_CUDA=value)
    assert done.returncode != 0
    assert "vaekit: VAEKIT_CUDA has to be 0 (" in done.stderr
    assert "or 1 (" in done.stderr
    assert f"got {value!r}" in done.stderr


def test_no_library_and_the_cuda_library_contradict_each_other(repository):
    done, _ = hook(repository, "build_wheel", "dist", VAEKIT_NO_NATIVE=1, VAEKIT_CUDA=1)
    assert done.returncode != 0
    assert "VAEKIT_NO_NATIVE and VAEKIT_CUDA=1 are both set" in done.stderr


@needs_posix
@pytest.mark.parametrize(
    ("told", "built"),
    [
        ("9.0", ["sm_90"]),
        ("7.5;8.7 9.0+PTX", ["sm_75", "sm_87", "sm_90", "compute_90"]),
        (" 10.0+PTX,7.5, 7.5", ["sm_100", "sm_75", "compute_100"]),
        ("5.2 6.0 7.0 7.5 9.0+PTX", ["sm_75", "sm_90", "compute_90"]),  # those below 7.5 are left out
        ("9.0a 12.1", ["sm_90a", "sm_121"]),
    ],
)
def test_the_architectures_can_be_told(repository, with_cuda, told, built):
    wheel = build_wheel(repository, CXX="/nowhere/c++", TORCH_CUDA_ARCH_LIST=told, **with_cuda)
    assert entry_of(wheel, "cuda")["architectures"] == built


@needs_posix
@pytest.mark.parametrize(
    ("told", "wrong"), [("7.5 Ampere", "Ampere"), ("7.0", "7.0"), ("9.0;11.0+PTX", "11.0+PTX"), ("90", "90")]
)
def test_an_architecture_that_cannot_be_is_named(repository, with_cuda, toolkit, told, wrong):
    reason = entry_of(build_wheel(repository, TORCH_CUDA_ARCH_LIST=told, CXX="/nowhere/c++", **with_cuda), "cuda")["reason"]
    assert reason.startswith(f"TORCH_CUDA_ARCH_LIST has {wrong!r}, ")
    assert "with nvcc 13.0.88 is 7.5 8.7 9.0 10.0 12.1, written like" in reason
    assert calls(toolkit) == []


@needs_posix
@needs_compiler
def test_an_nvcc_that_fails_is_quoted_and_leaves_nothing(repository, with_cuda, toolkit):
    assert hook(repository, "build_editable", "dist", **with_cuda)[0].returncode == 0
    assert (repository / CUDA_LIBRARY).exists()
    script(toolkit / "bin/nvcc", NVCC.replace('echo library > "$2"', 'echo half > "$2"; echo "x.cu(3): error: no"; exit 2'))
    done, _ = hook(repository, "build_editable", "dist", **with_cuda)
    assert done.returncode == 0, done.stderr
    entries = json.loads((repository / RECORD).read_text())["kernels"]
    assert entries["cpu"]["built"]
    assert (repository / LIBRARY).exists()
    assert entries["cuda"]["reason"].endswith("The compiler said: x.cu(3): error: no")
    assert not entries["cuda"]["deliberate"]
    assert not list(repository.rglob("_C_cuda*"))


def elf(*command) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("readelf"), reason="reads an ELF file")
@pytest.mark.skipif(not (shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists()), reason="no nvcc here")
def test_the_real_cuda_library_is_built_with_any_torch_and_loads_where_torch_has_cuda(repository, tmp_path):
    wheel = build_wheel(repository, VAEKIT_CUDA=1, TORCH_CUDA_ARCH_LIST="9.0")
    entry = entry_of(wheel, "cuda")
    assert entry["architectures"] == ["sm_90"]
    assert entry["torch"] == torch.__version__
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    needed = re.findall(r"NEEDED.*\[(\S+)\.so", elf("readelf", "-d", site / CUDA_LIBRARY))
    assert {"libtorch_cpu", "libtorch_cuda"} <= set(needed), "torch hides its libraries from those that do not name them"
    assert not [name for name in needed if "cudart" in name]
    symbols = [line.split() for line in elf("readelf", "--wide", "--dyn-syms", site / CUDA_LIBRARY).splitlines()]
    missing, ours = ({s[7].partition("@")[0] for s in symbols if len(s) > 7 and (s[6] == "UND") == w} for w in (True, False))
    exported = {"vaekit_cuda_capability", "vaekit_cuda_obstacle"}
    assert exported <= ours
    assert "aoti_torch_get_current_cuda_stream" in missing
    # All that it needs of CUDA and of torch's C++ is in it; torch's C functions are its stable ABI.
    assert not [name for name in missing | ours - exported if re.match(r"cuda|__cuda|cu[A-Z]|_ZN(K?)(2at|3c10|5torch)", name)]

    seen = imported(site)
    assert seen["warnings"] == []
    if torch.version.cuda is None:
        assert (seen["loaded"], seen["cuda"]) == (["cpu"], f"reference (this torch ({torch.__version__}) has no CUDA)")
    else:
        assert seen["loaded"] == ["cpu", "cuda"]
        assert seen["cuda"] == f"native (sm_90; {entry['compiler']}, torch {torch.__version__} headers)"


@needs_compiler
def test_a_library_that_is_there_can_be_left_out(native_wheel, tmp_path):
    with zipfile.ZipFile(native_wheel) as archive:
        archive.extractall(tmp_path)
    seen = imported(tmp_path, VAEKIT_NO_NATIVE="true")
    assert (seen["native"], seen["warnings"]) == (False, [])
    assert seen["kernel"] == "reference (VAEKIT_NO_NATIVE is set; unset it to use the compiled kernel)"
