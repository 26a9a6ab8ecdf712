"""Pairs of a batch, some rows at a time, so that [B, B, D] is never held, in forward or backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_ELEMENTS_AT_ONCE = 1 << 20  # 4 MiB of float32, of which a few are needed at a time: they stay in the cache
_ELEMENTS_AT_ONCE_ON_AN_ACCELERATOR = 1 << 23  # fewer, longer kernels


def row_blocks(rows: int, elements_per_row: int, device: torch.device) -> list[slice]:
    """Blocks of as many rows as are computed at a time, one after the other.

    Example:
        >>> row_blocks(5, 1 << 19, torch.device("cpu"))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    at_once = _ELEMENTS_AT_ONCE if device.type == "cpu" else _ELEMENTS_AT_ONCE_ON_AN_ACCELERATOR
    step = max(1, at_once // max(1, elements_per_row))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def second_derivatives(
    function: Callable[..., tuple[Tensor, ...]],
    blocks: Sequence[slice],
    primals: Sequence[Tensor],
    tangents: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """The derivatives of g t, where g is the gradient of a weighted sum of a function of pairs: a block of rows at a time.

    Nothing of a block is kept, unless autograd records, for derivatives of yet higher order.

    Args:
        function: (rows, *primals) -> its results for these rows, [b, ...] each, by differentiable operations.
        blocks: of all I rows.
        primals, tangents: p and t.
        weights: of the results, [I, ...] each.

    Returns:
        the gradient of g t by each primal, and by each of the weights.

    Example:
        >>> x, t = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])
        >>> cube = lambda rows, x: (x[rows] ** 3,)
        >>> with torch.no_grad():
        ...     second_derivatives(cube, [slice(0, 1), slice(1, 2)], [x], [t], [torch.ones(2)])
        ([tensor([6., 0.])], [tensor([3., 0.])])
    """
    create_graph = torch.is_grad_enabled()
    if create_graph:
        primals, weights = ([t.view_as(t) if t.requires_grad else t for t in tensors] for tensors in (primals, weights))
    sums, by_weights = ([torch.zeros_like(tensor) for tensor in tensors] for tensors in (primals, weights))
    for rows in blocks:
        with torch.enable_grad():
            inputs = [p if create_graph and p.requires_grad else p.detach().requires_grad_() for p in primals]
            of_rows = [w[rows] if create_graph and w.requires_grad else w[rows].detach().requires_grad_() for w in weights]
            first = torch.autograd.grad(function(rows, *inputs), inputs, of_rows, create_graph=True, materialize_grads=True)
            along = torch.stack([(gradient * tangent).sum() for gradient, tangent in zip(first, tangents, strict=True)]).sum()
            found = torch.autograd.grad(along, inputs + of_rows, create_graph=create_graph, materialize_grads=True)
        # In place: what is left of a block among the memory of the next ones would keep that from being used again.
        for total, gradient in zip(sums, found, strict=False):
            total += gradient
        for every, gradient in zip(by_weights, found[len(inputs) :], strict=True):
            every[rows] = gradient
    return sums, by_weights
