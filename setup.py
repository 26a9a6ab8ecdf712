"""The build: pyproject.toml says the rest, here are the compiled libraries, one for each kind of device.

A library is no Python extension module: when vaekit/ops/native.py loads it, it registers its kernels with torch. Through torch's
stable ABI one file serves every Python and every torch from 2.10 on. Where it cannot be built, vaekit installs without it;
vaekit/_build.json says for each library whether it was built, with what, or why not.

Environment variables:
    VAEKIT_NO_NATIVE=1       build no library.
    VAEKIT_REQUIRE_NATIVE=1  fail where a library cannot be built.
    VAEKIT_TORCH_DIR         the folder of the torch package whose headers to build with; found by itself otherwise.
    CC, CXX, CFLAGS, CXXFLAGS, LDFLAGS, ...  as in any build.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CompileError, LinkError, PlatformError

# isort: split
from distutils.ccompiler import new_compiler  # setuptools' own, which the import of setuptools has put in place
from distutils.sysconfig import customize_compiler

WINDOWS, MACOS = sys.platform == "win32", sys.platform == "darwin"
SUFFIX = ".dll" if WINDOWS else ".so"
RECORD = "vaekit/_build.json"
OLDEST_TORCH = (2, 10)
STABLE_ABI_HEADER = "include/torch/csrc/stable/library.h"
AGAIN = "install vaekit again (pip's --force-reinstall --no-deps --no-cache-dir)"

CPU = Extension(
    "vaekit._C_cpu",
    sources=["csrc/cpu/reparameterize_kl.cpp"],
    depends=sorted(path.as_posix() for path in Path("csrc").rglob("*.h")),
    include_dirs=["csrc"],
    define_macros=[("TORCH_TARGET_VERSION", "0x020a000000000000")],  # torch 2.10
    extra_compile_args=(
        ["/std:c++17", "/O2", "/fp:precise", "/permissive-", "/EHsc"]
        if WINDOWS
        else [
            *("-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
            "-fno-wrapv",  # Python's own flags have -fwrapv, with which GCC does not see that a[i + j] follows a[i]
            # Once more, after ours, so that the user's win; but for -O2 and -Os, which make GCC's loops 8 times slower.
            *(flag for flag in shlex.split(os.environ.get("CXXFLAGS", "")) if flag not in ("-O2", "-Os")),
        ]
    ),
    # On Linux torch's library is found because it is loaded already; macOS looks symbols up among all that is loaded.
    extra_link_args=["-undefined", "dynamic_lookup"] if MACOS else [],
    libraries=[] if MACOS else ["torch_cpu"],
    export_symbols=["vaekit_cpu_capability"],
    language="c++",
    optional=True,
)


class Obstacle(Exception):
    """Why a library was not built and what to do about it, in the words that `vaekit doctor` shows."""


def is_set(variable):
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


# --- what a library is built with ----------------------------------------------------------------------------------------


def torch_folders():
    """Where torch may be, the best guess first."""
    if told := os.environ.get("VAEKIT_TORCH_DIR"):
        return [Path(told)]
    spec = importlib.util.find_spec("torch")  # torch in this environment, found without importing it
    here = list(spec.submodule_search_locations or []) if spec else []
    # In an isolated build torch is not importable; but it still runs the Python of the environment that vaekit goes to.
    outside = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}  # which a virtual environment may look into
    schemes = [
        sysconfig.get_paths(),
        sysconfig.get_paths(vars=outside),
        sysconfig.get_paths(sysconfig.get_preferred_scheme("user")),
    ]
    there = [os.path.join(paths[key], "torch") for paths in schemes for key in ("purelib", "platlib")]
    return [Path(folder) for folder in dict.fromkeys([*here, *there])]


def find_torch():
    """The folder of a torch with the stable ABI, and its version; the text of its files says, it is not imported."""
    folders, too_old = torch_folders(), []
    for folder in folders:
        if not (folder / STABLE_ABI_HEADER).is_file() or not (folder / "version.py").is_file():
            continue
        version = re.search(r"^__version__ = ['\"](\d+)\.(\d+)([^'\"]*)", (folder / "version.py").read_text(), re.M)
        if version and (int(version[1]), int(version[2])) >= OLDEST_TORCH:
            return folder, f"{version[1]}.{version[2]}{version[3]}"
        too_old.append(folder)
    if too_old:
        raise Obstacle(
            f"the torch in {too_old[0]} is older than 2.10, the first with what vaekit is built on; upgrade torch and {AGAIN}"
        )
    if os.environ.get("VAEKIT_TORCH_DIR"):
        raise Obstacle(f"VAEKIT_TORCH_DIR named {folders[0]}, which has no {STABLE_ABI_HEADER}; correct it and {AGAIN}")
    raise Obstacle(f"no torch was found when vaekit was built (nor is one in {folders[0]}); install torch and {AGAIN}")


def find_compiler():
    """The C++ compiler that distutils will call, by the first line of what it says of itself: "g++ 12.2.0"."""
    compiler = new_compiler()
    customize_compiler(compiler)
    try:
        if compiler.compiler_type == "msvc":
            compiler.initialize()
            command = [compiler.cc]
        else:
            program = itertools.takewhile(lambda word: not word.startswith("-"), compiler.compiler_so_cxx)  # "ccache g++"
            command = [*program, "--version"]
        asked = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    except (PlatformError, OSError) as error:
        again = f"install one (g++, clang++ or MSVC) and {AGAIN}"
        raise Obstacle(f"no C++ compiler was found when vaekit was built ({error}); {again}") from error
    without_parentheses = re.sub(r"\(.*?\)", " ", asked.stdout.partition("\n")[0])
    return " ".join(without_parentheses.split())


def build_requirements():
    """What pip has to install into an isolated build: torch, where a library will be built and there is none to build it with."""
    if is_set("VAEKIT_NO_NATIVE") or os.environ.get("VAEKIT_TORCH_DIR"):
        return []
    with contextlib.suppress(Obstacle):
        find_torch()
        return []
    with contextlib.suppress(Obstacle):
        find_compiler()
        return ["torch>={}.{}".format(*OLDEST_TORCH)]
    return []


# --- the two commands ----------------------------------------------------------------------------------------------------


class BuildLibraries(build_ext):
    """Builds the libraries into the build folder, and beside the sources too for an editable install; writes the record."""

    def initialize_options(self):
        super().initialize_options()
        self.record = {}

    def finalize_options(self):
        super().finalize_options()
        self.force = True  # torch, the compiler and its options can be others than last time, with no newer file to show it

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split(".")) + SUFFIX  # no Python version in it

    def get_export_symbols(self, ext):
        return ext.export_symbols  # no PyInit

    def get_libraries(self, ext):
        return ext.libraries  # no libpython

    def files(self, folder):
        return [Path(folder, name) for name in (*(self.get_ext_filename(ext.name) for ext in self.extensions), RECORD)]

    def get_outputs(self):
        return [str(file) for file in self.files(self.build_lib) if file.exists()]

    def get_output_mapping(self):
        pairs = zip(self.files(self.build_lib), self.files(""), strict=True)
        return {str(built): str(source) for built, source in pairs if self.inplace and built.exists()}

    def run(self):
        folders = [self.build_lib, ""] if self.inplace else [self.build_lib]
        for file in itertools.chain(*map(self.files, folders)):
            file.unlink(missing_ok=True)  # nothing of an earlier build is left should this one fail
        super().run()
        schema = re.search(r"^_SCHEMA = (\d+)\b", Path("vaekit/ops/native.py").read_text(encoding="utf-8"), re.M)
        record = json.dumps({"schema": int(schema[1]), "kernels": self.record}, indent=2) + "\n"
        for folder in folders:
            file = Path(folder, RECORD)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(record, encoding="utf-8")
        for device, entry in self.record.items():
            if not entry["built"] and is_set("VAEKIT_REQUIRE_NATIVE"):
                sys.exit(f"vaekit: VAEKIT_REQUIRE_NATIVE is set, and the {device} library was not built: {entry['reason']}")

    def build_extension(self, ext):
        device = ext.name.rpartition("_")[2]
        entry = self.record[device] = {"built": False, "deliberate": is_set("VAEKIT_NO_NATIVE")}
        try:
            self.build_library(ext, entry)
            entry.update(built=True, bytes=os.path.getsize(self.get_ext_fullpath(ext.name)))
        except Obstacle as obstacle:
            entry["reason"] = str(obstacle)
            print(f"vaekit: no compiled {device} library: {obstacle}", file=sys.stderr)

    def build_library(self, ext, entry):
        if entry["deliberate"]:
            raise Obstacle(f"VAEKIT_NO_NATIVE was set when vaekit was built; to have the library, {AGAIN} without it")
        entry["compiler"] = find_compiler()
        torch, entry["torch"] = find_torch()
        ext.include_dirs.append(str(torch / "include"))
        ext.library_dirs.append(str(torch / "lib"))
        said = []
        try:
            with captured(said):
                super().build_extension(ext)
        except (BaseError, CompileError, LinkError) as error:
            errors = (
                [line for line in said if re.search("error|cannot find|undefined reference", line)] or said[-3:] or ["nothing"]
            )
            raise Obstacle(
                f"compiling failed when vaekit was built, with {entry['compiler']} and the headers of torch {entry['torch']}; "
                f"mend that and {AGAIN}. The compiler said: {' | '.join(errors[:3])}"
            ) from error


@contextlib.contextmanager
def captured(lines):
    """The lines that the compiler writes meanwhile; they are still shown, afterwards."""
    sys.stdout.flush()
    sys.stderr.flush()
    streams = {stream: os.dup(stream) for stream in ((1, 2) if WINDOWS else (2,))}  # MSVC writes its errors to the first
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        try:
            for stream in streams:
                os.dup2(file.fileno(), stream)
            yield
        finally:
            for stream, original in streams.items():
                os.dup2(original, stream)
                os.close(original)
            file.seek(0)
            lines.extend(line.strip() for line in file if line.strip())
            sys.stderr.writelines(f"{line}\n" for line in lines)


class Wheel(bdist_wheel):
    """py3-none-<platform> with a library in it, py3-none-any without: which of the two, only the build can say."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = True  # as an editable wheel is, which holds a path

    def run(self):
        if not self.skip_build:
            self.run_command("build")
            self.skip_build = True
        self.root_is_pure = not any(entry["built"] for entry in self.get_finalized_command("build_ext").record.values())
        if self.root_is_pure:
            self.distribution.ext_modules = []  # by them setuptools decides where in the wheel the package goes
        super().run()

    def get_tag(self):
        return ("py3", "none", super().get_tag()[2])


if is_set("VAEKIT_NO_NATIVE") and is_set("VAEKIT_REQUIRE_NATIVE"):
    sys.exit("vaekit: VAEKIT_NO_NATIVE and VAEKIT_REQUIRE_NATIVE are both set; unset one of them")

setup(
    ext_modules=[CPU],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": Wheel},
    setup_requires=build_requirements(),
)
