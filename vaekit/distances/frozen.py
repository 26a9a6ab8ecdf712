"""A network that is used and not trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from vaekit import seeding
from vaekit.ops.dispatch import uncompiled


class Frozen:
    """A network whose weights stay as they are: in evaluation mode, on the device and in the dtype of what it is shown.

    It is made when it is first asked for, so that a model can be loaded where the network's weights are not. It is no module: its
    weights are neither trained, nor averaged, nor saved with the model, which knows them by the options that they are made by.

    Args:
        make: gives the network, a module or a function of tensors. What it draws is the same every time.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> network = Frozen(lambda: nn.Linear(2, 1))
        >>> network.for_data(torch.rand(3, 2, dtype=torch.float64))(torch.ones(3, 2, dtype=torch.float64)).shape
        torch.Size([3, 1])
    """

    def __init__(self, make: Callable[[], Callable[..., Any]]) -> None:
        self._make = make
        self._made: Callable[..., Any] | None = None

    def for_data(self, x: Tensor) -> Callable[..., Any]:
        """The network, where x is."""
        if self._made is None:
            self._made = _made(self._make)
        network = self._made
        if isinstance(network, nn.Module):
            weight = next(network.parameters(), x)
            if weight.device != x.device or weight.dtype != x.dtype:
                network.to(x.device, x.dtype)
        return network


def _made_eagerly(make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
    with seeding.drawing_from(0):
        network = make()
    if not callable(network):
        raise TypeError(f"a network of features has to be a torch module or a function of pictures, got {network!r}")
    if isinstance(network, nn.Module):  # a copy: the user's own may be trained further
        network = copy.deepcopy(network).eval().requires_grad_(False)
    return network


_made: Callable[[Callable[[], Callable[..., Any]]], Callable[..., Any]] = uncompiled(_made_eagerly)
