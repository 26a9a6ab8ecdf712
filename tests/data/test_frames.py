"""Files of tables: every row and column of them is read, whatever wrote them, and what is wrong is named by line and column."""

import csv
import datetime
import gzip
import io
import json
import sys

import numpy as np
import openpyxl
import pandas
import polars
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaekit.data import as_frame, is_frame, read_frame
from vaekit.data.frames import categories, is_frame_file, matrix


@pytest.fixture
def reads(tmp_path):
    """reads(name, content, **options): the frame in a file of that content."""

    def read(name, content, **options):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_frame(tmp_path / name, **options)

    return read


PEOPLE = pandas.DataFrame(
    {
        "age": [45, 31, 7],
        "height": [1.75, None, 1.2],
        "name": ["Anna", "Bö", None],
        "smokes": [True, False, True],
        "born": [datetime.datetime(1979, 3, 1), None, datetime.datetime(2017, 12, 31)],
    }
)
ROWS = [
    (45, 1.75, "Anna", True, datetime.datetime(1979, 3, 1)),
    (31, None, "Bö", False, None),
    (7, 1.2, None, True, datetime.datetime(2017, 12, 31)),
]

WRITERS = {
    "people.csv": lambda path: PEOPLE.to_csv(path, index=False),
    "people.csv.gz": lambda path: PEOPLE.to_csv(path, index=False),
    "people.tsv": lambda path: PEOPLE.to_csv(path, index=False, sep="\t"),
    "semicolon.csv": lambda path: PEOPLE.to_csv(path, index=False, sep=";", decimal=","),
    "bar.csv": lambda path: PEOPLE.to_csv(path, index=False, sep="|", quoting=csv.QUOTE_ALL),
    "mark.csv": lambda path: PEOPLE.to_csv(path, index=False, encoding="utf-8-sig"),
    "wide.csv": lambda path: PEOPLE.to_csv(path, index=False, encoding="utf-16"),
    "windows.CSV": lambda path: PEOPLE.to_csv(path, index=False, lineterminator="\r\n"),
    "people.parquet": lambda path: PEOPLE.to_parquet(path),
    "people.feather": lambda path: PEOPLE.to_feather(path),
    "people.arrow": lambda path: polars.from_pandas(PEOPLE).write_ipc(path),
    "people.xlsx": lambda path: PEOPLE.to_excel(path, index=False),
    "stream.arrow": lambda path: polars.from_pandas(PEOPLE).write_ipc_stream(path),
}
JSON = {
    "people.json": {"orient": "records"},
    "columns.json": {"orient": "columns"},
    "lists.json": {"orient": "list"},
    "people.jsonl": {"orient": "records", "lines": True},
    "people.ndjson.gz": {"orient": "records", "lines": True},
}


def plain_rows(frame):
    """The rows as Python's values, None where one is missing: pandas' and pyarrow's NaN too."""
    return [tuple(None if value is None or value != value else value for value in row) for row in frame.rows()]


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_of_any_kind_is_the_frame_that_was_written(tmp_path, name):
    WRITERS[name](tmp_path / name)
    frame = read_frame(tmp_path / name)
    assert frame.columns == list(PEOPLE.columns)
    rows = plain_rows(frame)
    assert [row[:4] for row in rows] == [row[:4] for row in ROWS]
    assert [value and str(value)[:10] for *_, value in rows] == ["1979-03-01", None, "2017-12-31"]


@pytest.mark.parametrize("name", JSON)
def test_json_of_any_shape_is_the_frame_that_was_written(tmp_path, name):
    frame = PEOPLE.drop(columns="born")
    if JSON[name] == {"orient": "list"}:
        (tmp_path / name).write_text(json.dumps({key: values.tolist() for key, values in frame.items()}))  # with NaN in it
    else:
        frame.to_json(tmp_path / name, **JSON[name])
    assert plain_rows(read_frame(tmp_path / name)) == [row[:4] for row in ROWS]


def test_dates_and_times_in_json_are_no_text(tmp_path):
    frame = pandas.DataFrame(
        {
            "day": ["2026-01-31", None, "2025-12-01"],
            "time": ["2026-01-31T10:30:00.000", "2026-01-31 10:30", "2025-12-01T00:00:00.123456"],
            "zone": ["2026-01-31T10:30:00Z"] * 3,
            "name": ["2026-01-31", "no date", "2025-12-01"],
            "number": ["2026-99-99"] * 3,
        }
    )
    frame.to_json(tmp_path / "a.json", orient="records")
    read = read_frame(tmp_path / "a.json")
    kinds = [str(read.schema[name]).partition("(")[0] for name in frame]
    assert kinds == ["Date", "Datetime", "Datetime", "String", "String"]
    assert read["day"].to_list() == [datetime.date(2026, 1, 31), None, datetime.date(2025, 12, 1)]
    assert [value.isoformat() for value in read["time"].to_list()] == [
        "2026-01-31T10:30:00",
        "2026-01-31T10:30:00",
        "2025-12-01T00:00:00.123456",
    ]
    assert read["zone"].to_list()[0] == datetime.datetime(2026, 1, 31, 10, 30, tzinfo=datetime.timezone.utc)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=6).filter(str.strip)
values = {
    "whole": st.integers(-(2**63), 2**63 - 1),
    "real": st.floats(allow_nan=False, allow_infinity=False).filter(lambda v: v != int(v) if abs(v) < 1e300 else True),
    "text": texts.map("{}x".format),  # never a number, a date or a word for what is missing
}


@given(
    data=st.data(), kinds=st.lists(st.sampled_from(sorted(values)), min_size=2, max_size=4), delimiter=st.sampled_from(",;\t|")
)
def test_what_is_written_as_csv_is_read_again(tmp_path_factory, data, kinds, delimiter):
    names = data.draw(
        st.lists(texts.map("n{}".format).filter(lambda n: n == n.strip()), min_size=len(kinds), max_size=len(kinds), unique=True)
    )
    columns = [[data.draw(values[kind]) for _ in range(3)] for kind in kinds]
    missing = data.draw(st.sampled_from(["", "NA", "NaN", "null"]))
    columns[0][2] = None
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(names)
    writer.writerows([missing if value is None else value for value in row] for row in zip(*columns, strict=True))
    path = tmp_path_factory.getbasetemp() / "written.csv"
    path.write_bytes(text.getvalue().encode())
    frame = read_frame(path, delimiter=delimiter, decimal=".")
    assert frame.columns == names
    assert [frame[name].to_list() for name in names] == columns


@given(
    rows=st.lists(
        st.lists(
            st.one_of(st.none(), st.integers(-99, 99), st.floats(-9, 9).map(lambda v: round(v, 3)).filter(lambda v: v % 1)),
            min_size=3,
            max_size=3,
        ),
        min_size=2,
        max_size=9,
    ),
    layout=st.sampled_from([(",", "."), (";", "."), (";", ","), ("\t", ","), ("|", ".")]),
)
def test_delimiter_and_decimals_are_recognised_as_pandas_is_told_them(tmp_path_factory, rows, layout):
    delimiter, decimal = layout
    path = tmp_path_factory.getbasetemp() / "recognised.csv"
    rows = [[1.5, *row] for row in [*rows, [1, 2, 3]]]  # a number with decimals shows what they are; each column has one
    pandas.DataFrame(rows, columns=["u", "a", "b", "c"], dtype=object).map(
        lambda v: "" if v is None else str(v).replace(".", decimal)
    ).to_csv(path, sep=delimiter, index=False)
    expected = pandas.read_csv(path, sep=delimiter, decimal=decimal)
    np.testing.assert_array_equal(matrix(read_frame(path)), expected.to_numpy(np.float32))


# --- nothing is dropped -----------------------------------------------------------------------------------------------------


def test_a_line_without_anything_is_a_missing_value_in_a_file_of_one_column(reads):
    assert reads("one.csv", "a\n1\n\n3\n").rows() == [(1,), (None,), (3,)]
    assert reads("two.csv", "a,b\n1,2\n\n3,4\n").rows() == [(1, 2), (3, 4)]


def test_a_kind_that_shows_late_holds_for_the_whole_column(reads):
    assert reads("late.csv", "a,b\n" + "1,2\n" * 300_000 + "x,2.5\n").rows()[-1] == ("x", 2.5)


def test_records_without_a_field_lack_it_and_no_field_is_lost(reads):
    frame = reads("some.json", '[{"a": 1}, {"b": "x", "a": 2.5}]')
    assert frame.columns == ["a", "b"]
    assert frame.rows() == [(1.0, None), (2.5, "x")]


def test_a_quotation_may_hold_lines_and_delimiters(reads):
    assert reads("quoted.csv", 'a,b\n"x,\ny ""z""",2\n').rows() == [('x,\ny "z"', 2)]


def test_excels_own_line_names_the_delimiter(reads):
    assert reads("excel.csv", "sep=;\na;b\n1,5;2\n").rows() == [(1.5, 2)]


def test_a_header_of_places_is_one_and_without_a_header_the_columns_are_places(reads):
    assert reads("places.csv", "0,1\n5,2\n").rows() == [(5, 2)]
    frame = reads("none.csv", "5.1,3.5\n5,2\n", header=False)
    assert (frame.columns, len(frame)) == (["0", "1"], 2)


def test_an_index_without_a_name_is_no_column_of_parquet(tmp_path):
    PEOPLE[["age"]].set_index(pandas.Index([5, 3, 4])).to_parquet(tmp_path / "index.parquet")
    PEOPLE[["age"]].set_index(pandas.Index([5, 3, 4], name="id")).to_parquet(tmp_path / "named.parquet")
    assert read_frame(tmp_path / "index.parquet").columns == ["age"]
    assert read_frame(tmp_path / "named.parquet").columns == ["age", "id"]


def test_categories_keep_their_order(tmp_path):
    grades = pandas.DataFrame({"grade": pandas.Categorical(["low", "high"], categories=["low", "mid", "high"])})
    grades.to_feather(tmp_path / "grades.feather")
    enum = polars.DataFrame({"grade": polars.Series(["low", "high"], dtype=polars.Enum(["low", "mid", "high"]))})
    chunks = pyarrow.concat_tables(
        [pyarrow.table({"grade": pyarrow.array([level]).dictionary_encode()}) for level in ("low", "high")]
    )
    for frame in (grades, read_frame(tmp_path / "grades.feather"), enum):
        assert categories(as_frame(frame)["grade"]) == ["low", "mid", "high"]
    assert categories(as_frame(chunks)["grade"]) == ["low", "high"]
    assert categories(as_frame(enum.cast(polars.Categorical))["grade"]) is None
    assert categories(as_frame(enum.cast(polars.String))["grade"]) is None


# --- what is wrong is named -------------------------------------------------------------------------------------------------

BROKEN = {
    "long": ("a,b\n1,2\n1,2,3\n", "line 3: 3 fields where the first line has 2, so that column 3 has no name"),
    "short": ("a,b\n1,2\n\n3\n", "line 4: 1 fields where the first line has 2, so that it ends after column 1"),
    "after a quotation": ('a,b\n1,"x\ny"\n3\n', "line 4: 1 fields"),
    "names of rows": ("a,b\nr1,1,2\n", "names of rows, as R writes them"),
    "never closed": ('a,b\n1,2\n1,"x\n3,4\n', "line 3: a quotation mark that is never closed"),
    "other encoding": ("a,b\n1,2\nJosé,2\n".encode("cp1252"), r"not utf-8 text: line 3, byte 4 is 0xe9.*encoding='cp1252'"),
    "binary": (b"a,b\n1,\0\n", "a byte 0 in line 2"),
    "two names": ("a,b,a\n1,2,3\n", r"more than one column of the name 'a' \(columns 1, 3\)"),
    "two names but for spaces": ("a, a\n1,2\n", "more than one column of the name 'a'"),
    "no names": ("5.1,3.5\n4.9,3\n", r"has to name the columns, but is '5.1,3.5'.*header=False"),
    "no rows": ("a,b\n", "names 2 columns, but has no rows"),
    "empty": ("", "is empty"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_csv_is_named_by_line_and_column(reads, name):
    content, message = BROKEN[name]
    with pytest.raises(ValueError, match=message):
        reads("broken.csv", content)


BROKEN_FILES = {
    "cut.csv.gz": (gzip.compress(b"a,b\n1,2\n" * 99)[:-7], "damaged or has been cut short"),
    "a.json": ('[{"a": 1},\n {"a": x}]', "line 2, column 8, is not JSON"),
    "a.jsonl": ('{"a": 1}\n{"a": 2\n', "line 2, column 8, is not JSON"),
    "twice.json": ('[{"a": 1, "a": 2}]', "more than one column of the name 'a'"),
    "mixed.json": ('[{"a": 1}, {"a": "x"}]', "column 'a', row 1: 'x' is text, while 1 above it is a number"),
    "nested.json": ('[{"a": [1]}]', r"column 'a', row 0: \[1\] is no number"),
    "scalar.json": ("3", "has to hold a list of records"),
    "lengths.json": ('{"a": [1], "b": [1, 2]}', "different rows"),
    "a.parquet": (b"PAR1 and nothing", "cannot be read as a parquet file"),
    "a.feather": (b"ARROW1 and nothing", "cannot be read as an Arrow file"),
    "a.xlsx": (b"PK and nothing", "cannot be read as a workbook"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_file_is_named(reads, name):
    content, message = BROKEN_FILES[name]
    with pytest.raises(ValueError, match=message) as raised:
        reads(name, content)
    assert name in str(raised.value)


@pytest.mark.parametrize(
    ("name", "write"), [("twice.feather", pyarrow.feather.write_feather), ("twice.parquet", pyarrow.parquet.write_table)]
)
def test_a_file_with_two_columns_of_one_name_is_refused(tmp_path, name, write):
    write(pyarrow.table([[1], [2]], names=["a", "a"]), tmp_path / name)
    with pytest.raises(ValueError, match="more than one column of the name 'a'"):
        read_frame(tmp_path / name)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"A1": "age", "A2": 45, "A3": "old"}, "column A 'age', row 3: 'old' is text, while 45 above it is a number"),
        ({"A1": "age", "A2": "=1/0"}, "cell A2, is a formula whose value is not in the file"),
        ({"A1": "age", "A2": "#DIV/0!"}, "cell A2, holds the error #DIV/0!"),
        ({"A1": "age", "B1": "age", "A2": 1}, "more than one column of the name 'age'"),
    ],
)
def test_a_workbook_is_named_by_its_cells(tmp_path, cells, message):
    book = openpyxl.Workbook()
    for place, value in cells.items():
        book.active[place] = value
    book.save(tmp_path / "book.xlsx")
    with pytest.raises(ValueError, match=message):
        read_frame(tmp_path / "book.xlsx")


def test_of_several_sheets_one_is_chosen(tmp_path):
    with pandas.ExcelWriter(tmp_path / "book.xlsx") as writer:
        PEOPLE[["age"]].to_excel(writer, sheet_name="one", index=False)
        PEOPLE[["height"]].to_excel(writer, sheet_name="two", index=False)
    with pytest.raises(ValueError, match="several sheets, 'one', 'two'; choose one"):
        read_frame(tmp_path / "book.xlsx")
    assert read_frame(tmp_path / "book.xlsx", sheet="two").columns == ["height"]
    with pytest.raises(ValueError, match="no sheet 'three'"):
        read_frame(tmp_path / "book.xlsx", sheet="three")


def test_an_option_that_a_file_does_not_take_is_refused(reads):
    with pytest.raises(ValueError, match="takes no sheet"):
        reads("a.csv", "a,b\n1,2\n", sheet="one")
    with pytest.raises(ValueError, match="takes no delimiter"):
        reads("a.json", '[{"a": 1}]', delimiter=";")
    with pytest.raises(ValueError, match="one character, got '::'"):
        reads("a.csv", "a,b\n1,2\n", delimiter="::")
    with pytest.raises(ValueError, match="no file of a table"):
        reads("a.txt", "a,b\n1,2\n")
    assert is_frame_file("X.PARQUET")
    assert not is_frame_file("x.parquet.gz")


# --- frames in memory -------------------------------------------------------------------------------------------------------

LIBRARIES = {
    "pandas": pandas.DataFrame,
    "polars": polars.DataFrame,
    "lazy": lambda columns: polars.DataFrame(columns).lazy(),
    "pyarrow": pyarrow.table,
    "batch": lambda columns: pyarrow.RecordBatch.from_pydict(columns),
    "narwhals": lambda columns: as_frame(pandas.DataFrame(columns)),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_frame_of_any_library_is_the_same_matrix(library):
    frame = LIBRARIES[library]({"a": [1, 2, None], "b": [True, False, None], "c": [0.5, float("nan"), 3.0]})
    assert is_frame(frame)
    x = matrix(as_frame(frame))
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [[1, 1, 0.5], [2, 0, np.nan], [np.nan, np.nan, 3]])


def test_columns_of_objects_that_are_numbers_are_numbers():
    frame = pandas.DataFrame({"a": pandas.Series([1, None, 2.5], dtype=object), 7: [1, 2, 3]})
    np.testing.assert_array_equal(matrix(as_frame(frame)), [[1, 1], [np.nan, 2], [2.5, 3]])
    assert as_frame(frame).columns == ["a", "7"]


def test_what_is_no_frame_or_has_no_plain_names_is_refused():
    with pytest.raises(TypeError, match="a frame of pandas, polars or pyarrow is expected, got list"):
        as_frame([[1]])
    with pytest.raises(ValueError, match=r"more than one column of the name 'a' \(columns 1, 2\)"):
        as_frame(pandas.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(ValueError, match="more than one column of the name '1'"):
        as_frame(pandas.DataFrame([[1, 2]], columns=["1", 1]))
    with pytest.raises(ValueError, match="several levels"):
        as_frame(pandas.DataFrame([[1]], columns=pandas.MultiIndex.from_tuples([("a", "b")])))


def test_a_matrix_names_the_columns_that_are_no_numbers_and_the_numbers_that_are_too_large():
    frame = pandas.DataFrame({"a": [1, 2, 3], "sex": ["f", "m", "f"], "b": ["1", "2", "old"]})
    with pytest.raises(TypeError, match="'sex' is text: 'f', 'm'; 'b' is text where most are numbers: 'old' in row 2"):
        matrix(as_frame(frame))
    with pytest.raises(ValueError, match="column 'a' has 1e[+]39 in row 1, beyond the range of float32"):
        matrix(as_frame(pandas.DataFrame({"a": [1.0, 1e39]})))


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "narwhals", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "vaekit\[tables\]"'):
        as_frame(PEOPLE)
