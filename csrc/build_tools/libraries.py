"""The compiled libraries, one for each kind of device, and how each is compiled.

A library is no Python extension module: when vaekit/ops/native.py loads it, it registers its kernels with torch. Through torch's
stable ABI one file serves every Python and every torch from 2.10 on.
"""

import json
import os
import shlex
import sys
from pathlib import Path

from setuptools import Extension

from .compilers import WINDOWS, program_of
from .torch_headers import TORCH_TARGET

MACOS, LINUX = sys.platform == "darwin", sys.platform == "linux"
SUFFIX = ".dll" if WINDOWS else ".so"


def headers() -> list[str]:
    """All headers, and what is included like one; a change in any of them compiles every library again."""
    return sorted(path.as_posix() for path in Path("csrc").rglob("*") if path.suffix in (".h", ".cuh", ".cu"))


def cpu_library() -> Extension:
    """The library for the CPU, which setuptools compiles."""
    # Once more, after ours, so that the user's flags win; except -O2 and -Os, which make GCC's loops 8 times slower.
    users = [flag for flag in shlex.split(os.environ.get("CXXFLAGS", "")) if flag not in ("-O2", "-Os")]
    return Extension(
        "vaekit._C_cpu",
        sources=sorted(path.as_posix() for path in Path("csrc/cpu").glob("*.cpp")),
        depends=headers(),
        include_dirs=["csrc"],
        define_macros=[TORCH_TARGET],
        extra_compile_args=(
            ["/std:c++17", "/O2", "/fp:precise", "/permissive-", "/EHsc"]
            if WINDOWS
            else [
                *(
                    "-std=c++17",
                    "-O3",
                    "-g0",
                    "-fvisibility=hidden",
                    "-ffp-contract=off",
                    "-fno-math-errno",
                    "-fno-trapping-math",
                ),
                "-fno-wrapv",  # Python's own flags have -fwrapv, with which GCC does not see that a[i + j] follows a[i]
                *users,
            ]
        ),
        # On Linux torch's library is found because it is loaded already; macOS looks symbols up among all that is loaded.
        extra_link_args=["-undefined", "dynamic_lookup"] if MACOS else [],
        libraries=[] if MACOS else ["torch_cpu"],
        export_symbols=["vaekit_cpu_capability", "vaekit_cpu_operators"],
        language="c++",
        optional=True,
    )


def cuda_library() -> Extension:
    """The library for CUDA, which nvcc compiles."""
    host_flags = (
        "/permissive-,/EHsc,/MD" if WINDOWS else "-fPIC,-fvisibility=hidden,-ffp-contract=off,-fno-math-errno,-fno-trapping-math"
    )
    return Extension(
        "vaekit._C_cuda",
        sources=["csrc/cuda/library.cu"],
        depends=headers(),
        include_dirs=["csrc"],
        define_macros=[TORCH_TARGET, ("USE_CUDA", "1")],  # torch's headers declare their CUDA functions under USE_CUDA
        # Without -fmad=false nvcc would fuse products and sums wherever it likes, and not only where the source says fma.
        extra_compile_args=["-std=c++17", "-O3", "-fmad=false", "-Xcompiler", host_flags],
        # torch opens its libraries such that only those that name them see them, so ours names them whether or not it uses
        # anything of them. The CUDA runtime is linked in and hidden, to serve any torch beside a runtime that torch may bring.
        extra_link_args=[] if WINDOWS else ["-Xlinker", "--no-as-needed,--exclude-libs=ALL"],
        libraries=["torch_cpu", "torch_cuda"],
        optional=True,
    )


def cuda_commands(
    ext: Extension, *, nvcc: str, nvcc_help: str, architectures: list[str], torch: Path, folder: Path, library: Path
) -> list[list[str]]:
    """The calls of nvcc that make `library` in an empty folder for temporary files."""
    compiler = [nvcc, "-shared"]
    if cxx := program_of(shlex.split(os.environ.get("CXX", ""))):
        compiler += ["-ccbin", cxx[-1]]  # of "ccache g++" the g++
    if "--threads" in nvcc_help:
        compiler += ["--threads", "0"]  # as many as there are processors
    capability = json.dumps(" ".join(architectures))
    ours = [
        *compiler,
        *ext.extra_compile_args,
        *(f"-gencode=arch={code.replace('sm', 'compute')},code={code}" for code in architectures),
        *(f"-D{name}={value}" for name, value in [*ext.define_macros, ("VAEKIT_CUDA_ARCHITECTURES", capability)]),
        *(f"-I{include}" for include in ext.include_dirs),
        *("-isystem", str(torch / "include")),  # silences the warnings that torch's headers raise
        *ext.sources,
        *(f"-L{place}" for place in (folder, torch / "lib")),
        *ext.extra_link_args,
        *(f"-l{name}" for name in ext.libraries),
        *("-o", str(library)),
    ]
    if not LINUX:
        return [ours]
    # On Linux an empty library of that name is all that linking needs, so that a torch without CUDA will do.
    torch_cuda, empty = folder / "libtorch_cuda.so", folder / "empty.cpp"
    empty.touch()
    stand_in = ["--cudart=none", "-Xcompiler=-fPIC", f"-Xlinker=-soname={torch_cuda.name}", str(empty), "-o", str(torch_cuda)]
    return [[*compiler, *stand_in], ours]
