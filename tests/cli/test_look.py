"""Laws of `vaekit evaluate`, `reconstruct`, `sample` and `plot`: they say of a run what the library says."""

import json
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from helpers.commands import QUICK, SMALL, command, write_data
from matplotlib.figure import Figure
from PIL import Image

import vaekit
from vaekit.evaluation import importance_weighted_bound
from vaekit.plots import catalogue


@pytest.mark.parametrize("arguments", [[], ["--weights", "last"], ["--seed", "3"], ["--batch-size", "2"]], ids=str)
def test_evaluate_prints_what_vaekit_evaluate_gives(run, data, arguments, capsys):
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    _, test = vaekit.data.load(data)
    expected = vaekit.evaluate(
        vaekit.load(run / options.get("--weights", "best")),
        test,
        seed=int(options.get("--seed", 0)),
        batch_size=int(options.get("--batch-size", 500)),
    )
    capsys.readouterr()
    assert command("evaluate", run, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    terms, rest = lines[: len(expected)], lines[len(expected) :]
    assert [line.split() for line in terms] == [[name, f"{value:.4f}"] for name, value in expected.items()]
    assert rest[0] == f"nats per example, means over {len(test)} examples"
    assert rest[1].startswith("reconstructions are off by ")
    assert rest[2].endswith("latent dimensions are active") or "; collapsed: z[" in rest[2]
    assert len(rest) == 3


def test_evaluate_prints_the_bound_of_as_many_samples_as_asked_for(run, data, capsys):
    _, test = vaekit.data.load(data)
    bound = importance_weighted_bound(vaekit.load(run / "best"), test, num_samples=20)
    assert command("evaluate", run, "--samples", 20) == 0
    said = f"log p(x) at least {bound.log_likelihood:.4f} nats (standard error {bound.standard_error:.4f}, effective sample size "
    assert f"{said}{bound.effective_sample_size:.1f} of 20)" in capsys.readouterr().out


def test_evaluate_takes_other_data_and_a_folder_that_save_wrote(run, tmp_path, capsys):
    other = write_data(tmp_path / "other.npy", n=20)
    vaekit.load(run / "best").save(tmp_path / "model")
    assert command("evaluate", tmp_path / "model", "--data", other) == 0
    assert "means over 20 examples" in capsys.readouterr().out


def test_evaluate_prints_the_errors_of_each_column(tmp_path, capsys):
    file, out = tmp_path / "x.npy", tmp_path / "run"
    np.save(file, (np.arange(80).reshape(40, 2) % 3).astype(np.float32))
    spec = json.dumps({"name": "columns", "columns": {"age": "gaussian", "kind": {"name": "categorical", "classes": 3}}})
    assert command("train", file, *SMALL, *QUICK, "--set", f"likelihood={spec}", "--out", out) == 0
    capsys.readouterr()
    assert command("evaluate", out) == 0
    shown = capsys.readouterr().out
    assert "age rmse" in shown
    assert "kind wrong" in shown


def test_a_model_folder_within_a_run_knows_the_runs_data(run, capsys):
    assert command("evaluate", run / "best") == 0
    inner = capsys.readouterr().out
    assert command("evaluate", run) == 0
    assert capsys.readouterr().out == inner


@pytest.mark.parametrize("name", ["evaluate", "reconstruct", "sample", "plot"])
def test_a_folder_without_a_run_is_refused_and_says_what_it_holds(name, tmp_path, mistake):
    (tmp_path / "notes.txt").touch()
    assert "notes.txt" in mistake(name, tmp_path)


@pytest.mark.parametrize("name", ["evaluate", "reconstruct", "plot"])
def test_a_model_that_does_not_say_its_data_asks_for_it(name, run, tmp_path, mistake):
    vaekit.load(run / "best").save(tmp_path)
    assert "--data" in mistake(name, tmp_path)


@pytest.mark.parametrize("condition", ["3", "-1", "1,2", "x", "", "0.5", str(2**70)])
def test_an_invalid_condition_is_one_line(condition, conditional_run, mistake):
    assert condition in mistake("sample", conditional_run, "--condition", condition)


def test_mistakes_in_looking_at_a_run_are_one_line(run, tmp_path, mistake):
    other = write_data(tmp_path / "x.npz", shape=(1, 5, 5))
    assert "'middle'" in mistake("evaluate", run, "--weights", "middle")
    assert "batch_size" in mistake("evaluate", run, "--batch-size", 0)
    assert "--count" in mistake("sample", run, "--count", 0)
    assert "50" in mistake("reconstruct", run, "--count", 50)
    for name in ("evaluate", "reconstruct", "plot"):
        line = mistake(name, run, "--data", other)
        assert "(1, 8, 8)" in line
        assert "(1, 5, 5)" in line


def test_a_picture_of_an_unknown_kind_is_one_line(run, tmp_path, mistake):
    assert "xyz" in mistake("sample", run, "--count", 1, "--out", tmp_path / "picture.xyz")


def test_weights_that_a_folder_does_not_have_are_refused(run, mistake):
    assert "'last'" in mistake("evaluate", run / "best", "--weights", "last")


# Pictures.


@pytest.mark.parametrize("arguments", [["reconstruct", "--count", 2], ["sample", "--count", 3]], ids=str)
def test_reconstruct_and_sample_write_one_picture_and_print_its_path(run, arguments, tmp_path, capsys):
    name, *options = arguments
    file = tmp_path / "new" / "picture.png"
    assert command(name, run, *options, "--out", file) == 0
    assert capsys.readouterr().out == f"{file}\n"
    with Image.open(file) as picture:
        picture.verify()


def test_without_out_a_picture_is_written_into_the_run(own_run, capsys, drawn):
    for name, file in (("reconstruct", "reconstructions.png"), ("sample", "samples.png")):
        assert command(name, own_run, *(["--count", 2] if name == "reconstruct" else [])) == 0
        assert capsys.readouterr().out == f"{own_run / file}\n"
        assert (own_run / file).read_bytes() == b"a picture"


def test_reconstruct_takes_rows_from_all_over_the_held_out_data(run, data, tmp_path, drawn):
    assert command("reconstruct", run, "--count", 2, "--out", tmp_path / "x") == 0
    (_, x, condition), _ = drawn.pop()
    test = vaekit.data.load(data)[1]
    assert torch.equal(x, test.x[[0, 2]])
    assert condition is None


@pytest.mark.parametrize("options", [[], ["--draw"], ["--seed", 4], ["--count", 3]], ids=str)
def test_sample_draws_what_it_is_asked_for(run, options, tmp_path, drawn):
    assert command("sample", run, *options, "--out", tmp_path / "x") == 0
    (vae, count, condition), chosen = drawn.pop()
    assert isinstance(vae, vaekit.VAE)
    assert (count, condition) == (3 if "--count" in options else None, None)
    assert chosen["draw"] is ("--draw" in options)
    assert torch.equal(chosen["key"], vaekit.make_key(4 if "--seed" in options else 0))


def test_samples_of_a_table_are_pictured_by_column_beside_the_rows_that_were_held_out(tmp_path, monkeypatch, capsys, mistake):
    values = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    pandas.DataFrame(values, columns=["age", "height"]).to_csv(tmp_path / "people.csv", index=False)
    monkeypatch.setattr("vaekit.cli.train.draw_pictures", lambda *arguments, **options: None)
    out = tmp_path / "run"
    assert command("train", tmp_path / "people.csv", *SMALL, *QUICK, "--set", "likelihood=gaussian", "--out", out) == 0
    seen = []
    monkeypatch.setattr(vaekit.plots, "marginals", lambda vae, data, **options: seen.append((data, options)) or Figure())
    assert command("sample", out, "--seed", 4) == 0
    assert capsys.readouterr().out.endswith(f"{out / 'samples.png'}\n")
    (examples, options), _ = seen.pop(), seen
    assert list(examples.columns) == ["age", "height"]
    assert torch.equal(examples.x, vaekit.data.load(tmp_path / "people.csv")[1].x)
    assert torch.equal(options["key"], vaekit.make_key(4))
    assert "--out samples.csv" in mistake("sample", out, "--count", 3)


@pytest.mark.parametrize("conditions", [[], ["2"], ["2", "0"]], ids=str)
def test_samples_of_a_conditional_run_have_a_row_for_each_condition(conditions, conditional_run, tmp_path, drawn):
    options = [option for value in conditions for option in ("--condition", value)]
    assert command("sample", conditional_run, "--count", 4, *options, "--out", tmp_path / "x") == 0
    (_, count, rows), _ = drawn.pop()
    assert count == 4
    assert rows is None if not conditions else rows.tolist() == [int(value) for value in conditions]


def test_plot_draws_what_train_has_drawn(own_run, capsys):
    pictures = sorted(own_run.glob("*.png"))
    assert pictures
    before = {p: p.read_bytes() for p in pictures}
    for picture in pictures:
        picture.unlink()
    assert command("plot", own_run) == 0
    assert [Path(line) for line in capsys.readouterr().out.splitlines()] == pictures
    assert {p: p.read_bytes() for p in pictures} == before


def test_plot_knows_how_training_went_and_which_data_is_held_out(run, data, monkeypatch):
    subjects = []
    monkeypatch.setattr(catalogue, "fitting", lambda subject, *rest: subjects.append(subject) or ())
    assert command("plot", run) == 0
    assert dict(subjects[0].history) == dict(vaekit.History.from_csv(run / "history.csv"))
    assert torch.equal(subjects[0].examples.x[:], vaekit.data.load(data)[1].x)


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "epoch,loss\n1,2.0\n2\n", "epoch,loss\n1,x\n", "epoch,loss\n1,2,3\n", "epoch,loss\n1,\xff\n"]
)
def test_a_damaged_history_is_named(text, own_run, mistake):
    (own_run / "history.csv").write_text(text, encoding="latin-1")
    if text:
        assert "history.csv" in mistake("plot", own_run)
    else:  # no epoch yet
        assert command("plot", own_run) == 0
