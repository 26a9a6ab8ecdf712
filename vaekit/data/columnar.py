"""Parquet and Arrow's own files, .feather and .arrow, as tables of pyarrow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vaekit.data.frames import as_frame, check_names, package
from vaekit.files import open_regular, printable

if TYPE_CHECKING:
    import narwhals as nw


_PIECE = 1 << 20  # numbers that are decoded at once


class ParquetRows:
    """A parquet file, of which columns are read whole or some rows after the other; an index without a name is no column.

    Attributes:
        names: of its columns.

    Raises:
        OSError: the file cannot be read.
        ValueError: a damaged file, or two columns of one name; also while reading.
    """

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._path = path
        with self._damage_named():
            # Unless told to, pyarrow reads a whole row group ahead.
            self._file = package("pyarrow.parquet").ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False)
        self.names = columns_of(self._file.schema_arrow, path)

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[ParquetRows]:
        with open_regular(path) as stream:
            yield cls(stream, path)

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def table(self, names: Sequence[str]) -> Any:
        """Columns as a table of pyarrow."""
        with self._damage_named():
            return self._file.read(columns=list(names))

    def read(self, names: Sequence[str]) -> nw.DataFrame[Any]:
        """Columns as a frame."""
        return as_frame(self.table(names)).select(list(names))

    def pieces(self, names: Sequence[str]) -> Iterator[nw.DataFrame[Any]]:
        """Columns as frames of some rows after the other."""
        with self._damage_named():
            for batch in self._file.iter_batches(max(1, _PIECE // len(names)), columns=list(names), use_threads=False):
                yield as_frame(batch).select(list(names))

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except (package("pyarrow").ArrowException, OSError) as error:
            raise ValueError(
                f"{self._path} cannot be read as a parquet file: {printable(error)}; it may have been cut short"
            ) from error


class ArrowRows:
    """An Arrow file (feather's second version is one), of which columns are read whole or some rows after the other.

    Attributes:
        names: of its columns, as those of `ParquetRows`.

    Raises: as `ParquetRows`.
    """

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream, self._path = stream, path
        self._schema = self._opened().schema
        self.names = columns_of(self._schema, path)

    def _opened(self, names: Sequence[str] | None = None) -> Any:
        """A reader of some of the columns."""
        ipc = package("pyarrow").ipc
        places = None if names is None else [self._schema.get_field_index(name) for name in names]
        self._stream.seek(0)
        with _arrow_damage_named(self._path):
            return ipc.open_file(self._stream, options=ipc.IpcReadOptions(included_fields=places, use_threads=False))

    def __len__(self) -> int:
        return sum(len(piece) for piece in self.pieces(self.names[:1]))

    def read(self, names: Sequence[str]) -> nw.DataFrame[Any]:
        """Columns as a frame."""
        reader = self._opened(names)
        with _arrow_damage_named(self._path):
            return as_frame(reader.read_all()).select(list(names))

    def pieces(self, names: Sequence[str]) -> Iterator[nw.DataFrame[Any]]:
        """Columns as frames, one for each record batch."""
        reader = self._opened(names)
        for number in range(reader.num_record_batches):
            with _arrow_damage_named(self._path):
                batch = reader.get_batch(number)
            yield as_frame(batch).select(list(names))


@contextmanager
def _arrow_damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (package("pyarrow").ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as an Arrow file: {printable(error)}; it may have been cut short") from error


@contextmanager
def rows_of(path: Path) -> Iterator[ParquetRows | ArrowRows | None]:
    """The rows of a file that is read some rows after the other; None for one that is not."""
    with open_regular(path) as stream:
        ending, is_arrow = path.suffix.lower(), stream.read(6) == b"ARROW1"
        stream.seek(0)
        try:
            if ending == ".parquet":
                yield ParquetRows(stream, path)
            else:
                yield ArrowRows(stream, path) if is_arrow and ending in (".feather", ".arrow") else None
        finally:
            package("pyarrow").default_memory_pool().release_unused()  # what pyarrow keeps for the next file


def read_parquet(path: Path) -> Any:
    """A table of pyarrow; an index that pandas wrote without a name is no column.

    Raises: as `ParquetRows`.
    """
    with ParquetRows.open(path) as rows:
        return rows.table(rows.names)


def read_feather(path: Path) -> Any:
    """A table of pyarrow, from a feather file, or an Arrow file or stream.

    Raises: as `ParquetRows`.
    """
    arrow = package("pyarrow")
    with open_regular(path) as stream:
        magic = stream.read(6)
        stream.seek(0)
        with _arrow_damage_named(path):
            if magic[:4] == b"FEA1":
                table = package("pyarrow.feather").read_table(stream)
            elif magic == b"ARROW1":
                table = arrow.ipc.open_file(stream).read_all()
            else:
                table = arrow.ipc.open_stream(stream).read_all()
    return table.select(columns_of(table.schema, path))


def columns_of(schema: Any, path: Path) -> list[str]:
    """The names in a schema of pyarrow, without an index that pandas wrote without a name.

    Raises:
        ValueError: two columns of one name.
    """
    check_names(schema.names, str(path))
    indices = (schema.pandas_metadata or {}).get("index_columns", [])
    return [name for name in schema.names if not (name in indices and re.fullmatch(r"__index_level_\d+__", name))]
