"""What group normalisation gives is made again in backward from its own input, instead of being kept beside it.

A convolution keeps its input for backward, and so do an activation and a normalisation before it: three tensors of one size for
each layer. The middle one takes one pass over the first to make again; everything else is as it was, to the last bit.
The idea is that of S. Rota Bulò, L. Porzi, P. Kontschieder, "In-Place Activated BatchNorm for Memory-Optimized Training of DNNs",
2018, arXiv:1712.02616, which makes its input again from its output.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from vaekit.ops import dispatch


def instead_of_keeping(normalized: Tensor, normalization: nn.Module, x: Tensor) -> AbstractContextManager[Any]:
    """Within it, what is kept of `normalized`, which is normalization(x), is how to make it again.

    Everything is kept as it is where that is not possible: for another normalisation than nn.GroupNorm, or one with hooks, which
    would be called twice; in traced programs and under torch.func; within other hooks of saved tensors, as those of
    torch.utils.checkpoint, which have an idea of their own.

    Example:
        >>> normalization, x = nn.GroupNorm(2, 8), torch.rand(3, 8, 9, requires_grad=True)
        >>> normalized = normalization(x)
        >>> with instead_of_keeping(normalized, normalization, x):
        ...     y = F.silu(normalized)
        >>> del normalized  # its memory is free until y.backward()
    """
    if not _may_be_made_again(normalized, normalization):
        return nullcontext()
    assert isinstance(normalization, nn.GroupNorm)
    source, options = x.detach(), (normalization.num_groups, normalization.weight, normalization.bias, normalization.eps)
    place, shape, dtype = normalized.data_ptr(), normalized.shape, normalized.dtype

    def pack(kept: Tensor) -> Tensor | None:
        return None if kept.data_ptr() == place and kept.shape == shape else kept

    def unpack(kept: Tensor | None) -> Tensor:
        if kept is not None:
            return kept
        with torch.no_grad():
            return F.group_norm(source.to(dtype), *options)

    return saved_tensors_hooks(pack, unpack)


def _may_be_made_again(normalized: Tensor, normalization: nn.Module) -> bool:
    if type(normalization) is not nn.GroupNorm or not normalized.requires_grad or dispatch.is_traced():
        return False
    if dispatch.transforms_are_active() or dispatch.saved_tensors_have_hooks():
        return False
    return not (normalization._forward_hooks or normalization._forward_pre_hooks)
