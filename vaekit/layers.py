"""Building blocks that several encoders and decoders share: what follows a layer, conditions, dense layers, sizes.

A condition enters a network as in K. Sohn, H. Lee, X. Yan, "Learning Structured Output Representation using Deep Conditional
Generative Models", NeurIPS 2015: as more inputs of its first layer.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vaekit import autocast
from vaekit.batch_norm import BatchNorm
from vaekit.checks import checked_number, checked_size, checked_word
from vaekit.dense import Linear
from vaekit.recomputed import instead_of_keeping

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
_ACTIVATION_TYPES = tuple(ACTIVATIONS.values())
NORMALIZATIONS = ("none", "batch", "layer", "group")

# By the number of spatial dimensions; a video is a volume whose depth is time.
CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.ConvTranspose1d] | type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
DATA = {1: "series (channels, length)", 2: "images (channels, height, width)", 3: "volumes (channels, depth, height, width)"}


@dataclass(frozen=True)
class LayerStyle:
    """What follows each layer of a network, in this order: the options that all networks share.

    Args:
        normalization: "none"; "batch" (S. Ioffe, C. Szegedy, 2015, arXiv:1502.03167), each feature over the batch and all
            positions, with running averages in evaluation mode; "group" (Y. Wu, K. He, 2018, arXiv:1803.08494), each example in
            groups of features, see `group_count`; "layer" (J. Ba et al., 2016, arXiv:1607.06450), each example over all features
            and positions.
        activation: elu, gelu, leaky_relu, relu, silu, softplus or tanh.
        dropout: the share of features that are set to 0 in training (N. Srivastava et al., 2014, JMLR 15), each on its own.
        groups: how many groups "group" makes of each layer's features; None for `group_count`.
        eps: what "group" and "layer" add to a variance before its root; None for torch's 1e-5.

    Raises:
        TypeError: a share or an eps that is not a number.
        ValueError: another word; a share outside [0, 1); groups or an eps for a normalisation that has none.

    Example:
        >>> [type(module).__name__ for module in LayerStyle("relu", "group", 0.1).after(64)]
        ['GroupNorm', 'ReLU', 'Dropout']
    """

    activation: str
    normalization: str = "none"
    dropout: float = 0.0
    groups: int | None = None
    eps: float | None = None

    def __post_init__(self) -> None:
        checked_word("activation", self.activation, tuple(ACTIVATIONS))
        checked_word("normalization", self.normalization, NORMALIZATIONS)
        checked_number("dropout, the share of features that are left out,", self.dropout, least=0.0, below=1.0)
        if self.groups is not None and checked_size("groups", self.groups) and self.normalization != "group":
            raise ValueError(f'groups={self.groups} go with normalization="group", not with {self.normalization!r}')
        takes_eps = self.normalization in ("group", "layer")
        if self.eps is not None and checked_number("norm_eps", self.eps, above=0.0) and not takes_eps:
            raise ValueError(f'norm_eps={self.eps} goes with normalization="group" or "layer", not {self.normalization!r}')

    @property
    def has_bias(self) -> bool:
        """Whether a layer before the normalisation needs a bias: batch normalisation would subtract it again."""
        return self.normalization != "batch"

    def after(self, features: int, positions: Sequence[int] = ()) -> list[nn.Module]:
        """The modules that follow a layer with `features` outputs at each of `positions`; only those that do something."""
        return [*self.normalized(features, positions), ACTIVATIONS[self.activation](), *self.dropped()]

    def conditioned(self, features: int, condition_dim: int) -> list[nn.Module]:
        """What adds a condition to a convolution's output [B, features, *positions], between it and what follows; [] without one.

        Raises:
            ValueError: a single feature that is normalised by itself, which would subtract the condition again.
        """
        if not condition_dim:
            return []
        if features == 1 and self.normalization in ("layer", "group"):
            raise ValueError(
                f"normalization={self.normalization!r} of a convolution with one channel subtracts what a condition added to it; "
                'give it more channels, or take normalization="batch" or "none"'
            )
        return [AddedCondition(features, condition_dim)]

    def dropped(self) -> list[nn.Module]:
        return [nn.Dropout(self.dropout)] if self.dropout else []

    def normalized(self, features: int, positions: Sequence[int] = ()) -> list[nn.Module]:
        """The normalisation of [B, features, *positions], if there is one.

        Raises:
            ValueError: a single value for each example, which normalising by itself would make 0 whatever it was; features that
                `groups` do not divide.
        """
        if self.normalization == "none":
            return []
        if self.normalization == "batch":
            return [BatchNorm(features)]
        if features * math.prod(positions) == 1:
            raise ValueError(
                f"normalization={self.normalization!r} of a layer with one value for each example makes it 0 whatever it was; "
                'give the layer more features, or take normalization="batch" or "none"'
            )
        groups = 1 if self.normalization == "layer" else self.groups or group_count(features)
        if features % groups:
            raise ValueError(
                f"groups={groups} do not divide the {features} features of a layer; take a number that does, or None"
            )
        return [nn.GroupNorm(groups, features, 1e-5 if self.eps is None else self.eps)]


class ConditionalLayer(nn.Module, ABC):
    """A module that `Layers` hands the condition to."""

    __call__: Callable[..., Tensor]

    @abstractmethod
    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """[B, features, *positions], and [B, condition_dim] if it was made for a condition, -> [B, features_out, *positions]."""


class AddedCondition(ConditionalLayer):
    """x + V c at every position: what planes of constants beside a convolution's inputs would add to its output x.

    But for the border, where such planes would end. V is applied once for each example, however many positions there are; it has
    no bias, the convolution has one.

    Args:
        features: of x.
        condition_dim: of c.

    Example:
        >>> AddedCondition(8, condition_dim=10)(torch.rand(2, 8, 9, 7), torch.rand(2, 10)).shape
        torch.Size([2, 8, 9, 7])
    """

    def __init__(self, features: int, condition_dim: int) -> None:
        super().__init__()
        self.linear = glorot(Linear(condition_dim, features, bias=False))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """x [B, features, *positions], condition [B, condition_dim] -> the shape of x."""
        added: Tensor = self.linear(condition)
        return x + added.reshape(*added.shape, *(1,) * (x.ndim - 2))


class Layers(nn.Sequential):
    """Modules one after the other; each `ConditionalLayer` among them also gets the condition.

    What an activation reads of a group normalisation is not kept for backward, but made again, see `vaekit.recomputed`.

    Example:
        >>> layers = Layers(nn.Conv1d(3, 8, 3), *LayerStyle("relu").conditioned(8, condition_dim=10), nn.ReLU())
        >>> layers(torch.rand(2, 3, 9), torch.rand(2, 10)).shape
        torch.Size([2, 8, 7])
    """

    __call__: Callable[..., Tensor]

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        normalized_by: tuple[nn.GroupNorm, Tensor] | None = None
        for module in self:
            recalled = instead_of_keeping(x, *normalized_by) if normalized_by and isinstance(module, _ACTIVATION_TYPES) else None
            normalized_by = (module, x) if isinstance(module, nn.GroupNorm) and torch.is_grad_enabled() else None
            with recalled or nullcontext():
                x = self.applied(module, x, condition)
        return x

    def applied(self, module: nn.Module, x: Tensor, condition: Tensor | None) -> Tensor:
        """What one of them gives."""
        outputs: Tensor = module(x, condition) if isinstance(module, ConditionalLayer) else module(x)
        return outputs


def with_condition(x: Tensor, condition: Tensor | None) -> Tensor:
    """A dense layer's input: x [B, N] with the condition [B, condition_dim] behind it, if there is one."""
    return x if condition is None else torch.cat((x, condition), dim=1)


def precise_layer(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x), under `torch.autocast` too in the dtype of the layer's weights.

    For the last layer of a network, and for the first one that reads z. What a network gives is as often as not the logarithm of
    a rate or a variance: in bfloat16 numbers near log 12345 are 0.06 apart, and half of that costs a Poisson 6 nats for that one
    count. Values of z near 3 are 0.016 apart, more than the standard deviation of a posterior that holds 5 nats in a dimension.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     precise_layer(nn.Linear(3, 2), nn.Linear(4, 3)(torch.rand(5, 4))).dtype
        torch.float32
    """
    if autocast.dtype_on(x.device) is None:
        outputs: Tensor = layer(x)
        return outputs
    weight = next(layer.parameters(), x)
    with torch.autocast(x.device.type, enabled=False):
        wide: Tensor = layer(x.to(autocast.single_dtype(weight.dtype)))
    return wide


def with_precise_first(layers: nn.Sequential, x: Tensor, condition: Tensor | None = None) -> Tensor:
    """layers(x), or layers(x, condition) of `Layers`, the first of them a `precise_layer`."""
    for number, module in enumerate(layers):
        if number == 0:
            x = precise_layer(module, x)
        elif isinstance(module, ConditionalLayer):
            x = module(x, condition)
        else:
            x = module(x)
    return x


class Network(nn.Module):
    """What encoders and decoders share: whether they take a condition, and where they compute in a lower precision.

    Args:
        condition_dim: the size of the condition; 0 for a network that takes none.

    Attributes:
        autocast_dtype: what to compute in, while a model under `torch.autocast` computes; otherwise None.
        stride: of a fully convolutional network, how many positions of the data along each axis are one of the latents: it takes
            data of any size that the stride divides. None for a network that takes one size alone.

    Raises:
        ValueError: not a whole number of at least 0.
    """

    condition_dim: int = 0
    autocast_dtype: torch.dtype | None = None
    stride: int | None = None

    def __init__(self, condition_dim: int = 0) -> None:
        super().__init__()
        self.condition_dim = checked_size("condition_dim", condition_dim, least=0)

    def _computed(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, bool]:
        """What `forward` makes of its arguments, and whether it was in a lower precision.

        Casts of the weights are not kept, as autocast would until it ends: weights may be trained meanwhile.

        Raises:
            RuntimeError: the device does not compute some operation in that precision.
        """
        device = next((value.device for value in (*inputs, *named.values()) if isinstance(value, Tensor)), torch.device("cpu"))
        dtype = self.autocast_dtype or autocast.dtype_on(device)
        if dtype is None:
            return super().__call__(*inputs, **named), False
        try:
            with torch.autocast(device.type, dtype, cache_enabled=False):
                return super().__call__(*inputs, **named), True
        except RuntimeError as error:
            if "not implemented for" not in str(error):
                raise
            raise RuntimeError(
                f"{type(self).__name__} has an operation that there is no {dtype} for on {device.type} ({error}); choose another "
                'precision, "32" for example'
            ) from error

    def check_condition(self, x: Tensor, condition: Tensor | None) -> None:
        """Raise an error unless `condition` is what this network needs beside a batch x: [B, condition_dim], or None.

        Raises:
            ValueError: a condition that is missing, not taken, or of another shape.
            TypeError: not a floating-point tensor.
        """
        name, size = type(self).__name__, self.condition_dim
        if condition is None:
            if size:
                raise ValueError(f"this {name} was made with condition_dim={size}: call it with a condition [batch, {size}] too")
            return
        if not size:
            raise ValueError(f"this {name} takes no condition; make it with condition_dim=E to give it conditions [batch, E]")
        if not isinstance(condition, Tensor) or not condition.is_floating_point():
            given = condition.dtype if isinstance(condition, Tensor) else type(condition).__name__
            raise TypeError(
                f"the condition of this {name} has to be a floating-point tensor [batch, {size}], got {given}; "
                "vaekit.conditions makes one of labels"
            )
        if condition.shape != (x.shape[0], size):
            raise ValueError(
                f"the condition of this {name} has to have the shape ({x.shape[0]}, {size}), a row of condition_dim={size} for "
                f"each example of the batch, got {tuple(condition.shape)}"
            )


def group_count(features: int) -> int:
    """How many groups normalise `features` together: as many as divide them, up to 32 of at least 4.

    32 is the number of Wu and He; of a group of one or two at one position, normalising would leave 0 or a sign.

    Example:
        >>> [group_count(n) for n in (512, 128, 64, 96, 6, 7, 1)]
        [32, 32, 16, 24, 1, 1, 1]
    """
    return max((n for n in range(1, 33) if features % n == 0 and features // n >= 4), default=1)


def dense_layers(sizes: Sequence[int], style: LayerStyle) -> nn.Sequential:
    """A linear layer, and what follows it, for each pair of neighbours in `sizes`."""
    layers: list[nn.Module] = []
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [glorot(Linear(size_in, size_out, bias=style.has_bias)), *style.after(size_out)]
    return nn.Sequential(*layers)


L = TypeVar(
    "L", nn.Linear, nn.Conv1d | nn.Conv2d | nn.Conv3d, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)  # fmt: skip


def glorot(layer: L) -> L:
    """The layer with weights drawn as in X. Glorot, Y. Bengio, AISTATS 2010, equation 16, and a bias of 0, as Keras does.

    PyTorch's own default depends on a layer's inputs alone: behind two latent dimensions its weights are five times as large.
    """
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def checked_rank(shape: Sequence[int], ranks: Sequence[int], part: str) -> int:
    """The number of spatial dimensions of data (channels, *sizes).

    Raises:
        ValueError: it is none of `ranks`; names the parts that take such data.
    """
    rank = len(shape) - 1
    if rank in ranks:
        return rank
    kinds = " or ".join(DATA[r] for r in ranks)
    other = {
        1: "'conv1d' and 'resnet' take series",
        2: "'conv' and 'resnet' take images",
        3: "'conv3d' and 'resnet' take volumes",
    }
    raise ValueError(
        f"{part} take{'' if part.endswith('s') else 's'} {kinds}, got the shape {tuple(shape)}; "
        f"{other[rank] + ', ' if rank in other else ''}'mlp' takes any shape"
    )


def halved_resolutions(sizes: Sequence[int], halvings: int) -> list[tuple[int, ...]]:
    """The spatial sizes before and after each halving, which rounds up.

    Example:
        >>> halved_resolutions((45, 17), 2)
        [(45, 17), (23, 9), (12, 5)]
    """
    resolutions = [tuple(sizes)]
    for _ in range(halvings):
        resolutions.append(tuple(-(-size // 2) for size in resolutions[-1]))
    return resolutions


def stride_of(sizes: Sequence[int], halvings: int) -> int | None:
    """The stride of so many halvings; None where sizes are rounded up on the way, which other sizes would not be.

    Example:
        >>> stride_of((64, 96), 3), stride_of((45, 17), 2)
        (8, None)
    """
    stride = 2**halvings
    return None if any(size % stride for size in sizes) else stride


def upsampling(before: Sequence[int], after: Sequence[int], mode: str) -> nn.Upsample:
    """From each position to two, whatever their number; where an odd size was halved, to that very size."""
    doubles = all(large == 2 * small for small, large in zip(before, after, strict=True))
    return nn.Upsample(scale_factor=2.0, mode=mode) if doubles else nn.Upsample(tuple(after), mode=mode)
