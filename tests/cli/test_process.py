"""Laws of the command as a process of its own: its exit code, its streams, and signals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import QUICK, SMALL, command

import vaekit


def in_a_process(*arguments, stdout=subprocess.PIPE):
    program = [sys.executable, "-W", "ignore:vaekit has no compiled", "-m", "vaekit", *map(str, arguments)]
    tested = Path(vaekit.__file__).parents[1]  # not the current folder, whose vaekit may be another one
    return subprocess.run(program, cwd=tested, stdout=stdout, stderr=subprocess.PIPE, text=True)


def test_the_process_ends_with_the_code_and_the_line_of_a_mistake(data, tmp_path):
    done = in_a_process("train", data, "--latent-dim", 0, "--out", tmp_path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "vaekit: latent_dim has to be a whole number of at least 1, got 0\n"


def test_the_process_prints_what_main_prints(run, capsys):
    capsys.readouterr()
    assert command("evaluate", run) == 0
    done = in_a_process("evaluate", run)
    assert (done.returncode, done.stdout, done.stderr) == (0, capsys.readouterr().out, "")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "--help"]], ids=str)
def test_help_is_on_stdout_and_no_mistake(arguments, capsys):
    assert command(*arguments) == 0
    assert "Usage" in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_mistake():
    program = [sys.executable, "-W", "ignore:vaekit has no compiled", "-m", "vaekit", "list", "encoders"]
    tested = Path(vaekit.__file__).parents[1]
    with subprocess.Popen(program, cwd=tested, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # long before it writes
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_an_output_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        done = in_a_process("list", "encoders", stdout=full)
    assert done.returncode == 2
    assert done.stderr.startswith("vaekit: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="closes a descriptor by a shell")
def test_a_process_without_stderr_trains(data, tmp_path):
    (tmp_path / "no_pictures.py").write_text("from vaekit.plots.catalogue import CATALOGUE\nCATALOGUE.clear()\n")
    arguments = ["--import", "no_pictures", "train", data, *SMALL, *QUICK, "--progress", "--out", tmp_path / "run"]
    words = [sys.executable, "-W", "ignore", "-m", "vaekit", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(Path(vaekit.__file__).parents[1])}
    program = ["sh", "-c", 'exec "$@" 2>&-', "sh", *words]
    done = subprocess.run(program, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    assert done.stdout.endswith(f"everything is in {tmp_path / 'run'}\n")
