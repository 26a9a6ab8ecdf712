"""The build: pyproject.toml says the rest, here are the compiled libraries, one for each kind of device.

Where one cannot be built, vaekit installs without it; vaekit/_build.json says for each library whether it was built, with what,
or why not. csrc/build_tools says how.

Environment variables:
    VAEKIT_NO_NATIVE=1       build no library.
    VAEKIT_CUDA              unset: the CUDA library is built where torch has CUDA and there is an nvcc. 0: it is not.
                             1: it is even where torch has no CUDA, and where it cannot be, that is an error.
    VAEKIT_REQUIRE_NATIVE=1  fail where a library cannot be built: the CPU's, and CUDA's where it is to be built.
    VAEKIT_TORCH_DIR         the folder of the torch package whose headers to build with; found by itself otherwise.
    CUDA_HOME                the folder of the CUDA toolkit; otherwise the nvcc on PATH, or else in /usr/local/cuda.
    TORCH_CUDA_ARCH_LIST     the GPUs to build for, as torch writes them: "8.0 9.0+PTX".
    CC, CXX, CFLAGS, CXXFLAGS, LDFLAGS, NVCC_APPEND_FLAGS, ...  as in any build.
"""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "csrc"))

from build_tools.commands import BuildLibraries, Wheel, build_requirements
from build_tools.libraries import cpu_library, cuda_library
from build_tools.readme import long_description
from build_tools.settings import contradiction

if wrong := contradiction():
    sys.exit(f"vaekit: {wrong}")

setup(
    ext_modules=[cpu_library(), cuda_library()],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": Wheel},
    setup_requires=build_requirements(),
    long_description=long_description(),
    long_description_content_type="text/markdown",
)
