"""Differential expression: how probably a gene changes between two groups of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.cells.models import AT_ONCE, as_of_batch, batch_of, matching, shares_of
from vaekit.checks import checked_number, checked_size
from vaekit.data import Cells, Whole
from vaekit.data.cells import column_of
from vaekit.data.readers import packages_of
from vaekit.modes import evaluation_mode
from vaekit.ops import philox
from vaekit.vae import VAE

_LEAST = 1e-10  # pseudocount, as scvi-tools has it
_LEAST_MEAN = 0.01  # counts in a cell of what was counted


def differential_expression(
    adata: Any,
    vae: VAE,
    column: str,
    first: str,
    second: str | None = None,
    *,
    delta: float = 0.25,
    draws: int = 5000,
    pseudocount: float | None = None,
    fdr: float = 0.05,
    seed: int = 0,
    layer: str | None = None,
    missing_genes: str = "refuse",
) -> Any:
    """How probable it is by the posterior that a gene's share changes between two groups of cells.

    Cells of each group are drawn with their latents from q(z | x), and decoded as if of each batch in turn, the same for both.
    The change is log2 of the ratio of their shares. There are three hypotheses: it is above `delta`, below -`delta`, or neither;
    the probability of a change is that of the first or the second, whichever is larger, so that draws which disagree on the
    direction are no evidence:
    P. Boyeau, R. Lopez, J. Regier, A. Gayoso, M. I. Jordan, N. Yosef, "Deep Generative Models for Detecting Differential
    Expression in Single Cells", 2019, doi:10.1101/794289, what scvi-tools' `differential_expression(mode="change")` gives.

    Args:
        adata: in memory or backed, with the model's genes.
        vae: a model that `create_vae` made.
        column: of obs, with the groups.
        first, second: the groups; all other cells where there is no second.
        delta: the least change that counts, in log2.
        draws: pairs; both groups' shares are held, 8 bytes for each pair and gene.
        pseudocount: added to the shares, so that the ratio of two that are nearly 0 says nothing. By default as in scvi-tools:
            the 0.9 quantile of the largest shares that were drawn for genes of which a group has less than 0.01 counts in a cell,
            divided by the number of genes; at least 1e-10.
        fdr: the false discovery rate that is expected among the genes in `is_changed`.
        seed: fixes the draws.
        layer, missing_genes: as `matching`.

    Returns:
        a pandas.DataFrame with a row for each gene: probability (of a change), log2_change (its mean), log2_change_std,
        share_first and share_second (means), is_changed; the most probable first.

    Raises:
        KeyError, ValueError: as `matching`; no such group, or one without cells.
    """
    checked_number("delta", delta, above=0.0), checked_size("draws", draws), checked_number("fdr", fdr, above=0.0, below=1.0)
    with packages_of("cells", "tables of genes"):
        import pandas
    cells = matching(vae, adata, layer=layer, missing_genes=missing_genes)
    groups = _groups(adata.obs, column, first, second)
    drawn = [_drawn_shares(vae, cells, rows, draws, philox.make_key(seed, number)) for number, rows in enumerate(groups)]
    if pseudocount is None:
        pseudocount = max(_artefact(share, cells, rows) for share, rows in zip(drawn, groups, strict=True))
    change = (drawn[0] + pseudocount).log2() - (drawn[1] + pseudocount).log2()
    probability = torch.maximum((change > delta).double().mean(0), (change < -delta).double().mean(0))
    table = pandas.DataFrame(
        {
            "probability": probability.numpy(),
            "log2_change": change.mean(0).numpy(),
            "log2_change_std": change.std(0, correction=0).numpy(),
            "share_first": drawn[0].mean(0).numpy(),
            "share_second": drawn[1].mean(0).numpy(),
        },
        index=pandas.Index(cells.genes, name="gene"),
    ).sort_values("probability", ascending=False, kind="stable")
    false = 1.0 - table["probability"].to_numpy()
    table["is_changed"] = np.cumsum(false) / np.arange(1, len(false) + 1) <= fdr
    return table


def _groups(obs: Any, column: str, first: str, second: str | None) -> list[Tensor]:
    """The rows of two groups of cells."""
    values = column_of(obs, column).astype(str).to_numpy()
    masks = [values == str(first), values != str(first) if second is None else values == str(second)]
    for name, mask in zip((first, "other than " + str(first) if second is None else second), masks, strict=True):
        if not mask.any():
            raise ValueError(f"there are no cells whose {column} is {name}; there are: {', '.join(sorted(set(values))[:20])}")
    return [torch.from_numpy(mask.nonzero()[0]) for mask in masks]


def _drawn_shares(vae: VAE, cells: Cells, rows: Tensor, draws: int, key: Tensor) -> Tensor:
    """The shares [draws, genes] of cells drawn from these rows, with latents from their posteriors, in each batch in turn."""
    generator = torch.Generator().manual_seed(int(key[0]) * 2 + int(key[1]))
    chosen = rows[torch.randint(len(rows), (draws,), generator=generator)]
    classes = 0 if vae.condition is None or batch_of(vae, or_none=True) is None else batch_of(vae).classes
    batches = torch.arange(draws) % classes if classes else None
    shares, whole = torch.empty(draws, len(cells.genes)), Whole(cells, AT_ONCE, vae.condition is not None)
    with evaluation_mode(vae), torch.no_grad():
        for start in range(0, draws, AT_ONCE):
            part = slice(start, min(start + AT_ONCE, draws))
            batch = whole.at(chosen[part]).to(vae.device)
            z = vae.encode(batch.x, batch.condition).rsample(key=key.to(vae.device), row_start=start)
            told = as_of_batch(vae, batch.condition, None if batches is None else batches[part].to(vae.device))
            shares[part] = shares_of(vae, z, told).cpu()
    return shares


def _artefact(shares: Tensor, cells: Cells, rows: Tensor) -> float:
    """What a share comes to for a gene that was not counted: see `differential_expression`."""
    whole = Whole(cells, AT_ONCE)
    total = torch.stack([whole.at(part).x.sum(0, dtype=torch.float64) for part in rows.split(AT_ONCE)]).sum(0)
    is_rare = total < _LEAST_MEAN * len(rows)
    return max(float(shares.amax(0)[is_rare].quantile(0.9)) / len(total), _LEAST) if is_rare.any() else _LEAST
