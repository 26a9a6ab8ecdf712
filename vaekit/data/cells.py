"""Cells: counts of genes with what is known of each cell, from AnnData in memory or .h5ad files, which stay where they are.

I. Virshup, S. Rybakov, F. J. Theis, P. Angerer, F. A. Wolf, "anndata: Annotated data", 2021, doi:10.1101/2021.12.16.473007.
Counts that are held sparse, by rows, stay so and become dense a batch at a time.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaekit.checks import checked_word
from vaekit.data.examples import Examples
from vaekit.data.hdf5 import HDF5Item
from vaekit.data.mapped import MappedArray
from vaekit.data.readers import converter, reader
from vaekit.data.sparse import MatrixRows
from vaekit.files import open_regular


class Cells(Examples):
    """Cells with their counts, what a model is told of them, and names.

    Attributes:
        x: float32 [N, G], counts: a tensor, or a `MappedArray` over what is sparse or on disk.
        y: what a conditional model is told: the batch int64 [N], or columns float32 [N, K]; the labels, or None, without.
        genes: their names, in the order of x.
        condition: what `vaekit.create_vae` takes as condition= for this y, with the names of what is in it; None without.
        labels: int64 [N], the type of each cell, or None; `label_names` are theirs where y is the labels.
        kinds: the labels' names.
    """

    def __init__(
        self,
        x: Tensor | MappedArray,
        y: Tensor | None,
        genes: Sequence[str],
        condition: Mapping[str, Any] | list[Mapping[str, Any]] | None = None,
        labels: Tensor | None = None,
        kinds: Sequence[str] = (),
        rows: Tensor | None = None,
    ) -> None:
        super().__init__(x, labels if y is None else y, rows, kinds if y is None and labels is not None else None)
        self.genes, self.condition, self.labels, self.kinds = tuple(genes), condition, labels, tuple(kinds)

    def take(self, rows: Tensor) -> Cells:
        base = super().take(rows)
        labels = None if self.labels is None else self.labels[rows]
        y = None if self.condition is None else base.y
        return Cells(base.x, y, self.genes, self.condition, labels, self.kinds, base.rows)

    def of_genes(self, genes: Sequence[str], missing: str = "refuse") -> Cells:
        """The cells with the counts of these genes, in this order.

        Args:
            genes: their names.
            missing: "refuse" those that are not there, or take their counts as "zero" and warn.

        Raises:
            ValueError: genes that are missing.

        Warns:
            UserWarning: genes that are missing, in another order, or more than these.
        """
        order = order_of(genes, self.genes, missing)
        if order is None:
            return self
        if isinstance(self.x, Tensor):
            x: Tensor | MappedArray = torch.from_numpy(MatrixRows(self.x.numpy(), order)[:])
        else:
            x = MappedArray(self.x.array.of_columns(order), self.x.rows)
        y = None if self.condition is None else self.y
        return Cells(x, y, genes, self.condition, self.labels, self.kinds, self.rows)

    def told_as(self, condition: Mapping[str, Any]) -> Cells:
        """The cells with the y that a model's condition takes, found by the names of its columns and classes.

        Args:
            condition: its config. One without names takes y as it is.

        Raises:
            ValueError: a column that was not read; a class that the model was not trained on.
        """
        parts = parts_of(condition)
        if self.y is None or self.condition is None or not all(columns_of(part) for part in parts):
            return self
        columns = list(self.y[:, None].unbind(1) if self.y.ndim == 1 else self.y.unbind(1))
        own: dict[str, tuple[Tensor, Sequence[str]]] = {}  # the names of classes beside them, () beside numbers
        for part in parts_of(self.condition):
            levels = part["names"] if part["name"] == "labels" else ()
            own |= {name: (columns.pop(0), levels) for name in columns_of(part)}
        told: list[Tensor] = []
        for part in parts:
            for name in columns_of(part):
                values, levels = own.get(name, (None, ()))
                if values is None or bool(levels) != (part["name"] == "labels"):
                    form = "classes" if part["name"] == "labels" else "numbers"
                    raise ValueError(
                        f"the model is told the {form} {name!r} of each cell, these were read with {', '.join(map(repr, own))}"
                        "; vaekit.cells.matching(vae, adata) reads what the model needs"
                    )
                told.append(class_numbers(part, levels)[values.long()] if levels else values)
        y = told[0] if condition["name"] == "labels" else torch.stack([each.float() for each in told], dim=1)
        return Cells(self.x, y, self.genes, dict(condition), self.labels, self.kinds, self.rows)


def columns_of(part: Mapping[str, Any]) -> list[str]:
    """The columns of obs that a condition's config names; [] where it names none."""
    names = part.get("names") or ()
    return list(map(str, names)) if part["name"] == "vector" else [str(part["column"])] if names and part.get("column") else []


def parts_of(condition: Mapping[str, Any] | list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The conditions of a condition's config, one after the other."""
    if isinstance(condition, list):
        return condition
    parts: list[Mapping[str, Any]] = condition["parts"] if condition["name"] == "several" else [condition]
    return parts


def class_numbers(part: Mapping[str, Any], levels: Sequence[str], new: bool = False) -> Tensor:
    """The numbers int64 [K] that the classes of a model's condition have, of K names.

    Args:
        part: the condition's config, with names and column.
        levels: the names.
        new: number those that are not known after those that are, instead of refusing them.

    Raises:
        ValueError: a name that is not known.
    """
    unknown = [level for level in levels if level not in part["names"]]
    if unknown and not new:
        raise ValueError(
            f"the model was not trained on {part['column']} {', '.join(unknown[:5])}, but on {', '.join(part['names'][:20])}"
            "; vaekit.cells.adapt(vae, adata) learns what is new"
        )
    known = [*part["names"], *unknown]
    return torch.tensor([known.index(level) for level in levels])


def order_of(genes: Sequence[str], names: Sequence[str], missing: str) -> npt.NDArray[np.int64] | None:
    """Where `names` has each of the genes, -1 for one that is not there; None where all are in their place.

    Raises, Warns: as `Cells.of_genes`.
    """
    checked_word("missing_genes", missing, ("refuse", "zero"))
    if list(names) == list(genes):
        return None
    places = {name: place for place, name in enumerate(names)}
    order = np.array([places.get(name, -1) for name in genes], dtype=np.int64)
    absent = [name for name, place in zip(genes, order, strict=True) if place < 0]
    few = ", ".join([*absent[:5], *(["..."] if len(absent) > 5 else [])])
    told = f"{len(absent)} of the model's {len(genes)} genes are not in the data ({few})"
    if len(absent) == len(genes):
        raise ValueError(
            f"{told}, which has {', '.join(names[:5])}, ...; adata.var_names has to have the names that the model knows"
        )
    if absent and missing == "refuse":
        raise ValueError(f'{told}; vaekit.cells.matching(vae, adata, missing_genes="zero") takes their counts as 0')
    extra = len(names) - (len(genes) - len(absent))
    found = [f"{told}; their counts are taken as 0"] if absent else []
    found += [f"{extra} genes of the data are not the model's, and left out"] if extra else []
    found += ["the data has the model's genes in another order"] if (np.diff(order[order >= 0]) < 0).any() else []
    warnings.warn("; ".join(found), UserWarning, stacklevel=4)
    return order


def is_cells_file(source: Any) -> bool:
    """Whether a source is an .h5ad file, by its name."""
    return isinstance(source, (str, os.PathLike)) and str(source).lower().endswith(".h5ad")


def is_anndata(data: Any) -> bool:
    """Whether this is an AnnData object; the package is not imported."""
    return type(data).__module__.partition(".")[0] == "anndata" and hasattr(data, "obs") and hasattr(data, "layers")


@converter("AnnData objects", is_anndata, extra="cells")
def cells_of(
    data: Any, *, layer: str | None = None, batch: str | None = None, label: str | None = None, covariates: Sequence[str] = ()
) -> Cells:
    """An AnnData object as cells.

    Args:
        data: the AnnData, in memory or backed.
        layer: the layer that holds the counts; X by default.
        batch: the column of obs that a conditional model is told: the batch of each cell.
        label: the column of obs with the type of each cell, for pictures and scores.
        covariates: further columns of obs that it is told: classes, or numbers.

    Raises:
        KeyError: no such layer, or no such column.
        ValueError: missing values in a column; a column or two genes of one name; no cells.
    """
    x = counts_of(data, layer)
    if not len(x):
        raise ValueError("there are no cells in the data")
    names = [str(name) for name in data.var_names]
    y, condition = conditions_of(data.obs, batch, covariates)
    labels, kinds = (None, ()) if label is None else numbered(data.obs, label)
    return Cells(x, y, checked_genes(names), condition, None if labels is None else torch.from_numpy(labels), kinds)


@reader(".h5ad files", suffixes=(".h5ad",), extra="cells")
def read_cells(
    path: Path, *, layer: str | None = None, batch: str | None = None, label: str | None = None, covariates: Sequence[str] = ()
) -> tuple[Cells, None]:
    """Cells of a .h5ad file, whose counts stay on disk and are read a batch at a time; the rest as `cells_of`."""
    return cells_of(StoredCells(path), layer=layer, batch=batch, label=label, covariates=covariates), None


class StoredCells:
    """What is read of a .h5ad file: obs and var now, counts when they are asked for.

    Args:
        path: of the file.

    Attributes:
        obs, var_names: as of an AnnData.
        layers: name -> counts.
        X: the counts of the file's X, or None.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged, or holds no cells.
    """

    def __init__(self, path: Path) -> None:
        import h5py
        from anndata.io import read_elem

        open_regular(path).close()
        try:
            with h5py.File(path, "r") as file:
                self.obs, self.var_names = read_elem(file["obs"]), read_elem(file["var"]).index
                layers = list(file.get("layers", ()))
                self.X = StoredCounts(str(path), "X") if "X" in file else None
                self.layers = {name: StoredCounts(str(path), f"layers/{name}") for name in layers}
        except (OSError, KeyError, RuntimeError) as error:
            why = error.args[0] if error.args else error  # a KeyError shows quotes around it
            raise ValueError(f"{path} cannot be read as an .h5ad file ({why}); it may be damaged or cut short") from error


class StoredCounts(HDF5Item):
    """Counts of a .h5ad file, dense or sparse, of which rows are read when they are indexed.

    Attributes:
        shape: (N, G).
        dtype: of the counts.
        format: "csr" where rows can be read, "csc" where columns are.
    """

    def __init__(self, file: str, name: str) -> None:
        super().__init__(file, name)
        matrix = self._opened()
        self.shape, self.dtype, self.format = matrix.shape, matrix.dtype, getattr(matrix, "format", "csr")

    def __getitem__(self, rows: Any) -> Any:
        return self._opened()[rows]

    def to_memory(self) -> Any:
        """All of them, as scipy holds them."""
        return self._opened().to_memory()

    def _of(self, stored: Any) -> Any:
        import h5py
        from anndata.io import sparse_dataset

        return stored if isinstance(stored, h5py.Dataset) else sparse_dataset(stored)


def matrix_of(data: Any, layer: str | None) -> Any:
    """The counts of a layer, or X, that can be read by rows; what is sparse by columns is turned in memory.

    Raises:
        KeyError: no such layer.
        ValueError: there is no X.
    """
    if layer is not None and layer not in data.layers:
        raise KeyError(f"there is no layer {layer!r}; there are: {', '.join(data.layers) or 'none'}")
    matrix = data.X if layer is None else data.layers[layer]
    if matrix is None:
        raise ValueError(
            f"there is no X; name the layer that holds the counts, layer=; there are: {', '.join(data.layers) or 'none'}"
        )
    if getattr(matrix, "format", "csr") == "csr":
        return matrix
    held = matrix.to_memory() if hasattr(matrix, "to_memory") else matrix
    return held.tocsr()


def counts_of(data: Any, layer: str | None) -> Tensor | MappedArray:
    """The counts as `Examples` hold them: dense float32 as they are, and all else converted a batch at a time."""
    matrix = matrix_of(data, layer)
    if isinstance(matrix, np.ndarray) and matrix.dtype == np.float32 and not isinstance(matrix, np.memmap):
        return torch.from_numpy(np.ascontiguousarray(matrix))
    return MappedArray(MatrixRows(matrix))


def conditions_of(
    obs: Any, batch: str | None, covariates: Sequence[str]
) -> tuple[Tensor | None, Mapping[str, Any] | list[Mapping[str, Any]] | None]:
    """What a model is told by columns of obs, and the condition that takes it: classes first, then numbers."""
    if isinstance(covariates, str):
        raise TypeError(f"covariates has to be a list of columns of obs, got {covariates!r}; [{covariates!r}] is one")
    wanted = [*([] if batch is None else [batch]), *covariates]
    if twice := [name for name in wanted if wanted.count(name) > 1]:
        raise ValueError(f"{twice[0]!r} is named twice in batch={batch!r}, covariates={list(covariates)}; leave one of them out")
    if not wanted:
        return None, None
    numbers = [name for name in wanted if _is_number(column_of(obs, name)) and name != batch]
    parts: list[Mapping[str, Any]] = []
    columns: list[npt.NDArray[Any]] = []
    for name in (name for name in wanted if name not in numbers):
        values, levels = numbered(obs, name)
        parts.append({"name": "labels", "classes": len(levels), "names": levels, "column": name})
        columns.append(values)
    if not numbers and len(parts) == 1:
        return torch.from_numpy(columns[0]), parts[0]
    if numbers:
        parts.append({"name": "vector", "size": len(numbers), "names": numbers})
    columns += [numbers_of(obs, name) for name in numbers]
    return torch.from_numpy(np.stack([column.astype(np.float32) for column in columns], axis=1)), parts


def column_of(obs: Any, name: str) -> Any:
    """A column of obs.

    Raises:
        KeyError: there is none of that name.
    """
    if name not in obs:
        raise KeyError(f"obs has no column {name!r}; it has: {', '.join(map(str, obs.columns)) or 'none'}")
    return obs[name]


def numbered(obs: Any, name: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The classes in a column of obs as numbers, and their names, sorted or in the order of a category's levels."""
    column = _whole(column_of(obs, name), name)
    levels = [str(level) for level in column.astype("category").cat.remove_unused_categories().cat.categories]
    places = {level: number for number, level in enumerate(levels)}
    return np.array([places[str(value)] for value in column], dtype=np.int64), levels


def numbers_of(obs: Any, name: str) -> npt.NDArray[np.float32]:
    """A column of numbers of obs."""
    numbers: npt.NDArray[np.float32] = _whole(column_of(obs, name), name).to_numpy(dtype=np.float32)
    return numbers


def _is_number(column: Any) -> bool:
    return getattr(column.dtype, "kind", "O") in "fiu"


def _whole(column: Any, name: str) -> Any:
    if column.isna().any():
        raise ValueError(
            f"the column {name!r} of obs is missing in {int(column.isna().sum())} of {len(column)} cells; fill it first"
        )
    return column


def checked_genes(names: list[str]) -> list[str]:
    """The names of genes.

    Raises:
        ValueError: one that is there twice.
    """
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two genes are called {twice!r}; adata.var_names_make_unique() gives each its own name")
    return names
