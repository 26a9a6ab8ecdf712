"""The build: pyproject.toml says the rest, here are the compiled libraries, one for each kind of device.

A library is no Python extension module: when vaekit/ops/native.py loads it, it registers its kernels with torch. Through torch's
stable ABI one file serves every Python and every torch from 2.10 on. Where it cannot be built, vaekit installs without it;
vaekit/_build.json says for each library whether it was built, with what, or why not.

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

import contextlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
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

WINDOWS, MACOS, LINUX = (sys.platform == name for name in ("win32", "darwin", "linux"))
SUFFIX = ".dll" if WINDOWS else ".so"
RECORD = "vaekit/_build.json"
OLDEST_TORCH = (2, 10)
STABLE_ABI_HEADER = "include/torch/csrc/stable/library.h"
AGAIN = "install vaekit again (pip's --force-reinstall --no-deps --no-cache-dir)"
WITH_CUDA = os.environ.get("VAEKIT_CUDA", "").strip()
CUDA_FOLDER = "/usr/local/cuda"  # where NVIDIA's installer puts it
CUDA_ARCHITECTURES = ("75", "80", "86", "89", "90", "100")  # those of them that nvcc knows, unless TORCH_CUDA_ARCH_LIST is set

HEADERS = sorted(path.as_posix() for path in Path("csrc").rglob("*") if path.suffix in (".h", ".cuh"))
TORCH_TARGET = ("TORCH_TARGET_VERSION", "0x020a000000000000")  # torch 2.10

CPU = Extension(
    "vaekit._C_cpu",
    sources=["csrc/cpu/reparameterize_kl.cpp"],
    depends=HEADERS,
    include_dirs=["csrc"],
    define_macros=[TORCH_TARGET],
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
CUDA = Extension(
    "vaekit._C_cuda",
    sources=["csrc/cuda/reparameterize_kl.cu"],
    depends=HEADERS,
    include_dirs=["csrc"],
    define_macros=[TORCH_TARGET, ("USE_CUDA", "1")],  # the latter for what torch's headers declare of CUDA
    extra_compile_args=[
        *("-std=c++17", "-O3", "-fmad=false"),  # a product and a sum are rounded one by one but where the source writes an fma
        "-Xcompiler",
        "/permissive-,/EHsc,/MD" if WINDOWS else "-fPIC,-fvisibility=hidden,-ffp-contract=off,-fno-math-errno,-fno-trapping-math",
    ],
    # torch opens its libraries so that only what names them sees them: ours has to, whatever is used of them. The CUDA runtime is
    # a part of ours, hidden, so that it serves whichever torch runs, beside a runtime that torch may bring.
    extra_link_args=[] if WINDOWS else ["-Xlinker", "--no-as-needed,--exclude-libs=ALL"],
    libraries=["torch_cpu", "torch_cuda"],
    optional=True,
)


class Obstacle(Exception):
    """Why a library was not built and what to do about it, in the words that `vaekit doctor` shows."""


class Skipped(Obstacle):
    """A library that was not even tried, since nothing here is for it; only who asks for it by name is told by an error."""


def is_set(variable):
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


# --- what a library is built with ----------------------------------------------------------------------------------------


def ask(*command):
    """Runs a program; stdout is all that it writes."""
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")


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


def program_of(command):
    """The words of a command before its options: "ccache g++"."""
    return list(itertools.takewhile(lambda word: not word.startswith("-"), command))


def find_compiler():
    """The C++ compiler that distutils will call, by the first line of what it says of itself: "g++ 12.2.0"."""
    compiler = new_compiler()
    customize_compiler(compiler)
    try:
        if compiler.compiler_type == "msvc":
            compiler.initialize()
            command = [compiler.cc]
        else:
            command = [*program_of(compiler.compiler_so_cxx), "--version"]
        said = ask(*command).stdout
    except (PlatformError, OSError) as error:
        again = f"install one (g++, clang++ or MSVC) and {AGAIN}"
        raise Obstacle(f"no C++ compiler was found when vaekit was built ({error}); {again}") from error
    without_parentheses = re.sub(r"\(.*?\)", " ", said.partition("\n")[0])
    return " ".join(without_parentheses.split())


def find_nvcc():
    """The CUDA compiler, and what it says of itself: "nvcc 13.0.88". It may be a script, whose place tells nothing of CUDA's."""
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
        said = ask(nvcc, "--version").stdout
    except OSError as error:
        said = str(error)
    if not (version := re.search(r"\bV(\d+(\.\d+)+)", said)):
        raise Obstacle(f"{nvcc} did not say its version when vaekit was built; mend it and {AGAIN}. It said: {said.strip()}")
    return nvcc, f"nvcc {version[1]}"


def find_architectures(nvcc, its_version):
    """The GPUs to build for: ["sm_75", ..., "sm_100", "compute_100"]. The last is for later ones, whose driver compiles it."""
    known = sorted(map(int, re.findall(r"^sm_(\d+)$", ask(nvcc, "--list-gpu-code").stdout, re.M)))
    known = [str(number) for number in known if number >= int(CUDA_ARCHITECTURES[0])]
    if not (told := re.split(r"[\s;,]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip(" ;,")))[0]:
        numbers = [number for number in CUDA_ARCHITECTURES if number in known]
        if not numbers:
            raise Obstacle(f"{its_version} knows no GPU that vaekit is built for; install CUDA 12 or 13 and {AGAIN}")
        return [*(f"sm_{number}" for number in numbers), f"compute_{numbers[-1]}"]
    codes, later = [], []
    oldest = int(CUDA_ARCHITECTURES[0])
    older = [name for name in told if (number := re.match(r"(\d+)\.(\d)", name)) and int(number[1] + number[2]) < oldest]
    if older and len(older) < len(told):  # a list for other packages too, as container images set it
        print(f"vaekit: not built for {' '.join(older)}, which are below 7.5", file=sys.stderr)
        told = [name for name in told if name not in older]
    for name in told:
        number = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)  # 9.0a: with instructions that only this architecture has
        if not number or number[1] + number[2] not in known:
            named = " ".join(f"{number[:-1]}.{number[-1]}" for number in known)
            raise Obstacle(
                f"TORCH_CUDA_ARCH_LIST has {name!r}, and what vaekit can be built for with {its_version} is {named}, "
                f'written like "8.0 9.0+PTX"; correct it and {AGAIN}'
            )
        codes.append(f"sm_{number[1]}{number[2]}{number[3]}")
        later += [codes[-1].replace("sm", "compute")] if number[4] else []
    return list(dict.fromkeys([*codes, *later]))


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
        self.record, self.failures = {}, {}

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
        for device, reason in self.failures.items():
            asked = "VAEKIT_CUDA=1" if device == "cuda" and WITH_CUDA == "1" else "VAEKIT_REQUIRE_NATIVE"
            if asked == "VAEKIT_CUDA=1" or is_set(asked):
                sys.exit(f"vaekit: {asked} is set, and the {device} library was not built: {reason}")

    def build_extension(self, ext):
        device = ext.name.rpartition("_")[2]
        unwanted = ["VAEKIT_NO_NATIVE"] if is_set("VAEKIT_NO_NATIVE") else []
        unwanted += ["VAEKIT_CUDA=0"] if device == "cuda" and WITH_CUDA == "0" else []
        entry = self.record[device] = {"built": False, "deliberate": bool(unwanted)}  # deliberate: somebody asked for none
        try:
            if unwanted:
                raise Skipped(f"{unwanted[0]} was set when vaekit was built; to have the library, {AGAIN} without it")
            (self.build_cuda if device == "cuda" else self.build_cpu)(ext, entry)
            entry.update(built=True, bytes=os.path.getsize(self.get_ext_fullpath(ext.name)))
        except Obstacle as obstacle:
            entry["reason"] = str(obstacle)
            if WITH_CUDA == "1" or not isinstance(obstacle, Skipped):
                self.failures[device] = obstacle
            print(f"vaekit: no compiled {device} library: {obstacle}", file=sys.stderr)

    def build_cpu(self, ext, entry):
        entry["compiler"] = find_compiler()
        torch, entry["torch"] = find_torch()
        ext.include_dirs.append(str(torch / "include"))
        ext.library_dirs.append(str(torch / "lib"))
        said = []
        try:
            with captured(said):
                super().build_extension(ext)
        except (BaseError, CompileError, LinkError) as error:
            raise failure(entry, said) from error

    def build_cuda(self, ext, entry):
        torch, entry["torch"] = find_torch()
        if WITH_CUDA != "1" and not re.search(r"^cuda\b.*= ['\"]", (torch / "version.py").read_text(), re.M):
            raise Skipped(
                f"the torch {entry['torch']} that vaekit was built with has no CUDA; "
                f"with one that has it, or with VAEKIT_CUDA=1, {AGAIN}"
            )
        nvcc, entry["compiler"] = find_nvcc()
        entry["architectures"] = find_architectures(nvcc, entry["compiler"])
        if not LINUX and not (torch / "lib/torch_cuda.lib").is_file():
            raise Obstacle(
                f"the torch {entry['torch']} that vaekit was built with has no torch_cuda.lib, which linking needs but on Linux; "
                f"with one that has it, {AGAIN}"
            )
        compiler = [nvcc, "-shared"]
        if cxx := program_of(shlex.split(os.environ.get("CXX", ""))):
            compiler += ["-ccbin", cxx[-1]]  # of "ccache g++" the g++
        if "--threads" in ask(nvcc, "--help").stdout:
            compiler += ["--threads", "0"]  # one for each processor
        with tempfile.TemporaryDirectory() as folder:
            library, torch_cuda, empty = (Path(folder, name) for name in ("library" + SUFFIX, "libtorch_cuda.so", "empty.cpp"))
            # An empty library of that name is all that linking needs on Linux, so that a torch without CUDA will do.
            empty.touch()
            stand_in = ["--cudart=none", "-Xcompiler=-fPIC", f"-Xlinker=-soname={torch_cuda.name}", empty, "-o", torch_cuda]
            capability = json.dumps(" ".join(entry["architectures"]))
            ours = [
                *ext.extra_compile_args,
                *(f"-gencode=arch={code.replace('sm', 'compute')},code={code}" for code in entry["architectures"]),
                *(f"-D{name}={value}" for name, value in [*ext.define_macros, ("VAEKIT_CUDA_ARCHITECTURES", capability)]),
                *(f"-I{include}" for include in ext.include_dirs),
                *("-isystem", torch / "include"),  # without the warnings that torch's headers raise
                *ext.sources,
                *(f"-L{place}" for place in (folder, torch / "lib")),
                *ext.extra_link_args,
                *(f"-l{name}" for name in ext.libraries),
                *("-o", library),
            ]
            for arguments in [stand_in, ours] if LINUX else [ours]:
                print(shlex.join(map(str, [*compiler, *arguments])), flush=True)
                done = ask(*compiler, *arguments)
                print(done.stdout, end="", file=sys.stderr)
                if done.returncode != 0:
                    raise failure(entry, [line.strip() for line in done.stdout.splitlines() if line.strip()])
            target = Path(self.get_ext_fullpath(ext.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(library, target)


def failure(entry, said):
    """A compiler that failed, with the lines of what it said that matter."""
    wrong = "error|fatal|cannot find|not found|undefined reference"
    errors = [line for line in said if re.search(wrong, line)] or said[-3:] or ["nothing"]
    return Obstacle(
        f"compiling failed when vaekit was built, with {entry['compiler']} and the headers of torch {entry['torch']}; "
        f"mend that and {AGAIN}. The compiler said: {' | '.join(errors[:3])}"
    )


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
if WITH_CUDA not in ("", "0", "1"):
    sys.exit(f"vaekit: VAEKIT_CUDA has to be 0 (no CUDA library) or 1 (one in any case), or unset; got {WITH_CUDA!r}")
if is_set("VAEKIT_NO_NATIVE") and WITH_CUDA == "1":
    sys.exit("vaekit: VAEKIT_NO_NATIVE and VAEKIT_CUDA=1 are both set; unset one of them")

setup(
    ext_modules=[CPU, CUDA],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": Wheel},
    setup_requires=build_requirements(),
)
