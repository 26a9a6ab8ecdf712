"""Laws of what reaches the terminal: nothing from a file acts on it, and it may be missing."""

import errno
import io
import json
import sys
import warnings

import numpy as np
import pytest
from helpers.commands import QUICK, SMALL, command
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

import vaekit
from vaekit.cli import console

CLEARS_THE_SCREEN = "\x1b[2J"


@given(st.text())
def test_what_is_printable_is_printable_and_stays_what_it_was_where_it_can(text):
    shown = console.printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


@pytest.mark.parametrize("character", [*"\x00\x07\x1b\x7f\x9b\u202e\u2066\u2028\udcff\r\n"])
def test_characters_that_are_obeyed_are_escaped(character):
    assert character not in console.printable(f"a{character}b")
    assert console.printable(f"a{character}b").startswith("a\\")


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), min_size=1))
def test_a_row_of_a_table_is_a_line_whatever_is_in_it(rows):
    lines = console.table(rows).split("\n")
    assert len(lines) == len(rows)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_stream_that_cannot_encode_a_character_gets_an_escape(encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    console.say("σ² = é")
    written = stream.buffer.getvalue().decode(encoding)
    assert written in ("σ² = é\n", "\\u03c3² = é\n", "\\u03c3\\xb2 = \\xe9\n")


def assert_acts_on_nothing(printed) -> None:
    for text in printed:
        assert text.replace("\n", "").isprintable(), text


def test_names_in_a_models_config_are_escaped(tmp_path, capsys):
    file, out = tmp_path / "x.npy", tmp_path / "run"
    np.save(file, np.random.default_rng(0).random((40, 2), dtype=np.float32))
    columns = {"name": "columns", "columns": {f"a{CLEARS_THE_SCREEN}": "gaussian", "b\nc": "laplace"}}
    assert command("train", file, *SMALL, *QUICK, "--set", f"likelihood={json.dumps(columns)}", "--out", out) == 0
    assert command("evaluate", out) == 0
    printed = capsys.readouterr()
    assert "a\\x1b[2J" in printed.out
    assert "b\\nc" in printed.out
    assert_acts_on_nothing(printed)


def test_names_of_tensors_are_escaped(own_run, capsys):
    file = own_run / "best" / "model.safetensors"
    with safe_open(file, framework="np") as opened:
        tensors, metadata = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118
    save_file({**tensors, f"a{CLEARS_THE_SCREEN}": np.zeros(3, np.float32)}, file, metadata=metadata)
    assert command("evaluate", own_run) == 2
    printed = capsys.readouterr()
    assert "x1b[2J" in printed.err
    assert_acts_on_nothing(printed)


def test_mistakes_and_warnings_are_escaped(tmp_path, capsys, monkeypatch):
    assert command("evaluate", f"nowhere{CLEARS_THE_SCREEN}") == 2
    assert command("train", f"--epochs{CLEARS_THE_SCREEN}", 3) == 2
    assert command("list", "encoders", f"mlp{CLEARS_THE_SCREEN}") == 2
    printed = capsys.readouterr()
    assert printed.err.count("\\x1b[2J") == 3
    assert_acts_on_nothing(printed)


def test_warnings_of_a_command_are_one_line(own_run, monkeypatch, capsys):
    def warn(*_):  # as `warnings.warn` does it where nobody records them
        sys.stderr.write(warnings.formatwarning(f"of a file\nnamed {CLEARS_THE_SCREEN}", UserWarning, "file.py", 3))
        raise ValueError("enough")

    before = warnings.formatwarning
    monkeypatch.setattr(vaekit.runs, "saved_model", warn)
    assert command("evaluate", own_run) == 2
    assert capsys.readouterr().err == "vaekit: warning: of a file named \\x1b[2J\nvaekit: enough\n"
    assert warnings.formatwarning is before


@pytest.mark.parametrize("missing", [("stderr",), ("stdout",), ("stdout", "stderr")], ids=str)
def test_a_command_runs_without_streams(missing, data, tmp_path, monkeypatch):
    for name in missing:
        monkeypatch.setattr(sys, name, None)
    assert command("train", data, *SMALL, *QUICK, "--progress", "--out", tmp_path / "run") == 0
    assert command("evaluate", tmp_path / "run") == 0
    assert command("evaluate", tmp_path / "nowhere") == 2
    assert command("list", "encoders") == 0


def test_fit_shows_no_bar_where_there_is_no_stderr(monkeypatch):
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder={"hidden": (3,)}, decoder={"hidden": (3,)})
    monkeypatch.setattr(sys, "stderr", None)
    x = np.random.default_rng(0).random((8, 4), dtype=np.float32)
    assert vaekit.fit(vae, x, epochs=1, device="cpu", progress=True).epochs == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_terminal_that_has_gone_away_is_no_mistake_and_a_full_disk_is(number, own_run, monkeypatch):
    class Failing(io.StringIO):
        def write(self, text):
            raise OSError(number, "cannot be written")

    monkeypatch.setattr(sys, "stdout", Failing())
    monkeypatch.setattr(sys, "stderr", Failing())
    assert command("plot", own_run) == (0 if number == errno.EIO else 2)


@pytest.mark.parametrize("name", ["sample", "reconstruct"])
def test_more_pictures_than_there_is_room_for_are_refused(name, run, mistake, tmp_path):
    assert str(10**12) in mistake(name, run, "--count", 10**12, "--out", tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_no_result(own_run, mistake, capsys):
    vae = vaekit.load(own_run / "best")
    next(vae.parameters()).data.fill_(float("nan"))
    vae.save(own_run / "best")
    line = mistake("evaluate", own_run, code=1)
    assert "loss" in line
    assert "finite" in line


def test_a_cell_that_is_empty_or_one_long_word_stays_whole():
    address = "https://example.org/" + "a" * 40
    printed = console.table([("a", ""), ("b", address), ("c", "one two three four five six")], width=30)
    assert printed.splitlines() == ["a", f"b  {address}", "c  one two three four five six"]
    assert console.table([("c", "one two three four five six")], width=25).splitlines() == [
        "c  one two three four",
        "   five six",
    ]
