"""Laws of the numbers that the command writes: what the library gives, in every kind of file, bit for bit."""

import json

import numpy as np
import pandas
import pytest
import torch
from helpers.commands import QUICK, SMALL, command, write_data
from PIL import Image

import vaekit
from vaekit.evaluation import score

COLUMNS = ["age", "income, net", "height"]


def write_table(file, rows=40):
    values = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    values[::4, 1], values[1::5, 2] = np.nan, np.nan
    pandas.DataFrame(values, columns=COLUMNS).to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table") / "people.csv")


@pytest.fixture(scope="module")
def table_run(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "table"
    likelihood = ["--set", "likelihood=gaussian", "--set", "likelihood.missing=ignore"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.cli.train.draw_pictures", lambda *arguments, **options: None)
        assert command("train", table, *SMALL, *QUICK, "--latent-dim", 2, *likelihood, "--out", out) == 0
    return out


def written(file, **options):
    """A table of a file, of floats with every bit."""
    if file.suffix == ".parquet":
        return pandas.read_parquet(file)
    return pandas.read_csv(file, sep="\t" if file.suffix == ".tsv" else ",", float_precision="round_trip", **options)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "npy", "npz"])
def test_encode_writes_the_posteriors_mean(table_run, table, tmp_path, ending, capsys):
    out = tmp_path / f"z.{ending}"
    assert command("encode", table_run, table, "--out", out) == 0
    assert capsys.readouterr().out == f"40 examples in {out}\n"
    with torch.no_grad():
        posterior = vaekit.load(table_run / "best").encode(vaekit.data.load_test(table).x)
    mean, deviation = posterior.mean.numpy(), posterior.variances.sqrt().numpy()
    if ending == "npy":
        np.testing.assert_array_equal(np.load(out), mean)
    elif ending == "npz":
        with np.load(out) as arrays:
            assert sorted(arrays) == ["mean", "standard_deviation"]
            np.testing.assert_array_equal(arrays["mean"], mean)
            np.testing.assert_array_equal(arrays["standard_deviation"], deviation)
    else:
        frame = written(out)
        assert list(frame) == ["z0", "z1", "z0 standard deviation", "z1 standard deviation"]
        np.testing.assert_array_equal(frame.to_numpy(np.float32), np.hstack([mean, deviation]))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_impute_fills_a_table_and_keeps_its_columns_and_what_is_observed(table_run, table, tmp_path, ending, capsys):
    out = tmp_path / f"filled.{ending}"
    assert command("impute", table_run, table, "--out", out, "--samples", 20, "--seed", 3) == 0
    assert "effective sample size" in capsys.readouterr().err
    given, filled = written(table), written(out)
    assert list(filled) == COLUMNS
    expected = vaekit.load(table_run / "best").impute(vaekit.data.load_test(table).x, samples=20, seed=3)
    np.testing.assert_array_equal(filled.to_numpy(np.float32), expected.x.numpy())
    observed = given.notna().to_numpy()
    np.testing.assert_array_equal(filled.to_numpy(np.float32)[observed], given.to_numpy(np.float32)[observed])
    assert not filled.isna().any().any()
    assert not observed.all()


def write_payroll(file, rows=60):
    """Numbers with more digits than float32 holds, whole ones, and columns that no model sees."""
    random = np.random.default_rng(1)
    frame = pandas.DataFrame(
        {
            "name": [f"person {row}" for row in range(rows)],
            "income": np.round(random.normal(size=rows), 10),
            "points": random.integers(-4, 5, rows),
            "bonus": np.round(random.normal(size=rows), 10),
            "part": random.choice(["train", "test"], rows),
            "remark": np.where(np.arange(rows) % 4, "none", None),
        }
    ).convert_dtypes()
    frame.loc[::7, "income"], frame.loc[1::3, "points"] = pandas.NA, pandas.NA
    frame.to_parquet(file, index=False) if file.suffix == ".parquet" else frame.to_csv(file, index=False)
    return frame


@pytest.fixture(scope="module", params=["standardised by a schema", "as they are"])
def payroll_run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("payroll")
    write_payroll(folder / "payroll.csv")
    options = ["--read", 'drop=["name","remark"]', "--validation", "part", *SMALL, *QUICK, "--out", folder / "run"]
    if request.param == "as they are":
        options += ["--set", "likelihood=gaussian", "--set", "likelihood.missing=ignore"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.cli.train.draw_pictures", lambda *arguments, **options: None)
        assert command("train", folder / "payroll.csv", *options) == 0
    return folder / "run"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_is_observed_stays_as_the_file_has_it_and_so_do_columns_that_no_model_sees(
    payroll_run, tmp_path, ending, monkeypatch
):
    monkeypatch.setattr("vaekit.data.columnar._PIECE", 6 * 7)  # seven rows of a parquet file at a time
    monkeypatch.setattr("vaekit.evaluation.imputation._BATCH", 9)
    given, source = write_payroll(tmp_path / f"payroll.{ending}"), tmp_path / f"payroll.{ending}"
    for name, more in (("mean", []), ("draws", ["--draws", 3])):
        out = tmp_path / f"{name}.{ending}"
        reading = ["--read", 'drop=["name","remark","part"]']
        assert command("impute", payroll_run, source, *reading, "--samples", 5, "--out", out, *more) == 0
        filled = written(out)
        if more:
            assert filled["row"].tolist() == [row for row in range(60) for _ in range(3)]
            assert filled["draw"].tolist() == [0, 1, 2] * 60
            filled = filled.drop(columns=["row", "draw"])
        assert list(filled) == list(given)
        expected = given.loc[given.index.repeat(3 if more else 1)].reset_index(drop=True)
        for column in given:
            observed = expected[column].notna()
            assert filled[column][observed].tolist() == expected[column][observed].tolist()
            assert filled[column].isna().any() == (column == "remark")


def test_what_was_held_out_is_filled_in_the_rows_of_its_file(payroll_run, tmp_path):
    assert command("impute", payroll_run, "--samples", 5, "--out", tmp_path / "filled.csv") == 0
    filled, given = written(tmp_path / "filled.csv"), written(payroll_run.parent / "payroll.csv")
    expected = given[given["part"] == "test"].reset_index(drop=True)
    assert filled["name"].tolist() == expected["name"].tolist()
    observed = expected["income"].notna()
    assert filled["income"][observed].tolist() == expected["income"][observed].tolist()
    assert filled["income"].notna().all()


@pytest.mark.parametrize("ending", ["npy", "npz", "csv"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_impute_leaves_what_an_array_of_float64_holds(table_run, table, tmp_path, ending, order):
    values = np.asarray(np.random.default_rng(2).normal(size=(25, 3)), order=order)
    values[::4, 1], values[0, 0] = np.nan, 40123.57
    np.save(tmp_path / "x.npy", values)
    out, observed = tmp_path / f"filled.{ending}", ~np.isnan(values)
    assert command("impute", table_run, tmp_path / "x.npy", "--samples", 5, "--out", out) == 0
    filled = np.load(out) if ending != "csv" else written(out).to_numpy()
    filled = filled["x"] if ending == "npz" else filled
    assert filled.dtype == np.float64
    np.testing.assert_array_equal(filled[observed], values[observed])
    expected = vaekit.load(table_run / "best").impute(torch.from_numpy(values).float(), samples=5).x.numpy()
    np.testing.assert_array_equal(filled[~observed].astype(np.float32), expected[~observed])
    drawn = tmp_path / "draws.npy"
    assert command("impute", table_run, tmp_path / "x.npy", "--samples", 5, "--draws", 2, "--out", drawn) == 0
    draws = np.load(drawn)
    assert draws.shape == (25, 2, 3)
    for draw in draws.swapaxes(0, 1):
        np.testing.assert_array_equal(draw[observed], values[observed])


def test_whole_numbers_beyond_float32_stay_what_they_are_and_float32_stays_float32(table_run, tmp_path):
    for name, values, dtype in (("whole", [[2**24 + 1, -3, 5]], np.float64), ("narrow", [[0.1, np.nan, 2.0]], np.float32)):
        np.save(tmp_path / f"{name}.npy", np.array(values, np.int64 if name == "whole" else np.float32))
        assert command("impute", table_run, tmp_path / f"{name}.npy", "--out", tmp_path / "filled.npy", "--overwrite") == 0
        filled, given = np.load(tmp_path / "filled.npy"), np.array(values, dtype)
        assert filled.dtype == dtype
        np.testing.assert_array_equal(filled[~np.isnan(given)], given[~np.isnan(given)])


def test_impute_writes_draws_as_rows_of_a_table_and_as_an_axis_of_an_array(table_run, table, tmp_path):
    expected = vaekit.load(table_run / "best").impute(vaekit.data.load_test(table).x, draws=3, samples=20).draws.numpy()
    for ending in ("csv", "npy", "npz"):
        assert command("impute", table_run, table, "--out", tmp_path / f"x.{ending}", "--draws", 3, "--samples", 20) == 0
    frame = written(tmp_path / "x.csv")
    assert list(frame) == ["row", "draw", *COLUMNS]
    for number in range(3):
        of_draw = frame[frame["draw"] == number]
        assert of_draw["row"].tolist() == list(range(40))
        np.testing.assert_array_equal(of_draw[COLUMNS].to_numpy(np.float32), expected[number])
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected.swapaxes(0, 1))
    with np.load(tmp_path / "x.npz") as arrays:
        np.testing.assert_array_equal(arrays["x"], expected.swapaxes(0, 1))


def test_score_writes_log_p_and_marks_what_is_below_a_share_of_the_held_out_data(table_run, table, tmp_path):
    vae, examples = vaekit.load(table_run / "best"), vaekit.data.load_test(table)
    out = tmp_path / "scores.csv"
    assert command("score", table_run, table, "--out", out, "--elements", "--share", 0.5, "--samples", 30) == 0
    expected, frame = score(vae, examples, samples=30, elements=True), written(out)
    np.testing.assert_array_equal(frame["log_likelihood"], expected.log_likelihood)
    np.testing.assert_array_equal(frame["age nll"], expected.element_nll[:, 0])
    np.testing.assert_array_equal(frame["income, net surprise"], expected.surprise[:, 1])
    _, held_out = vaekit.data.load(table)
    limit = score(vae, held_out, samples=30).threshold(0.5)
    assert frame["is_anomaly"].tolist() == (expected.log_likelihood < limit).tolist()
    assert 0 < frame["is_anomaly"].sum() < 40
    assert command("score", table_run, table, "--out", tmp_path / "scores.npy", "--samples", 30) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), expected.log_likelihood)


def test_a_dash_writes_csv_to_stdout_and_nothing_else(table_run, table, capfdbinary):
    assert command("score", table_run, table, "--out", "-", "--samples", 5) == 0
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert lines[0] == "log_likelihood,effective_sample_size"
    assert len(lines) == 41
    assert all(len(line.split(",")) == 2 for line in lines)


def test_what_was_held_out_is_the_data_where_none_is_named(table_run, table, tmp_path):
    assert command("encode", table_run, "--out", tmp_path / "z.npy") == 0
    _, held_out = vaekit.data.load(table)
    with torch.no_grad():
        mean = vaekit.load(table_run / "best").encode(held_out.x).mean
    np.testing.assert_array_equal(np.load(tmp_path / "z.npy"), mean.numpy())


def test_read_says_how_the_data_is_read(table_run, tmp_path):
    frame = pandas.read_csv(write_table(tmp_path / "more.csv")).assign(kind="a")
    frame.to_csv(tmp_path / "more.csv", index=False)
    out = tmp_path / "z.npy"
    assert command("encode", table_run, tmp_path / "more.csv", "--out", out, "--read", "label=kind") == 0
    assert np.load(out).shape == (40, 2)


def test_reconstruct_writes_all_as_numbers_and_pictures_as_a_folder(run, data, tmp_path):
    _, test = vaekit.data.load(data)
    vae = vaekit.load(run / "best")
    assert command("reconstruct", run, "--out", tmp_path / "x.npy") == 0
    expected = vae.reconstruct(test.x).numpy()
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)
    assert command("reconstruct", run, "--count", 2, "--out", f"{tmp_path}/pictures/") == 0
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["0.png", "1.png"]
    first = np.asarray(Image.open(tmp_path / "pictures" / "0.png"))
    np.testing.assert_array_equal(first, np.rint(255.0 * expected[0, 0].astype(np.float64)).astype(np.uint8))


def test_sample_writes_as_many_as_asked_for_of_each_condition(run, conditional_run, tmp_path):
    key = vaekit.make_key(5)
    assert command("sample", run, "--count", 7, "--seed", 5, "--out", tmp_path / "x.csv") == 0
    expected = vaekit.load(run / "best").sample(7, key=key).flatten(1).numpy()
    frame = written(tmp_path / "x.csv")
    assert list(frame)[:2] == ["x0", "x1"]
    np.testing.assert_array_equal(frame.to_numpy(np.float32), expected)
    given = ["--condition", 2, "--condition", 0]
    assert command("sample", conditional_run, "--count", 3, "--seed", 5, *given, "--out", tmp_path / "y.npy") == 0
    rows = torch.tensor([2, 2, 2, 0, 0, 0])
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), vaekit.load(conditional_run / "best").sample(6, rows, key=key))


def test_pictures_of_values_without_limits_are_refused(table_run, table, mistake, tmp_path):
    assert "[1 or 3 channels, height, width]" in mistake("reconstruct", table_run, table, "--out", f"{tmp_path}/pictures/")


def test_a_file_that_is_there_is_kept_unless_it_may_be_replaced(table_run, table, tmp_path, mistake):
    out = tmp_path / "z.csv"
    out.write_text("mine")
    assert "z.csv is there already; choose another --out, or replace it with --overwrite" in mistake(
        "encode", table_run, table, "--out", out
    )
    assert out.read_text() == "mine"
    assert command("encode", table_run, table, "--out", out, "--overwrite") == 0
    assert len(written(out)) == 40


@pytest.mark.parametrize("arguments", [("encode", "z.doc"), ("encode", "folder/"), ("score", "z.png"), ("impute", "x")])
def test_files_of_other_kinds_are_refused_with_those_that_there_are(table_run, table, tmp_path, mistake, arguments):
    name, out = arguments
    line = mistake(name, table_run, table, "--out", f"{tmp_path}/{out}")
    assert "--out takes .csv, .tsv, .parquet, .npy, .npz" in line
    assert line.endswith(f"got {tmp_path}/{out}")
    assert not list(tmp_path.iterdir())


def test_a_model_that_refuses_missing_values_does_not_impute(run, data, tmp_path, mistake):
    assert "refuses missing values" in mistake("impute", run, data, "--out", tmp_path / "x.npy")
    assert not list(tmp_path.iterdir())


def test_columns_have_the_names_of_the_likelihood_where_the_data_has_none(tmp_path):
    file, out = write_data(tmp_path / "x.npy", shape=(2,)), tmp_path / "run"
    spec = json.dumps({"name": "columns", "columns": {"age": "gaussian", "size": "gaussian"}})
    assert command("train", file, *SMALL, *QUICK, "--set", f"likelihood={spec}", "--out", out) == 0
    assert command("reconstruct", out, "--out", tmp_path / "x.csv") == 0
    assert list(written(tmp_path / "x.csv")) == ["age", "size"]


def test_rows_of_draws_do_not_take_the_place_of_the_tables_own_columns(table_run, tmp_path, mistake):
    frame = pandas.read_csv(write_table(tmp_path / "people.csv")).assign(draw=0)
    frame.to_csv(tmp_path / "people.csv", index=False)
    arguments = ["impute", table_run, tmp_path / "people.csv", "--samples", 2, "--out", tmp_path / "filled.csv"]
    assert command(*arguments) == 0
    assert "DATA has 'draw' too" in mistake(*arguments, "--overwrite", "--draws", 2)


def test_data_in_the_place_of_the_run_is_told_so(table_run, table, tmp_path, mistake):
    line = mistake("impute", table, table_run, "--out", tmp_path / "filled.csv")
    assert f"RUN has to be the folder of a run or of a model, got the file {table}" in line
