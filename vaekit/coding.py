"""What a model says by the numbers of its codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vaekit.modes import evaluation_mode
from vaekit.pieces import in_pieces
from vaekit.posteriors.codes import CodeFamily, CodePosterior

if TYPE_CHECKING:
    from vaekit.vae import VAE


@torch.no_grad()
def indices(vae: VAE, x: Tensor, condition: Any = None) -> Tensor:
    """The codes of x [B, *input_shape]: int64 [B, *code_shape]; `vae.decode_codes` of them is `vae.reconstruct(x)`.

    Raises:
        TypeError: a model whose latents are vectors.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae("vq-mnist")
        >>> x = torch.rand(3, 1, 28, 28)
        >>> vae.indices(x).shape, torch.equal(vae.eval().decode_codes(vae.indices(x)), vae.reconstruct(x))
        (torch.Size([3, 7, 7]), True)
    """
    family_of(vae)

    def numbers(x: Tensor, condition: Any, _: int) -> Tensor:
        posterior = vae.encode(x, condition)
        assert isinstance(posterior, CodePosterior)
        return posterior.indices

    with evaluation_mode(vae):
        return in_pieces(vae, numbers, x, condition)


def embedded(vae: VAE, numbers: Tensor) -> Tensor:
    """The vectors of codes, int64 [B, *code_shape] -> [B, *latent_shape].

    Raises:
        TypeError: a model whose latents are vectors; indices that are not whole numbers.
        ValueError: another shape.
    """
    family = family_of(vae)
    if numbers.shape[1:] != family.code_shape:
        expected = ", ".join(map(str, family.code_shape))
        raise ValueError(f"indices has to have the shape [batch, {expected}], got {tuple(numbers.shape)}")
    if numbers.is_floating_point() or numbers.dtype == torch.bool:
        raise TypeError(f"indices has to be whole numbers, what vae.indices gives, got {numbers.dtype}")
    return family.embedded(numbers)


def family_of(vae: VAE) -> CodeFamily:
    """The family whose codes the model's latents are.

    Raises:
        TypeError: a model whose latents are vectors.
    """
    family = vae.encoder.family
    if not isinstance(family, CodeFamily):
        raise TypeError(f"the latents of {type(family).__name__} are {family.latents.words}, which have no numbers")
    return family
