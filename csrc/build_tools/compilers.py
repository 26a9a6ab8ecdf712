"""The compilers: which there are, what they call themselves, which GPUs they know, and what they say when they fail."""

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from setuptools.errors import BaseError

# isort: split
from distutils.ccompiler import new_compiler  # setuptools' own, which importing setuptools has put in place
from distutils.errors import CCompilerError
from distutils.sysconfig import customize_compiler

from .settings import AGAIN, Obstacle, Skipped

# A compiler that is missing or fails. setuptools changed which of the two MSVC's absence is.
COMPILER_ERRORS = (BaseError, CCompilerError)
WINDOWS = sys.platform == "win32"
CUDA_FOLDER = "/usr/local/cuda"  # where NVIDIA's installer puts it
CUDA_ARCHITECTURES = ("75", "80", "86", "89", "90", "100")  # the default: those of them that nvcc knows


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs a program; its stdout holds everything that it writes."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")


def program_of(command: list[str]) -> list[str]:
    """The words of a command before its options: "ccache g++"."""
    return list(itertools.takewhile(lambda word: not word.startswith("-"), command))


def find_compiler() -> str:
    """The C++ compiler that setuptools will call, as it describes itself in its first line: "g++ 12.2.0".

    Raises:
        Obstacle: it cannot be run.
    """
    compiler = new_compiler()
    customize_compiler(compiler)
    try:
        if compiler.compiler_type == "msvc":
            compiler.initialize()
            command = [compiler.cc]
        else:
            command = [*program_of(compiler.compiler_so_cxx), "--version"]
        output = run(*command).stdout
    except (*COMPILER_ERRORS, OSError) as error:
        again = f"install one (g++, clang++ or MSVC) and {AGAIN}"
        raise Obstacle(f"no C++ compiler was found when vaekit was built ({error}); {again}") from error
    without_parentheses = re.sub(r"\(.*?\)", " ", output.partition("\n")[0])
    return " ".join(without_parentheses.split())


def find_nvcc() -> tuple[str, str]:
    """The CUDA compiler and its version: "nvcc 13.0.88". It may be a script: where it lies says nothing about CUDA's folder.

    Raises:
        Skipped: there is none.
        Obstacle: it does not say its version.
    """
    for variable in ("CUDA_HOME", "CUDA_PATH") if WINDOWS else ("CUDA_HOME",):
        if home := os.environ.get(variable):
            if not (nvcc := shutil.which("nvcc", path=os.path.join(home, "bin"))):
                raise Skipped(f"{variable} named {home}, which has no bin/nvcc; correct it and {AGAIN}")
            break
    else:
        if not (nvcc := shutil.which("nvcc") or shutil.which("nvcc", path=f"{CUDA_FOLDER}/bin")):
            raise Skipped(
                f"no CUDA compiler (nvcc) was found when vaekit was built, on PATH or in {CUDA_FOLDER}; "
                f"install the CUDA toolkit, or set CUDA_HOME to its folder, and {AGAIN}"
            )
    try:
        output = run(nvcc, "--version").stdout
    except OSError as error:
        output = str(error)
    if not (version := re.search(r"\bV(\d+(\.\d+)+)", output)):
        raise Obstacle(f"{nvcc} did not say its version when vaekit was built; mend it and {AGAIN}. It said: {output.strip()}")
    return nvcc, f"nvcc {version[1]}"


def find_architectures(nvcc: str, version: str) -> list[str]:
    """The GPUs to build for: ["sm_75", ..., "sm_100", "compute_100"]. The last is for later ones, whose driver compiles it.

    Raises:
        Obstacle: TORCH_CUDA_ARCH_LIST names one that this nvcc or vaekit does not know, or nvcc knows none of the default's.
    """
    known = known_architectures(run(nvcc, "--list-gpu-code").stdout)
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip(" ;,")
    return listed_architectures(listed, known, version) if listed else default_architectures(known, version)


def known_architectures(gpu_codes: str) -> list[str]:
    """Those of the GPUs in the lines of `nvcc --list-gpu-code` that vaekit can be built for: ["75", "80", ...]."""
    numbers = sorted(map(int, re.findall(r"^sm_(\d+)$", gpu_codes, re.M)))
    return [str(number) for number in numbers if number >= int(CUDA_ARCHITECTURES[0])]


def default_architectures(known: list[str], version: str) -> list[str]:
    """vaekit's own choice among those that nvcc knows."""
    numbers = [number for number in CUDA_ARCHITECTURES if number in known]
    if not numbers:
        raise Obstacle(f"{version} knows no GPU that vaekit is built for; install CUDA 12 or 13 and {AGAIN}")
    return [*(f"sm_{number}" for number in numbers), f"compute_{numbers[-1]}"]


def listed_architectures(listed: str, known: list[str], version: str) -> list[str]:
    """Those of a list as torch writes it: "8.0 9.0+PTX". GPUs too old for vaekit are left out where there are others."""
    names = re.split(r"[\s;,]+", listed)
    oldest = int(CUDA_ARCHITECTURES[0])
    older = [name for name in names if (number := re.match(r"(\d+)\.(\d)", name)) and int(number[1] + number[2]) < oldest]
    if older and len(older) < len(names):  # container images set one list for all packages
        print(f"vaekit: not built for {' '.join(older)}, which are below 7.5", file=sys.stderr)
        names = [name for name in names if name not in older]
    codes, later = [], []
    for name in names:
        number = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)  # 9.0a: with instructions that only this architecture has
        if not number or number[1] + number[2] not in known:
            choices = " ".join(f"{number[:-1]}.{number[-1]}" for number in known)
            raise Obstacle(
                f"TORCH_CUDA_ARCH_LIST has {name!r}, and what vaekit can be built for with {version} is {choices}, "
                f'written like "8.0 9.0+PTX"; correct it and {AGAIN}'
            )
        codes.append(f"sm_{number[1]}{number[2]}{number[3]}")
        later += [codes[-1].replace("sm", "compute")] if number[4] else []
    return list(dict.fromkeys([*codes, *later]))


def failure(entry: dict, output: list[str]) -> Obstacle:
    """A compiler that failed, with the lines of its output that matter."""
    wrong = "error|fatal|cannot find|not found|undefined reference"
    errors = [line for line in output if re.search(wrong, line)] or output[-3:] or ["nothing"]
    return Obstacle(
        f"compiling failed when vaekit was built, with {entry['compiler']} and the headers of torch {entry['torch']}; "
        f"mend that and {AGAIN}. The compiler said: {' | '.join(errors[:3])}"
    )


@contextlib.contextmanager
def captured_output() -> Iterator[list[str]]:
    """The lines that a compiler writes in the block, filled in at its end; they are shown then as well."""
    lines: list[str] = []
    sys.stdout.flush()
    sys.stderr.flush()
    streams = {stream: os.dup(stream) for stream in ((1, 2) if WINDOWS else (2,))}  # MSVC writes its errors to the first
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        try:
            for stream in streams:
                os.dup2(file.fileno(), stream)
            yield lines
        finally:
            for stream, original in streams.items():
                os.dup2(original, stream)
                os.close(original)
            file.seek(0)
            lines.extend(line.strip() for line in file if line.strip())
            sys.stderr.writelines(f"{line}\n" for line in lines)
