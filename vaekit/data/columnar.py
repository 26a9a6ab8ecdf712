"""Parquet and Arrow's own files, .feather and .arrow, as tables of pyarrow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vaekit.data.frames import check_names, package
from vaekit.files import open_regular, printable


def read_parquet(path: Path) -> Any:
    """A table of pyarrow; an index that pandas wrote without a name is no column.

    Raises:
        OSError: the file cannot be read.
        ValueError: a damaged file, or two columns of one name.
    """
    arrow, parquet = package("pyarrow"), package("pyarrow.parquet")
    with open_regular(path) as stream:
        try:
            file = parquet.ParquetFile(stream)
            return file.read(columns=columns_of(file.schema_arrow, path))
        except (arrow.ArrowException, OSError) as error:
            raise ValueError(
                f"{path} cannot be read as a parquet file: {printable(error)}; it may have been cut short"
            ) from error


def read_feather(path: Path) -> Any:
    """A table of pyarrow, from a feather file, or an Arrow file or stream.

    Raises: as `read_parquet`.
    """
    arrow = package("pyarrow")
    with open_regular(path) as stream:
        magic = stream.read(6)
        stream.seek(0)
        try:
            if magic[:4] == b"FEA1":
                table = package("pyarrow.feather").read_table(stream)
            elif magic == b"ARROW1":
                table = arrow.ipc.open_file(stream).read_all()
            else:
                table = arrow.ipc.open_stream(stream).read_all()
        except (arrow.ArrowException, OSError) as error:
            raise ValueError(f"{path} cannot be read as an Arrow file: {printable(error)}; it may have been cut short") from error
    return table.select(columns_of(table.schema, path))


def columns_of(schema: Any, path: Path) -> list[str]:
    """The names in a schema of pyarrow, without an index that pandas wrote without a name.

    Raises:
        ValueError: two columns of one name.
    """
    check_names(schema.names, str(path))
    indices = (schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in schema.names if not (name in indices and re.fullmatch(r"__index_level_\d+__", name))]
