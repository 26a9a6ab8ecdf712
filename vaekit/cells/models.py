"""Models of AnnData that know their genes, batches and covariates by name, and find them in any other AnnData.

R. Lopez, J. Regier, M. B. Cole, M. I. Jordan, N. Yosef, "Deep generative modeling for single-cell transcriptomics", 2018,
doi:10.1038/s41592-018-0229-2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit import compose, inputs
from vaekit.conditions import Condition, Labels, Several, Vector
from vaekit.data import Batch, Cells, Whole
from vaekit.data.cells import checked_genes, class_numbers, counts_of, is_anndata, numbered, numbers_of
from vaekit.likelihoods import LibrarySize
from vaekit.vae import VAE

AT_ONCE = 1024  # cells


def create_vae(cells: Cells, preset: str = "single-cell", **options: Any) -> VAE:
    """A model of these cells, which keeps the names of their genes, batches and covariates.

    Args:
        cells: what `vaekit.data.load("x.h5ad", batch=...)` or `vaekit.data.as_examples(adata, batch=...)` gives.
        preset: a name from `vaekit.presets.names()`, whose likelihood is "library_size".
        options: what `vaekit.create_vae` takes.

    Raises:
        TypeError, ValueError: as `vaekit.create_vae`.

    Example:
        >>> import anndata, vaekit
        >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(2.0, (20, 5)).astype(np.float32))
        >>> adata.obs["batch"] = ["a", "b"] * 10
        >>> vae = create_vae(vaekit.data.as_examples(adata, batch="batch"), latent_dim=2)
        >>> vae.likelihood.features, vae.condition.names
        (('0', '1', '2', '3', '4'), ('a', 'b'))
    """
    if not isinstance(cells, Cells):
        raise TypeError(
            "cells have to be what vaekit.data.load(FILE, batch=...) or vaekit.data.as_examples(adata, batch=...) gives, got "
            f"{type(cells).__name__}"
        )
    given = options.pop("likelihood", {})
    likelihood = {"features": list(cells.genes), **given} if isinstance(given, dict) else given
    if cells.condition is not None:
        options.setdefault("condition", cells.condition)
    return compose.create_vae(preset, input_shape=tuple(cells.x.shape[1:]), likelihood=likelihood, **options)


def matching(
    vae: VAE, adata: Any, *, layer: str | None = None, label: str | None = None, missing_genes: str = "refuse", new: bool = False
) -> Cells:
    """The cells of an AnnData as a model was trained on them: its genes in its order, its batches by their numbers.

    Args:
        vae: a model that `create_vae` made.
        adata: in memory or backed.
        layer: the layer that holds the counts; X by default.
        label: the column of obs with the type of each cell.
        missing_genes: "refuse" genes of the model that the data does not have, or take their counts as "zero" and warn.
        new: number classes that the model does not know after those that it does, for `adapt`.

    Raises:
        TypeError: no VAE.
        KeyError: no such layer or column of obs.
        ValueError: genes that are missing; a batch that the model was not trained on; a model that does not know names.

    Warns:
        UserWarning: genes that are missing, in another order, or not the model's.
    """
    if not isinstance(vae, VAE):
        raise TypeError(f"vae has to be a vaekit.VAE, got {type(vae).__name__}{'; it comes after adata' * is_anndata(vae)}")
    features = vae.likelihood.features if isinstance(vae.likelihood, LibrarySize) else None
    if features is None:
        raise ValueError("the model does not know the names of its genes; vaekit.cells.create_vae makes one that does")
    y = None if vae.condition is None else _told(vae.condition, adata.obs, new)
    labels, kinds = (None, []) if label is None else numbered(adata.obs, label)
    condition = None if vae.condition is None else vae.config()["condition"]
    names = checked_genes([str(name) for name in adata.var_names])
    cells = Cells(counts_of(adata, layer), y, names, condition, None if labels is None else torch.from_numpy(labels), kinds)
    return cells.of_genes(features, missing_genes)


def _told(condition: Condition, obs: Any, new: bool) -> Tensor:
    """What the model is told of the cells, by the columns of obs whose names it keeps: [N] or [N, K]."""
    if isinstance(condition, Several):
        columns = [_told(part, obs, new) for part in condition]
        return torch.cat([column.float().reshape(len(obs), -1) for column in columns], dim=1)
    if isinstance(condition, Vector) and condition.names is not None:
        return torch.from_numpy(np.stack([numbers_of(obs, name) for name in condition.names], axis=1))
    if not isinstance(condition, Labels) or condition.names is None or condition.column is None:
        raise ValueError("the model does not know what its condition is called; vaekit.cells.create_vae makes one that does")
    values, levels = numbered(obs, condition.column)
    return class_numbers({"names": condition.names, "column": condition.column}, levels, new)[torch.from_numpy(values)]


def shares_of(vae: VAE, z: Tensor, told: Any) -> Tensor:
    if not isinstance(vae.likelihood, LibrarySize):
        raise ValueError(f"shares of a library are what the likelihood 'library_size' gives, not {type(vae.likelihood).__name__}")
    return vae.likelihood.shares(vae.natural_parameters(z, told))


def batch_of(vae: VAE, or_none: bool = False) -> Any:
    """The first classes that the model is told, the batch as a rule."""
    parts = vae.condition if isinstance(vae.condition, Several) else [vae.condition]
    found = next((part for part in parts if isinstance(part, Labels)), None)
    if found is None and not or_none:
        raise ValueError(
            "the model is told no classes, and knows no batch; make it of cells that were read with batch=, a column of obs"
        )
    return found


def as_of_batch(vae: VAE, told: Any, number: Any) -> Any:
    """The conditions with the batch of this number instead, or these numbers [B]; as they are for None."""
    if number is None or told is None:
        return told
    if not isinstance(vae.condition, Several):
        return torch.zeros_like(told) + number
    changed, place = told.clone(), 0
    for part in vae.condition:
        if isinstance(part, Labels):
            break
        place += part.columns or 0
    changed[:, place] = number
    return changed


def batches_of(vae: VAE, cells: Cells) -> Iterator[Batch]:
    """All cells in order, checked, on the model's device."""
    inputs.check_examples(vae, cells, "data", rows=torch.arange(0))
    for batch in Whole(cells, AT_ONCE, vae.condition is not None):
        with inputs.naming_the_layer(cells):
            inputs.check_values(vae, batch, "data")
        yield batch.to(vae.device)
