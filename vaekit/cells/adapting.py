"""Unseen batches mapped onto a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vaekit import inputs, saving
from vaekit.cells.models import batch_of, matching
from vaekit.checks import checked_number, checked_size
from vaekit.conditions import Labels, Several
from vaekit.data import Whole
from vaekit.data.cells import numbered
from vaekit.ops import philox
from vaekit.vae import VAE


def adapt(
    vae: VAE,
    adata: Any,
    *,
    layer: str | None = None,
    missing_genes: str = "refuse",
    epochs: int = 50,
    batch_size: int = 128,
    learning_rate: float = 0.01,
    seed: int = 0,
) -> VAE:
    """A model that knows the batches of new cells too: the weights by which the networks read a new one are all that is learned.

    M. Lotfollahi et al., "Mapping single-cell data to reference atlases by transfer learning", 2022,
    doi:10.1038/s41587-021-01001-7 (scArches). A new batch begins as the mean of those that are known. Training is in evaluation
    mode, by Adam on the model's objective, so that dropout and running statistics stay out of it.

    Args:
        vae: a model that `create_vae` made, which is left as it is.
        adata: cells of batches of which the model does not know some.
        layer, missing_genes: as `matching`.
        epochs: through the cells.
        batch_size: of cells.
        learning_rate: of Adam.
        seed: fixes the order and the draws.

    Returns:
        a new model, on the same device, in evaluation mode.

    Raises:
        KeyError, ValueError: as `matching`; cells whose batches are all known.
    """
    checked_size("epochs", epochs), checked_size("batch_size", batch_size)
    checked_number("learning_rate", learning_rate, above=0.0)
    cells = matching(vae, adata, layer=layer, missing_genes=missing_genes, new=True)
    labels = batch_of(vae)
    levels = numbered(adata.obs, str(labels.column))[1]
    new = [level for level in levels if level not in labels.names]
    if not new:
        raise ValueError(f"the model knows all of {labels.column} in these cells: {', '.join(levels)}; there is nothing to adapt")
    grown, is_new = _grown(vae, labels, new)
    inputs.check_examples(grown, cells, "data")
    trained = [parameter for name, parameter in grown.named_parameters() if name in is_new]
    masks = [is_new[name] for name, _ in grown.named_parameters() if name in is_new]
    for parameter in grown.parameters():
        parameter.requires_grad_(any(parameter is one for one in trained))
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    key, order = philox.make_key(seed), torch.Generator().manual_seed(seed)
    whole, step = Whole(cells, batch_size, conditional=True), 0
    for _ in range(epochs):
        for batch in whole.in_order(torch.randperm(len(cells), generator=order)):
            one = batch.to(grown.device)
            step_key = philox.fold_in(key, step).to(grown.device)
            terms = grown(one.x, one.condition, key=step_key, index=one.index, dataset_size=len(cells))
            optimizer.zero_grad()
            terms.objective.backward()
            for parameter, mask in zip(trained, masks, strict=True):
                assert parameter.grad is not None
                parameter.grad.mul_(mask)  # Adam leaves a number alone whose gradients are all 0
            optimizer.step()
            step += 1
    return grown.requires_grad_().eval()


def _grown(vae: VAE, labels: Labels, new: Sequence[str]) -> tuple[VAE, dict[str, Tensor]]:
    """The model with classes added, and of each parameter that grew which of its numbers are new."""
    config = vae.config()
    spec = config["condition"]
    of_labels = next(part for part in spec["parts"] if part["name"] == "labels") if spec["name"] == "several" else spec
    of_labels.update(classes=labels.classes + len(new), names=[*(labels.names or ()), *new])
    assert vae.condition is not None
    is_one_hot = labels.vectors is None
    for network in ("encoder", "decoder"):
        if is_one_hot and config[network].get("condition_dim"):
            config[network]["condition_dim"] += len(new)
    grown = saving.composed(config).to(vae.device)
    parts = list(vae.condition) if isinstance(vae.condition, Several) else [vae.condition]
    offset = sum(part.dim for part in parts[: next(i for i, part in enumerate(parts) if part is labels)])
    own, is_new = vae.state_dict(), {}
    for name, value in grown.state_dict().items():
        old = own[name]
        if old.shape == value.shape:
            value.copy_(old)
            continue
        # A network reads the condition last: its columns are the last of a weight's, those of one-hot classes among them.
        dim = value.ndim - 1 if is_one_hot else 0
        first = old.shape[dim] - vae.condition.dim + offset if is_one_hot else 0
        known = old.narrow(dim, first, labels.classes)
        added = known.mean(dim, keepdim=True).expand_as(value.narrow(dim, 0, len(new)))
        end = first + labels.classes
        value.copy_(torch.cat((old.narrow(dim, 0, end), added, old.narrow(dim, end, old.shape[dim] - end)), dim))
        mask = torch.zeros_like(value)
        mask.narrow(dim, end, len(new)).fill_(1.0)
        is_new[name] = mask
    return grown, is_new
