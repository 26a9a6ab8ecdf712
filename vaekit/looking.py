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
from vaekit.priors.gaussians import choose

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
        condition = vae.completed(whole_x, condition)
        whole = in_pieces(vae, reconstructed, whole_x, condition, whole_x.shape[1:])
    return sizes.cropped(whole, x.shape[2:]) if pad else whole


@torch.no_grad()
def classify(vae: VAE, x: Tensor, probabilities: bool) -> Tensor:
    """What `VAE.classify` does."""
    told = vae.condition
    if told is None or not told.infers:
        raise TypeError(
            "the model does not say which class an example is of; compose it with condition="
            '{"name": "inferred_labels", "classes": 10} for example, and loss="semi_supervised"'
        )
    sizes.check_x(x, vae.input_shape, vae.stride)
    with evaluation_mode(vae):
        log_posterior = in_pieces(vae, lambda x, _, __: told.log_posterior(vae.likelihood.encoder_input(x)), x, None)
    return log_posterior.exp() if probabilities else told.values(x.device)[log_posterior.argmax(1)]


def _drawn_condition(vae: VAE, condition: Any, n: int, key: Tensor) -> Any:
    """The condition of n samples, drawn from p(c) where it is missing, if the model infers it."""
    told = vae.condition
    if told is None or not told.infers:
        return condition
    rows = told.as_rows(condition, n)
    drawn = told.values(rows.device)[choose(told.log_prior(), n, philox.fold_in(key, streams.Sample.CLASS))]
    return torch.where(told.is_missing(rows).view(-1, *(1,) * (rows.ndim - 1)), drawn.to(rows.dtype), rows)


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
        condition = _drawn_condition(vae, condition, n, key)
        z = prior.given(condition, n).sample((n, *latent_shape), key=key, dtype=vae.dtype)
        condition = None if vae.condition is None and prior.condition is not None else condition
        if not draw:
            return in_pieces(vae, lambda z, condition, _: vae.decode(z, condition, tile=tile), z, condition, shape)
        data_key = philox.fold_in(key, streams.Sample.DATA)

        def drawn(z: Tensor, condition: Any, row_start: int) -> Tensor:
            return vae.likelihood.sample(vae.natural_parameters(z, condition, tile=tile), key=data_key, row_start=row_start)

        return in_pieces(vae, drawn, z, condition, shape)
