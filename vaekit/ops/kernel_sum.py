"""`vaekit::kernel_sum`: a kernel summed over all pairs of two samples, or of one with itself, at several bandwidths.

    sum over i, j and bandwidths C of  C / (C + |x_i - y_j|^2)  or, Gaussian,  exp(-|x_i - y_j|^2 / C)

Its specification is `specification`, in PyTorch, a block of rows at a time, computed again in backward; kernels are added up in
float64. A compiled library (native.py) registers its own, with backward as another operator. Where there is none, and for
derivatives of higher order, torch.func's transforms and forward-mode differentiation, the specification serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vaekit.ops import dispatch, native, schema
from vaekit.ops.pairwise import row_blocks
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
    dtype = wide(x.device)

    def sum_over_rows(part: Tensor, others: Tensor) -> Tensor:
        # Differences, not |x|^2 - 2 x y + |y|^2, which cancels where points are close.
        if every_order:
            squared = (part.unsqueeze(1) - others).square().sum(-1)
        else:
            squared = torch.cdist(part, others, compute_mode="donot_use_mm_for_euclid_dist").square()
        total = torch.zeros((), dtype=dtype, device=x.device)
        for bandwidth in bandwidths:
            values = torch.exp(squared / -bandwidth) if is_gaussian else bandwidth / (bandwidth + squared)
            total = total + values.sum(dtype=dtype)
        return total

    per_pair = max(3 * len(bandwidths), x.shape[1] if every_order else 0)  # what backward holds
    blocks = row_blocks(len(x), len(others) * per_pair, x.device)
    if len(blocks) < 2:
        return sum_over_rows(x, others)
    if every_order:
        return torch.stack([sum_over_rows(x[rows], others) for rows in blocks]).sum()
    parts = [checkpoint(sum_over_rows, x[rows], others, use_reentrant=False, preserve_rng_state=False) for rows in blocks]
    return torch.stack(parts).sum()


def _default_backward(grad: Tensor, x: Tensor, y: Tensor | None, bandwidths: Sequence[float], is_gaussian: bool) -> Tensor:
    to_x: Tensor = torch.func.vjp(lambda points: specification(points, y, bandwidths, is_gaussian, every_order=True), x)[1](grad)[
        0
    ]
    return to_x.contiguous()


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
    needed = ctx.needs_input_grad
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        x, y = x.view_as(x), y if y is None else y.view_as(y)  # two gradients where the same tensor is given twice
        wanted = [t for t, is_needed in zip((x, y), needed, strict=False) if is_needed]
        total = specification(x, y, *ctx.options, every_order=True)
        found = iter(torch.autograd.grad(total, wanted, grad, create_graph=True))
        to_x, to_y = (next(found) if is_needed else None for is_needed in needed[:2])
        return to_x, to_y, None, None
    to_x = _backward(grad, x, y, *ctx.options) if needed[0] else None
    # Of y from y's side: the kernels are symmetric.
    to_y = _backward(grad, y, x, *ctx.options) if needed[1] else None
    return to_x, to_y, None, None


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
    elif x.device.type not in _KERNELS:
        result = specification(*arguments)
    elif torch.compiler.is_compiling():
        result = _forward(*arguments)
    else:
        result = _Native.apply(*arguments)  # type: ignore[no-untyped-call]
    return result
