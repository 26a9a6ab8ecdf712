"""`vaekit train people.csv --label diagnosis --validation 0.2`, and what looks at the run afterwards."""

import json
import shutil

import numpy as np
import pandas
import pytest
import torch
from helpers.commands import QUICK, command

import vaekit
from vaekit import runs
from vaekit.data import load

NUMBERS = ["--set", "encoder=mlp", "--set", "decoder=mlp", "--set", "likelihood=gaussian", "--latent-dim", 2]


@pytest.fixture
def people(tmp_path):
    """A file with numbers, a label, a patient and a column that says what is held out."""
    random = np.random.default_rng(0)
    frame = pandas.DataFrame(random.normal(size=(80, 3)).round(3), columns=["a", "b", "c"])
    frame["diagnosis"], frame["patient"] = ["ill", "well", "well", "healed"] * 20, np.arange(80) // 8
    frame["part"] = np.where(np.arange(80) % 5 == 0, "test", "train")
    frame.to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "people.csv"


def test_a_run_on_a_table_says_how_it_was_read_and_split_and_evaluates_on_the_same_rows(people, tmp_path, capsys):
    read = ["--label", "diagnosis", "--read", 'drop=["part"]', "--read", "group=patient"]
    out = tmp_path / "run"
    options = ["--validation", "0.2", "--set", "condition=labels", "--seed", "4"]
    assert command("train", people, *read, *options, *NUMBERS, *QUICK, "--out", out) == 0
    settings = json.loads((out / "run.json").read_text())
    assert settings["validation"] == 0.2
    read_as = {"label": "diagnosis", "drop": ["part"], "group": "patient", "columns": ["a", "b", "c"]}
    assert settings["reading"] == read_as
    assert settings["condition"]["names"] == ["healed", "ill", "well"]
    assert settings["condition"]["column"] == "diagnosis"
    assert vaekit.load(out / "best").condition.names == ("healed", "ill", "well")
    held_out = runs.held_out_data(out)
    expected = load(people, validation=0.2, seed=4, label="diagnosis", drop=["part"], group="patient")[1]
    assert held_out.rows.tolist() == expected.rows.tolist()
    assert len(held_out) == 16
    capsys.readouterr()
    assert command("evaluate", out) == 0
    assert "means over 16 examples" in capsys.readouterr().out
    assert command("train", "--resume", out, "--epochs", "2", "--no-progress") == 0


def test_a_column_or_a_file_says_what_is_held_out(people, tmp_path):
    read = ["--label", "diagnosis", "--read", 'columns=["a","b","c"]', *NUMBERS, *QUICK]
    assert command("train", people, *read, "--validation", "part", "--out", tmp_path / "column") == 0
    assert runs.held_out_data(tmp_path / "column").rows.tolist() == list(range(0, 80, 5))
    further = tmp_path / "further.csv"
    pandas.read_csv(people)[:7].to_csv(further, index=False)
    assert command("train", people, *read, "--validation", further, "--out", tmp_path / "file") == 0
    held_out = runs.held_out_data(tmp_path / "file")
    assert (len(held_out), held_out.label_names) == (7, ("healed", "ill", "well"))
    other = runs.held_out_data(tmp_path / "column", str(further))
    assert other.label_names == held_out.label_names


def test_a_seed_draws_other_rows_and_the_same_seed_the_same(people, tmp_path):
    rows = []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / str(number)
        read = ["--read", 'columns=["a","b","c"]', "--seed", seed]
        assert command("train", people, *read, *NUMBERS, *QUICK, "--out", out) == 0
        rows.append(runs.held_out_data(out).rows.tolist())
    assert rows[0] == rows[1] != rows[2]


def test_a_wrong_column_is_one_line(people, mistake):
    assert "no column 'diagnose'; did you mean 'diagnosis'?" in mistake("train", people, "--label", "diagnose", *NUMBERS)
    assert "no column 'prat'; did you mean 'part'?" in mistake("train", people, "--validation", "prat", *NUMBERS)
    assert "has a test set of its own" in mistake("train", "mnist5k", "--validation", "0.2")


def test_a_table_trains_by_its_schema_which_stays_with_the_run(people, tmp_path, capsys):
    out, small = tmp_path / "run", ["--set", "encoder.hidden=[16]", "--set", "decoder.hidden=[16]", *QUICK]
    read = ["--label", "diagnosis", "--read", "group=patient", "--read", 'schema={"a":{"transform":"none"}}']
    assert command("train", people, *read, *small, "--out", out) == 0
    assert "column  kind" in capsys.readouterr().out  # the schema as a table
    settings = json.loads((out / "run.json").read_text())
    vae = vaekit.load(out / "best")
    assert vae.likelihood.names == ("a", "b", "c", "part")
    assert vae.likelihood.schema.to_config() == settings["reading"]["schema"]
    assert vae.likelihood.schema.columns["a"].transform == "none"
    held_out = runs.held_out_data(out)
    expected = load(people, label="diagnosis", group="patient", schema=vae.likelihood.schema)[1]
    assert torch.equal(held_out.x, expected.x)
    assert command("evaluate", out, "--data", people) == 0
    assert command("encode", out, people, "--out", tmp_path / "z.csv") == 0
    assert len(pandas.read_csv(tmp_path / "z.csv")) == 80
    assert command("train", "--resume", out, "--epochs", "2", "--no-progress") == 0


def test_a_likelihood_that_is_named_is_not_chosen_by_a_schema(people, tmp_path, mistake):
    read = ["--read", 'drop=["diagnosis","part"]']
    likelihood = ["--set", "likelihood=gaussian", "--set", "likelihood.variance=shared"]
    assert command("train", people, *read, *likelihood, *QUICK, "--out", tmp_path / "run") == 0
    assert "schema" not in json.loads((tmp_path / "run" / "run.json").read_text())["reading"]
    assert "schema='guess'" in mistake("train", people, *likelihood)


@pytest.mark.parametrize("likelihood", [[], ["--set", "likelihood=gaussian"]], ids=["with a schema", "as they are"])
def test_other_tables_are_read_by_the_names_of_their_columns(people, tmp_path, likelihood, mistake):
    """In any order, beside any others, and without the columns that are no part of x."""
    out, small = tmp_path / "run", ["--set", "encoder.hidden=[16]", "--set", "decoder.hidden=[16]", *QUICK]
    read = ["--label", "diagnosis", "--read", "group=patient", "--read", 'drop=["part"]']
    assert command("train", people, *read, *small, *likelihood, "--out", out) == 0
    frame = pandas.read_csv(people)
    frame[["c", "b", "a"]].assign(remark="none").to_csv(tmp_path / "other.csv", index=False)
    frame[["b", "c", "a"]].to_parquet(tmp_path / "other.parquet", index=False)
    assert command("encode", out, people, "--out", tmp_path / "z.npy") == 0
    for number, other in enumerate(("other.csv", "other.parquet")):
        assert command("encode", out, tmp_path / other, "--out", tmp_path / f"{number}.npy") == 0
        np.testing.assert_allclose(np.load(tmp_path / f"{number}.npy"), np.load(tmp_path / "z.npy"), rtol=1e-6)
    frame.rename(columns={"b": "B"}).to_csv(tmp_path / "renamed.csv", index=False)
    assert "no column 'b'" in mistake("score", out, tmp_path / "renamed.csv", "--out", tmp_path / "scores.csv")


def test_a_model_of_a_complete_table_is_made_to_take_gaps_and_reads_tables_without_its_run(people, tmp_path, mistake):
    read, out = ["--read", 'drop=["diagnosis","patient"]'], tmp_path / "filled.csv"
    frame = pandas.read_csv(people)
    frame.loc[3, ["a", "part"]] = None
    frame.to_csv(tmp_path / "gaps.csv", index=False)
    assert command("train", people, *read, *QUICK, "--out", tmp_path / "complete") == 0
    advice = "--set likelihood.missing=ignore"
    assert f"vaekit train {advice}" in mistake("impute", tmp_path / "complete", tmp_path / "gaps.csv", "--out", out)
    assert command("train", people, *read, *QUICK, *advice.split(), "--out", tmp_path / "run") == 0
    assert vaekit.load(tmp_path / "run" / "best").likelihood.names == ("a", "b", "c", "part")
    shutil.copytree(tmp_path / "run" / "best", tmp_path / "model")
    for model in ("run", "model"):
        assert command("impute", tmp_path / model, tmp_path / "gaps.csv", "--samples", 5, "--out", out, "--overwrite") == 0
        assert pandas.read_csv(out).loc[3].notna().all()


def test_a_schema_and_an_option_of_its_likelihood_go_together(people, tmp_path):
    likelihood = ["--set", "likelihood.missing=ignore", "--set", "likelihood.columns.a=student_t"]
    assert command("train", people, *likelihood, *QUICK, "--out", tmp_path / "run") == 0
    vae = vaekit.load(tmp_path / "run" / "best")
    assert vae.likelihood.schema.columns["diagnosis"].levels == ("healed", "ill", "well")
    assert type(vae.likelihood.likelihoods[0]).__name__ == "StudentT"
    assert vae.likelihood.missing == "ignore"


def test_a_level_of_held_out_rows_alone_does_not_end_a_run(tmp_path, recwarn):
    frame = pandas.DataFrame({"town": ["Oslo", "Bergen"] * 30, "height": np.linspace(1.5, 2.0, 60)})
    frame["part"] = np.where(np.arange(60) % 4 == 1, "test", "train")
    frame.loc[1, "town"] = "Molde"
    frame.to_csv(tmp_path / "towns.csv", index=False)
    run = tmp_path / "run"
    assert command("train", tmp_path / "towns.csv", "--validation", "part", *QUICK, "--out", run) == 0
    assert any("Molde" in str(warning.message) for warning in recwarn)
    assert vaekit.load(run / "best").likelihood.schema.columns["town"].levels == ("Bergen", "Oslo")
    assert command("evaluate", run) == 0  # on the same rows


def test_the_folder_of_a_table_is_told_from_a_models(people, tmp_path, mistake):
    table = vaekit.Table.fit(pandas.read_csv(people)[["a", "b", "part"]], epochs=1)
    table.save(tmp_path / "table")
    for name in ("impute", "score", "encode"):
        line = mistake(name, tmp_path / "table", people, "--out", tmp_path / "out.csv")
        assert "table holds a vaekit.Table" in line
        assert "vaekit.Table.load(folder)" in line


def test_tables_are_written_in_the_units_that_were_read(tmp_path):
    random = np.random.default_rng(0)
    frame = pandas.DataFrame({"age": random.integers(18, 80, 60).astype(float), "smoker": random.choice(["no", "yes"], 60)})
    frame.loc[::9, "age"], frame.loc[::7, "smoker"] = np.nan, None
    frame.to_csv(tmp_path / "people.csv", index=False)
    run, source = tmp_path / "run", tmp_path / "people.csv"
    assert command("train", source, *QUICK, "--out", run) == 0
    for name in ("filled.csv", "filled.parquet"):
        assert command("impute", run, source, "--samples", "20", "--out", tmp_path / name) == 0
        filled = (pandas.read_csv if name.endswith("csv") else pandas.read_parquet)(tmp_path / name)
        assert list(filled) == list(frame)
        for column in frame:
            observed = frame[column].notna()
            assert (filled[column][observed] == frame[column][observed]).all()
        assert filled["age"].between(18, 79).all()
        assert set(filled["smoker"]) <= {"no", "yes"}
    assert command("sample", run, "--count", "5", "--out", tmp_path / "made.tsv") == 0
    made = pandas.read_csv(tmp_path / "made.tsv", sep="\t")
    assert set(made["smoker"]) <= {"no", "yes"}
    assert command("sample", run, "--count", "5", "--out", tmp_path / "made.npy") == 0
    assert np.load(tmp_path / "made.npy").shape == (5, 2)
