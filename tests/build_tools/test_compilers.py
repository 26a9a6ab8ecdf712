"""Laws of finding the compilers, of the GPUs that they can build for, and of quoting one that fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from build_tools import compilers
from build_tools.settings import Obstacle, Skipped
from helpers.builds import NOWHERE, fake_nvcc, script
from helpers.installs import COMPILER, needs_compiler, needs_posix

KNOWN = ["75", "87", "90", "100", "121"]


# --- C++ -----------------------------------------------------------------------------------------------------------------


@needs_compiler
@needs_posix
def test_the_compiler_describes_itself():
    program, version = compilers.find_compiler().split(maxsplit=1)
    assert program in COMPILER or program in os.path.realpath(shutil.which(COMPILER.split()[0]))
    assert version[0].isdigit()


@needs_posix
@pytest.mark.parametrize("variables", [{"CXX": NOWHERE}, {"PATH": "", "CXX": "c++"}], ids=["no such file", "empty PATH"])
def test_a_missing_compiler_is_an_obstacle_that_says_what_to_install(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Obstacle, match=r"C\+\+ compiler.*install"):
        compilers.find_compiler()


@needs_posix
def test_the_version_is_the_first_line_without_parentheses(monkeypatch, tmp_path):
    compiler = script(tmp_path / "c++", '[ "$1" = --version ] && printf "planted (Debian 1.2-3) 1.2\\nmore\\n"')
    monkeypatch.setenv("CXX", f"{compiler} -m64")
    assert compilers.find_compiler() == "planted 1.2"


@pytest.mark.parametrize(
    ("command", "program"), [(["g++", "-m64"], ["g++"]), (["ccache", "g++", "-O1", "x"], ["ccache", "g++"]), ([], [])]
)
def test_a_program_is_what_stands_before_its_options(command, program):
    assert compilers.program_of(command) == program


# --- nvcc ----------------------------------------------------------------------------------------------------------------


@needs_posix
def test_cuda_home_names_the_nvcc(monkeypatch, toolkit):
    monkeypatch.setenv("CUDA_HOME", str(toolkit))
    assert compilers.find_nvcc() == (f"{toolkit}/bin/nvcc", "nvcc 13.0.88")


@needs_posix
def test_a_cuda_home_without_nvcc_is_named_and_an_nvcc_elsewhere_is_not_taken(monkeypatch, toolkit, tmp_path):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{toolkit}/bin:{os.environ['PATH']}")
    with pytest.raises(Skipped, match="CUDA_HOME") as raised:
        compilers.find_nvcc()
    assert str(tmp_path) in str(raised.value)


@needs_posix
@pytest.mark.parametrize("place", ["PATH", "the usual folder"])
def test_nvcc_is_found_and_otherwise_asked_for(monkeypatch, toolkit, tmp_path, place):
    monkeypatch.setattr(compilers, "CUDA_FOLDER", str(tmp_path / "usual"))
    monkeypatch.setenv("PATH", str(tmp_path / "path/bin"))
    with pytest.raises(Skipped, match="nvcc.*install the CUDA toolkit.*CUDA_HOME") as raised:
        compilers.find_nvcc()
    assert f"{tmp_path}/usual" in str(raised.value)
    # A script in place of nvcc, as package managers install it: where it lies says nothing about CUDA's folder.
    found = fake_nvcc(tmp_path / ("path" if place == "PATH" else "usual"), f'PATH=/usr/bin:/bin exec {toolkit}/bin/nvcc "$@"')
    assert compilers.find_nvcc() == (f"{found}/bin/nvcc", "nvcc 13.0.88")


@needs_posix
@pytest.mark.parametrize("text", ["exit 1", "echo 'no licence'"])
def test_an_nvcc_that_does_not_say_its_version_is_quoted(monkeypatch, toolkit, text):
    script(toolkit / "bin/nvcc", text)
    monkeypatch.setenv("CUDA_HOME", str(toolkit))
    with pytest.raises(Obstacle, match="nvcc did not say its version") as raised:
        compilers.find_nvcc()
    assert not isinstance(raised.value, Skipped)
    assert ("no licence" in str(raised.value)) == ("licence" in text)


# --- which GPUs ----------------------------------------------------------------------------------------------------------


@needs_posix
def test_the_default_is_those_of_ours_that_nvcc_knows_and_the_last_for_later_gpus(toolkit):
    assert compilers.find_architectures(f"{toolkit}/bin/nvcc", "nvcc 13.0.88") == ["sm_75", "sm_90", "sm_100", "compute_100"]


@pytest.mark.skipif(not (shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists()), reason="no nvcc here")
def test_the_real_nvcc_knows_every_gpu_of_the_default():
    nvcc, version = compilers.find_nvcc()
    assert version.startswith("nvcc ")
    expected = [f"sm_{number}" for number in compilers.CUDA_ARCHITECTURES]
    assert compilers.find_architectures(nvcc, version) == [*expected, expected[-1].replace("sm", "compute")]


def test_gpus_older_than_7_5_and_lines_about_other_things_are_not_known():
    assert compilers.known_architectures("sm_70\nsm_100\nsm_75\nsm_90a\nlto_80\n") == ["75", "100"]


def test_an_nvcc_that_knows_none_of_them_is_an_obstacle():
    with pytest.raises(Obstacle, match=r"nvcc 8\.0 .*CUDA 12 or 13"):
        compilers.default_architectures([], "nvcc 8.0")


@needs_posix
@pytest.mark.parametrize(
    ("listed", "built"),
    [
        ("9.0", ["sm_90"]),
        ("7.5;8.7 9.0+PTX", ["sm_75", "sm_87", "sm_90", "compute_90"]),
        (" 10.0+PTX,7.5, 7.5", ["sm_100", "sm_75", "compute_100"]),
        ("5.2 6.0 7.0 7.5 9.0+PTX", ["sm_75", "sm_90", "compute_90"]),  # those below 7.5 are left out
        ("9.0a 12.1", ["sm_90a", "sm_121"]),
        (" ; ", ["sm_75", "sm_90", "sm_100", "compute_100"]),  # an empty list is none
    ],
)
def test_the_architectures_can_be_listed(monkeypatch, toolkit, listed, built):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    assert compilers.find_architectures(f"{toolkit}/bin/nvcc", "nvcc 13.0.88") == built


def test_gpus_that_are_left_out_are_said(capsys):
    compilers.listed_architectures("5.2 7.5", KNOWN, "nvcc 13.0.88")
    assert "5.2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("listed", "wrong"), [("7.5 Ampere", "Ampere"), ("7.0", "7.0"), ("9.0;11.0+PTX", "11.0+PTX"), ("90", "90")]
)
def test_an_architecture_that_cannot_be_is_named(listed, wrong):
    with pytest.raises(Obstacle, match="TORCH_CUDA_ARCH_LIST") as raised:
        compilers.listed_architectures(listed, KNOWN, "nvcc 13.0.88")
    assert repr(wrong) in str(raised.value)
    assert "nvcc 13.0.88 is 7.5 8.7 9.0 10.0 12.1" in str(raised.value)


# --- one that fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "quoted"),
    [
        (["a note", "x.cpp:3: error: no room", "more"], "x.cpp:3: error: no room"),
        ([f"error {i}" for i in range(5)], "error 0 | error 1 | error 2"),
        (["one", "two", "three", "four"], "two | three | four"),
        ([], "nothing"),
    ],
    ids=["the error", "three of many", "the end where nothing says error", "silence"],
)
def test_a_compiler_that_fails_is_quoted(output, quoted):
    obstacle = compilers.failure({"compiler": "planted 1.2", "torch": "2.99.0"}, output)
    assert "planted 1.2" in str(obstacle)
    assert "torch 2.99.0" in str(obstacle)
    assert str(obstacle).endswith(f"The compiler said: {quoted}")


def test_what_a_process_writes_is_captured_and_still_shown(capfd):
    with compilers.captured_output() as lines:
        subprocess.run([sys.executable, "-c", "import sys; print('one\\n\\n  two', file=sys.stderr)"], check=True)
    os.write(2, b"later\n")
    assert lines == ["one", "two"]
    assert capfd.readouterr().err == "one\ntwo\nlater\n"


def test_what_was_written_before_an_error_is_captured_too(capfd):
    def compile_and_fail():
        with compilers.captured_output() as lines:
            written.append(lines)
            os.write(2, b"one\n")
            raise RuntimeError("planted")

    written = []
    with pytest.raises(RuntimeError, match="planted"):
        compile_and_fail()
    assert written == [["one"]]
