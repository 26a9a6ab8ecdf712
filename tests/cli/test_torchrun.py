"""`vaekit train` over several processes: the run of one, and only the first of them is heard."""

import os
import subprocess
import sys

import pytest
from helpers.commands import QUICK, SMALL, command

import vaekit
from vaekit.cli import torchrun


class Replaced(Exception):
    """Stands for a process that has become another one."""


@pytest.fixture
def handed_over(monkeypatch):
    """The commands that have taken the place of this process."""
    commands = []

    def exec_instead(program, arguments):
        commands.append([program, *arguments[1:]])
        raise Replaced

    monkeypatch.setattr(torchrun.os, "execv", exec_instead)
    for name in ("OMP_NUM_THREADS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "to be put back")
        monkeypatch.delenv(name)
    return commands


def test_train_with_devices_is_torchrun_with_the_same_command(data, tmp_path, handed_over):
    arguments = ["train", data, *SMALL, *QUICK]
    with pytest.raises(Replaced):
        vaekit.cli.main([str(a) for a in [*arguments, "--devices", 2, "--out", tmp_path / "two"]])
    assert int(os.environ["OMP_NUM_THREADS"]) == max((os.cpu_count() or 1) // 2, 1)

    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(handed_over[0], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert command(*arguments, "--out", tmp_path / "one") == 0
    one, two = (vaekit.History.from_csv(tmp_path / name / "history.csv") for name in ("one", "two"))
    assert dict(two) == {name: pytest.approx(values, rel=1e-5) for name, values in one.items()}
    assert {file.name for file in (tmp_path / "two").iterdir()} >= {"run.json", "history.csv", "best", "last", "loss.png"}
    assert done.stdout.count("everything is in") == 1
    assert done.stdout.count("training on cpu, in float32") == 1
    assert done.stderr == ""


@pytest.mark.parametrize(("options", "count"), [(["--devices", 3], 3), (["--set", "fit.devices=[0,2]"], 2)])
def test_devices_say_how_many_processes_there_are(options, count, data, handed_over):
    with pytest.raises(Replaced):
        vaekit.cli.main([str(a) for a in ["train", data, *options]])
    start = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(count),
        "-m",
        "vaekit",
        "train",
    ]
    assert handed_over == [[*start, str(data), *map(str, options)]]


def test_one_device_needs_nobody_else(data, tmp_path, handed_over):
    assert command("train", data, *SMALL, *QUICK, "--devices", 1, "--out", tmp_path / "run") == 0
    assert handed_over == []


def test_no_devices_are_a_mistake(data, capsys, handed_over):
    assert command("train", data, "--devices", 0) == 2
    assert "devices has to be how many" in capsys.readouterr().err
    assert handed_over == []
