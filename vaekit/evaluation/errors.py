"""How far reconstructions are from the data, in the data's own units."""

from __future__ import annotations

from typing import Any

import torch

from vaekit.evaluation.terms import checked_batches, on_device
from vaekit.vae import VAE, evaluation_mode


@torch.no_grad()
def reconstruction_error(vae: VAE, data: Any, *, batch_size: int = 500) -> dict[str, float]:
    """The distance of x from its reconstruction, the decoded posterior mean, over all examples and elements.

    Args:
        vae: the model; it stays on its device.
        data: what `vaekit.evaluate` takes.
        batch_size: examples at a time; the result does not depend on it.

    Returns:
        "rmse", the root of the mean squared difference, and "mae", the mean absolute one, both in the units of x. Missing
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
            difference = torch.where(observed, vae.reconstruct(batch.x, batch.condition) - batch.x, 0.0).double()
            sums.append(torch.stack([(difference * difference).sum(), difference.abs().sum(), observed.sum().double()]))
    squared, absolute, count = torch.stack(sums).sum(0).tolist()
    if count == 0:
        return {"rmse": float("nan"), "mae": float("nan")}
    return {"rmse": (squared / count) ** 0.5, "mae": absolute / count}
