"""Laws of how each library is compiled: whose flags win, and what nvcc is called with."""

import sys
from pathlib import Path

import pytest
from build_tools import libraries
from helpers.installs import ROOT, needs_posix

ARCHITECTURES = ["sm_75", "sm_90", "sm_100", "compute_100"]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def nvcc_calls(tmp_path, nvcc_help=""):
    return libraries.cuda_commands(
        libraries.cuda_library(),
        nvcc="/cuda/bin/nvcc",
        nvcc_help=nvcc_help,
        architectures=ARCHITECTURES,
        torch=Path("/torch"),
        folder=tmp_path,
        library=tmp_path / "library.so",
    )


@pytest.mark.parametrize("library", [libraries.cpu_library, libraries.cuda_library])
def test_what_a_library_is_made_of_is_there_and_is_built_for_the_oldest_torch(library):
    extension = library()
    assert all((ROOT / file).is_file() for file in [*extension.sources, *extension.depends])
    assert "csrc/gaussian.h" in extension.depends
    assert ("TORCH_TARGET_VERSION", "0x020a000000000000") in extension.define_macros
    assert extension.optional


@needs_posix
def test_the_users_flags_come_after_ours_but_for_those_that_make_loops_slow(monkeypatch):
    monkeypatch.setenv("CXXFLAGS", "-O2 -march=nocona '-DNAME=a b' -Os -ffp-contract=fast")
    flags = libraries.cpu_library().extra_compile_args
    assert flags[-3:] == ["-march=nocona", "-DNAME=a b", "-ffp-contract=fast"]
    assert flags.index("-ffp-contract=off") < flags.index("-ffp-contract=fast")
    assert not {"-O2", "-Os"} & set(flags)


@needs_posix
def test_nvcc_is_told_the_architectures_and_never_to_fuse(tmp_path):
    call = nvcc_calls(tmp_path)[-1]
    assert call[:2] == ["/cuda/bin/nvcc", "-shared"]
    assert [word for word in call if word.startswith("-gencode")] == [
        *(f"-gencode=arch=compute_{number},code=sm_{number}" for number in ("75", "90", "100")),
        "-gencode=arch=compute_100,code=compute_100",
    ]
    assert '-DVAEKIT_CUDA_ARCHITECTURES="sm_75 sm_90 sm_100 compute_100"' in call
    for flag in ("-std=c++17", "-fmad=false", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-DUSE_CUDA=1", "-Icsrc"):
        assert flag in call
    assert call[call.index("-isystem") + 1] == "/torch/include"
    assert call[-2:] == ["-o", str(tmp_path / "library.so")]
    assert not {"-ccbin", "--threads"} & set(call)


@needs_posix
def test_nvcc_calls_the_users_compiler_and_every_processor_where_it_can(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "ccache /some/c++ -m64")
    for call in nvcc_calls(tmp_path, nvcc_help="--threads <number>"):
        assert call[call.index("-ccbin") + 1] == "/some/c++"
        assert call[call.index("--threads") + 1] == "0"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere linking needs the library itself")
def test_an_empty_library_stands_for_torch_cuda_when_linking(tmp_path):
    first, second = nvcc_calls(tmp_path)
    assert first[-1] == str(tmp_path / "libtorch_cuda.so")
    assert "-Xlinker=-soname=libtorch_cuda.so" in first
    assert (tmp_path / "empty.cpp").read_text() == ""
    assert second.index(f"-L{tmp_path}") < second.index("-L/torch/lib") < second.index("-ltorch_cuda")
    assert "--no-as-needed,--exclude-libs=ALL" in second
