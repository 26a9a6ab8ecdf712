"""Data of other sizes than a model was made for: which it takes, padding to them, and cropping back.

A fully convolutional model, whose latents keep positions, computes the same function at every position, and so of data of any
size that its stride divides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from vaekit.checks import checked_sizes
from vaekit.decoders.base import Decoder
from vaekit.encoders.base import Encoder
from vaekit.likelihoods.base import Likelihood
from vaekit.losses.base import Loss
from vaekit.priors.base import Prior


def stride_of(encoder: Encoder, decoder: Decoder, likelihood: Likelihood) -> int | None:
    """How many positions of the data along each axis are one of the latents; None of a model that takes data of one size."""
    is_free = encoder.stride == decoder.stride and encoder.family.any_positions and likelihood.data_shape is None
    return encoder.stride if is_free else None


def check_x(x: Any, shape: tuple[int, ...], stride: int | None) -> None:
    """Refuse what is not a batch of floating-point examples of this shape, or of other sizes that the stride divides."""
    _check_is_tensor(x)
    if x.shape[1:] != shape and not _is_multiple(x.shape[1:], shape, stride):
        expected = ", ".join(map(str, shape))
        hint = "; add the batch dimension, x[None]" if tuple(x.shape) == shape else ""
        if stride is not None and not hint:
            hint = f", or other sizes that are multiples of {stride}; encode and reconstruct pad to them with pad=True"
        raise ValueError(f"x has to have the shape [batch, {expected}], got {tuple(x.shape)}{hint}")
    _check_is_floating_point(x)


def _check_is_tensor(x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x has to be a tensor, got {type(x).__name__}; torch.as_tensor(x) makes one")


def _check_is_floating_point(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x has to be a floating-point tensor, got {x.dtype}; images: x.float() / 255 for example")


def check_z(z: Tensor, shape: tuple[int, ...], stride: int | None) -> None:
    """Refuse what is not a batch of latents of this shape, or of other positions where there may be any."""
    if z.shape[1:] != shape and not _is_multiple(z.shape[1:], shape, None if stride is None else 1):
        raise ValueError(f"z has to have the shape [batch, {', '.join(map(str, shape))}], got {tuple(z.shape)}")


def _is_multiple(given: Sequence[int], shape: tuple[int, ...], stride: int | None) -> bool:
    if stride is None or len(given) != len(shape) or given[0] != shape[0]:
        return False
    return all(size >= stride and size % stride == 0 for size in given[1:])


def check_prior_and_loss(prior: Prior, loss: Loss | None = None) -> None:
    """Refuse a prior or an objective over latents of one shape, where data of another size has others."""
    for kind, part in (("prior", prior), ("objective", loss)):
        if part is None or (part.any_positions if isinstance(part, Prior) else part.latent_shape is None):
            continue
        raise ValueError(
            f"the {kind} {type(part).__name__} is one over latents of one shape, and data of another size than the model's "
            "input_shape has others; the prior 'standard_normal' takes all, and so do encode, decode and reconstruct"
        )


def latent_shape_of(size: Sequence[int], latent_shape: tuple[int, ...], stride: int | None) -> tuple[int, ...]:
    """The shape of one example's latents, of data of this size.

    Raises:
        ValueError: a model that takes data of one size; sizes that the stride does not divide, or too many of them.
    """
    sizes, axes = checked_sizes("size", size), len(latent_shape) - 1
    if stride is None:
        raise ValueError("this model takes data of one size, its input_shape; a fully convolutional one takes others")
    if len(sizes) != axes or any(s % stride for s in sizes):
        raise ValueError(f"size has to be {axes} multiple(s) of {stride}, got {tuple(size)}")
    return (latent_shape[0], *(s // stride for s in sizes))


def padded(x: Tensor, stride: int | None) -> Tensor:
    """x with its last positions repeated behind them, as many as bring every size to a multiple of the stride.

    Raises:
        ValueError: a model that takes data of one size.
        TypeError: x is no floating-point tensor.

    Example:
        >>> import torch
        >>> padded(torch.tensor([[[1.0, 2.0, 3.0]]]), 2)
        tensor([[[1., 2., 3., 3.]]])
    """
    if stride is None:
        raise ValueError("pad=True is for fully convolutional models, which take data of any size; this one takes one")
    _check_is_tensor(x)
    _check_is_floating_point(x)
    missing = [-size % stride for size in x.shape[2:]]
    return F.pad(x, [n for more in reversed(missing) for n in (0, more)], mode="replicate") if any(missing) else x


def cropped(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first positions of x [B, channels, *sizes], as many as `size` says of each axis.

    Raises:
        ValueError: x has fewer, or other axes.
    """
    sizes = checked_sizes("size", size)
    if len(sizes) != x.ndim - 2 or any(have < want for want, have in zip(sizes, x.shape[2:], strict=True)):
        raise ValueError(f"size has to be of {x.ndim - 2} number(s) up to {tuple(x.shape[2:])}, got {sizes}")
    for axis, wanted in enumerate(sizes, start=2):
        x = x.narrow(axis, 0, wanted)
    return x
