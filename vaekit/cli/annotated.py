"""What a model makes of cells, in .h5ad files: what describes the cells, as it was read, with more in obs, obsm and layers.

I. Virshup, S. Rybakov, F. J. Theis, P. Angerer, F. A. Wolf, "anndata: Annotated data", 2021, doi:10.1101/2021.12.16.473007.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vaekit.data.readers import packages_of


@dataclass(frozen=True)
class AnnotatedCells:
    """The cells that a file is about.

    Attributes:
        places: where each array goes: "obs/NAME" [N], "obsm/NAME" [N, K], "layers/NAME" [N, G] or "X" [N, G].
        genes: the model's, the columns of X and layers; those of the file that are none of them are NaN in what is written.
        path: the .h5ad file that describes the cells, which is copied; None where there is none.
        rows: the cells of it, in this order; None for all of them.
        obs: what describes cells that no file does.
    """

    places: Mapping[str, str]
    genes: Sequence[str]
    path: Path | None = None
    rows: npt.NDArray[np.int64] | None = None
    obs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def write(self, file: str, parts: Iterable[Mapping[str, npt.NDArray[Any]]], count: int) -> None:
        """Write the file, with the arrays of all parts in their places.

        Args:
            file: its name.
            parts: arrays [B, ...] by name, the same names each time.
            count: the number of rows in all parts together.
        """
        with packages_of("cells", ".h5ad files"):
            import h5py
            from anndata.io import read_elem, write_elem
        self._begin(file, count)
        columns: dict[str, list[npt.NDArray[Any]]] = {}
        with h5py.File(file, "r+", locking=False) as stored:  # whoever writes the file whole or not at all holds its lock
            frame = read_elem(stored["obs"])
            genes = [str(name) for name in read_elem(stored["var"]).index]
            start = 0
            for arrays in parts:
                for name, values in arrays.items():
                    place = self.places[name]
                    if place.startswith("obs/"):
                        columns.setdefault(place[4:], []).append(values)
                        continue
                    rows = values.reshape(len(values), -1)
                    rows = rows if place.startswith("obsm/") else self._in_order(rows, genes)
                    if not start:
                        write_elem(stored, place, np.empty((0, 0), rows.dtype))  # whose encoding it then has
                        attributes = dict(stored[place].attrs)
                        del stored[place]
                        stored.create_dataset(place, (count, rows.shape[1]), rows.dtype).attrs.update(attributes)
                    stored[place][start : start + len(rows)] = rows
                start += len(next(iter(arrays.values())))
            if columns:
                write_elem(stored, "obs", frame.assign(**{name: np.concatenate(each) for name, each in columns.items()}))

    def _begin(self, file: str, count: int) -> None:
        """What describes the cells."""
        import anndata
        import h5py
        import pandas

        if self.path is not None and self.rows is None:
            shutil.copyfile(self.path, file)
            return
        if self.path is not None and self.rows is not None:
            backed = anndata.read_h5ad(self.path, backed="r")
            chosen, places = np.unique(self.rows, return_inverse=True)  # files are read in one order
            cells = backed[chosen].to_memory()[places]
            backed.file.close()
        else:
            index = pandas.Index([str(number) for number in range(count)])
            obs = pandas.DataFrame(dict(self.obs), index=index)
            cells = anndata.AnnData(obs=obs, var=pandas.DataFrame(index=pandas.Index(list(self.genes))))
        with h5py.File(file, "w", locking=False) as stored:
            anndata.io.write_elem(stored, "/", cells)

    def _in_order(self, rows: npt.NDArray[Any], genes: list[str]) -> npt.NDArray[Any]:
        """[B, genes of the model] as [B, genes of the file]."""
        if genes == list(self.genes):
            return rows
        places = {gene: place for place, gene in enumerate(self.genes)}
        order = np.array([places.get(gene, -1) for gene in genes])
        return np.where(order < 0, np.asarray(np.nan, rows.dtype), rows[:, order.clip(min=0)])
