"""Laws of whole builds: a library where there can be one, otherwise a wheel without it and a reason that helps.

Each runs in a copy of the repository. A stand-in takes the place of the kernels, which compiles in a moment, except in the two
wheels that are meant to work; a script that of nvcc, and a few files that of a torch with CUDA.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from helpers.builds import (
    NOWHERE,
    NVCC,
    SOURCE,
    build_editable,
    build_wheel,
    calls,
    copy_repository,
    entry_of,
    fake_torch,
    hook,
    refused_wheel,
    script,
)
from helpers.installs import CUDA_LIBRARY, LIBRARY, RECORD, STAND_IN, imported, needs_compiler, needs_posix


@pytest.fixture(scope="session")
def native_wheel(tmp_path_factory) -> Path:
    """The wheel with the real library, built once for all workers, for a processor that people name who compile everything.

    Unoptimised, which takes a third of the time.
    """
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    flags = "-O0 -march=nocona -mtune=haswell" if platform.machine() == "x86_64" and sys.platform != "win32" else ""
    with FileLock(shared / "native-wheel.lock"):
        if not (folder := shared / "native-wheel").exists():
            build_wheel(copy_repository(folder, stand_in=False), CXXFLAGS=flags)
        return next((folder / "dist").glob("*.whl"))


def extracted(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@needs_compiler
def test_a_library_is_built_and_used_whatever_processor_the_users_flags_name(native_wheel, tmp_path):
    entry = entry_of(native_wheel)
    assert entry["torch"] == torch.__version__
    seen = imported(extracted(native_wheel, tmp_path / "site"))
    assert seen["native"]
    assert seen["loaded"] == ["cpu"]
    assert seen["warnings"] == []
    assert seen["kernel"].startswith("native (")
    assert seen["kernel"].endswith(f"; {entry['compiler']}, torch {torch.__version__} headers)")


@needs_compiler
def test_a_library_that_is_there_can_be_left_out(native_wheel, tmp_path):
    seen = imported(extracted(native_wheel, tmp_path / "site"), VAEKIT_NO_NATIVE="true")
    assert (seen["native"], seen["warnings"]) == (False, [])
    assert seen["kernel"] == "reference (VAEKIT_NO_NATIVE is set; unset it to use the compiled kernel)"


@needs_posix
def test_without_a_compiler_it_installs_and_says_so(repository):
    entry = entry_of(build_wheel(repository, CXX=NOWHERE))
    assert not entry["deliberate"]
    assert "no C++ compiler" in entry["reason"]


@needs_compiler
def test_a_mistake_in_the_source_is_quoted(repository):
    (repository / SOURCE).write_text(STAND_IN + "int planted( {\n")
    assert f"{SOURCE}:2:" in entry_of(build_wheel(repository))["reason"]


@needs_posix
def test_a_library_can_be_required(repository):
    said = refused_wheel(repository, VAEKIT_REQUIRE_NATIVE=1, CXX=NOWHERE)
    assert "vaekit: VAEKIT_REQUIRE_NATIVE is set, and the cpu library was not built: no C++ compiler" in said


def test_variables_that_contradict_each_other_end_the_build(repository):
    said = refused_wheel(repository, VAEKIT_REQUIRE_NATIVE=1, VAEKIT_NO_NATIVE=1)
    assert "vaekit: VAEKIT_NO_NATIVE and VAEKIT_REQUIRE_NATIVE are both set" in said


@needs_compiler
def test_a_failed_build_leaves_nothing_of_an_earlier_one(repository):
    assert entry_of(build_wheel(repository))["built"]
    assert list(repository.glob(f"build/*/{LIBRARY}"))
    assert build_editable(repository)["cpu"]["built"]
    in_place = (repository / LIBRARY).read_bytes()

    assert not entry_of(build_wheel(repository, VAEKIT_NO_NATIVE=1))["built"]
    assert (repository / LIBRARY).read_bytes() == in_place, "a wheel leaves an editable install alone"

    (repository / SOURCE).write_text("planted\n")
    assert not entry_of(build_wheel(repository))["built"]
    assert not build_editable(repository)["cpu"]["built"]
    assert not (repository / LIBRARY).exists()


@needs_compiler
def test_a_wheel_can_be_built_from_the_sdist_which_holds_nothing_that_was_built(repository, tmp_path):
    for built in (LIBRARY, RECORD):
        (repository / built).touch()
    done, name = hook(repository, "build_sdist", "dist")
    assert done.returncode == 0, done.stderr
    with tarfile.open(repository / "dist" / name) as archive:
        names = {member.partition("/")[2] for member in archive.getnames()}
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    sources = [path for path in (repository / "csrc").rglob("*") if "__pycache__" not in path.parts]
    assert {path.relative_to(repository).as_posix() for path in sources} | {"setup.py"} <= names
    assert not {LIBRARY, RECORD} & names
    assert entry_of(build_wheel(tmp_path / name.removesuffix(".tar.gz")))["built"]


# --- CUDA ----------------------------------------------------------------------------------------------------------------


@needs_posix
@needs_compiler
def test_the_cuda_library_is_built_where_torch_has_cuda_and_there_is_an_nvcc(repository, with_cuda, toolkit):
    wheel = build_wheel(repository, VAEKIT_REQUIRE_NATIVE=1, **with_cuda)
    assert entry_of(wheel)["built"]
    architectures = ["sm_75", "sm_90", "sm_100", "compute_100"]
    about = {"torch": "2.99.0+cu130", "compiler": "nvcc 13.0.88", "architectures": architectures, "bytes": len("library\n")}
    assert entry_of(wheel, "cuda") == {"built": True, "deliberate": False, **about}
    assert ' -DVAEKIT_CUDA_ARCHITECTURES="sm_75 sm_90 sm_100 compute_100" ' in calls(toolkit)[-1]


@needs_posix
def test_nothing_but_the_cuda_library_fails_without_a_cxx_compiler(repository, with_cuda, toolkit):
    wheel = build_wheel(repository, **{**with_cuda, "CXX": f"ccache {NOWHERE} -m64"})
    assert not entry_of(wheel)["built"]
    assert entry_of(wheel, "cuda")["built"]
    assert all(f" -ccbin {NOWHERE} " in call for call in calls(toolkit))


@needs_posix
@needs_compiler
def test_without_cuda_in_torch_the_cuda_library_is_built_only_on_demand(repository, with_cuda, toolkit, tmp_path):
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
def test_no_library_is_built_where_none_is_wanted(repository, with_cuda, toolkit, variable):
    name, _, value = variable.partition("=")
    wheel = build_wheel(repository, **{**with_cuda, name: value or 1})
    left_out = [entry_of(wheel, "cuda"), *([entry_of(wheel)] if variable == "VAEKIT_NO_NATIVE" else [])]
    for entry in left_out:
        assert (entry["built"], entry["deliberate"]) == (False, True)
        assert entry["reason"].startswith(f"{variable} was set when vaekit was built; ")
    assert entry_of(wheel)["deliberate"] == (variable == "VAEKIT_NO_NATIVE")
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
    assert expected in refused_wheel(repository, **{**with_cuda, variable: 1})


@needs_posix
@needs_compiler
def test_an_nvcc_that_fails_is_quoted_and_leaves_nothing(repository, with_cuda, toolkit):
    assert build_editable(repository, **with_cuda)["cuda"]["built"]
    assert (repository / CUDA_LIBRARY).exists()
    script(toolkit / "bin/nvcc", NVCC.replace('echo library > "$2"', 'echo half > "$2"; echo "x.cu(3): error: no"; exit 2'))
    entries = build_editable(repository, **with_cuda)
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
    site = extracted(wheel, tmp_path / "site")
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
