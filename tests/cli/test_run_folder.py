"""Laws of a run's folder: it is one run's alone, and as it was before if the run comes to nothing."""

import json
import threading
from pathlib import Path

import pytest
import torch
from helpers.commands import QUICK, SMALL, command

import vaekit
from vaekit.runs import Run, claimed_folder
from vaekit.training import record


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() if file.is_file() else b"" for file in folder.rglob("*")}


@pytest.fixture
def prepared() -> Run:
    """A run of which only the settings and the name matter."""
    vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder={"hidden": (3,)}, decoder={"hidden": (3,)})
    train, test = vaekit.data.load(torch.rand(20, 4))
    return Run({"data": "x.npy"}, vae, train, test, "x")


# Refused.


@pytest.mark.parametrize("mistake_in", ["fit", "model"])
def test_a_refused_run_leaves_a_folder_as_it_was_and_does_not_block_the_next(mistake_in, data, tmp_path, mistake):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    wrong = ["--epochs", 0] if mistake_in == "fit" else ["--latent-dim", 0]
    mistake("train", data, *SMALL, *QUICK, "--out", out, *wrong)
    assert content(out) == {"notes.txt": b"mine"}
    assert command("train", data, *SMALL, *QUICK, "--out", out) == 0


@pytest.mark.parametrize("name", ["best", "last", "history.csv"])
def test_what_a_run_without_a_run_json_left_is_not_touched(name, run, data, tmp_path, mistake):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"of an earlier run")
    assert "holds" in mistake("train", data, *SMALL, *QUICK, "--out", out)
    assert content(out) == {name: b"of an earlier run"}


def test_folders_made_for_a_refused_run_are_removed_and_no_others(data, tmp_path, mistake):
    (tmp_path / "there").mkdir()
    mistake("train", data, *SMALL, *QUICK, "--epochs", 0, "--out", tmp_path / "there" / "a" / "b")
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


@pytest.mark.parametrize("out", ["", " ", "\t", "-"])
@pytest.mark.parametrize("option", ["--out", "--config"])
def test_an_empty_name_is_not_the_current_folder(option, out, data, tmp_path, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    assert option in mistake("train", data, *SMALL, *QUICK, option, out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["evaluate", "reconstruct", "sample", "plot"])
def test_an_empty_run_is_not_the_current_folder(name, own_run, monkeypatch, mistake):
    monkeypatch.chdir(own_run)
    before = content(own_run)
    assert "RUN" in mistake(name, "")
    if name in ("reconstruct", "sample"):
        assert "--out" in mistake(name, own_run, "--out", "")
    assert content(own_run) == before


def test_the_current_folder_can_be_asked_for(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("train", data, *SMALL, *QUICK, "--out", ".") == 0
    assert (tmp_path / "run.json").is_file()


def test_an_out_that_is_a_file_is_refused_by_name(data, tmp_path, mistake):
    (tmp_path / "file").write_text("precious")
    assert str(tmp_path / "file") in mistake("train", data, *SMALL, *QUICK, "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


# Two at once.


def test_a_second_run_into_the_folder_of_one_that_has_saved_nothing_yet_is_refused(data, tmp_path, monkeypatch, capsys):
    out, codes, fit = tmp_path / "out", [], Run.fit

    def fit_beside_another(self, folder, *options):
        if not codes:
            codes.append(command("train", data, *SMALL, *QUICK, "--seed", 2, "--out", out))
        return fit(self, folder, *options)

    monkeypatch.setattr(Run, "fit", fit_beside_another)
    assert command("train", data, *SMALL, *QUICK, "--seed", 1, "--out", out) == 0
    assert codes == [2]
    assert f"{out} holds a run already" in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["seed"] == 1
    assert vaekit.load(out / "best").config() == vaekit.load(out / "last").config()


def claim_at_once(count: int, out: Path | None, run: Run) -> list[Path | ValueError]:
    """What each of `count` threads gets that claim a folder at the same time, and keep it until all have tried."""
    before, after, got = threading.Barrier(count), threading.Barrier(count), []

    def claim():
        before.wait(60)
        try:
            with claimed_folder(out, run) as folder:
                got.append(folder)
                after.wait(60)
        except ValueError as error:
            got.append(error)
            after.wait(60)

    threads = [threading.Thread(target=claim) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_of_many_that_claim_one_folder_at_once_one_gets_it(prepared, tmp_path):
    got = claim_at_once(16, tmp_path / "out", prepared)
    assert len(got) == 16
    assert [claim for claim in got if isinstance(claim, Path)] == [tmp_path / "out"]


def test_many_that_begin_at_once_have_a_new_folder_each(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got = claim_at_once(16, None, prepared)
    assert set(got) == {Path("runs") / name for name in ["x", *(f"x-{number}" for number in range(2, 17))]}


def test_many_that_ask_for_a_number_have_one_each(prepared, tmp_path):
    got = claim_at_once(16, tmp_path / "new" / "x-{n}", prepared)
    assert set(got) == {tmp_path / "new" / f"x-{number}" for number in range(1, 17)}
    assert not list((tmp_path / "new").iterdir())  # as nothing was saved


# New folders.


def test_train_takes_the_next_number(data, tmp_path, capsys):
    for number in (1, 2):
        assert command("train", data, *SMALL, *QUICK, "--out", tmp_path / "x-{n}") == 0
        assert f"everything is in {tmp_path / f'x-{number}'}" in capsys.readouterr().out
        assert vaekit.load(tmp_path / f"x-{number}" / "best").latent_shape == (2,)


def test_a_new_folder_is_next_to_whatever_has_its_name(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x-2").touch()
    (tmp_path / "runs" / "x-3").symlink_to("nowhere")
    with claimed_folder(None, prepared) as folder:
        assert folder == Path("runs/x-4")
        assert json.loads((folder / "run.json").read_text()) == {"data": "x.npy"}
    assert not folder.exists()


def test_a_name_with_a_slash_makes_one_folder(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with claimed_folder(None, Run(prepared.settings, prepared.vae, prepared.train, prepared.test, "../of/another")) as folder:
        assert folder.parent.resolve() == tmp_path / "runs"


def test_a_folder_in_which_something_was_saved_stays(prepared, tmp_path):
    with claimed_folder(tmp_path / "out", prepared) as folder:
        prepared.vae.save(folder / "last")
    assert record.is_trained(folder)
    assert json.loads((folder / "run.json").read_text()) == {"data": "x.npy"}


@pytest.mark.parametrize("link", [False, True])
def test_a_run_json_is_never_written_through_or_over_another_file(link, prepared, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    if link:
        (out / "run.json").symlink_to(other)
    else:
        (out / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="out"), claimed_folder(out, prepared):
        pass
    assert not other.exists()
    assert (out / "run.json").is_symlink() is link
