"""`vaekit::reparameterize_kl` and its backward as operators of the dispatcher: schema, default kernel and fake kernel.

The pure-PyTorch reference is the default kernel; a compiled library (`vaekit/ops/native.py`) registers its own for a device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vaekit.ops import native, reference
from vaekit.ops.operands import BACKWARD_SCHEMA, SCHEMA, Operands, backward_operands, outputs

FORWARD, BACKWARD = "vaekit::reparameterize_kl", "vaekit::reparameterize_kl_backward"

LIBRARY = torch.library.Library("vaekit", "DEF")
LIBRARY.define(f"reparameterize_kl({SCHEMA}) -> (Tensor, Tensor)")
LIBRARY.define(f"reparameterize_kl_backward({BACKWARD_SCHEMA}) -> (Tensor, Tensor, Tensor, Tensor)")
LIBRARY.impl("reparameterize_kl", reference.forward, "CompositeExplicitAutograd")
LIBRARY.impl("reparameterize_kl_backward", reference.backward, "CompositeExplicitAutograd")

forward = torch.ops.vaekit.reparameterize_kl.default
backward = torch.ops.vaekit.reparameterize_kl_backward.default


def check_device(name: str, arguments: Iterable[Any], first: Tensor, word: str) -> None:
    """Refuse tensors of several devices among an operator's arguments.

    One operand on meta brings a call to the fake kernel; a result on the first one's device would be memory that nobody wrote.

    Raises:
        RuntimeError: tensors of several devices.

    Example:
        >>> check_device("reparameterize_kl", [torch.zeros(1)], torch.zeros(1), "mu")
    """
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.device != first.device:
            raise RuntimeError(
                f"{name} takes tensors of one device, got {word} on {first.device} and another on {argument.device}"
            )


@torch.library.register_fake(FORWARD)  # type: ignore[untyped-decorator]
def _fake_forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    o = Operands(*arguments)
    check_device("reparameterize_kl", arguments, o.mu, "mu")
    samples = () if o.num_samples is None else (o.num_samples,)
    kl_shape = o.mu.shape[: o.mu.ndim - o.event_dims] if o.reduce_event else o.mu.shape
    return o.mu.new_empty((*samples, *o.mu.shape)), o.mu.new_empty(kl_shape, dtype=reference.compute_dtype(o.mu.dtype))


@torch.library.register_fake(BACKWARD)  # type: ignore[untyped-decorator]
def _fake_backward(grad_z: Tensor | None, grad_kl: Tensor | None, *arguments: Any) -> tuple[Tensor | None, ...]:
    o, wanted, packed = backward_operands(arguments)
    check_device("reparameterize_kl", (grad_z, grad_kl, *arguments), o.mu, "mu")
    shape = list(o.mu.shape)
    if packed:
        shape[o.mu.ndim - o.event_dims] *= 2
    shapes = (shape, o.mu.shape, o.mu.shape, o.mu.shape)
    return tuple(o.mu.new_empty(s) if there else None for s, there in zip(shapes, outputs(o, wanted, packed), strict=True))


def noise(
    like: Tensor, key: Tensor | None, eps: Tensor | None, num_samples: int | None, row_start: int, event_dims: int
) -> Tensor:
    """eps [K?, *like.shape] in the compute dtype, with the bits that the operator's kernel gives it: a draw from N(0, 1)."""
    if eps is not None or not native.serves(like):
        return reference.noise(like, key, eps, num_samples, row_start, event_dims)
    zeros = torch.zeros(like.shape, dtype=reference.compute_dtype(like.dtype), device=like.device)
    drawn: Tensor = forward(*Operands(zeros, zeros, key, None, None, None, num_samples, row_start, event_dims, False))[0]
    return drawn
