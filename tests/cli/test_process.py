"""Laws of the command as a process of its own: its exit code, its streams, and signals."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import command

import vaekit


def in_a_process(*arguments):
    program = [sys.executable, "-W", "ignore:vaekit has no compiled", "-m", "vaekit", *map(str, arguments)]
    tested = Path(vaekit.__file__).parents[1]  # not the current folder, whose vaekit may be another one
    return subprocess.run(program, cwd=tested, capture_output=True, text=True)


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
