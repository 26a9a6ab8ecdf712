"""Lower precision for networks, and for nothing else.

A model under `torch.autocast` has its encoder and decoder compute in the lower precision, but for the layers that read z or come
last; the decoder's last is in it too where it gives logits. Noise, likelihood, divergence, prior and objective compute in the
dtype of the weights, and see the data as it is: autocast is off around the networks, which know the lower dtype for as long as
the model computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


class Network(Protocol):
    """What computes in a lower precision."""

    autocast_dtype: torch.dtype | None


def dtype_on(device: torch.device) -> torch.dtype | None:
    """What `torch.autocast` computes in on a device; None where it is off.

    Example:
        >>> cpu = torch.device("cpu")
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     inside = dtype_on(cpu)
        >>> inside, dtype_on(cpu)
        (torch.bfloat16, None)
    """
    kind = device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def single(values: Tensor) -> Tensor:
    """Half precision as float32; other dtypes as they are."""
    return values.float() if values.dtype in _HALF else values


def single_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision; other dtypes as they are."""
    return torch.float32 if dtype in _HALF else dtype


@contextmanager
def only_in(networks: Sequence[Network], device: torch.device) -> Iterator[None]:
    """Autocast on a device, where it is on, off for everything but what these networks compute."""
    dtype = dtype_on(device)
    if dtype is None:
        yield
        return
    before = [network.autocast_dtype for network in networks]
    for network in networks:
        network.autocast_dtype = dtype
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for network, earlier in zip(networks, before, strict=True):
            network.autocast_dtype = earlier
