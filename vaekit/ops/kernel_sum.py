"""`vaekit::kernel_sum`: a kernel summed over all pairs of two samples, or of one with itself, at several bandwidths.

    sum over i, j and bandwidths C of  C / (C + |x_i - y_j|^2)  or, Gaussian,  exp(-|x_i - y_j|^2 / C)

Its specification is `specification`, in PyTorch, a block of rows at a time, computed again in backward; kernels are added up in
float64. A compiled library (native.py) registers its own, with backward as another operator. Second derivatives differentiate the
specification block by block, so that I x J x D is never held. Derivatives of yet higher order, torch.func's transforms and
forward-mode differentiation take the specification as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vaekit.ops import dispatch, native, schema
from vaekit.ops.pairwise import row_blocks, second_derivatives
from vaekit.ops.precision import wide

_NAME, _OPERANDS = "kernel_sum", "Tensor x, Tensor? y, float[] bandwidths, bool is_gaussian"


def specification(
    x: Tensor, y: Tensor | None, bandwidths: Sequence[float], is_gaussian: bool, *, every_order: bool = False
) -> Tensor:
    """The sum, a scalar, by differentiable operations.

    For derivatives of `every_order`, by torch.func or forward-mode as well, autograd holds differences of the size I x J x D. For
    first ones alone nothing is held, and each block is computed again in backward.
    """
    others = x if y is None else y

    def sum_over_rows(part: Tensor, others: Tensor) -> Tensor:
        return _sums_of_rows(part, others, bandwidths, is_gaussian, every_order).sum()

    per_pair = max(3 * len(bandwidths), x.shape[1] if every_order else 0)  # what backward holds
    blocks = row_blocks(len(x), len(others) * per_pair, x.device)
    if len(blocks) < 2:
        return sum_over_rows(x, others)
    if every_order:
        return torch.stack([sum_over_rows(x[rows], others) for rows in blocks]).sum()
    parts = [checkpoint(sum_over_rows, x[rows], others, use_reentrant=False, preserve_rng_state=False) for rows in blocks]
    return torch.stack(parts).sum()


def _sums_of_rows(x: Tensor, others: Tensor, bandwidths: Sequence[float], is_gaussian: bool, every_order: bool) -> Tensor:
    dtype = wide(x.device)
    # Differences, not |x|^2 - 2 x y + |y|^2, which cancels where points are close.
    if every_order:
        squared = (x.unsqueeze(1) - others).square().sum(-1)
    else:
        squared = torch.cdist(x, others, compute_mode="donot_use_mm_for_euclid_dist").square()
    total = torch.zeros(len(x), dtype=dtype, device=x.device)
    for bandwidth in bandwidths:
        values = torch.exp(squared / -bandwidth) if is_gaussian else bandwidth / (bandwidth + squared)
        total = total + values.sum(1, dtype=dtype)
    return total


def _default_backward(grad: Tensor, x: Tensor, y: Tensor | None, bandwidths: Sequence[float], is_gaussian: bool) -> Tensor:
    others = x if y is None else y

    def of_rows(part: Tensor) -> Tensor:
        total = torch.func.vjp(lambda points: _sums_of_rows(points, others, bandwidths, is_gaussian, False).sum(), part)[1]
        gradient: Tensor = total(grad)[0]
        return gradient

    blocks = row_blocks(len(x), 3 * len(bandwidths) * len(others), x.device) or [slice(0, 0)]
    # Where x meets itself every pair is there twice, and the kernels are symmetric.
    return torch.cat([of_rows(x[rows]) for rows in blocks]).mul(2.0 if y is None else 1.0)


schema.LIBRARY.define(f"{_NAME}({_OPERANDS}) -> Tensor")
schema.LIBRARY.define(f"{_NAME}_backward(Tensor grad, {_OPERANDS}) -> Tensor")
schema.LIBRARY.impl(_NAME, specification, "CompositeExplicitAutograd")
schema.LIBRARY.impl(f"{_NAME}_backward", _default_backward, "CompositeExplicitAutograd")
_forward = torch.ops.vaekit.kernel_sum.default
_backward = torch.ops.vaekit.kernel_sum_backward.default
_KERNELS = frozenset(device for device in ("cpu", "cuda") if native.has_kernel(device, _NAME))


@torch.library.register_fake(f"vaekit::{_NAME}", lib=schema.LIBRARY)  # type: ignore[untyped-decorator]
def _fake_forward(x: Tensor, y: Tensor | None, *options: Any) -> Tensor:
    schema.check_device(_NAME, (y,), x, "x")
    return x.new_empty((), dtype=wide(x.device))


@torch.library.register_fake(f"vaekit::{_NAME}_backward", lib=schema.LIBRARY)  # type: ignore[untyped-decorator]
def _fake_backward(grad: Tensor, x: Tensor, y: Tensor | None, *options: Any) -> Tensor:
    schema.check_device(_NAME, (grad, y), x, "x")
    return x.new_empty(x.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.options = inputs[2:]


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """One for each argument of the operator, differentiable where autograd records."""
    x, y = ctx.saved_tensors
    gradients: Any = _gradients_of_points
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        gradients = _Gradients.apply
    return (*gradients(grad, x, y, *ctx.options, ctx.needs_input_grad[:2]), None, None)


def _gradients_of_points(
    grad: Tensor, x: Tensor, y: Tensor | None, bandwidths: Sequence[float], is_gaussian: bool, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    to_x = _backward(grad, x, y, bandwidths, is_gaussian) if needed[0] else None
    # Of y from y's side: the kernels are symmetric.
    to_y = _backward(grad, y, x, bandwidths, is_gaussian) if needed[1] else None
    return to_x, to_y


class _Gradients(torch.autograd.Function):
    """`_gradients_of_points`, which have derivatives of their own."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, y: Tensor | None, *options: Any) -> Any:
        ctx.save_for_backward(grad, x, y)
        ctx.options = options
        with dispatch.below_autograd():
            return _gradients_of_points(grad, x, y, *options)

    @staticmethod
    def backward(ctx: Any, *of_gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, *points = ctx.saved_tensors
        bandwidths, is_gaussian, _ = ctx.options
        x, y = points
        primals = [x] if y is None else [x, y]
        tangents = [torch.zeros_like(p) if t is None else t for p, t in zip(primals, of_gradients, strict=False)]
        # So many arrays of a block's size are held at a time that the block is to be as much smaller.
        blocks = row_blocks(len(x), 8 * primals[-1].numel(), x.device)
        found, (by_rows,) = second_derivatives(
            lambda rows, x, y=None: (_sums_of_rows(x[rows], x if y is None else y, bandwidths, is_gaussian, True),),
            blocks,
            primals,
            tangents,
            (grad.expand(len(x)),),
        )
        to_x, to_y = (*found, None)[:2]
        return by_rows.sum(), to_x, to_y, *(None,) * len(ctx.options)


torch.library.register_autograd(f"vaekit::{_NAME}", _gradients, setup_context=_keep, lib=schema.LIBRARY)


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        _keep(ctx, arguments, arguments[0])
        with dispatch.below_autograd():
            return _forward(*arguments)

    backward = staticmethod(_gradients)


def kernel_sum(x: Tensor, y: Tensor | None, bandwidths: Sequence[float], is_gaussian: bool) -> Tensor:
    """The kernel of every pair (x_i, y_j), added up over all pairs and bandwidths.

    Args:
        x: [I, D], float32 or float64.
        y: [J, D], of x's dtype; None: x itself, every point paired with itself too.
        bandwidths: positive numbers C.
        is_gaussian: exp(-|x_i - y_j|^2 / C); otherwise the inverse multiquadric C / (C + |x_i - y_j|^2).

    Returns:
        a scalar, float64 (float32 where the device has no other).

    Example:
        >>> kernel_sum(torch.zeros(1, 2), torch.ones(3, 2), [2.0], False)
        tensor(1.5000, dtype=torch.float64)
    """
    arguments = x, y, list(bandwidths), is_gaussian
    result: Tensor
    if dispatch.transforms_are_active() or dispatch.forward_mode_is_on():
        result = specification(*arguments, every_order=True)
    elif torch.compiler.is_compiling():
        result = _forward(*arguments) if x.device.type in _KERNELS else specification(*arguments)
    else:
        result = _Native.apply(*arguments)  # type: ignore[no-untyped-call]
    return result
