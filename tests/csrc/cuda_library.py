"""Builds cuda_library.cpp, the CUDA library that runs on the CPU.

    python tests/csrc/cuda_library.py FILE [a flag of the compiler ...]

makes FILE, with the operators vaekit_cuda_on_cpu::reparameterize_kl and so on. A FILE named _C_cpu.so, in the folder of a
package vaekit that was installed with its CPU library, takes that library's place: all that this vaekit does on the CPU is then
done by the CUDA kernels.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FLAGS = (
    "-std=c++17 -O1 -fPIC -shared -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math "
    "-fsanitize=alignment -fsanitize-undefined-trap-on-error "  # x86 would forgive what a GPU does not
    "-DUSE_CUDA -DTORCH_TARGET_VERSION=0x020a000000000000"
)


def build(out: Path, *flags: str) -> None:
    import torch

    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "c++", "clang++")), None)
    if compiler is None:
        sys.exit("no C++ compiler")
    folder = Path(torch.__path__[0])
    in_place = out.name == "_C_cpu.so"
    command = [
        *(compiler, *FLAGS.split(), *flags, *(["-DIN_PLACE_OF_THE_CPU_KERNEL"] if in_place else [])),
        *("-I", HERE.parents[1] / "csrc", "-I", HERE / "cuda_on_cpu_runtime", "-isystem", folder / "include"),
        *(HERE / "cuda_library.cpp", "-o", out, "-L", folder / "lib", "-ltorch_cpu"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr[-5000:])
    if in_place:
        record_file = out.with_name("_build.json")
        record = json.loads(record_file.read_text())
        record["kernels"]["cpu"].update(built=True, bytes=out.stat().st_size)
        record_file.write_text(json.dumps(record))


if __name__ == "__main__":
    build(Path(sys.argv[1]), *sys.argv[2:])
