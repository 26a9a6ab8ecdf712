"""`vaekit train` over several processes: the run of one, and only the first of them is heard."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch.distributed.run
from helpers.commands import QUICK, SMALL, command
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

import vaekit


def test_train_with_devices_is_the_run_of_one_process(data, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "safetensors.py").write_text("raise SystemExit('what lies in the current folder has run')")
    arguments = ["train", data, *SMALL, *QUICK]
    assert command(*arguments, "--out", tmp_path / "one") == 0
    one = vaekit.History.from_csv(tmp_path / "one/history.csv")
    for strategy in ("ddp", "fsdp"):
        capfd.readouterr()
        out = tmp_path / strategy
        assert command(*arguments, "--devices", 2, "--strategy", strategy, "--out", out) == 0
        said = capfd.readouterr()
        two = vaekit.History.from_csv(out / "history.csv")
        assert dict(two) == {name: pytest.approx(values, rel=1e-5) for name, values in one.items()}
        assert {file.name for file in out.iterdir()} >= {"run.json", "history.csv", "best", "last", "loss.png"}
        assert said.out.count("everything is in") == 1
        assert said.out.count("training on cpu, in float32") == 1
        assert not [line for line in said.err.splitlines() if "vaekit" in line or "find_unused_parameters" in line]


@pytest.fixture
def started(monkeypatch):
    """What torchrun was asked to start; `raises` is what it ends with."""

    started = SimpleNamespace(raises=None, commands=[], variables=[])

    def run(args):
        started.commands.append((args.nproc_per_node, args.training_script, *args.training_script_args))
        started.variables.append({name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "LOGLEVEL")})
        if started.raises is not None:
            raise started.raises

    monkeypatch.setattr(torch.distributed.run, "run", run)
    for name in ("OMP_NUM_THREADS", "LOGLEVEL"):
        monkeypatch.delenv(name, raising=False)
    return started


@pytest.mark.parametrize(("options", "count"), [(["--devices", 3], 3), (["--set", "fit.devices=[0,2]"], 2)])
def test_devices_say_how_many_processes_there_are(options, count, data, started):
    assert command("train", data, *options) == 0
    [(processes, python, _, _, *arguments)] = started.commands
    assert (processes, python) == (str(count), sys.executable)
    assert arguments == ["train", str(data), *map(str, options)]
    assert started.variables == [{"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // count, 1)), "LOGLEVEL": "CRITICAL"}]
    assert not {"OMP_NUM_THREADS", "LOGLEVEL"} & set(os.environ)


def failed(exitcode):
    return ChildFailedError("vaekit", {1: ProcessFailure(local_rank=1, pid=1, exitcode=exitcode, error_file="none")})


@pytest.mark.parametrize(
    ("raises", "code", "told"),
    [
        (failed(2), 2, ""),  # it has said why
        (failed(-9), 128 + 9, "vaekit: process 1 of 2 has been ended by SIGKILL, and the others with it\n"),
        (SignalException("asked", 15), 128 + 15, ""),
    ],
)
def test_the_command_ends_as_its_processes(raises, code, told, data, started, capsys):
    started.raises = raises
    assert command("train", data, "--devices", 2) == code
    assert capsys.readouterr().err == told


def test_one_device_needs_nobody_else(data, tmp_path, started):
    assert command("train", data, *SMALL, *QUICK, "--devices", 1, "--out", tmp_path / "run") == 0
    assert started.commands == []


def test_no_devices_are_a_mistake(data, capsys, started):
    assert command("train", data, "--devices", 0) == 2
    assert "devices has to be how many" in capsys.readouterr().err
    assert started.commands == []
