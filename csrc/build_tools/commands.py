"""What setuptools runs: the command that builds the libraries, and the one that makes a wheel."""

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

from .compilers import COMPILER_ERRORS, captured_output, failure, find_architectures, find_compiler, find_nvcc, run
from .libraries import LINUX, SUFFIX, cuda_commands
from .settings import AGAIN, Obstacle, Skipped, cuda_setting, is_set, required, unwanted
from .torch_headers import OLDEST_TORCH, find_torch, has_cuda

RECORD = "vaekit/_build.json"


def build_requirements() -> list[str]:
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


class BuildLibraries(build_ext):
    """Builds the libraries into the build folder, and beside the sources too for an editable install; writes the record."""

    def initialize_options(self):
        super().initialize_options()
        self.record, self.failures = {}, {}

    def finalize_options(self):
        super().finalize_options()
        self.force = True  # torch, the compiler and its options may have changed since last time, which no file's date shows

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
            file.unlink(missing_ok=True)  # should this build fail, nothing of an earlier one is left
        super().run()
        schema = re.search(r"^_SCHEMA = (\d+)\b", Path("vaekit/ops/native.py").read_text(encoding="utf-8"), re.M)
        record = json.dumps({"schema": int(schema[1]), "kernels": self.record}, indent=2) + "\n"
        for folder in folders:
            file = Path(folder, RECORD)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(record, encoding="utf-8")
        for device, reason in self.failures.items():
            if setting := required(device):
                sys.exit(f"vaekit: {setting} is set, and the {device} library was not built: {reason}")

    def build_extension(self, ext):
        device = ext.name.rpartition("_")[2]
        setting = unwanted(device)
        entry = self.record[device] = {"built": False, "deliberate": bool(setting)}  # deliberate: somebody asked for none
        try:
            if setting:
                raise Skipped(f"{setting} was set when vaekit was built; to have the library, {AGAIN} without it")
            (self.build_cuda if device == "cuda" else self.build_cpu)(ext, entry)
            entry.update(built=True, bytes=os.path.getsize(self.get_ext_fullpath(ext.name)))
        except Obstacle as obstacle:
            entry["reason"] = str(obstacle)
            if cuda_setting() == "1" or not isinstance(obstacle, Skipped):
                self.failures[device] = obstacle
            print(f"vaekit: no compiled {device} library: {obstacle}", file=sys.stderr)

    def build_cpu(self, ext: Extension, entry: dict) -> None:
        entry["compiler"] = find_compiler()
        torch, entry["torch"] = find_torch()
        ext.include_dirs.append(str(torch / "include"))
        ext.library_dirs.append(str(torch / "lib"))
        try:
            with captured_output() as output:
                if not getattr(self.compiler, "initialized", True):  # MSVC, which each thread below would look for otherwise
                    self.compiler.initialize(self.plat_name)
                self.compiler.compile = partial(_compile_beside_each_other, self.compiler.compile)
                super().build_extension(ext)
        except COMPILER_ERRORS as error:
            raise failure(entry, output) from error

    def build_cuda(self, ext: Extension, entry: dict) -> None:
        torch, entry["torch"] = find_torch()
        if cuda_setting() != "1" and not has_cuda(torch):
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
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder, "library" + SUFFIX)
            for command in cuda_commands(
                ext,
                nvcc=nvcc,
                nvcc_help=run(nvcc, "--help").stdout,
                architectures=entry["architectures"],
                torch=torch,
                folder=Path(folder),
                library=library,
            ):
                print(shlex.join(command), flush=True)
                done = run(*command)
                print(done.stdout, end="", file=sys.stderr)
                if done.returncode != 0:
                    raise failure(entry, [line.strip() for line in done.stdout.splitlines() if line.strip()])
            shutil.move(library, target)


def _compile_beside_each_other(compile_all, sources: list[str], **options) -> list[str]:
    """What a compiler's `compile` makes of the sources, as many of them at a time as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(itertools.chain(*pool.map(lambda source: compile_all([source], **options), sources)))


class Wheel(bdist_wheel):
    """py3-none-<platform> with a library in it, py3-none-any without: only the build can tell which of the two it is."""

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
