"""Delimited text, .csv and .tsv, as a table of pyarrow; what is wrong with a file is said by line and column."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaekit.data.frames import check_names, package
from vaekit.files import open_regular, printable

MISSING = (
    *("", "NA", "N/A", "NaN", "nan", "null", "NULL", "<NA>", "n/a", "#N/A", "#NA", "#N/A N/A"),
    *("-NaN", "-nan", "1.#QNAN", "-1.#IND", "1.#IND", "-1.#QNAN"),
)  # those of pyarrow, and pandas' own word

_MOST_BYTES = 2 << 30  # of text: a table of it takes about as much again
_SAMPLE = 1 << 20  # bytes, from which delimiter and decimals are recognised
_DELIMITERS = ",;\t|"
_GZIP = b"\x1f\x8b"


def read_bytes(path: Path) -> bytes:
    """All bytes of a file of text, decompressed where it is gzipped, whatever its name says.

    Raises:
        OSError: the file cannot be read.
        ValueError: a damaged .gz file, one with more than 2 GiB of text, or an empty one.
    """
    with open_regular(path) as raw:
        is_gzip = raw.read(2) == _GZIP
        raw.seek(0)
        try:
            content = (gzip.GzipFile(fileobj=raw) if is_gzip else raw).read(_MOST_BYTES + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is damaged or has been cut short: {error}") from error
    if len(content) > _MOST_BYTES:
        raise ValueError(
            f"{path} has more than {_MOST_BYTES >> 30} GiB of text, which is read whole; convert it once to parquet, which is "
            f"read by row groups: polars.scan_csv({str(path)!r}).sink_parquet('data.parquet')"
        )
    if not content.strip():
        raise ValueError(f"{path} is empty")
    return content


def utf8(content: bytes, path: Path, encoding: str | None = None) -> bytes:
    """Text as UTF-8 without the mark at its beginning.

    Raises:
        LookupError: no such encoding.
        ValueError: bytes that are not text in that encoding; the message says in which line and column.
    """
    if encoding is None:
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "utf-16" if is_wide else "utf-8"
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise ValueError(
            f"{path} is not {encoding} text: line {line}, byte {column} is 0x{content[error.start]:02x}; say what it is, "
            f"vaekit.data.read_frame({str(path)!r}, encoding='cp1252') for many files that Windows has written"
        ) from error
    if "\0" in text:
        raise ValueError(f"{path} is no text: there is a byte 0 in line {text.count(chr(10), 0, text.index(chr(0))) + 1}")
    return content if encoding == "utf-8" else text.encode()


def read(
    path: Path,
    delimiter: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    header: bool | None = None,
) -> Any:
    """A table of pyarrow; see `vaekit.data.read_frame`."""
    arrow, arrow_csv = package("pyarrow"), package("pyarrow.csv")
    for name, value in (("delimiter", delimiter), ("decimal", decimal)):
        if value is not None and (not isinstance(value, str) or len(value) != 1):
            raise ValueError(f"{name} has to be one character, got {value!r}")
    content = utf8(read_bytes(path), path, encoding)
    told = re.match(rb"sep=(.)\r?\n", content)  # Excel's own way
    if told:
        delimiter, content = delimiter or told[1].decode(), content[told.end() :]
    sample = _sample(content)
    delimiter = delimiter or _delimiter(sample, is_tabbed=re.search(r"\.(tsv|tab)(\.gz)?$", path.name.lower()) is not None)
    decimal = decimal or _decimal(sample, delimiter)
    first = next(_records(sample, delimiter))
    names = _header(first, path, delimiter, header)
    reading = arrow_csv.ReadOptions(block_size=1 << 24, autogenerate_column_names=names is None)
    parsing = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=len(first) > 1)
    converting = arrow_csv.ConvertOptions(null_values=MISSING, strings_can_be_null=True, decimal_point=decimal)
    if content.count(b'"') % 2:
        _check_records(content, path, delimiter)
    try:
        table = arrow_csv.read_csv(arrow.BufferReader(content), reading, parsing, converting)
    except arrow.ArrowInvalid as error:
        _check_records(content, path, delimiter)
        raise ValueError(f"{path} cannot be read as delimited text: {printable(error)}") from error
    return table.rename_columns(names or [str(place) for place in range(table.num_columns)])


def _sample(content: bytes) -> str:
    """The beginning of a file, up to the end of a line."""
    if len(content) <= _SAMPLE:
        return content.decode()
    return content[: content.rfind(b"\n", 0, _SAMPLE) + 1 or _SAMPLE].decode(errors="ignore")


def _records(text: str, delimiter: str) -> Iterator[list[str]]:
    """The records of text, without empty lines."""
    return (record for record in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if record)


def _delimiter(sample: str, is_tabbed: bool) -> str:
    """The delimiter that gives every record of the sample equally many fields, as many as possible."""

    def fields(delimiter: str) -> int:
        sizes = [len(record) for record in itertools.islice(_records(sample, delimiter), 50)]
        if len(sizes) > 2 and not sample.endswith("\n"):
            sizes.pop()  # may be cut short
        return min(sizes) if len(set(sizes)) == 1 else 1

    best = max(_DELIMITERS, key=fields)
    if fields(best) > 1:
        return best
    first_line = sample.partition("\n")[0]
    return "\t" if is_tabbed else max(_DELIMITERS, key=first_line.count)


def _decimal(sample: str, delimiter: str) -> str:
    """The decimal point of the sample's numbers."""
    if delimiter == ",":
        return "."
    found = {match[1] for record in _records(sample, delimiter) for field in record if (match := _DECIMAL.fullmatch(field))}
    return "," if found == {","} else "."


_DECIMAL = re.compile(r"\s*[-+]?\d*([.,])\d+(?:[eE][-+]?\d+)?\s*")
_NUMBER = re.compile(r"\s*[-+]?(\d+[.,]?\d*|[.,]\d+)(?:[eE][-+]?\d+)?\s*")


def _header(first: list[str], path: Path, delimiter: str, header: bool | None) -> list[str] | None:
    """The names of the columns; None where the first record is one of values."""
    if header is False:
        return None
    names = [name.strip() for name in first]
    are_places = names == [str(place) for place in range(len(names))]
    if header is None and not are_places and all(_NUMBER.fullmatch(name) for name in names):
        raise ValueError(
            f"the first line of {path} has to name the columns, but is {printable(delimiter.join(first), 60)!r}; write the names "
            "above it, or say that it has none, header=False (--read header=false)"
        )
    check_names(names, str(path))
    return names


def _check_records(content: bytes, path: Path, delimiter: str) -> None:
    """Raise ValueError for the first record that has not as many fields as the first, or a quotation that never ends."""
    reader = csv.reader(io.StringIO(content.decode(), newline=""), delimiter=delimiter, strict=True)
    before, width, row = 0, 0, 0
    while True:
        begin = before + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            what = "a quotation mark that is never closed" if "unexpected end" in str(error) else str(error)
            raise ValueError(f"{path}, line {begin}: {what}; double the marks inside a quotation, and close it") from error
        if record is None:
            return
        before = reader.line_num
        if not record:
            continue
        width, row = width or len(record), row + 1
        if len(record) != width:
            raise ValueError(_ragged(path, begin, before, record, width, row))


def _ragged(path: Path, begin: int, end: int, record: list[str], width: int, row: int) -> str:
    lines = f"line {begin}" if begin == end else f"the row in lines {begin} to {end}"
    wrong = f"column {width + 1} has no name" if len(record) > width else f"it ends after column {len(record)}"
    advice = ""
    if row == 2 and len(record) == width + 1:
        advice = "; are those names of rows, as R writes them? Give their column a name in the first line"
    elif begin != end:
        advice = "; is a quotation mark never closed?"
    return (
        f"{path}, {lines}: {len(record)} fields where the first line has {width}, so that {wrong}: "
        f"{printable(record[:6], 80)}{advice}"
    )
