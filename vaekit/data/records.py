"""Records of Python values as a table of pyarrow: .json, .jsonl and the sheet of a workbook, .xlsx."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import date, datetime
from numbers import Real
from pathlib import Path
from typing import Any

from vaekit.data.delimited import MISSING, read_bytes, utf8
from vaekit.data.frames import check_names, package
from vaekit.files import open_regular, printable

_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:$|[T ]\d\d:\d\d)")
_MISSING = frozenset(MISSING)


def read_json(path: Path) -> Any:
    """A table of pyarrow from a list of records, from columns, or from a record a line.

    Raises:
        OSError: the file cannot be read.
        ValueError: not JSON, with the line and the column; or JSON of another shape.
    """
    text = utf8(read_bytes(path), path).decode()
    is_lines = path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson"))
    if is_lines:
        content: Any = [_parsed(line, path, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        content = _parsed(text, path, 1)
    if isinstance(content, list) and content and all(isinstance(record, dict) for record in content):
        names = list(dict.fromkeys(name for record in content for name in record))
        columns = {name: [record.get(name) for record in content] for name in names}
    elif isinstance(content, dict) and all(isinstance(values, (dict, list)) for values in content.values()):
        columns = _columns(content, path)
    else:
        raise ValueError(
            f"{path} has to hold a list of records, [{{'age': 45, ...}}, ...], or columns, {{'age': [45, ...], ...}}; "
            f"it holds {printable(content, 60)}"
        )
    table = _table(columns, path, lambda row: f"row {row}")
    return package("pyarrow").table([_as_times(column) for column in table.columns], names=table.column_names)


def _parsed(text: str, path: Path, first_line: int) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is not JSON, or an object has a name twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        check_names((name for name, _ in pairs), f"{path}, line {first_line},")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise ValueError(f"{path}, line {line}, column {error.colno}, is not JSON: {error.msg}") from error


def _columns(content: dict[str, Any], path: Path) -> dict[str, list[Any]]:
    """Columns as lists; pandas writes them as objects whose names are those of the rows."""
    rows = {tuple(values) if isinstance(values, dict) else len(values) for values in content.values()}
    if len(rows) > 1:
        raise ValueError(f"the columns in {path} have different rows; give each a value for every row, null where it is missing")
    return {name: list(values.values() if isinstance(values, dict) else values) for name, values in content.items()}


def read_xlsx(path: Path, sheet: str | None = None) -> Any:
    """A table of pyarrow from a sheet whose first row names the columns.

    Raises:
        OSError: the file cannot be read.
        ValueError: not a workbook, several sheets of which none is chosen, or a cell that cannot be read.
    """
    openpyxl = package("openpyxl")
    with open_regular(path) as stream:
        try:
            book = openpyxl.load_workbook(stream, data_only=True)
            formulas = openpyxl.load_workbook(stream)
        except Exception as error:  # a damaged archive can raise anything
            raise ValueError(f"{path} cannot be read as a workbook: {printable(error)}; it may have been cut short") from error
    name = _sheet(book, path, sheet)
    rows = [[_cell(cell, path, formulas[name]) for cell in row] for row in book[name].iter_rows()]
    while rows and all(value is None for value in rows[-1]):
        rows.pop()
    width = max((place + 1 for row in rows for place, value in enumerate(row) if value is not None), default=0)
    if not rows or not width:
        raise ValueError(f"the sheet {name!r} of {path} is empty")
    names = ["" if value is None else str(value).strip() for value in rows[0][:width]]
    check_names(names, f"the sheet {name!r} of {path}")
    letters = [openpyxl.utils.get_column_letter(place + 1) for place in range(width)]
    columns = {name: [row[place] for row in rows[1:]] for place, name in enumerate(names)}
    of_name = dict(zip(names, letters, strict=True))
    return _table(columns, path, lambda row: f"row {row + 2}", of_name)


def _sheet(book: Any, path: Path, sheet: str | None) -> str:
    filled = [one.title for one in book.worksheets if any(cell is not None for row in one.values for cell in row)]
    if sheet is not None:
        if sheet not in book.sheetnames:
            raise ValueError(f"{path} has no sheet {sheet!r}; it has: {', '.join(map(repr, book.sheetnames))}")
        return sheet
    if len(filled) > 1:
        raise ValueError(
            f"{path} has several sheets, {', '.join(map(repr, filled))}; choose one, "
            f"vaekit.data.read_frame({str(path)!r}, sheet={filled[0]!r})"
        )
    return filled[0] if filled else str(book.sheetnames[0])


def _cell(cell: Any, path: Path, formulas: Any) -> Any:
    """The value of a cell, None where it is missing."""
    value = cell.value
    if isinstance(value, str) and value.strip() in _MISSING:
        return None
    if cell.data_type == "e":
        raise ValueError(f"{path}, cell {cell.coordinate}, holds the error {value}; correct the formula, or empty the cell")
    if value is None and formulas[cell.coordinate].data_type == "f":
        raise ValueError(
            f"{path}, cell {cell.coordinate}, is a formula whose value is not in the file; open it in a spreadsheet program and "
            "save it again"
        )
    return value


def _table(columns: dict[str, list[Any]], path: Path, where: Any, letters: dict[str, str] | None = None) -> Any:
    arrow = package("pyarrow")
    letters = letters or {}
    arrays = [
        _array(
            values,
            lambda row, name=name: f"{path}, column {letters.get(name, '')}{' ' * (name in letters)}{name!r}, {where(row)}",
        )
        for name, values in columns.items()
    ]
    return arrow.table(arrays, names=list(columns))


def _array(values: Sequence[Any], where: Any) -> Any:
    """A column of pyarrow from values of one kind; words for missing values are missing."""
    arrow = package("pyarrow")
    cleaned = [None if _is_missing(value) else value for value in values]
    first: tuple[int, str] | None = None
    for row, value in enumerate(cleaned):
        if value is None:
            continue
        kind = _kind(value)
        if kind is None:
            raise ValueError(
                f"{where(row)}: {printable(value, 60)} is no number, text, boolean or date; give it columns of its own"
            )
        first = first or (row, kind)
        if kind != first[1]:
            raise ValueError(
                f"{where(row)}: {printable(repr(value), 60)} is {kind}, while {printable(repr(cleaned[first[0]]), 60)} above it "
                f"is {first[1]}; a column is of one kind"
            )
    if first is not None and first[1] == "a number" and any(isinstance(value, float) for value in cleaned):
        return arrow.array([None if value is None else float(value) for value in cleaned], arrow.float64())
    try:
        return arrow.array(cleaned)
    except (arrow.ArrowException, OverflowError):  # whole numbers beyond 64 bits
        return arrow.array([None if value is None else float(value) for value in cleaned], arrow.float64())


def _as_times(column: Any) -> Any:
    """A column of text that is dates or times throughout, as JSON has them and ISO 8601 writes them; others as they are."""
    arrow = package("pyarrow")
    values = column.to_pylist() if column.type == arrow.string() else []
    if not any(values) or not all(value is None or _TIME.match(value) for value in values):
        return column
    for kind in (arrow.date32(), arrow.timestamp("us"), arrow.timestamp("us", "UTC")):
        try:
            return column.cast(kind)
        except arrow.ArrowException:
            continue
    return column


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return value in _MISSING
    return isinstance(value, float) and math.isnan(value)


def _kind(value: Any) -> str | None:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, Real):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a date" if isinstance(value, (date, datetime)) else None
