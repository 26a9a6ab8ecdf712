"""What a model says of each cell, written into its AnnData: latents and normalised expression."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.cells.models import as_of_batch, batch_of, batches_of, matching, shares_of
from vaekit.checks import checked_number
from vaekit.data import Batch
from vaekit.modes import evaluation_mode
from vaekit.vae import VAE


def embed(adata: Any, vae: VAE, *, key: str = "X_vaekit", layer: str | None = None, missing_genes: str = "refuse") -> None:
    """Write the posterior means of all cells into adata.obsm[key], float32 [N, D].

    Args:
        adata: in memory or backed, with the model's genes.
        vae: a model that `create_vae` made.
        key: in obsm.
        layer, missing_genes: as `matching`.

    Raises:
        KeyError, ValueError: as `matching`.
    """
    cells = matching(vae, adata, layer=layer, missing_genes=missing_genes)
    with evaluation_mode(vae), torch.no_grad():
        means = [vae.encode(batch.x, batch.condition).mean.flatten(1).cpu() for batch in batches_of(vae, cells)]
    adata.obsm[key] = torch.cat(means).float().numpy()


def normalize(
    adata: Any,
    vae: VAE,
    *,
    into: str = "vaekit",
    size: float = 1e4,
    batch: str | None = None,
    layer: str | None = None,
    missing_genes: str = "refuse",
) -> None:
    """Write the normalised expression into adata.layers[into], float32 [N, genes]: each cell's counts at one library size.

    The shares of the genes, decoded from the posterior mean, times `size`, before zero inflation; NaN for genes of the data that
    are not the model's.

    Args:
        adata: in memory, with the model's genes.
        vae: a model that `create_vae` made.
        into: the layer's name.
        size: the library size; 1 writes the shares.
        batch: as if all cells were of this batch, the first classes that the model is told; each as it is by default.
        layer, missing_genes: as `matching`.

    Raises:
        KeyError, ValueError: as `matching`; a batch that the model does not know.
    """
    checked_number("size", size, above=0.0)
    cells = matching(vae, adata, layer=layer, missing_genes=missing_genes)
    number = None if batch is None else int(batch_of(vae).as_tensor(batch))
    written = np.full(adata.shape, np.nan, dtype=np.float32)
    places = {str(name): place for place, name in enumerate(adata.var_names)}
    own = np.array([places.get(name, -1) for name in cells.genes])
    start = 0
    for rows in batches_of(vae, cells):
        expression = expression_of(vae, rows, size, number)
        written[start : start + len(rows.x), own[own >= 0]] = expression.cpu().float().numpy()[:, own >= 0]
        start += len(rows.x)
    adata.layers[into] = written


@torch.no_grad()
def expression_of(vae: VAE, cells: Batch, size: float = 1e4, batch: int | None = None) -> Tensor:
    """The normalised expression of some cells on the model's device, float [B, genes]: see `normalize`."""
    with evaluation_mode(vae):
        told = as_of_batch(vae, cells.condition, batch)
        return shares_of(vae, vae.encode(cells.x, cells.condition).mean, told) * size
