"""Examples of tables: which columns are x and y, what labels are called, what is held out; and parquet larger than memory."""

import datetime
import gc
import pickle

import numpy as np
import pandas
import polars
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vaekit
from vaekit.data import Examples, Schema, as_examples, as_frame, framed, load
from vaekit.data.labels import named_labels

N = 60
PEOPLE = pandas.DataFrame(
    {
        "age": np.arange(N) % 50,
        "height": np.where(np.arange(N) % 7 == 0, np.nan, np.arange(N) / 8),
        "ill": np.where(np.arange(N) % 3 == 0, "yes", "no"),
        "patient": [f"p{row % 12}" for row in range(N)],
        "seen": [datetime.date(2026, 1, 1) + datetime.timedelta(days=7 * row % 61) for row in range(N)],
        "part": np.where(np.arange(N) % 10 == 4, "test", "train"),
    }
)
X = torch.tensor(PEOPLE[["age", "height"]].to_numpy(np.float32))


def same(one, other):
    return torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))


def write(frame, path):
    """The frame in a file of the kind that its name says."""
    kind = path.suffixes[0]
    writers = {".csv": frame.to_csv, ".parquet": frame.to_parquet, ".xlsx": frame.to_excel}
    if kind == ".jsonl":
        frame.to_json(path, orient="records", lines=True, date_format="iso")
    else:
        writers[kind](path, index=False)
    return path


SOURCES = {
    "pandas": lambda folder: PEOPLE,
    "polars": lambda folder: polars.from_pandas(PEOPLE),
    "pyarrow": lambda folder: pyarrow.Table.from_pandas(PEOPLE),
    **{
        name: lambda folder, name=name: write(PEOPLE, folder / name)
        for name in ("a.csv", "a.csv.gz", "a.parquet", "a.xlsx", "a.jsonl")
    },
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_table_of_any_kind_gives_the_same_examples(tmp_path, name):
    options = {"label": "ill", "drop": ["patient", "seen", "part"]}
    source = SOURCES[name](tmp_path)
    examples = as_examples(source, **options)
    assert same(examples.x, X)
    assert examples.label_names == ("no", "yes")
    assert examples.y.tolist() == [int(row % 3 == 0) for row in range(N)]
    train, test = load(source, **options)
    assert same(train.x, X[train.rows])
    assert same(test.x, X[test.rows])
    assert sorted([*train.rows.tolist(), *test.rows.tolist()]) == list(range(N))
    assert int(test.y.sum()) == 2  # a third of six, as of all


def test_columns_are_chosen_by_name_in_the_order_given():
    examples = as_examples(PEOPLE, columns=["height", "age"])
    assert same(examples.x, X.flip(1))
    assert examples.y is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "il"}, "no column 'il'; did you mean 'ill'.*It has: 'age', 'height'"),
        ({"columns": ["age", "weight"]}, "no column 'weight'"),
        ({"drop": "ill"}, r"drop has to be a list of names, got 'ill'; \['ill'\] is one"),
        (
            {},
            "'ill' is text: 'yes', 'no'; 'patient' is text: 'p0', .*as label, leave it out with drop=.*schema='guess'",
        ),
        ({"columns": ["age"], "group": "patient", "time": "seen"}, "one of groups, times and held_out, got groups and times"),
        ({"columns": ["age"], "time": "patient"}, "'patient', by which examples are split, is String, neither numbers nor dates"),
        ({"columns": ["age"], "held_out": "ill"}, "has to say which rows are held out.*it is 'yes' in row 0"),
        (
            {"columns": ["age"], "group": "height"},
            "'height', by which examples are split, is missing in 9 of 60 rows, first in row 0",
        ),
        ({"columns": ["age"], "label": "height"}, "'height', are real numbers, and missing in 9 of 60 rows, first in row 0"),
        ({"columns": ["age"], "label": "seen"}, "are Date; labels are text, categories, booleans or numbers"),
        ({"drop": list(PEOPLE.columns)}, "no column of the frame is left for x"),
        ({"lable": "ill"}, "do not take the option 'lable'.*Did you mean 'label'"),
    ],
)
def test_a_wrong_choice_is_named(options, message):
    frame = PEOPLE.astype({"seen": "date32[pyarrow]"}) if hasattr(pandas, "ArrowDtype") else PEOPLE
    with pytest.raises((TypeError, ValueError), match=message):
        as_examples(frame, **options)


def test_an_index_that_pandas_wrote_without_a_name_is_not_trained_on(tmp_path):
    PEOPLE[["age"]].to_csv(tmp_path / "index.csv")
    with pytest.warns(UserWarning, match=r"column 1 of .*index.csv has no name and counts the rows: it is left out"):
        assert load(tmp_path / "index.csv")[0].columns == ("age",)
    assert load(tmp_path / "index.csv", drop=[""])[0].x.shape == (54, 1)
    PEOPLE[["age"]].iloc[::-1].to_csv(tmp_path / "other.csv")  # which may be something else
    with pytest.raises(ValueError, match=r"column 1 of .*other.csv has no name.*drop=\[''\] \(--read 'drop=\[\"\"\]'\)"):
        load(tmp_path / "other.csv")


# --- what is held out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_groups_times_and_columns_split_a_table_of_any_kind(tmp_path, name):
    source, columns = SOURCES[name](tmp_path), ["age"]
    train, test = load(source, columns=columns, group="patient", validation=0.25)
    groups = [set(PEOPLE["patient"][part.rows.tolist()]) for part in (train, test)]
    assert not groups[0] & groups[1]
    assert [len(group) for group in groups] == [9, 3]
    train, test = load(source, columns=columns, time="age", validation=0.2)
    assert int(train.x.max()) < int(test.x.min())
    train, test = load(source, columns=columns, validation="part")
    assert test.rows.tolist() == [4, 14, 24, 34, 44, 54]
    assert len(train) == N - 6


def test_dates_split_by_time(tmp_path):
    train, test = load(write(PEOPLE, tmp_path / "a.csv"), columns=["age"], time="seen", validation=0.2)
    assert max(PEOPLE["seen"][train.rows.tolist()]) < min(PEOPLE["seen"][test.rows.tolist()])


def test_a_file_of_validation_examples_has_the_labels_of_the_training_file(tmp_path):
    write(PEOPLE[["age", "ill"]], tmp_path / "train.csv")
    write(PEOPLE[["age", "ill"]][PEOPLE["ill"] == "yes"], tmp_path / "valid.csv")
    train, test = load(tmp_path / "train.csv", label="ill", validation=tmp_path / "valid.csv")
    assert (len(train), len(test)) == (N, N // 3)
    assert set(test.y.tolist()) == {1}
    assert train.label_names == test.label_names == ("no", "yes")
    write(PEOPLE[["age", "ill"]].replace("yes", "unknown"), tmp_path / "other.csv")
    with pytest.raises(ValueError, match="the labels 'unknown' are not among those trained on, 'no', 'yes'"):
        load(tmp_path / "train.csv", label="ill", validation=str(tmp_path / "other.csv"))


def test_a_split_is_a_function_of_the_seed_and_is_refused_where_there_is_one(tmp_path):
    splits = [load(PEOPLE, columns=["age"], seed=seed)[1].rows.tolist() for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    with pytest.raises(ValueError, match=r"a column says already which examples are held out"):
        load(PEOPLE, columns=["age"], held_out="part", validation=0.2)
    with pytest.raises(TypeError, match="validation is a fraction, a column of a table or a file, got True"):
        load(PEOPLE, columns=["age"], validation=True)
    with pytest.raises(ValueError, match="no column 'prat'; did you mean 'part'"):
        load(PEOPLE, columns=["age"], validation="prat")


# --- a schema --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_a_schema_encodes_a_table_of_any_kind(tmp_path, name):
    source, options = SOURCES[name](tmp_path), {"label": "ill", "drop": ["patient", "seen"]}
    examples = as_examples(source, **options, schema="guess")
    assert list(examples.schema.columns) == list(examples.columns) == ["age", "height", "part"]
    assert torch.equal(examples.x.isnan(), torch.nn.functional.pad(X.isnan(), (0, 1)))
    expected = as_examples(PEOPLE, **options, schema="guess")
    torch.testing.assert_close(examples.x, expected.x, equal_nan=True)
    frame = as_frame(examples.schema.decode(examples.x))
    assert frame["part"].to_list() == PEOPLE["part"].to_list()
    for one in (examples.schema, examples.schema.to_config()):  # whose columns are x: nothing has to be dropped
        again = as_examples(source, label="ill", schema=one)
        assert same(again.x, examples.x)
        assert again.take(torch.arange(3)).schema == examples.schema


def test_settings_of_a_schema_correct_the_guess():
    examples = as_examples(PEOPLE, columns=["age"], schema={"age": {"kind": "number", "transform": "none"}})
    assert examples.schema.columns["age"].transform == "none"
    assert same(examples.x, X[:, :1])
    with pytest.raises(TypeError, match='schema is a vaekit.data.Schema, its config, settings of columns or "guess", got 3'):
        as_examples(PEOPLE, schema=3)


def test_parquet_larger_than_memory_is_encoded_by_a_schema_that_there_is(tmp_path, monkeypatch):
    schema = Schema.guess(PEOPLE[["age", "height", "ill"]])
    monkeypatch.setattr(framed, "_MOST_IN_MEMORY", 10)
    monkeypatch.setenv("VAEKIT_DATA", str(tmp_path / "cache"))
    examples = as_examples(write(PEOPLE, tmp_path / "a.parquet"), schema=schema)
    assert not isinstance(examples.x, torch.Tensor)
    assert same(examples.x[:], schema.encode(PEOPLE[["age", "height", "ill"]]))
    with pytest.raises(ValueError, match="too large to guess a schema from all of it"):
        load(tmp_path / "a.parquet", schema="guess")


# --- a schema and rows that are held out -----------------------------------------------------------------------------------

TOWNS = pandas.DataFrame({"town": ["Oslo", "Bergen"] * 30, "height": np.linspace(1.5, 2.0, 60), "part": PEOPLE["part"]})
HELD_OUT = np.flatnonzero(TOWNS["part"] == "test")


@given(fraction=st.sampled_from([0.1, 0.25, 0.5]), seed=st.integers(0, 3), by=st.sampled_from(["label", "group", "time"]))
def test_a_schema_is_guessed_from_the_rows_that_are_trained_on(fraction, seed, by):
    columns = {"label": "ill", "group": "patient", "time": "seen"}
    options = {by: columns[by], "columns": ["age", "height"]}
    people = PEOPLE.assign(seen=pandas.to_datetime(PEOPLE["seen"]))
    train, test = load(people, validation=fraction, seed=seed, schema="guess", **options)
    rows = load(people, validation=fraction, seed=seed, **options)[0].rows  # without a schema
    expected = Schema.guess(people.iloc[rows.tolist()][["age", "height"]])
    assert train.schema.columns["age"] == expected.columns["age"]  # its quantiles and its range
    assert train.schema == test.schema
    assert same(train.x, train.schema.encode(people.iloc[train.rows.tolist()][["age", "height"]]))
    assert same(test.x, train.schema.encode(people.iloc[test.rows.tolist()][["age", "height"]]))


def test_what_held_out_rows_alone_have_is_missing_in_them():
    frame = TOWNS.copy()
    frame.loc[HELD_OUT[:2], "town"] = ["Molde", "Vadsø"]
    frame.loc[HELD_OUT[2], "height"] = -1.0  # where all others are above 0
    with pytest.warns(UserWarning, match=r"'town' has 'Molde', 'Vadsø' in 2 of the held-out rows.*; so have 'height'.*missing"):
        train, test = load(frame, validation="part", schema="guess")
    assert train.schema.columns["town"].levels == ("Bergen", "Oslo")
    assert train.schema.columns["height"].kind == "positive"
    assert test.x.isnan().nonzero().tolist() == [[0, 0], [1, 0], [2, 1]]
    assert not train.x.isnan().any()
    assert all(column.missing for column in test.schema)  # so that their likelihoods leave it out
    assert train.schema == test.schema


def test_a_schema_that_is_given_is_not_changed_by_what_held_out_rows_have():
    frame, schema = TOWNS.copy(), Schema.guess(TOWNS[["town", "height"]])
    frame.loc[HELD_OUT[0], "town"] = "Molde"
    with pytest.raises(ValueError, match="'Molde', which is not among its levels: 'Bergen', 'Oslo'"):
        load(frame, validation="part", schema=schema)
    allowing = schema.with_column("town", missing=True)
    with pytest.warns(UserWarning, match="Molde"):
        train, test = load(frame, validation="part", schema=allowing.to_config())
    assert train.schema == test.schema == allowing
    assert test.x.isnan().nonzero().tolist() == [[0, 0]]


def test_levels_that_are_said_are_known_in_held_out_rows(recwarn):
    frame = TOWNS.copy()
    frame.loc[HELD_OUT[0], "town"] = "Molde"
    levels = ["Bergen", "Molde", "Oslo"]
    _, test = load(frame, validation="part", schema={"town": {"levels": levels}})
    assert test.schema.decode(test.x)["town"][0] == "Molde"
    assert not recwarn.list


@pytest.mark.parametrize("held_out", [False, True])
def test_a_level_that_was_left_out_of_those_said_is_refused_in_rows_that_are_trained_on(held_out):
    frame, settings = TOWNS.copy(), {"town": {"levels": ["Bergen", "Oslo"]}}
    frame.loc[HELD_OUT[0] if held_out else 0, "town"] = "Molde"
    if held_out:
        with pytest.warns(UserWarning, match="Molde"):
            load(frame, validation="part", schema=settings)
    else:
        with pytest.raises(ValueError, match="'Molde', which is not among its levels"):
            load(frame, validation="part", schema=settings)


def test_a_file_that_is_validated_on_has_the_schema_of_the_other(tmp_path):
    further = TOWNS.iloc[:9].copy()
    further.loc[0, "town"], further.loc[1, "height"] = "Molde", np.nan
    write(further, tmp_path / "further.csv")
    with pytest.warns(UserWarning, match="Molde"):
        train, test = load(TOWNS, validation=tmp_path / "further.csv", schema="guess")
    assert train.schema == test.schema
    assert test.x.isnan().nonzero().tolist() == [[0, 0], [1, 1]]
    assert train.schema.columns["height"].range == (1.5, 2.0)


def test_a_model_of_a_schema_holds_rows_out_of_a_frame():
    frame = TOWNS[["town", "height"]].copy()
    frame.loc[::13, "height"] = np.nan
    vae = vaekit.create_vae("table", schema=Schema.guess(frame), seed=0)
    history = vaekit.fit(vae, frame, validation=0.2, epochs=1, progress=False)
    assert np.isfinite(history["val_loss"]).all()


# --- labels -----------------------------------------------------------------------------------------------------------------

CATEGORIES = pandas.Categorical(["low", "high", "low"], categories=["low", "mid", "high"])


@pytest.mark.parametrize(
    ("y", "numbers", "names"),
    [
        (["rome", "london", "rome"], [1, 0, 1], ("london", "rome")),
        (np.array(["b", "a", "b"]), [1, 0, 1], ("a", "b")),
        (np.array([b"b", b"a", b"b"]), [1, 0, 1], ("a", "b")),
        (np.array(["b", "a", "b"], dtype=object), [1, 0, 1], ("a", "b")),
        (CATEGORIES, [0, 2, 0], ("low", "mid", "high")),
        (pandas.Series(CATEGORIES), [0, 2, 0], ("low", "mid", "high")),
        (pandas.Series([True, False, True]), [1, 0, 1], ("False", "True")),
        (polars.Series(["b", "a", "b"]), [1, 0, 1], ("a", "b")),
        (polars.Series(["b", "a", "b"], dtype=polars.Enum(["b", "a"])), [0, 1, 0], ("b", "a")),
        (pyarrow.array(["b", "a", "b"]).dictionary_encode(), [0, 1, 0], ("b", "a")),
        (pandas.Series([3, 1, 2]), [3, 1, 2], None),
        (np.array([[3], [1], [2]]), [3, 1, 2], None),
        (torch.tensor([[3], [1], [2]]), [3, 1, 2], None),
        (pandas.Series([0.5, 1.0, 2.0]), [[0.5], [1.0], [2.0]], None),
        (np.array([0.5, 1.0, 2.0]), [[0.5], [1.0], [2.0]], None),
        (torch.tensor([[0.5], [1.0], [2.0]]), [[0.5], [1.0], [2.0]], None),
    ],
)
def test_labels_are_numbered_and_keep_their_names(y, numbers, names):
    examples = as_examples((torch.zeros(3, 2), y))
    assert examples.y.tolist() == numbers
    assert examples.y.dtype == (torch.int64 if isinstance(numbers[0], int) else torch.float32)
    assert examples.label_names == names


@given(st.lists(st.text(max_size=3), min_size=1, max_size=20))
def test_a_name_is_that_of_its_number(words):
    y, names = named_labels(words)
    assert [names[number] for number in y.tolist()] == words
    assert list(names) == sorted(set(words))


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (["a", None, "b"], ("a", "b")),
        (["a", float("nan"), "b"], ("a", "b")),
        (pandas.Series(["a", None, "b"]), ("a", "b")),
        (pandas.Series(["a", None, "b"], dtype="category"), ("a", "b")),
        (pandas.Series([False, None, True], dtype="boolean"), ("False", "True")),
        (polars.Series(["a", None, "b"]), ("a", "b")),
        (polars.Series([0, None, 1]), None),
        (pandas.Series([0.0, float("nan"), 1.0]), None),
    ],
)
def test_a_label_that_is_missing_is_minus_one_and_has_no_name(y, names):
    examples = as_examples((torch.zeros(3, 2), y))
    assert examples.y.tolist() == [0, -1, 1]
    assert examples.label_names == names
    assert examples.numbered_as(None if names is None else ("x", *names)).y.tolist() == (
        [0, -1, 1] if names is None else [1, -1, 2]
    )


def test_labels_of_a_column_that_are_all_missing_are_refused():
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [None, None]}, dtype="float")
    with pytest.raises(ValueError, match="column 'b', are missing in all 2 rows"):
        as_examples(frame, label="b")


# --- larger than memory -----------------------------------------------------------------------------------------------------


def test_parquet_larger_than_memory_is_read_where_it_is_indexed(tmp_path, monkeypatch):
    monkeypatch.setattr(framed, "_MOST_IN_MEMORY", 10)
    monkeypatch.setattr("vaekit.data.columnar._PIECE", 16)
    monkeypatch.setenv("VAEKIT_DATA", str(tmp_path / "cache"))
    PEOPLE.to_parquet(tmp_path / "a.parquet", row_group_size=25, index=False)
    options = {"label": "ill", "drop": ["seen", "part"], "group": "patient"}
    train, test = load(tmp_path / "a.parquet", **options)
    assert not isinstance(train.x, torch.Tensor)
    in_memory = load(PEOPLE, **options)
    for part, expected in zip((train, test), in_memory, strict=True):
        assert same(part.x[:], expected.x)
        assert torch.equal(part.rows, expected.rows)
        assert torch.equal(part.y, expected.y)
    index = torch.tensor([5, 0, 3])
    assert same(pickle.loads(pickle.dumps(train.x))[index], in_memory[0].x[index])
    assert len(list((tmp_path / "cache").iterdir())) == 1
    del train, test, part
    gc.collect()
    assert not list((tmp_path / "cache").iterdir())


def test_parquet_that_is_damaged_further_on_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(framed, "_MOST_IN_MEMORY", 10)
    monkeypatch.setenv("VAEKIT_DATA", str(tmp_path / "cache"))
    table = pyarrow.table({"a": np.random.default_rng(0).normal(size=50_000)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", use_dictionary=False, compression="zstd")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[200_000:200_400] = bytes(400)
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="a.parquet cannot be read as a parquet file"):
        load(tmp_path / "a.parquet")
    assert not list((tmp_path / "cache").iterdir())


def test_examples_that_are_taken_keep_what_they_are_split_by():
    examples = as_examples(PEOPLE, columns=["age"], group="patient", label="ill")
    half = examples.take(torch.arange(0, N, 2)).take(torch.arange(0, N // 2, 2))
    assert half.rows.tolist() == list(range(0, N, 4))
    assert half.label_names == ("no", "yes")
    assert torch.equal(half.marks.groups, examples.marks.groups[::4])
    assert isinstance(half, Examples)
