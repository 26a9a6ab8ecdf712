"""How far reconstructions are from the data, in the data's own units."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vaekit.evaluation.terms import on_device
from vaekit.inputs import checked_batches
from vaekit.likelihoods.columns import Columns
from vaekit.likelihoods.multimodal import Modalities
from vaekit.modes import evaluation_mode
from vaekit.ops.precision import wide
from vaekit.vae import VAE


@torch.no_grad()
def reconstruction_error(vae: VAE, data: Any, *, batch_size: int = 500) -> dict[str, float]:
    """The distance of x from its reconstruction, the decoded posterior mean, over all examples and elements.

    Args:
        vae: the model; it stays on its device.
        data: what `vaekit.evaluate` takes.
        batch_size: examples at a time; the result does not depend on it.

    Returns:
        "rmse", the root of the mean squared difference, and "mae", the mean absolute one, both in the units of x; of classes,
        which have no distance, "wrong", the share that the most probable class misses. With the likelihood `columns` these
        of each column, "height rmse" for example, and of several modalities of each: they have units of their own. Missing
        elements (NaN, where the likelihood ignores them) are left out; NaN where nothing was observed.

    Raises:
        ValueError: an empty dataset, or data that does not fit the model.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2)
        >>> sorted(reconstruction_error(vae, torch.rand(10, 4)))
        ['mae', 'rmse']
    """
    batches, sums = checked_batches(vae, data, batch_size), []
    with evaluation_mode(vae):
        for batch in on_device(vae, batches):
            observed = ~batch.x.isnan()
            dtype = wide(batch.x.device)
            difference = torch.where(observed, vae.reconstruct(batch.x, batch.condition) - batch.x, 0.0).to(dtype)
            figures = torch.stack([difference.square(), difference.abs(), (difference != 0).to(dtype), observed.to(dtype)])
            sums.append(figures.flatten(2).sum(1))  # [figures, elements of an example]
    total = torch.stack(sums).sum(0)
    if isinstance(vae.likelihood, Columns):
        errors: dict[str, float] = {}
        for column, name, likelihood in zip(total.unbind(1), vae.likelihood.names, vae.likelihood.likelihoods, strict=True):
            errors |= {f"{name} {figure}": value for figure, value in _errors(column, likelihood.is_nominal).items()}
        return errors
    if isinstance(vae.likelihood, Modalities):
        errors = {}
        for name, part in vae.likelihood.parted(total).items():
            of_one = _errors(part.flatten(1).sum(1), vae.likelihood.likelihood_of(name).is_nominal)
            errors |= {f"{name} {figure}": value for figure, value in of_one.items()}
        return errors
    return _errors(total.sum(1), vae.likelihood.is_nominal)


def _errors(sums: Tensor, is_nominal: bool) -> dict[str, float]:
    """The figures from sums of squared and absolute differences, of differences that are not 0, and of what was observed."""
    squared, absolute, different, count = sums.tolist()
    if is_nominal:
        return {"wrong": different / count if count else math.nan}
    return {"rmse": math.sqrt(squared / count) if count else math.nan, "mae": absolute / count if count else math.nan}
