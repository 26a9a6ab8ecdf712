"""How a call of `vaekit::reparameterize_kl` under torch.vmap becomes one call over the larger batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vaekit.ops.operands import GRADIENTS, Operands, backward_operands, outputs
from vaekit.ops.schema import noise


def batched(info: Any, in_dims: Sequence[Any], operands: Operands) -> Operands:
    """The operands of one call for all slices: the mapped dimension is in front of mu's, and the noise is given as eps.

    Every slice has its own element 0 of the stream, which one call over the larger batch would not give: so the noise is made
    here, slice by slice of the key, and passed on.
    """
    dims: Any = Operands._make(in_dims[: len(Operands._fields)])

    def front(value: Tensor | None, dim: Any) -> Tensor | None:
        return value if value is None or dim is None else value.movedim(dim, 0)

    def widen(value: Any, dim: Any) -> Any:
        moved = front(value, dim)
        return moved.expand(info.batch_size, *moved.shape) if moved is not None and dim is None else moved

    mu, eps, key = front(operands.mu, dims.mu), front(operands.eps, dims.eps), front(operands.key, dims.key)
    assert mu is not None
    if eps is None:
        assert key is not None
        one = mu if dims.mu is None else mu.new_empty(mu.shape[1:])
        keys = [key] if dims.key is None else key.unbind(0)
        drawn = [noise(one, k, None, operands.num_samples, operands.row_start, operands.event_dims) for k in keys]
        eps = drawn[0] if dims.key is None else torch.stack(drawn)
    if dims.eps is None and dims.key is None:
        eps = eps.expand(info.batch_size, *eps.shape)
    if operands.num_samples is not None:
        eps = eps.movedim(0, 1)
    return operands._replace(
        mu=widen(operands.mu, dims.mu),
        logvar=widen(operands.logvar, dims.logvar),
        key=None,
        eps=eps,
        prior_mu=widen(operands.prior_mu, dims.prior_mu),
        prior_logvar=widen(operands.prior_logvar, dims.prior_logvar),
    )


def batched_forward(info: Any, in_dims: Sequence[Any], arguments: Sequence[Any]) -> tuple[Operands, tuple[int, int]]:
    """The forward operator's arguments, and where its outputs have the mapped dimension."""
    operands = batched(info, in_dims, Operands(*arguments))
    return operands, (0 if operands.num_samples is None else 1, 0)


def batched_backward(
    info: Any, in_dims: Sequence[Any], arguments: Sequence[Any]
) -> tuple[tuple[Any, ...], tuple[int | None, ...]]:
    """The same for the backward operator."""
    count = GRADIENTS.stop
    operands, wanted, packed = backward_operands(arguments[count:])
    operands = batched(info, in_dims[count:], operands)
    grads: list[Tensor | None] = []
    fronts = (0 if operands.num_samples is None else 1, 0)
    for gradient, dim, front in zip(arguments[GRADIENTS], in_dims[GRADIENTS], fronts, strict=True):
        if gradient is not None:
            gradient = gradient.expand(info.batch_size, *gradient.shape) if dim is None else gradient.movedim(dim, 0)
            gradient = gradient.movedim(0, front)
        grads.append(gradient)
    return (*grads, *operands, wanted, packed), tuple(0 if there else None for there in outputs(operands, wanted, packed))
