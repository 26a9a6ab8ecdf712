"""Files of numbers, by the ending of their name: .csv, .tsv, .parquet, .npy, .npz, .h5ad, and folders of .png files.

What is written comes in parts, arrays by name with a few rows each, so that a file may be larger than memory (an .npz is not).
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import typer

from vaekit.cli.annotated import AnnotatedCells
from vaekit.data.frames import package
from vaekit.files import writable_folder, write_atomically, written_at_once

Arrays: TypeAlias = "Mapping[str, Any]"  # NumPy's, and of a table with several kinds of columns pyarrow's

FILES = (".csv", ".tsv", ".parquet", ".npy", ".npz", ".h5ad")
TABLES = (".csv", ".tsv", ".parquet")
KINDS = f"{', '.join(FILES)} (cells), a folder of .png files with a / at its end, or - for .csv on stdout"


@dataclass(frozen=True)
class Target:
    """Where numbers are written.

    Attributes:
        path: None for stdout.
        kind: one of `FILES`; "/" for a folder of pictures; "" for a file of another kind.
    """

    path: Path | None
    kind: str

    @property
    def is_table(self) -> bool:
        """Whether it has a line for each row."""
        return self.kind in TABLES

    def check(self, overwrite: bool, kinds: tuple[str, ...] = (*FILES, "/")) -> None:
        """Refuse another kind of file, and one that is there already unless it may be overwritten.

        Raises:
            ValueError: such a file; the message says what to do.
        """
        if self.kind not in kinds:
            takes = ", ".join("a folder of .png files, with a / at its end" if kind == "/" else kind for kind in kinds)
            raise ValueError(f"--out takes {takes}, or - for .csv on stdout, got {self.path}{'/' * (self.kind == '/')}")
        is_there = self.path is not None and self.path.exists()
        if is_there and not overwrite and not (self.kind == "/" and not any(Path(str(self.path)).iterdir())):
            raise ValueError(f"{self.path} is there already; choose another --out, or replace it with --overwrite")


def target(text: str) -> Target:
    """What --out says.

    Example:
        >>> target("z.npy").kind, target("pictures/").kind, target("-")
        ('.npy', '/', Target(path=None, kind='.csv'))
    """
    if not text.strip():
        raise typer.BadParameter("the name is empty")
    if text == "-":
        return Target(None, ".csv")
    path = Path(text)
    return Target(path, "/" if text.endswith(("/", "\\")) else path.suffix.lower() if path.suffix.lower() in FILES else "")


def write(
    out: Target,
    parts: Iterable[Arrays],
    columns: Mapping[str, list[str]],
    main: str,
    count: int,
    limits: tuple[float, float],
    cells: AnnotatedCells | None = None,
) -> None:
    """Write all parts, whole or not at all.

    Args:
        out: the file, checked.
        parts: arrays [B, ...] by name, the same names each time. Tables have them all, side by side, and an .npz file too.
        columns: of each array of more than one axis the names of its columns, in the order of its flattened rows.
        main: the array that an .npy file, or a picture, shows.
        count: the number of rows in all parts together.
        limits: the values that are black and white in pictures.
        cells: what an .h5ad file is about.

    Raises:
        OSError: it cannot be written.
        ValueError: pictures of what is none, or of values without limits; an .h5ad file of what are no cells.
    """
    if out.path is None:
        _write_delimited(sys.stdout.buffer, parts, columns, ",")
        return
    if out.kind == "/":
        _write_pictures(out.path, parts, main, count, limits)
        return
    writers: dict[str, Callable[[BinaryIO], None]] = {
        ".csv": lambda stream: _write_delimited(stream, parts, columns, ","),
        ".tsv": lambda stream: _write_delimited(stream, parts, columns, "\t"),
        ".parquet": lambda stream: _write_parquet(stream, parts, columns),
        ".npy": lambda stream: _write_npy(stream, parts, main, count),
        ".npz": lambda stream: _write_npz(stream, parts),
    }
    if out.kind == ".h5ad":
        if cells is None:
            raise ValueError(
                f"{out.path}: an .h5ad file is about cells, and the model knows no genes by name; write another kind"
            )
        writers[".h5ad"] = lambda stream: cells.write(stream.name, parts, count)
    writable_folder(out.path.parent)
    write_atomically(out.path, writers[out.kind])


def _side_by_side(arrays: Arrays, columns: Mapping[str, list[str]]) -> dict[str, Any]:
    """Each column by its name, [B]."""
    table: dict[str, Any] = {}
    for name, array in arrays.items():
        if getattr(array, "ndim", 1) == 1:
            table[name] = array
            continue
        table |= zip(columns[name], array.reshape(len(array), -1).T, strict=True)
    return table


def _write_delimited(stream: BinaryIO, parts: Iterable[Arrays], columns: Mapping[str, list[str]], delimiter: str) -> None:
    """Numbers have as few digits as give back every bit; what is missing is an empty field."""
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    writer, is_first = csv.writer(text, delimiter=delimiter, lineterminator="\n"), True
    for arrays in parts:
        table = _side_by_side(arrays, columns)
        if is_first:
            writer.writerow(table)
            is_first = False
        writer.writerows(
            zip(*(["" if v is None or v != v else str(v) for v in _values(column)] for column in table.values()), strict=True)
        )
    text.flush()
    text.detach()


def _values(column: Any) -> Iterable[Any]:
    return column if isinstance(column, np.ndarray) else column.to_pylist()


def _write_parquet(stream: BinaryIO, parts: Iterable[Arrays], columns: Mapping[str, list[str]]) -> None:
    """A row group for each part."""
    arrow, parquet, writer = package("pyarrow"), package("pyarrow.parquet"), None
    try:
        for arrays in parts:
            table = _side_by_side(arrays, columns)
            rows = arrow.table({name: _arrow(v) for name, v in table.items()})
            writer = writer or parquet.ParquetWriter(stream, rows.schema)
            writer.write_table(rows)
    finally:
        if writer is not None:
            writer.close()


def _arrow(column: Any) -> Any:
    numpy = isinstance(column, np.ndarray)
    return package("pyarrow").array(np.ascontiguousarray(column), from_pandas=True) if numpy else column


def _write_npy(stream: BinaryIO, parts: Iterable[Arrays], main: str, count: int) -> None:
    is_first = True
    for arrays in parts:
        array = np.ascontiguousarray(arrays[main])
        if is_first:
            shape = (count, *array.shape[1:])
            header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            is_first = False
        stream.write(array.tobytes())


def _write_npz(stream: BinaryIO, parts: Iterable[Arrays]) -> None:
    held = list(parts)
    arrays: dict[str, Any] = {name: np.concatenate([part[name] for part in held]) for name in held[0]}
    np.savez(stream, **arrays)


def _write_pictures(folder: Path, parts: Iterable[Arrays], main: str, count: int, limits: tuple[float, float]) -> None:
    """000.png, 001.png, ...: one for each row."""
    from PIL import Image

    low, high = limits
    digits = len(str(max(count - 1, 0)))
    with written_at_once(folder) as new:
        for number, pixels in enumerate(_pictures(parts, main)):
            if not math.isfinite(high - low):
                raise ValueError(
                    "pictures need values with a least and a largest one, which this likelihood's have not; write .npy"
                )
            grey = np.rint((pixels.clip(low, high) - low) * (255.0 / (high - low))).astype(np.uint8)
            picture = Image.fromarray(grey[0] if len(grey) == 1 else np.moveaxis(grey, 0, -1))
            stream = io.BytesIO()
            picture.save(stream, format="PNG")
            write_atomically(new / f"{number:0{digits}}.png", stream.getvalue())


def _pictures(parts: Iterable[Arrays], main: str) -> Iterator[np.ndarray[Any, Any]]:
    for arrays in parts:
        for pixels in arrays[main]:
            if pixels.ndim != 3 or len(pixels) not in (1, 3):
                raise ValueError(f"a picture is [1 or 3 channels, height, width], got {tuple(pixels.shape)}; write .npy")
            yield pixels.astype(np.float64)
