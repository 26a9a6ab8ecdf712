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
    """The layer with weights drawn as in X. Glorot, Y. Bengio, AISTATS 2010, equation 16, and a bias of 0, as Keras does.

    PyTorch's own default depends on a layer's inputs alone: behind two latent dimensions its weights are five times as large.
    """
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def halved_resolutions(image_shape: Sequence[int], halvings: int) -> list[tuple[int, int]]:
    """(height, width) of an image (channels, height, width) before and after each halving, which rounds up.

    Raises:
        ValueError: not an image, or no halvings.

    Example:
        >>> halved_resolutions((1, 45, 17), 2)
        [(45, 17), (23, 9), (12, 5)]
    """
    if len(image_shape) != 3:
        raise ValueError(
            f"convolutions take images (channels, height, width), got the shape {tuple(image_shape)}; 'mlp' takes any shape"
        )
    if halvings < 1:
        raise ValueError("channels has to name at least one convolution, (32, 64) for example")
    resolutions = [(image_shape[1], image_shape[2])]
    for _ in range(halvings):
        height, width = resolutions[-1]
        resolutions.append((-(-height // 2), -(-width // 2)))
    return resolutions
