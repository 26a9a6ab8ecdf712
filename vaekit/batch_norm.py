"""Batch normalisation, by the statistics of a whole batch however many processes hold it.

S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift", 2015,
arXiv:1502.03167.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vaekit.gathering import rows_of_all, shares, summed

_OF_TORCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
BATCH_NORMALIZATIONS = (*_OF_TORCH, nn.SyncBatchNorm)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of [B, features, *positions] for any number of positions.

    In a run of several processes the batch is that of all of them, see `vaekit.gathering`.

    Raises:
        ValueError: in training, a single value for each feature, which has no variance: a batch of one vector.

    Example:
        >>> import torch
        >>> BatchNorm(3)(torch.rand(2, 3, 4, 5, 6)).shape
        torch.Size([2, 3, 4, 5, 6])
    """

    def _check_input_dim(self, input: Tensor) -> None:  # torch's name; the hook in which its classes look at their input
        if not self.training:  # when an exported model's number of rows is not to be looked at
            return
        count = rows_of_all(len(input))
        if count * math.prod(input.shape[2:]) == 1:
            raise ValueError(
                f"batch normalisation over a batch of {(count, *input.shape[1:])} has one value for each feature, and so no "
                'variance; train with larger batches (the last one of an epoch counts), or take normalization="layer" or "group"'
            )

    def forward(self, input: Tensor) -> Tensor:
        if shares() is None or not (self.training or self.running_mean is None):
            return super().forward(input)
        self._check_input_dim(input)
        return self._over_all_processes(input)

    def _over_all_processes(self, input: Tensor) -> Tensor:
        """What `torch.nn.functional.batch_norm` gives for the rows of this process, and does to the averages, of all rows."""
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        count = max(rows_of_all(len(x)) * math.prod(x.shape[2:]), 1)
        others, across = [d for d in range(x.ndim) if d != 1], (-1, *(1,) * (x.ndim - 2))
        mean = summed(x.sum(others)) / count
        centred = x - mean.view(across)
        variance = summed(centred.square().sum(others)) / count
        if self.training and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            part = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), part)
            self.running_var.lerp_((variance.detach() * (count / max(count - 1, 1))).to(self.running_var.dtype), part)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        normalised = centred * scale.view(across)
        return (normalised + self.bias.view(across) if self.affine else normalised).to(input.dtype)


@contextmanager
def normalising_over_all_processes(model: nn.Module) -> Iterator[None]:
    """PyTorch's own batch normalisations within a model do as `BatchNorm` does for a while.

    Raises:
        TypeError: one of another class, of which nobody knows how it normalises.
    """
    own = {m: type(m) for m in model.modules() if type(m) in _OF_TORCH}
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMALIZATIONS) and type(module) not in (*_OF_TORCH, BatchNorm, nn.SyncBatchNorm):
            raise TypeError(
                f"{name} is a {type(module).__name__}, which would normalise by the rows of one process alone; several processes "
                "need vaekit.batch_norm.BatchNorm or one of torch.nn's batch normalisations in its place"
            )
    try:
        for module in own:
            module.__class__ = BatchNorm
        yield
    finally:
        for module, kind in own.items():
            module.__class__ = kind
