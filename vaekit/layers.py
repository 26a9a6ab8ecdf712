"""Building blocks that several encoders and decoders share."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from typing import TypeVar

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def activation_layer(name: str) -> nn.Module:
    """A new layer for the activation called `name`."""
    if name not in ACTIVATIONS:
        near = difflib.get_close_matches(str(name), ACTIVATIONS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown activation {name!r}.{hint} There are: {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


def dense_layers(sizes: Sequence[int], activation: str) -> nn.Sequential:
    """A linear layer and an activation for each pair of neighbours in `sizes`."""
    layers: list[nn.Module] = []
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [glorot(nn.Linear(size_in, size_out)), activation_layer(activation)]
    return nn.Sequential(*layers)


L = TypeVar("L", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def glorot(layer: L) -> L:
    """The layer with weights drawn as in X. Glorot, Y. Bengio, AISTATS 2010, equation 16, and a bias of 0.

    PyTorch's own default draws weights about half as large, with which deep decoders start slowly.
    """
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def checked_size(name: str, value: int) -> int:
    """`value` as a positive whole number, or an error that names the option."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} has to be a whole number of at least 1, got {value!r}")
    return value


def checked_sizes(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """`values` as a tuple of positive whole numbers, or an error that names the option."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise ValueError(f"{name} has to be a sequence of whole numbers, (256, 64) for example, got {values!r}")
    return tuple(checked_size(f"every entry of {name}", value) for value in values)
