"""What every discriminator offers: numbers that tell data from what a model makes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from vaekit.checks import checked_sizes
from vaekit.registry import Part, Registry


class Discriminator(Part, nn.Module, ABC):
    """Tells the data's from the model's: a module from a batch [B, *input_shape] to logits, high for the data's.

    An objective makes it for what it is shown, examples or latents, and trains it beside the model. One of one's own gives
    `forward`, and takes the option input_shape, which it hands to `super().__init__`.

    Args:
        input_shape: the shape of one example, or of one example's latents.

    Raises:
        ValueError: an empty shape, or a size that is not a whole number of at least 1.

    Example:
        >>> import torch
        >>> class Plane(Discriminator):
        ...     "A plane."
        ...     def __init__(self, input_shape):
        ...         super().__init__(input_shape)
        ...         self.linear = nn.LazyLinear(1)
        ...     def forward(self, x):
        ...         return [self.linear(x.flatten(1))]
        >>> Plane((3, 4))(torch.rand(5, 3, 4))[-1].shape
        torch.Size([5, 1])
    """

    __call__: Callable[..., list[Tensor]]

    def __init__(self, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.input_shape = checked_sizes("input_shape", input_shape)
        if not self.input_shape:
            raise ValueError("input_shape has to have at least one dimension; pictures have (channels, height, width)")

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, *input_shape] -> what each hidden layer gives, from the input on, and last the logits [B, *places]."""


registry: Registry[Discriminator] = Registry("discriminator", "vaekit.discriminators", Discriminator)
