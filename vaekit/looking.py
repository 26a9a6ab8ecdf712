"""Looking at a model: reconstructions and samples, in evaluation mode, a few at a time, with the model left as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaekit import compatibility, sizes
from vaekit.checks import checked_size
from vaekit.memory import check_room
from vaekit.modes import evaluation_mode
from vaekit.ops import philox, streams
from vaekit.pieces import in_pieces
from vaekit.priors.base import Prior

if TYPE_CHECKING:
    from vaekit.vae import VAE


@torch.no_grad()
def reconstruct(vae: VAE, x: Tensor, condition: Any, pad: bool, tile: int | None) -> Tensor:
    """What `VAE.reconstruct` does."""
    whole_x = sizes.padded(x, vae.stride) if pad else x
    sizes.check_x(whole_x, vae.input_shape, vae.stride)

    def reconstructed(x: Tensor, condition: Any, _: int) -> Tensor:
        parameters = vae.natural_parameters(vae.encode(x, condition, tile=tile).mean, condition, tile=tile)
        return vae.likelihood.reconstruction(parameters, x)

    with evaluation_mode(vae):
        whole = in_pieces(vae, reconstructed, whole_x, condition, whole_x.shape[1:])
    return sizes.cropped(whole, x.shape[2:]) if pad else whole


@torch.no_grad()
def sample(
    vae: VAE, n: int, condition: Any, draw: bool, size: Sequence[int] | None, tile: int | None, prior: Prior | None, key: Tensor
) -> Tensor:
    """What `VAE.sample` does, with this noise."""
    checked_size("n, the number of samples,", n, least=0)
    prior = vae.prior if prior is None else prior
    if not isinstance(prior, Prior):
        raise TypeError(
            f"prior has to be an instance of vaekit.Prior, vaekit.evaluation.fitted_mixture's for example, got {prior!r}"
        )
    compatibility.check_latents_of("prior", prior, vae.encoder)
    prior.attach(vae.encoder)
    shape, latent_shape = vae.input_shape, vae.latent_shape
    if size is not None and tuple(size) != shape[1:]:
        latent_shape = sizes.latent_shape_of(size, latent_shape, vae.stride)
        shape = (shape[0], *size)
        sizes.check_prior_and_loss(prior)
    check_room(n, shape, vae.dtype, vae.device)
    with evaluation_mode(vae), evaluation_mode(prior):
        z = prior.given(condition, n).sample((n, *latent_shape), key=key, dtype=vae.dtype)
        condition = None if vae.condition is None and prior.condition is not None else condition
        if not draw:
            return in_pieces(vae, lambda z, condition, _: vae.decode(z, condition, tile=tile), z, condition, shape)
        data_key = philox.fold_in(key, streams.Sample.DATA)

        def drawn(z: Tensor, condition: Any, row_start: int) -> Tensor:
            return vae.likelihood.sample(vae.natural_parameters(z, condition, tile=tile), key=data_key, row_start=row_start)

        return in_pieces(vae, drawn, z, condition, shape)
