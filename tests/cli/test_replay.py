"""`vaekit replay`: the step at which a run failed, layer by layer."""

import json

import pytest
from helpers.commands import QUICK, SMALL, command, write_data


@pytest.fixture
def failed(tmp_path, capsys):
    """The folder of the step at which a run of the command failed, and what the command said."""
    data = write_data(tmp_path / "x.npy", a=1e25)
    out = tmp_path / "run"
    assert command("train", data, "--out", out, "--set", "likelihood=gaussian", *SMALL, *QUICK) == 1
    return next(out.glob("nonfinite-*")), capsys.readouterr()


def test_the_message_of_a_failure_has_lines_and_names_the_command(failed):
    folder, said = failed
    assert said.err.startswith("vaekit: epoch 1, step ")
    assert len(said.err.splitlines()) > 6
    assert f"  to take that step again: vaekit replay {folder}\n" in said.err


def test_the_step_is_shown_layer_by_layer(failed, capsys):
    folder, _ = failed
    assert command("replay", folder) == 0
    said = capsys.readouterr().out
    for part in ("are not finite in 1 of", "encoder.body.0", "gradient of", "decoder.", "not finite", "bit for bit"):
        assert part in said
    assert "vaekit replay" not in said


def test_a_step_that_does_not_fail_as_it_did_is_an_error(failed, capsys):
    folder, _ = failed
    notes = json.loads((folder / "step.json").read_text())
    notes["digests"]["kl"] = "0"
    (folder / "step.json").write_text(json.dumps(notes))
    assert command("replay", folder) == 1
    assert "other than in the run: kl." in capsys.readouterr().err


def test_another_folder_is_a_mistake(tmp_path, capsys):
    assert command("replay", tmp_path) == 2
    assert "has no step.json" in capsys.readouterr().err


def test_a_flag_skips_such_steps(tmp_path):
    data = write_data(tmp_path / "x.npy", a=1e25)
    arguments = ["--set", "likelihood=gaussian", "--on-nonfinite", "skip", "--out", tmp_path / "run", *SMALL, *QUICK]
    with pytest.warns(UserWarning, match="1 of 3 steps were left out, because something in them was not finite"):
        assert command("train", data, *arguments) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["on_nonfinite"] == "skip"
