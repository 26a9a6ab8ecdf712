"""A condition that is a vector of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vaekit.checks import checked_size
from vaekit.conditions.base import Condition, registry
from vaekit.layers import LayerStyle, dense_layers


@registry.register("vector")
class Vector(Condition):
    """A vector of K numbers: an angle, a dose and a temperature, the features of a text, several one-hot labels in a row.

    The networks get it as it is, or what a dense layer makes of it. Bring the numbers to similar scales first.

    Args:
        size: K.
        dim: the size of what the dense layer makes of it; None for no such layer.
        activation: of that layer: elu, gelu, leaky_relu, relu, silu, softplus or tanh; silu by default.
        names: of the numbers, the columns of a table that hold them; kept with the model.

    Raises:
        ValueError: a size that is not a whole number of at least 1; an unknown activation, or one without dim; another number of
            names.

    Example:
        >>> import torch
        >>> Vector(size=3)(torch.tensor([[0.1, 0.2, 0.3]]))
        tensor([[0.1000, 0.2000, 0.3000]])
        >>> Vector(size=300, dim=16)(torch.zeros(5, 300)).shape
        torch.Size([5, 16])
    """

    def __init__(
        self, size: int, dim: int | None = None, activation: str | None = None, names: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        if dim is None and activation is not None:
            raise ValueError(f"activation={activation!r} is that of a dense layer, which there is only with dim; give it too")
        self.size, style = checked_size("size", size), LayerStyle("silu" if activation is None else activation)
        self.columns, self.names = self.size, None if names is None else tuple(map(str, names))
        if self.names is not None and len(self.names) != self.size:
            raise ValueError(f"names has to have a name for each of the {self.size} numbers, got {list(self.names)}")
        self.dim = self.size if dim is None else checked_size("dim", dim)
        self.given_as = f"a vector of {self.size} number(s) for each example, floats [batch, {self.size}]"
        self.layers = nn.Sequential() if dim is None else dense_layers((self.size, self.dim), style)

    def forward(self, condition: Tensor) -> Tensor:
        dense: Tensor = self.layers(condition)
        return dense

    def as_rows(self, condition: Any, count: int) -> Tensor:
        vectors = self.as_tensor(condition)
        if vectors.ndim == 1 and self.size == 1 and count > 1 and vectors.shape[0] == count:
            raise ValueError(
                f"the condition is {self.given_as}; got the shape {tuple(vectors.shape)}: y[:, None] makes vectors of it"
            )
        if not vectors.is_floating_point():
            raise TypeError(f"the condition is {self.given_as}; got {vectors.dtype}: vectors.float() makes floats of them")
        if vectors.ndim == 1:
            vectors = vectors.unsqueeze(0) if vectors.numel() else vectors.new_empty(0, self.size)
        if vectors.ndim == 2 and vectors.shape[0] == 1:
            vectors = vectors.expand(count, -1)
        if vectors.shape != (count, self.size):
            raise ValueError(f"the condition is {self.given_as}; got the shape {tuple(vectors.shape)} for {count} example(s)")
        return vectors

    def check(self, condition: Tensor) -> None:
        bad = (~condition.isfinite()).flatten(1).any(1)
        if bad.any():
            raise ValueError(
                f"the condition is {self.given_as}; that of example {int(bad.nonzero()[0])} of {len(condition)} holds NaN or "
                "infinity"
            )
