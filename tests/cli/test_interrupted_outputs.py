"""A full disk, ^C and SIGTERM while the command writes numbers: nothing half-written, an exit code that says what it was."""

import errno
import signal

import pytest
from helpers.commands import QUICK, SMALL, command, write_data
from helpers.terminal import NUMBERS, usual_signals

from vaekit import exporting
from vaekit.cli import written


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal():
    with usual_signals():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.cli.train.draw_pictures", lambda *arguments, **options: None)
        source = write_data(folder / "x.npy", n=30)
        missing = ["--set", "likelihood.missing=ignore"]
        assert command("train", source, *SMALL, *QUICK, *missing, "--latent-dim", 2, "--out", folder / "run") == 0
    return folder / "run"


OUTPUTS = {
    "encode": "z.csv",
    "impute": "filled.npy",
    "score": "scores.parquet",
    "reconstruct": "pictures/",
    "sample": "made.npz",
}


def arguments_of(name, run, out):
    return [name, run, "--out", f"{out}/{OUTPUTS[name]}"]


def interrupt_writing(monkeypatch, failure):
    """`failure` comes after the first part of what is written, which has one row then."""
    write = written.write

    def interrupted(out, parts, *rest, **options):
        def some():
            for arrays in parts:
                yield {name: array[:1] for name, array in arrays.items()}
                failure()

        return write(out, some(), *rest, **options)

    monkeypatch.setattr("vaekit.cli.outputs.write", interrupted)


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_interrupted_leaves_nothing(name, number, run, tmp_path, monkeypatch, capsys):
    interrupt_writing(monkeypatch, lambda: signal.raise_signal(number))
    assert command(*arguments_of(name, run, tmp_path)) == 128 + number
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err.endswith("vaekit: interrupted\n")


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_does_not_fit_on_the_disk_leaves_what_was_there(name, run, tmp_path, monkeypatch, capsys):
    assert command(*arguments_of(name, run, tmp_path)) == 0
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert before

    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        interrupt_writing(patch, full)
        assert command(*arguments_of(name, run, tmp_path), "--overwrite") == 2
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("number", [*NUMBERS, None])
def test_an_export_is_there_whole_or_not_at_all(number, run, tmp_path, monkeypatch, capsys):
    program, made = exporting._program, []

    def interrupted(part):
        made.append(part)
        if len(made) == 2:  # the encoder is written by then
            if number is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            signal.raise_signal(number)
        return program(part)

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_program", interrupted)
        expected = 2 if number is None else 128 + number
        assert command("export", run, "--to", "torch", "--out", tmp_path / "programs") == expected
    assert not list(tmp_path.iterdir())
