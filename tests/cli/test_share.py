"""`vaekit push`: what it says, and what it writes."""

import pytest
from helpers import hub_server
from helpers.commands import command


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_server.running() as server:
        hub_server.turn_to(server.address, tmp_path / "cache", monkeypatch)
        yield server


def test_a_dry_run_lists_the_files_and_shows_the_card(hub, run, capsys):
    assert command("push", run, "me/digits", "--license", "mit", "--tag", "digits", "--dry-run") == 0
    shown = capsys.readouterr().out
    for words in (
        "model.safetensors",
        "would be pushed to me/digits",
        "license: mit",
        "- digits",
        "| loss, the training objective",
    ):
        assert words in shown
    assert hub.requests == []


def test_out_writes_the_folder_and_pushes_nothing(hub, run, tmp_path, mistake):
    assert command("push", run, "me/digits", "--out", tmp_path / "shared", "--no-pictures") == 0
    assert {"README.md", "model.safetensors"} <= {file.name for file in (tmp_path / "shared").iterdir()}
    assert "holds something already" in mistake("push", run, "me/digits", "--out", tmp_path / "shared")
    assert hub.requests == []


def test_a_run_is_pushed(hub, run, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub_server.WRITER)
    arguments = ["--private", "--message", "the first", "--dataset", "me/data", "--revision", "v1"]
    assert command("push", run, "me/digits", *arguments) == 0
    repository = hub.repositories["me/digits"]
    assert repository.private
    assert repository.messages[repository.at("v1")] == "the first"
    assert "- me/data" in hub.headers[0]
    shown = capsys.readouterr().out
    assert f"/commit/{repository.at('v1')}" in shown
    assert 'vaekit.load("hf://me/digits@v1") loads it' in shown


def test_mistakes_are_one_line(hub, run, tmp_path, mistake):
    assert "does not know the token, or got none (401)" in mistake("push", run, "me/digits")
    assert 'the repository to push to is "owner/name"' in mistake("push", run, "digits")
    assert "there is no model at" in mistake("push", tmp_path / "nothing", "me/digits")
