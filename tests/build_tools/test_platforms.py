"""The command lines of each platform's compiler, as setuptools would run them: macOS' clang, and MSVC.

The compilers themselves are not here: scripts of their names write down what they are called with.
"""

import sys
import threading
from pathlib import Path

import pytest
from build_tools import commands, compilers, libraries
from build_tools.settings import Obstacle
from helpers.builds import script
from helpers.installs import ROOT, needs_posix
from setuptools import Distribution

# isort: split
from distutils.ccompiler import new_compiler
from distutils.command import build_ext

pytestmark = needs_posix

OF_GCC_AND_CLANG = ("-f", "-O", "-g", "-std", "-W", "-l", "-L")


@pytest.fixture
def programs(tmp_path) -> dict[str, Path]:
    """Compilers and linkers that write down what they are called with, and leave the library that they are asked for."""
    (tmp_path / "calls").mkdir()
    text = (
        f'printf \'%s\\n\' "${{0##*/}}" "$@" > {tmp_path}/calls/$$\n'
        'last=; for word in "$@"; do\n'
        '    case "$last$word" in /OUT:*) echo library > "${word#/OUT:}" ;; -o*.so) echo library > "$word" ;; esac\n'
        '    last=; [ "$word" = -o ] && last=-o\n'
        "done; true"
    )
    return {name: script(tmp_path / "bin" / name, text) for name in ("cl.exe", "link.exe", "clang", "clang++")}


@pytest.fixture
def build(monkeypatch, tmp_path, programs):
    """Runs the command for one platform: gives the calls that compile, the call that links, and the record's entry."""

    def run(system: str, compiler: str) -> tuple[list[list[str]], list[str], dict]:
        monkeypatch.setattr(libraries, "WINDOWS", system == "win32")
        monkeypatch.setattr(libraries, "MACOS", system == "darwin")
        monkeypatch.setattr(libraries, "LINUX", system == "linux")
        suffix = ".dll" if system == "win32" else ".so"
        monkeypatch.setattr(commands, "SUFFIX", suffix)
        monkeypatch.setattr(commands, "find_compiler", lambda: compiler)
        monkeypatch.chdir(ROOT)
        command = commands.BuildLibraries(Distribution({"name": "vaekit", "ext_modules": [libraries.cpu_library()]}))
        command.compiler = compiler
        command.build_lib, command.build_temp = str(tmp_path / "lib"), str(tmp_path / "temp")
        command.ensure_finalized()
        if system == "win32":
            command.plat_name = "win-amd64"
        (tmp_path / "lib/vaekit").mkdir(parents=True)
        command.run()
        calls = [file.read_text().splitlines() for file in (tmp_path / "calls").iterdir()]
        linking = [call for call in calls if any(word.endswith(f"_C_cpu{suffix}") for word in call)]
        assert len(linking) == 1, command.record
        return [call for call in calls if call not in linking], linking[0], command.record["cpu"]

    return run


@pytest.fixture
def msvc(monkeypatch, programs) -> list[bool]:
    """Visual Studio, as far as setuptools looks at it; for each time that it was looked for, whether by the main thread."""
    module, asked = sys.modules[type(new_compiler(compiler="msvc")).__module__], []

    def environment(spec):
        asked.append(threading.current_thread() is threading.main_thread())
        return {"path": "", "include": "", "lib": ""}

    for place in (module, build_ext):
        monkeypatch.setattr(place, "get_platform", lambda: "win-amd64")
    monkeypatch.setattr(module, "get_host_platform", lambda: "win-amd64")
    monkeypatch.setattr(module, "_get_vc_env", environment)
    monkeypatch.setattr(module, "_find_exe", lambda program, paths=None: str(programs.get(program, program)))
    return asked


def test_msvc_is_given_its_own_options_and_no_others(build, msvc):
    compiling, linking, entry = build("win32", "msvc")
    assert entry["built"]
    assert {Path(word[3:]).name for call in compiling for word in call if word.startswith("/Tp")} == {
        file.name for file in (ROOT / "csrc/cpu").glob("*.cpp")
    }
    for call in compiling:
        assert call[0] == "cl.exe"
        assert not [word for word in call if word.startswith(OF_GCC_AND_CLANG)]
        assert {"/std:c++17", "/O2", "/fp:precise", "/permissive-", "/EHsc", "/MD"} <= set(call)
        assert {"DTORCH_TARGET_VERSION=0x020a000000000000", "Icsrc"} <= {word[1:] for word in call}  # cl takes - and /
    assert linking[0] == "link.exe"
    assert {"/DLL", "torch_cpu.lib", "/EXPORT:vaekit_cpu_capability", "/EXPORT:vaekit_cpu_operators"} <= set(linking)
    assert any(word.startswith("/LIBPATH:") and word.endswith("lib") for word in linking)
    assert not [word for word in linking if word.startswith("/EXPORT:PyInit")]
    assert not [word for word in linking if word.startswith("python")], "the library is no module of one Python"


def test_visual_studio_is_looked_for_once_and_before_files_are_compiled_beside_each_other(build, msvc):
    build("win32", "msvc")
    assert msvc == [True], "setuptools looks for it in each thread that finds it missing, and one stops at another's"


def test_without_visual_studio_the_obstacle_says_what_to_install(msvc, monkeypatch):
    module = sys.modules[type(new_compiler(compiler="msvc")).__module__]
    monkeypatch.setattr(module, "_get_vc_env", lambda spec: None)
    monkeypatch.setattr(compilers, "new_compiler", lambda: new_compiler(compiler="msvc"))
    monkeypatch.setattr(compilers, "customize_compiler", lambda compiler: None)
    with pytest.raises(Obstacle, match=r"no C\+\+ compiler.*install one \(g\+\+, clang\+\+ or MSVC\)"):
        compilers.find_compiler()


@pytest.fixture
def clang(monkeypatch, programs):
    monkeypatch.setenv("CC", str(programs["clang"]))
    monkeypatch.setenv("CXX", str(programs["clang++"]))
    monkeypatch.setenv("LDSHARED", f"{programs['clang']} -bundle")
    monkeypatch.setenv("LDCXXSHARED", f"{programs['clang++']} -bundle")


def test_clang_on_macos_leaves_torchs_symbols_to_the_loader(build, clang):
    compiling, linking, entry = build("darwin", "unix")
    assert entry["built"]
    for call in compiling:
        assert call[0] == "clang++"
        assert {"-std=c++17", "-O3", "-ffp-contract=off", "-fvisibility=hidden"} <= set(call)
        assert not [word for word in call if word.startswith(("-march", "-mtune", "-fopenmp"))]
    assert linking[0] == "clang++"
    assert linking[linking.index("-undefined") + 1] == "dynamic_lookup"
    assert not [word for word in linking if word.startswith(("-ltorch", "-lpython", "-Wl,--"))]


def test_on_linux_the_library_names_torchs(build, clang):
    _, linking, _ = build("linux", "unix")
    assert "-ltorch_cpu" in linking
    assert "-undefined" not in linking
    assert not [word for word in linking if word.startswith("-lpython")]


def test_nvcc_on_windows_links_torchs_own_library_and_tells_cl_what_cl_knows(monkeypatch, tmp_path):
    monkeypatch.setattr(libraries, "WINDOWS", True)
    monkeypatch.setattr(libraries, "LINUX", False)
    (call,) = libraries.cuda_commands(
        libraries.cuda_library(),
        nvcc="nvcc",
        nvcc_help="",
        architectures=["sm_90"],
        torch=Path("/torch"),
        folder=tmp_path,
        library=tmp_path / "library.dll",
    )
    assert call[call.index("-Xcompiler") + 1] == "/permissive-,/EHsc,/MD"
    assert {"-ltorch_cpu", "-ltorch_cuda"} <= set(call)
    assert not [word for word in call if "-fPIC" in word or "no-as-needed" in word]
